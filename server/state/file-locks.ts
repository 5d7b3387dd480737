/**
 * The fcntl (POSIX) or flock locks of one file, over all clients: what is held, and who waits, in the order of arrival.
 *
 * Pure: no clock, no promises; events go in, what they decided comes out. The tables of an export's files are one graph,
 * by the owners that hold in one and wait in another: a decision in one table can settle a request in another.
 * Invariants: locks of different owners overlap only when both are shared; a waiting request conflicts with a held lock,
 * or stands behind an earlier one that does; no cycle of owners, each waiting for a lock that the next one holds.
 *
 * First come, first served among requests that conflict, so writers do not starve; but locks are held for long, and
 * whoever holds one must not be made to wait for somebody who waits for it. So a process that is in the way of a waiting
 * request stands behind nobody: it waits for held locks alone, as POSIX says. That is enough: standing behind somebody
 * is then never part of a cycle, for only such processes stand behind others for whom nobody waits.
 * Sources: fcntl(2), flock(2), posix_lock_inode(), flock_lock_inode() and posix_locks_deadlock() in the kernel's fs/locks.c.
 */
import { assert } from '../../shared/assert.ts';
import { ALL_BYTES, type ByteRange, overlaps, RangeMap } from '../../shared/range-map.ts';
import type { LockMode } from './page-range-locks.ts';

/** Locks of one kind do not see those of the other. */
export type LockKind = 'posix' | 'flock';

/** Whose locks they are in the end: a client's session. */
export interface LockHolder {
  readonly client: string;
  /** Ranges held, in all files; counted by the tables. */
  lockCount: number;
  /** A request of it that waited is decided. Said by whoever made the event that decided it. */
  decided(decision: Decision): void;
  /** A lock of it is in somebody's way. It unlocks at once if it keeps what it holds by courtesy only. */
  contested(): void;
}

/** A process of a client, as far as its locks go. */
export class LockingProcess {
  readonly holder: LockHolder;
  readonly pid: number;
  readonly owners = new Set<LockOwner>();

  constructor(holder: LockHolder, pid: number) {
    this.holder = holder;
    this.pid = pid;
  }
}

/** Who owns locks, and never conflicts with itself: a process (fcntl), an open file description (flock, OFD locks). */
export class LockOwner {
  readonly kind: LockKind;
  /** Which of its process' or session's; for whoever made it. */
  readonly key: string;
  /** The one that asked last. */
  #process: LockingProcess;
  readonly holds = new Set<LockTable>();
  readonly waits = new Set<LockRequest>();

  constructor(kind: LockKind, key: string, process: LockingProcess) {
    this.kind = kind;
    this.key = key;
    this.#process = process;
    process.owners.add(this);
  }

  get process(): LockingProcess {
    return this.#process;
  }

  set process(process: LockingProcess) {
    this.#process.owners.delete(this);
    this.#process = process;
    process.owners.add(this);
  }

  get isIdle(): boolean {
    return this.holds.size === 0 && this.waits.size === 0;
  }
}

export interface HeldLock extends ByteRange {
  readonly owner: LockOwner;
  readonly mode: LockMode;
}

/** Asks for a lock; waiting until it is decided. */
export interface LockRequest extends HeldLock {
  readonly table: LockTable;
}

/** `conflict` only for a request that does not wait. */
export type LockOutcome = 'granted' | 'conflict' | 'deadlock';

export interface Decision {
  readonly request: LockRequest;
  readonly outcome: LockOutcome;
}

function conflict(a: HeldLock, b: HeldLock): boolean {
  return a.owner !== b.owner && (a.mode === 'exclusive' || b.mode === 'exclusive') && overlaps(a, b);
}

export class LockTable {
  readonly kind: LockKind;
  /** Of the file; shown by status. */
  readonly ino: number | bigint;
  readonly #held = new Map<LockOwner, RangeMap<LockMode>>();
  /** In the order of arrival. */
  #waiting: LockRequest[] = [];

