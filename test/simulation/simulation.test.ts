import { expect, test } from 'vitest';
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
  for (let seed = 1; seed <= 200; seed++) {
    const { violations, history } = await simulate(scenarioOf(seed));
    expect(violations, `seed ${seed}\n${history.join('\n')}`).toEqual([]);
  }
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
