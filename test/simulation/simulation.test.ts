import { expect, test } from 'vitest';
import { SharedBlocks } from '../../client-fuse/vfs/shared-blocks.ts';
import { LeasedBlocks } from '../../server/leases/leased-blocks.ts';
import { regressions } from './regressions.ts';
import { scenarioOf } from './scenario.ts';
import { shrink } from './shrink.ts';
import { type Sabotage, simulate } from './simulation.ts';

test('one seed gives one run, byte for byte', async () => {
  for (const seed of [5, 284, 583, 875]) {
    const once = await simulate(scenarioOf(seed));
    const again = await simulate(scenarioOf(seed));
    expect(again.history).toEqual(once.history);
    expect(again.digest).toBe(once.digest);
    expect(once.history.length).toBeGreaterThan(10);
  }
});

test('what went wrong once does not again', async () => {
  for (const scenario of regressions) {
    const { violations } = await simulate(scenario);
    expect(violations, JSON.stringify(scenario)).toEqual([]);
  }
});

test('200 seeds: everything ends, and an order of the calls explains every answer', async () => {
  const { grant } = LeasedBlocks.prototype;
  const { read, recalled } = SharedBlocks.prototype;
  const blocks = { granted: 0, used: 0, recalled: 0 };
  LeasedBlocks.prototype.grant = function (...call) {
    const isGranted = grant.apply(this, call);
    if (isGranted) blocks.granted++;
    return isGranted;
  };
  SharedBlocks.prototype.read = function (...call) {
    const known = read.apply(this, call);
    if (known) blocks.used++;
    return known;
  };
  SharedBlocks.prototype.recalled = function (node, indexes) {
    if (indexes?.some((index) => node.blocks?.known.has(index))) blocks.recalled++;
    recalled.call(this, node, indexes);
  };
  try {
    for (let seed = 1; seed <= 200; seed++) {
      const { violations, history } = await simulate(scenarioOf(seed));
      expect(violations, `seed ${seed}\n${history.join('\n')}`).toEqual([]);
    }
  } finally {
    LeasedBlocks.prototype.grant = grant;
    Object.assign(SharedBlocks.prototype, { read, recalled });
  }
  expect(Math.min(blocks.granted, blocks.used, blocks.recalled)).toBeGreaterThan(20);
});

test('what fails is made smaller, and still fails', async () => {
  const isLost = { seed: 3, clients: 2, processes: 2, operations: 8, hasKernel: false, faults: scenarioOf(239).faults };
  const breaks: Sabotage = (_server, leases) => {
    const during = leases.during.bind(leases);
    leases.during = (author, inodes, work) =>
      during(author, inodes, (hasWaited) => {
        Promise.resolve(work(hasWaited)).catch(() => {});
        return work(hasWaited); // applied twice
      });
  };
  const { scenario, outcome } = await shrink(isLost, breaks);
  expect(outcome.violations).not.toEqual([]);
  expect(scenario.faults).toEqual([]);
  expect(scenario.operations).toBeLessThan(8);
});