  constructor(kind: LockKind, ino: number | bigint = 0) {
    this.kind = kind;
    this.ino = ino;
  }

  get isIdle(): boolean {
    return this.#held.size === 0 && this.#waiting.length === 0;
  }

  get held(): HeldLock[] {
    return [...this.#held.keys()].flatMap((owner) => this.heldBy(owner));
  }

  get waiting(): readonly LockRequest[] {
    return this.#waiting;
  }

  heldBy(owner: LockOwner): HeldLock[] {
    const ranges = this.#held.get(owner)?.ranges ?? [];
    return ranges.map(({ start, end, value }) => ({ owner, mode: value, start, end }));
  }

  /** The first byte's lock that is in the way of `wanted`. */
  conflictWith(wanted: HeldLock): HeldLock | undefined {
    let first: HeldLock | undefined;
    for (const lock of this.#inTheWayOf(wanted)) if (first === undefined || lock.start < first.start) first = lock;
    return first;
  }

  /**
   * Decides about `request`, or has it wait: then it is not among the decisions. Those may be about others, too: a lock
   * that becomes a shared one lets them in.
   */
  request(request: LockRequest, waits: boolean): Decision[] {
    assert(request.table === this && request.owner.kind === this.kind, 'a request is made to its table');
    assert(request.start >= 0n && request.start < request.end, 'a lock covers at least one byte');
    const decisions: Decision[] = [];
    // flock gives up the lock it has before it asks for another kind, and others come first.
    if (this.kind === 'flock') this.#convert(request, decisions);
    const isFree = this.conflictWith(request) === undefined;
    if (isFree && !(waits && this.#queues(request, this.#waiting.length))) {
      this.#grant(request);
      decisions.push({ request, outcome: 'granted' });
    } else if (!waits) {
      decisions.push({ request, outcome: 'conflict' });
      return decisions;
    } else if (isDeadlock(request)) {
      decisions.push({ request, outcome: 'deadlock' });
      return decisions;
    } else {
      this.#waiting.push(request);
      request.owner.waits.add(request);
    }
    settle(this, decisions);
    return decisions;
  }

  /** Gives back a range, as far as it is held. Returns what that decided. */
  unlock(owner: LockOwner, range: ByteRange): Decision[] {
    const ranges = this.#held.get(owner);
    if (ranges === undefined) return [];
    this.#change(owner, ranges, () => ranges.clear(range));
    const decisions: Decision[] = [];
    settle(this, decisions);
    return decisions;
  }

  /** Takes back a waiting request. */
  cancel(request: LockRequest): Decision[] {
    this.#remove(request);
    const decisions: Decision[] = [];
    settle(this, decisions);
    return decisions;
  }

  // --- for the functions below, which look at several tables

  /** Grants and refuses what can be. True: something was decided. */
  settleOnce(decisions: Decision[]): boolean {
    let hasDecided = false;
    for (const request of [...this.#waiting]) {
      const outcome = this.#outcomeOf(request);
      if (outcome === undefined) continue;
      this.#remove(request);
      if (outcome === 'granted') this.#grant(request);
      decisions.push({ request, outcome });
      hasDecided = true;
    }
    return hasDecided;
  }

  /** Owners whose locks are in the way of `request`. */
  blockersOf(request: HeldLock): Set<LockOwner> {
    const owners = new Set<LockOwner>();
    for (const { owner } of this.#inTheWayOf(request)) owners.add(owner);
    return owners;
  }

  isInTheWay(owner: LockOwner): boolean {
    return this.#waiting.some((request) => this.#conflictOf(owner, request) !== undefined);
  }

  // --- within

  #outcomeOf(request: LockRequest): 'granted' | 'deadlock' | undefined {
    if (this.conflictWith(request) === undefined) {
      return this.#queues(request, this.#waiting.indexOf(request)) ? undefined : 'granted';
    }
    // A cycle that a grant to one thread closed, while another thread of the same owner waits.
    return isDeadlock(request) ? 'deadlock' : undefined;
  }

  /** Of each owner the first lock that is in the way of `wanted`. */
  *#inTheWayOf(wanted: HeldLock): Generator<HeldLock> {
    for (const owner of this.#held.keys()) {
      const lock = this.#conflictOf(owner, wanted);
      if (lock) yield lock;
    }
  }

  #conflictOf(owner: LockOwner, wanted: HeldLock): HeldLock | undefined {
    for (const { start, end, value: mode } of this.#held.get(owner)?.overlapping(wanted) ?? []) {
      const lock = { owner, mode, start, end };
      if (conflict(lock, wanted)) return lock;
    }
    return undefined;
  }

  /** Nothing that is held is in its way, but somebody was here before: one of the first `count` that wait. */
  #queues(request: LockRequest, count: number): boolean {
    const { process } = request.owner;
    for (let index = 0; index < count; index++) {
      const earlier = this.#waiting[index] as LockRequest;
      if (earlier.owner.process !== process && conflict(request, earlier)) return !isProcessInTheWay(process);
    }
    return false;
  }

  #convert({ owner, mode }: LockRequest, decisions: Decision[]): void {
    const ranges = this.#held.get(owner);
    if (ranges === undefined || ranges.ranges[0]?.value === mode) return;
    this.#change(owner, ranges, () => ranges.clear(ALL_BYTES));
    settle(this, decisions);
  }

