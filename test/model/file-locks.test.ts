/**
 * fcntl and flock locks against a model that keeps a mode for every single byte and looks for circles by trying every way.
 * Processes have one POSIX owner and one flock owner a file; with `threads` they go on asking while a request waits.
 */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  type Decision,
  type HeldLock,
  type LockHolder,
  LockingProcess,
  type LockKind,
  LockOwner,
  type LockRequest,
  LockTable,
} from '../../server/state/file-locks.ts';
import type { LockMode } from '../../server/state/page-range-locks.ts';
import { ALL_BYTES } from '../../shared/range-map.ts';

const BYTES = 10;
const FILES = 2;
const PROCESSES = 4;
/** The last byte of the model stands for all bytes from there to the end. */
const range = fc.tuple(fc.nat(BYTES - 1), fc.nat(4)).map(([start, length]) => {
  const last = Math.min(start + length, BYTES - 1);
  return { start: BigInt(start), end: last === BYTES - 1 ? ALL_BYTES.end : BigInt(last + 1) };
});
const who = { process: fc.nat(PROCESSES - 1), file: fc.nat(FILES - 1) };
const kind = fc.constantFrom<LockKind>('posix', 'posix', 'flock');
const mode = fc.constantFrom<LockMode>('shared', 'exclusive');
const step = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({ does: fc.constant('lock' as const), ...who, kind, mode, range, waits: fc.boolean() }),
  },
  { weight: 3, arbitrary: fc.record({ does: fc.constant('unlock' as const), ...who, kind, range }) },
  { weight: 1, arbitrary: fc.record({ does: fc.constant('close' as const), ...who, kind }) },
  { weight: 2, arbitrary: fc.record({ does: fc.constant('cancel' as const), pick: fc.nat() }) },
);
const FIRST_BYTE = { start: 0n, end: 1n };
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

const bytesOf = ({ start, end }: { start: bigint; end: bigint }) =>
  Array.from({ length: BYTES }, (_, byte) => byte).filter((byte) => start <= byte && byte < end);

/** What is held, byte by byte, and who waits. */
class Model {
  readonly modes = new Map<LockTable, Map<LockOwner, (LockMode | undefined)[]>>();
  waiting: LockRequest[] = [];

  of(table: LockTable, owner: LockOwner): (LockMode | undefined)[] {
    const owners = this.modes.get(table) ?? new Map<LockOwner, (LockMode | undefined)[]>();
    this.modes.set(table, owners);
    const bytes = owners.get(owner) ?? Array.from({ length: BYTES }, () => undefined);
    owners.set(owner, bytes);
    return bytes;
  }

  blockers({ table, owner, mode, ...range }: LockRequest): LockOwner[] {
    const clashes = (held: LockMode | undefined) =>
      held !== undefined && (held === 'exclusive' || mode === 'exclusive');
    return [...(this.modes.get(table) ?? [])]
      .filter(([other, bytes]) => other !== owner && bytesOf(range).some((byte) => clashes(bytes[byte])))
      .map(([other]) => other);
  }

  isDeadlock(request: LockRequest, start = request.owner, seen: readonly LockOwner[] = []): boolean {
    if (request.table.kind === 'flock') return false;
    const waitsOf = (owner: LockOwner) => this.waiting.filter((one) => one.owner === owner);
    const leadsBack = (owner: LockOwner) => waitsOf(owner).some((one) => this.isDeadlock(one, start, [...seen, owner]));
    return this.blockers(request).some((owner) => owner === start || (!seen.includes(owner) && leadsBack(owner)));
  }

  isInTheWay(process: LockingProcess): boolean {
    return this.waiting.some((request) => this.blockers(request).some((owner) => owner.process === process));
  }

  standsBehind(request: LockRequest): boolean {
    const index = this.waiting.indexOf(request);
    const earlier = this.waiting.slice(0, index < 0 ? this.waiting.length : index);
    const clashes = (other: LockRequest) =>
      other.table === request.table &&
      other.owner.process !== request.owner.process &&
      (other.mode === 'exclusive' || request.mode === 'exclusive') &&
      bytesOf(other).some((byte) => bytesOf(request).includes(byte));
    return earlier.some(clashes) && !this.isInTheWay(request.owner.process);
  }
}

