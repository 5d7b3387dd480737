/**
 * The leases on an inode under random histories of their owner, against a reference that is told of each event: an
 * exclusive holder is the only one, nothing is granted while something changes or is taken back, and all who wait are woken.
 */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { InodeLeases } from '../../server/state/inode-leases.ts';

const who = fc.constantFrom('a', 'b', 'c');
const step = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({ kind: fc.constant('grant' as const), who, mustKeep: fc.boolean(), waitMs: fc.nat(300) }),
  },
  { weight: 5, arbitrary: fc.record({ kind: fc.constant('grantExclusive' as const), who, waitMs: fc.nat(300) }) },
  {
    weight: 4,
    arbitrary: fc.record({ kind: fc.constant('beginChange' as const), who: fc.option(who, { nil: undefined }) }),
  },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('endChange' as const), pick: fc.nat() }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('takeBack' as const) }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('endTakingBack' as const) }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('drop' as const), who }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('endExclusive' as const) }) },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('whenQuiet' as const) }) },
);

test('whatever happens, in any order', async () => {
  let exclusives = 0;
  let refusals = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
      const leases = new InodeLeases<string>();
      const holders = new Set<string>();
      const changes: { author: string | undefined; toRecall: string[] }[] = [];
      let takingBack = 0;
      let exclusive: string | undefined;
      let nowMs = 0;
      /** No back-off lasts longer than from the last contention until then. */
      let contended: { author: string | undefined; untilMs: number } | undefined;
      let waiting = 0;
      let woken = 0;
      const isBusy = () => changes.length > 0 || takingBack > 0;
      const mayBackOff = (one: string) =>
        contended !== undefined && nowMs < contended.untilMs && one !== contended.author;
      const settle = async () => {
        for (let turn = 0; turn < 3; turn++) await Promise.resolve();
      };
      const drop = (one: string) => {
        leases.drop(one);
        holders.delete(one);
        if (exclusive === one) exclusive = undefined;
      };
      const endChange = (index: number) => {
        const [change] = changes.splice(index, 1);
        // A change ends when whoever had to has given back.
        for (const one of change?.toRecall ?? []) if (one !== exclusive || one !== change?.author) drop(one);
        leases.endChange();
      };

      for (const one of steps) {
        if (one.kind === 'grant' || one.kind === 'grantExclusive') {
          nowMs += one.waitMs;
          const isOthers = exclusive !== undefined && exclusive !== one.who;
          const isAlone = [...holders].every((holder) => holder === one.who);
          const forbidden = isBusy() || (one.kind === 'grant' ? isOthers : exclusive !== undefined || !isAlone);
          const certain = !forbidden && ((one.kind === 'grant' && one.mustKeep) || !mayBackOff(one.who));
          const granted =
            one.kind === 'grant' ? leases.grant(one.who, nowMs, one.mustKeep) : leases.grantExclusive(one.who, nowMs);
          if (forbidden) expect(granted).toBe(false);
          if (certain) expect(granted).toBe(true);
          if (forbidden) refusals++;
          if (granted) holders.add(one.who);
          if (granted && one.kind === 'grantExclusive') {
            exclusive = one.who;
            exclusives++;
          }
        } else if (one.kind === 'beginChange') {
          const toRecall = leases.beginChange(one.who, nowMs);
          // Everybody but the author, and each once.
          expect(toRecall.toSorted()).toEqual([...holders].filter((holder) => holder !== one.who).toSorted());
          if (toRecall.length > 0) contended = { author: one.who, untilMs: nowMs + 3_200 };
          changes.push({ author: one.who, toRecall });
        } else if (one.kind === 'endChange') {
          if (changes.length > 0) endChange(one.pick % changes.length);
        } else if (one.kind === 'takeBack') {
          leases.beginTakingBack();
          takingBack++;
        } else if (one.kind === 'endTakingBack') {
          if (takingBack > 0) {
            takingBack--;
            leases.endTakingBack();
          }
        } else if (one.kind === 'drop') {
          drop(one.who);
        } else if (one.kind === 'endExclusive') {
          leases.endExclusive();
          exclusive = undefined;
        } else {
          const quiet = leases.whenQuiet();
          expect(quiet === undefined).toBe(!isBusy());
          if (quiet) waiting++;
          void quiet?.then(() => woken++);
        }
        await settle();
        expect([...leases.holders].toSorted()).toEqual([...holders].toSorted());
        expect(leases.exclusive).toBe(exclusive);
        if (leases.exclusive !== undefined) expect([...leases.holders]).toEqual([leases.exclusive]);
        expect([leases.isChanging, leases.isIdle]).toEqual([changes.length > 0, holders.size === 0 && !isBusy()]);
        // Woken when it is quiet, all of them, and not before.
        if (isBusy()) expect(woken).toBeLessThanOrEqual(waiting);
        else expect(woken).toBe(waiting);
      }

      const [wokenBefore, wasBusy] = [woken, isBusy()];
      while (changes.length > 1) endChange(0);
      while (takingBack > (changes.length > 0 ? 0 : 1)) {
        takingBack--;
        leases.endTakingBack();
      }
      await settle();
      // One thing is still under way: nobody is woken yet.
      if (wasBusy) expect(woken).toBe(wokenBefore);
      if (changes.length > 0) endChange(0);
      if (takingBack > 0) leases.endTakingBack();
      await settle();
      expect(woken).toBe(waiting);
      expect(leases.whenQuiet()).toBeUndefined();
      for (const holder of holders) leases.drop(holder);
      expect([leases.isIdle, leases.exclusive]).toEqual([true, undefined]);
    }),
    { numRuns: 1000 },
  );
  // The histories reach what they are about.
  expect(exclusives).toBeGreaterThan(100);
  expect(refusals).toBeGreaterThan(100);
});

