/**
 * The page-range locks against a reference that recomputes everything from the history: who asked, in which order, who
 * has left. The reference is slow and plain; the rule is DESIGN.md section 4.
 */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type Grant, PageRangeLockQueue } from '../../server/state/page-range-lock-queue.ts';
import { PageRangeLocks, type Ticket } from '../../server/state/page-range-locks.ts';
import type { FsError } from '../../shared/errno.ts';

const overlap = (a: Ticket, b: Ticket) =>
  Math.max(a.start, b.start) < Math.min(a.end, b.end) && !(a.mode === 'shared' && b.mode === 'shared');

/** All present tickets in the order of arrival. One is granted once no earlier ticket that is present conflicts. */
class Reference {
  readonly present: Ticket[] = [];

  granted(): Set<Ticket> {
    return new Set(this.present.filter((one, index) => !this.present.slice(0, index).some((two) => overlap(one, two))));
  }

  leave(ticket: Ticket): void {
    this.present.splice(this.present.indexOf(ticket), 1);
  }
}

const range = fc.tuple(fc.nat(9), fc.integer({ min: 1, max: 4 }), fc.integer({ min: 0, max: 7 })).map(
  // One range in eight reaches to the end of the file.
  ([start, length, last]) => ({ start, end: last === 0 ? Number.POSITIVE_INFINITY : start + length }),
);
const request = fc.record({ mode: fc.constantFrom('shared' as const, 'exclusive' as const), range });

const step = fc.oneof(
  { weight: 5, arbitrary: fc.record({ kind: fc.constant('request' as const), request }) },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('release' as const), pick: fc.nat() }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('cancel' as const), pick: fc.nat() }) },
);

function pick<T>(from: Iterable<T>, index: number): T | undefined {
  const all = [...from];
  return all[index % Math.max(1, all.length)];
}

test('grants are what the reference says, after every step', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const locks = new PageRangeLocks();
      const reference = new Reference();
      for (const one of steps) {
        const before = new Set(locks.granted);
        let reported: Ticket[] = [];
        if (one.kind === 'request') {
          const ticket: Ticket = { mode: one.request.mode, ...one.request.range };
          if (locks.request(ticket)) reported = [ticket];
          reference.present.push(ticket);
        } else {
          const ticket = pick(one.kind === 'release' ? locks.granted : locks.waiting, one.pick);
          if (ticket === undefined) continue;
          reference.leave(ticket);
          reported = one.kind === 'release' ? locks.release(ticket) : locks.cancel(ticket);
        }
        // What is granted is exactly right: no overlap of exclusive grants, first come first served, no lost wake-up.
        const granted = reference.granted();
        expect(reference.present.map((ticket) => locks.granted.has(ticket))).toEqual(
          reference.present.map((ticket) => granted.has(ticket)),
        );
        expect([...locks.granted, ...locks.waiting]).toHaveLength(reference.present.length);
        // Whoever became granted was reported, once, in the order of arrival.
        const news = reference.present.filter((ticket) => locks.granted.has(ticket) && !before.has(ticket));
        expect(reported).toEqual(news);
        for (const [index, ticket] of locks.waiting.entries()) {
          const ahead = [...locks.granted, ...locks.waiting.slice(0, index)];
          expect(ahead.some((other) => overlap(ticket, other))).toBe(true);
        }
      }
      while (locks.granted.size > 0) locks.release(pick(locks.granted, 0) as Ticket);
      expect(locks.isIdle).toBe(true);
    }),
    { numRuns: 1000 },
  );
});

const rows: { what: string; held: Ticket[]; asks: Ticket; granted: boolean }[] = [
  { what: 'disjoint writers pass', held: [x(0, 1)], asks: x(1, 2), granted: true },
  { what: 'readers share', held: [s(0, 4)], asks: s(2, 8), granted: true },
  { what: 'a writer waits for a reader', held: [s(0, 4)], asks: x(3, 5), granted: false },
  { what: 'a reader waits for a writer', held: [x(0, 4)], asks: s(3, 5), granted: false },
  { what: 'to the end of the file', held: [x(7, Number.POSITIVE_INFINITY)], asks: x(1e12, 1e12 + 1), granted: false },
  { what: 'a reader stands behind a waiting writer', held: [s(0, 4), x(0, 4)], asks: s(0, 1), granted: false },
  { what: 'but passes where the waiting writer is not', held: [s(0, 2), x(0, 2)], asks: s(2, 3), granted: true },
];

