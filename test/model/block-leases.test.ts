/**
 * Leases on blocks of one file under random histories, against a reference that knows the file's size and all that was read:
 * a change has whoever keeps something else than what is there then give it back first, wherever the file ends.
 */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { ALL_BLOCKS, BlockLeases, type BlockRange, END_OF_FILE } from '../../server/state/block-leases.ts';
import { limits } from '../../shared/limits.ts';

const BLOCKS = 6;
/** A block has so many bytes here. */
const BLOCK = 4;
const who = fc.constantFrom('a', 'b', 'c');
const block = fc.nat(BLOCKS - 1);
const step = fc.oneof(
  { weight: 8, arbitrary: fc.record({ kind: fc.constant('read' as const), who, block, waitMs: fc.nat(3_000) }) },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant('write' as const),
      who,
      at: fc.nat(BLOCKS * BLOCK - 2),
      length: fc.integer({ min: 1, max: 2 }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('append' as const), who }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('truncate' as const), who, size: fc.nat(BLOCKS * BLOCK) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('local' as const) }) },
  { weight: 8, arbitrary: fc.record({ kind: fc.constant('end' as const), pick: fc.nat() }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('drop' as const), who }) },
);

interface Change {
  readonly author: string | undefined;
  readonly range: BlockRange;
  /** What it makes of the file. */
  readonly apply: (file: string) => string;
  readonly conflicts: readonly { holder: string; blocks: readonly number[] | null }[];
}

test('who keeps a block keeps what the file has there', () => {
  const seen = { grants: 0, refusals: 0, kept: 0, recalls: 0 };
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
      const leases = new BlockLeases<string>();
      /** By holder and block: what it read. */
      const kept = new Map<string, string>();
      const changes: Change[] = [];
      let file = 'x'.repeat(10);
      let nowMs = 0;
      let tag = 0;
      const contentOf = (index: number) => file.slice(index * BLOCK, (index + 1) * BLOCK);
      const key = (holder: string, index: number) => `${holder} ${index}`;
      const forget = (holder: string, blocks: readonly number[] | null) => {
        leases.drop(holder, blocks);
        for (const one of [...kept.keys()]) {
          const [name, index] = one.split(' ');
          if (name === holder && (blocks === null || blocks.includes(Number(index)))) kept.delete(one);
        }
      };
      const begin = (author: string | undefined, range: BlockRange, apply: Change['apply']) => {
        const own = { ...range };
        changes.push({ author, range: own, apply, conflicts: leases.beginChange(author, own, nowMs) });
      };
      const end = (index: number) => {
        const [change] = changes.splice(index, 1);
        if (change === undefined) return;
        for (const { holder, blocks } of change.conflicts) {
          seen.recalls++;
          forget(holder, blocks);
        }
        file = change.apply(file);
        for (const [one, content] of kept) {
          const [name, at] = one.split(' ') as [string, string];
          // The author puts its own change into what it keeps.
          if (name === change.author) kept.set(one, contentOf(Number(at)));
          else expect(content, `${one} after a change by ${change.author}`).toBe(contentOf(Number(at)));
          seen.kept++;
        }
        leases.endChange(change.range);
      };
      for (const one of steps) {
        if (one.kind === 'read') {
          nowMs += one.waitMs;
          const content = contentOf(one.block);
          const isGranted = leases.grant(one.who, one.block, content.length < BLOCK, nowMs);
          if (isGranted) kept.set(key(one.who, one.block), content);
          if (isGranted) seen.grants++;
          else seen.refusals++;
        } else if (one.kind === 'write') {
          const data = String.fromCharCode(97 + (tag++ % 26)).repeat(one.length);
          const range = { start: Math.floor(one.at / BLOCK), end: Math.ceil((one.at + one.length) / BLOCK) };
          const apply = (was: string) =>
            was.padEnd(one.at, '0').slice(0, one.at) + data + was.slice(one.at + one.length);
          begin(one.who, range, apply);
        } else if (one.kind === 'append') begin(one.who, END_OF_FILE, (was) => `${was}+`);
        else if (one.kind === 'truncate')
          begin(one.who, ALL_BLOCKS, (was) => was.padEnd(one.size, '0').slice(0, one.size));
        else if (one.kind === 'local') begin(undefined, ALL_BLOCKS, (was) => was.replaceAll('x', 'y'));
        else if (one.kind === 'drop') forget(one.who, null);
        else if (changes.length > 0) end(one.pick % changes.length);
        for (const name of ['a', 'b', 'c']) {
          for (let index = 0; index < BLOCKS; index++) {
            expect(kept.has(key(name, index))).toBe(leases.holds(name, index));
          }
        }
      }
      while (changes.length > 0) end(0);
      // Nobody is refused for ever.
      nowMs += 10_000;
      expect(leases.grant('a', 0, contentOf(0).length < BLOCK, nowMs)).toBe(true);
      for (const name of ['a', 'b', 'c']) forget(name, null);
      expect([leases.isHeld, leases.isIdle]).toEqual([false, true]);
    }),
    { numRuns: 1_000 },
  );
  expect(Math.min(seen.grants, seen.refusals, seen.kept, seen.recalls)).toBeGreaterThan(200);
});

test('a block that is contended is granted again after a while, each time a longer one', () => {
  const leases = new BlockLeases<string>();
  let nowMs = 0;
  const pauses: number[] = [];
  for (let round = 0; round < 6; round++) {
    expect(leases.grant('a', 3, false, nowMs)).toBe(true);
    expect(leases.grant('a', 4, false, nowMs)).toBe(true);
    const range = { start: 3, end: 4 };
    expect(leases.beginChange('b', range, nowMs)).toEqual([{ holder: 'a', blocks: [3] }]);
    leases.drop('a', [3]);
    leases.endChange(range);
    const since = nowMs;
    while (!leases.grant('a', 3, false, nowMs)) nowMs++;
    pauses.push(nowMs - since);
  }
  expect(pauses).toEqual([150, 300, 600, 1_200, 2_400, 2_400]);
});

test('so many recalls in a second, and nothing more is granted in it', () => {
  const leases = new BlockLeases<string>();
  let granted = 0;
  for (let index = 0; index < 1_000; index++) {
    if (!leases.grant('a', index, false, index / 10)) break;
    granted++;
    const range = { start: index, end: index + 1 };
    leases.beginChange('b', range, index / 10);
    leases.drop('a', [index]);
    leases.endChange(range);
  }
  expect(granted).toBe(32);
  expect(leases.grant('a', 2_000, false, 999)).toBe(false);
  expect(leases.grant('a', 2_000, false, 1_000)).toBe(true);
});

test('bounds: holders of a file, and the blocks that go first', () => {
  const leases = new BlockLeases<number>();
  for (let holder = 0; holder < limits.maxHolders; holder++) expect(leases.grant(holder, 0, false, 0)).toBe(true);
  expect(leases.grant(-1, 0, false, 0)).toBe(false);
  for (let index = 1; index < 10; index++) leases.grant(0, index, false, 0);
  expect([leases.count(0), leases.oldest(0, 3)]).toEqual([10, [0, 1, 2]]);
});