class World {
  readonly model = new Model();
  readonly holder: LockHolder = { client: 'test', lockCount: 0, decided: () => {}, contested: () => {} };
  readonly tables = Array.from({ length: FILES }, () => ({
    posix: new LockTable('posix'),
    flock: new LockTable('flock'),
  }));
  readonly processes = Array.from({ length: PROCESSES }, (_, pid) => new LockingProcess(this.holder, pid));
  readonly owners = new Map<string, LockOwner>();

  owner(process: number, file: number, kind: LockKind): LockOwner {
    const key = kind === 'posix' ? `${process}` : `${process} ${file}`;
    const known = this.owners.get(`${kind} ${key}`);
    if (known) return known;
    const owner = new LockOwner(kind, key, this.processes[process] as LockingProcess);
    this.owners.set(`${kind} ${key}`, owner);
    return owner;
  }

  /** Each decision, in order, must be one that the model permits, and is carried out there. */
  follow(decisions: readonly Decision[], asked?: { request: LockRequest; waits: boolean }): void {
    const { model } = this;
    for (const { request, outcome } of decisions) {
      const isAsked = request === asked?.request;
      expect(isAsked || model.waiting.includes(request)).toBe(true);
      const isBlocked = model.blockers(request).length > 0;
      if (outcome === 'granted') {
        expect(isBlocked).toBe(false);
        if (!isAsked || asked.waits) expect(model.standsBehind(request)).toBe(false);
        const bytes = model.of(request.table, request.owner);
        for (const byte of bytesOf(request)) bytes[byte] = request.mode;
      } else if (outcome === 'deadlock') {
        expect(model.isDeadlock(request)).toBe(true);
      } else {
        expect(isBlocked && isAsked && !asked.waits).toBe(true);
      }
      model.waiting = model.waiting.filter((one) => one !== request);
    }
  }

  check(): void {
    const { model } = this;
    let count = 0;
    for (const table of this.tables.flatMap(({ posix, flock }) => [posix, flock])) {
      for (const owner of this.owners.values()) {
        const held = table.heldBy(owner);
        count += held.length;
        const bytes: (LockMode | undefined)[] = Array.from({ length: BYTES }, () => undefined);
        for (const lock of held) for (const byte of bytesOf(lock)) bytes[byte] = lock.mode;
        expect(bytes).toEqual(model.of(table, owner));
        expect(owner.holds.has(table)).toBe(held.length > 0);
        // Merged, and in order.
        for (const [index, lock] of held.slice(1).entries()) {
          const before = held[index] as HeldLock;
          expect(before.end < lock.start || (before.end === lock.start && before.mode !== lock.mode)).toBe(true);
        }
      }
      expect(table.waiting).toEqual(model.waiting.filter((request) => request.table === table));
    }
    expect(this.holder.lockCount).toBe(count);
    for (const request of model.waiting) {
      // No lost wake-up, and nobody waits for ever.
      expect(model.blockers(request).length > 0 || model.standsBehind(request)).toBe(true);
      expect(model.isDeadlock(request)).toBe(false);
    }
  }

  take(step: Step): void {
    const { model } = this;
    if (step.does === 'cancel') {
      const request = model.waiting[step.pick % Math.max(1, model.waiting.length)];
      if (request === undefined) return;
      model.waiting = model.waiting.filter((one) => one !== request);
      return this.follow(request.table.cancel(request));
    }
    const table = (this.tables[step.file] as (typeof this.tables)[0])[step.kind];
    const owner = this.owner(step.process, step.file, step.kind);
    const range = step.does === 'close' || step.kind === 'flock' ? ALL_BYTES : step.range;
    const bytes = model.of(table, owner);
    if (step.does !== 'lock') {
      for (const byte of bytesOf(range)) bytes[byte] = undefined;
      return this.follow(table.unlock(owner, range));
    }
    const request: LockRequest = { table, owner, mode: step.mode, ...range };
    if (step.kind === 'flock' && bytes[0] !== step.mode) bytes.fill(undefined);
    const wasDeadlock = model.blockers(request).length > 0 && model.isDeadlock(request);
    const decisions = table.request(request, step.waits);
    const own = decisions.find((one) => one.request === request);
    if (step.waits) expect(own?.outcome === 'deadlock').toBe(wasDeadlock);
    else expect(own).toBeDefined();
    // Others may be let in because it waits for them.
    if (own === undefined) model.waiting.push(request);
    this.follow(decisions, { request, waits: step.waits });
  }
}