const rows: [what: string, prepare: (leases: InodeLeases<string>) => void, shared: string, exclusive: string][] = [
  ['nobody holds it', () => {}, 'ab', 'ab'],
  ['a holds it shared', (leases) => leases.grant('a', 0), 'ab', 'a'],
  [
    'both hold it shared',
    (leases) => {
      leases.grant('a', 0);
      leases.grant('b', 0);
    },
    'ab',
    '',
  ],
  // Once more through another handle would be a second one that gathers.
  ['a holds it exclusively', (leases) => leases.grantExclusive('a', 0), 'a', ''],
  [
    'a held it exclusively, and keeps it shared',
    (leases) => {
      leases.grantExclusive('a', 0);
      leases.endExclusive();
    },
    'ab',
    'a',
  ],
  [
    'a held it exclusively, and gave it back',
    (leases) => {
      leases.grantExclusive('a', 0);
      leases.drop('a');
    },
    'ab',
    'ab',
  ],
  ['it is changed', (leases) => leases.beginChange('a', 0), '', ''],
  ['it is taken back', (leases) => leases.beginTakingBack(), '', ''],
  [
    'a has just changed it, and b gave it back',
    (leases) => {
      leases.grant('b', 0);
      leases.beginChange('a', 0);
      leases.drop('b');
      leases.endChange();
    },
    'a',
    'a',
  ],
];

test.each(rows)('%s: then %j may have it shared, %j exclusively', (_what, prepare, shared, exclusive) => {
  const whoMay = (ask: (leases: InodeLeases<string>, one: string) => boolean) =>
    ['a', 'b']
      .filter((one) => {
        const leases = new InodeLeases<string>();
        prepare(leases);
        return ask(leases, one);
      })
      .join('');
  expect([
    whoMay((leases, one) => leases.grant(one, 1)),
    whoMay((leases, one) => leases.grantExclusive(one, 1)),
  ]).toEqual([shared, exclusive]);
});

test('what is taken back is taken once', () => {
  expect(() => new InodeLeases<string>().endTakingBack()).toThrow('taken once');
});