function x(start: number, end: number): Ticket {
  return { mode: 'exclusive', start, end };
}
function s(start: number, end: number): Ticket {
  return { mode: 'shared', start, end };
}

test.each(rows)('$what', ({ held, asks, granted }) => {
  const locks = new PageRangeLocks();
  for (const ticket of held) locks.request(ticket);
  expect(locks.request(asks)).toBe(granted);
});

test.each([x(3, 3), x(4, 3), x(-1, 3), x(Number.NaN, 3)])('a range without a page is refused: %o', (ticket) => {
  expect(() => new PageRangeLocks().request(ticket)).toThrow('at least one page');
});

test('what is not held cannot be released, what does not wait cannot be cancelled', () => {
  const locks = new PageRangeLocks();
  const ticket = x(0, 1);
  expect(() => locks.release(ticket)).toThrow('granted');
  locks.request(ticket);
  expect(() => locks.cancel(ticket)).toThrow('waiting');
});

interface Holder {
  readonly request: { mode: 'shared' | 'exclusive'; range: { start: number; end: number } };
  readonly controller: AbortController;
  outcome: 'waiting' | 'held' | 'EINTR' | 'released';
  grant: Grant | undefined;
}

test('the queue: every request ends held or interrupted, grants never overlap, all is idle at the end', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
      const queue = new PageRangeLockQueue();
      const holders: Holder[] = [];
      const settle = async () => {
        for (let turn = 0; turn < 4; turn++) await Promise.resolve();
      };
      for (const one of steps) {
        if (one.kind === 'request') {
          const controller = new AbortController();
          const holder: Holder = { request: one.request, controller, outcome: 'waiting', grant: undefined };
          holders.push(holder);
          const held = (grant: Grant) => {
            holder.grant = grant;
            holder.outcome = 'held';
          };
          const result = queue.acquire(one.request.mode, one.request.range, controller);
          if (result instanceof Promise) {
            result.then(held, (error: FsError) => {
              expect(error.code).toBe(4);
              holder.outcome = 'EINTR';
            });
          } else held(result);
        } else if (one.kind === 'release') {
          const holder = pick(
            holders.filter(({ outcome }) => outcome === 'held'),
            one.pick,
          );
          holder?.grant?.[Symbol.dispose]();
          if (holder) holder.outcome = 'released';
        } else {
          // Aborted before, while, and after it waits: only the second has an effect.
          pick(holders, one.pick)?.controller.abort();
        }
        await settle();
        const held = holders.filter(({ outcome }) => outcome === 'held');
        const tickets = held.map(({ request: { mode, range } }) => ({ mode, ...range }));
        for (const [index, a] of tickets.entries()) {
          for (const b of tickets.slice(index + 1)) expect(overlap(a, b)).toBe(false);
        }
        expect(queue.locks.granted.size).toBe(held.length);
        expect(queue.locks.waiting.length).toBe(holders.filter(({ outcome }) => outcome === 'waiting').length);
      }
      for (;;) {
        const held = holders.find(({ outcome }) => outcome === 'held');
        if (held === undefined) break;
        held.outcome = 'released';
        held.grant?.[Symbol.dispose]();
        await settle();
      }
      expect(holders.filter(({ outcome }) => outcome === 'waiting')).toEqual([]);
      expect(queue.locks.isIdle).toBe(true);
    }),
    { numRuns: 300 },
  );
});

test('the queue: a grant is released exactly once', () => {
  const queue = new PageRangeLockQueue();
  const grant = queue.acquire('exclusive', { start: 0, end: 1 }) as Grant;
  grant[Symbol.dispose]();
  expect(() => grant[Symbol.dispose]()).toThrow('released once');
  expect(queue.locks.isIdle).toBe(true);
});

test('the queue: a signal that is aborted already interrupts a wait, but not a lock that is free', async () => {
  const queue = new PageRangeLockQueue();
  const grant = queue.acquire('exclusive', { start: 0, end: 1 }, { signal: AbortSignal.abort() }) as Grant;
  const waits = queue.acquire('exclusive', { start: 0, end: 1 }, { signal: AbortSignal.abort() });
  await expect(waits).rejects.toMatchObject({ code: 4 });
  grant[Symbol.dispose]();
  expect(queue.locks.isIdle).toBe(true);
});