/** The last one waits for a process that stands behind others, and must not do that any more. */
const letInByWhoWaits: Step[] = (
  [
    [0, 1, 'shared'],
    [3, 0, 'exclusive'],
    [1, 1, 'exclusive'],
    [3, 1, 'shared'],
    [0, 0, 'shared'],
  ] as const
).map(([process, file, mode]) => ({
  does: 'lock',
  process,
  file,
  kind: 'posix',
  mode,
  range: FIRST_BYTE,
  waits: true,
}));

describe.each([{ threads: false }, { threads: true }])(
  'locks and the model (several threads: $threads)',
  ({ threads }) => {
    test('agree on every byte, every wait and every deadlock', () => {
      fc.assert(
        fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
          const world = new World();
          const waits = (process: number) => world.model.waiting.some(({ owner }) => owner.process.pid === process);
          for (const one of steps) {
            if (!threads && one.does !== 'cancel' && waits(one.process)) continue;
            world.take(one);
            world.check();
          }
          // Whoever does not wait closes its files, until all are gone: nobody is left waiting.
          for (let round = 0; round < PROCESSES; round++) {
            for (let process = 0; process < PROCESSES; process++) {
              if (!threads && waits(process)) continue;
              for (let file = 0; file < FILES; file++) {
                for (const kind of ['posix', 'flock'] as const) world.take({ does: 'close', process, file, kind });
              }
            }
          }
          world.check();
          // Two flocks may wait for each other for good; fcntl locks may not.
          expect(
            world.model.waiting.filter(({ table }) => table.kind === 'posix' && !threads && !hasFlock(steps)),
          ).toEqual([]);
        }),
        { numRuns: 400, examples: [[letInByWhoWaits]] },
      );
    });
  },
);

function hasFlock(steps: readonly Step[]): boolean {
  return steps.some((one) => one.does === 'lock' && one.kind === 'flock');
}

describe('what chance seldom meets', () => {
  const holder: LockHolder = { client: 'test', lockCount: 0, decided: () => {}, contested: () => {} };
  const process = (pid: number) => new LockOwner('posix', `${pid}`, new LockingProcess(holder, pid));
  const outcomes = (decisions: readonly Decision[]) => decisions.map(({ outcome, request }) => [outcome, request]);
  const whole = (table: LockTable, owner: LockOwner, mode: LockMode): LockRequest => ({
    table,
    owner,
    mode,
    ...ALL_BYTES,
  });

  test('an upgrade passes a writer that waits for its owner', () => {
    const table = new LockTable('posix');
    const [a, b] = [process(1), process(2)];
    table.request(whole(table, a, 'shared'), true);
    expect(table.request(whole(table, b, 'exclusive'), true)).toEqual([]);
    const upgrade = whole(table, a, 'exclusive');
    expect(outcomes(table.request(upgrade, true))).toEqual([['granted', upgrade]]);
  });

  test('a reader behind a writer is let in when somebody comes to wait for its lock of another file', () => {
    const [one, two] = [new LockTable('posix'), new LockTable('posix')];
    const [a, b, c] = [process(1), process(2), process(3)];
    one.request(whole(one, a, 'shared'), true);
    two.request(whole(two, c, 'exclusive'), true);
    one.request(whole(one, b, 'exclusive'), true);
    const reader = whole(one, c, 'shared');
    expect(one.request(reader, true)).toEqual([]);
    expect(outcomes(two.request(whole(two, a, 'shared'), true))).toEqual([['granted', reader]]);
  });

  test('a grant to one thread that closes a circle through another ends in EDEADLK', () => {
    const [one, two] = [new LockTable('posix'), new LockTable('posix')];
    const [a, b, c] = [process(1), process(2), process(3)];
    one.request(whole(one, a, 'exclusive'), true);
    two.request(whole(two, b, 'exclusive'), true);
    const first = whole(one, c, 'exclusive');
    one.request(first, true);
    two.request(whole(two, c, 'exclusive'), true); // another thread of c waits for b
    const second = whole(one, b, 'exclusive');
    expect(one.request(second, true)).toEqual([]);
    expect(outcomes(one.unlock(a, ALL_BYTES))).toEqual([
      ['granted', first],
      ['deadlock', second],
    ]);
  });
});
