/** What a soak finds: its callers on a local directory, where nothing goes wrong, and then each kind of fault planted there. */
import fs from 'node:fs';
import path from 'node:path';
import { Mutex } from 'async-mutex';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Random } from '../../scripts/bench/random.ts';
import { MemoryWatch } from '../../scripts/faults/memory-watch.ts';
import { RandomFaults } from '../../scripts/faults/random-faults.ts';
import { type CallerCounts, SoakCaller } from '../../scripts/faults/soak-caller.ts';
import {
  type Contents,
  contentsOf,
  differences,
  digest,
  prepareShared,
  sharedFaults,
} from '../../scripts/faults/soak-contents.ts';
import { TemporaryDirectory } from '../support/fixture.ts';

const STEPS = 300;
let directory: TemporaryDirectory;
beforeEach(async () => {
  directory = new TemporaryDirectory();
  await prepareShared(directory.path);
});
afterEach(() => directory[Symbol.dispose]());

/** Two callers side by side, and what they say at the end. */
async function soak(): Promise<{ counts: CallerCounts[]; expected: Contents }> {
  const board = new Mutex();
  const callers = ['a', 'b'].map(
    (name, index) => new SoakCaller(directory.path, name, 7 + index, (work) => board.runExclusive(work)),
  );
  for (const caller of callers) await caller.prepare();
  const work = async (caller: SoakCaller) => {
    for (let step = 0; step < STEPS; step++) await caller.step();
  };
  await Promise.all(callers.map(work));
  const expected: Record<string, Record<string, string>> = {};
  for (const caller of callers) {
    const files = await caller.finish();
    expected[caller.name] = Object.fromEntries([...files].map(([name, content]) => [name, digest(content)]));
  }
  return { counts: callers.map(({ counts }) => counts), expected };
}

describe('the callers of a soak', () => {
  test('find nothing on a local directory, and planted faults in what they leave', async () => {
    const { counts, expected } = await soak();
    const found = async () => [
      ...differences('here', await contentsOf(directory.path, ['a', 'b']), expected),
      ...(await sharedFaults(directory.path, counts)),
    ];
    expect(await found()).toEqual([]);
    expect(counts.every(({ records, increments }) => records > 0 && (increments.flock ?? 0) > 0)).toBe(true);

    const plant = async (name: string, change: (path: string) => void, fault: RegExp) => {
      const at = directory.join(name);
      const before = fs.readFileSync(at);
      change(at);
      expect(await found(), `${name}: ${fault}`).toContainEqual(expect.stringMatching(fault));
      fs.writeFileSync(at, before);
      expect(await found()).toEqual([]);
    };
    const [own] = Object.keys(expected.a ?? {});
    await plant(`a/${own}`, (at) => fs.appendFileSync(at, 'x'), /^here: a\/f\d+ is \d+ \w+, not \d+ \w+$/);
    await plant(`a/${own}`, (at) => fs.rmSync(at), /^here: a\/f\d+ is absent, not/);
    await plant('shared/log', (at) => fs.appendFileSync(at, 'a 1\n'), /^log: "a 1" comes after record/);
    await plant('shared/log', (at) => fs.writeFileSync(at, ''), /^log: 0 records of a, who appended/);
    await plant('shared/counter-flock', (at) => fs.writeFileSync(at, '1'), /^counter-flock is 1 after/);
    const place = fs.readdirSync(directory.join('shared/left')).length > 0 ? 'left' : 'right';
    const [token] = fs.readdirSync(directory.join('shared', place));
    await plant(`shared/${place}/${token}`, (at) => fs.rmSync(at), /^23 tokens, not 24$/);
    fs.mkdirSync(directory.join('shared/exclusion'));
    expect(await found()).toEqual(['left behind: exclusion']);
  });

  test.each<[string, (own: string) => void]>([
    ['other content', (at) => fs.writeFileSync(at, 'other')],
    ['a name that is gone', (at) => fs.rmSync(at)],
    ['a name more', (at) => fs.writeFileSync(path.join(path.dirname(at), 'more'), '')],
  ])('find %s while they work', async (_what, change) => {
    const caller = new SoakCaller(directory.path, 'a', 7);
    await caller.prepare();
    const files = () => fs.readdirSync(directory.join('a'));
    while (files().length < 5) await caller.step();
    for (const name of files()) change(directory.join('a', name));
    const goOn = async () => {
      for (let step = 0; step < STEPS; step++) await caller.step();
    };
    await expect(goOn()).rejects.toThrow(/^a: [a-z ]+: /);
  });
});

test('faults come by the clock: as many cuts as there is time for, whatever passes', () => {
  const faults = new RandomFaults(new Random(1));
  expect(faults.next(0)).toBe('pass');
  faults.isOn = true;
  const kinds = new Map<string, number>();
  for (let nowMs = 0; nowMs < 60_000; nowMs++) {
    const fault = faults.next(nowMs);
    const kind = typeof fault === 'string' ? fault : fault.delayMs > 20 ? 'stall' : 'delay';
    kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
  }
  for (const kind of ['cut before', 'cut inside', 'cut after']) expect(kinds.get(kind)).toBeGreaterThan(25);
  expect(kinds.get('stall')).toBeGreaterThan(5);
  expect(faults.stalls).toBeLessThan(40);
});

test.each([
  ['flat, but for the beginning', [1, 9, 10, 10, 11, 10, 10, 10], 0],
  ['one peak at the end', [10, 10, 10, 10, 10, 10, 10, 99, 10, 10, 10, 10], 0],
  ['growing', [1, 2, 3, 4, 5, 6, 7, 8], 4],
])('memory that is %s', (_what, samples, growthBytes) => {
  const watch = new MemoryWatch();
  for (const one of samples) watch.add(one);
  expect(watch.growth.growthBytes).toBe(growthBytes);
});