  #grant(request: LockRequest): void {
    const { owner, mode } = request;
    const ranges = this.#held.get(owner) ?? new RangeMap<LockMode>();
    this.#held.set(owner, ranges);
    this.#change(owner, ranges, () => ranges.set(request, mode));
  }

  #change(owner: LockOwner, ranges: RangeMap<LockMode>, change: () => void): void {
    const before = ranges.size;
    change();
    owner.process.holder.lockCount += ranges.size - before;
    if (ranges.size > 0) owner.holds.add(this);
    else owner.holds.delete(this);
    if (ranges.size === 0) this.#held.delete(owner);
  }

  #remove(request: LockRequest): void {
    const index = this.#waiting.indexOf(request);
    assert(index >= 0, 'only a waiting lock is cancelled');
    this.#waiting.splice(index, 1);
    request.owner.waits.delete(request);
  }
}

/** A lock of the process keeps somebody waiting. */
export function isProcessInTheWay(process: LockingProcess): boolean {
  for (const owner of process.owners) for (const table of owner.holds) if (table.isInTheWay(owner)) return true;
  return false;
}

/**
 * Waiting for `request` would close a circle of owners. flock has no such check: its owners are open files, of which
 * nobody knows who will unlock them.
 */
function isDeadlock({ owner, table, ...wanted }: LockRequest): boolean {
  if (table.kind === 'flock') return false;
  const seen = new Set<LockOwner>();
  const toVisit = [...table.blockersOf({ owner, ...wanted })];
  for (let next = toVisit.pop(); next !== undefined; next = toVisit.pop()) {
    if (next === owner) return true;
    if (seen.has(next)) continue;
    seen.add(next);
    for (const request of next.waits) toVisit.push(...request.table.blockersOf(request));
  }
  return false;
}

/** Something has changed in `table`: decides whatever can be decided, until nothing can. */
function settle(table: LockTable, decisions: Decision[]): void {
  if (table.waiting.length === 0) return;
  const tables = new Set([table]);
  for (let hasDecided = true; hasDecided; ) {
    hasDecided = false;
    // Sets are iterated in the order of insertion, including what is added meanwhile.
    for (const one of tables) {
      if (one.settleOnce(decisions)) hasDecided = true;
      addWaitsOfBlockers(one, tables);
    }
  }
}

/** Processes that hold what is waited for in `table` stand behind nobody now: their own requests may be free. */
function addWaitsOfBlockers(table: LockTable, tables: Set<LockTable>): void {
  for (const request of table.waiting) {
    for (const blocker of table.blockersOf(request)) {
      for (const { waits } of blocker.process.owners) for (const waiting of waits) tables.add(waiting.table);
    }
  }
}
