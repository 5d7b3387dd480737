/**
 * A session's locks of programs: which owners and processes it has told of, what of it waits, and decisions that its
 * client has not taken yet. Those are said again on every new connection, so none is lost with one. Owned by the
 * session; what it holds lives in the tables of the inodes, and goes with the session.
 */
import { assert } from '../../shared/assert.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { limits } from '../../shared/limits.ts';
import { ALL_BYTES, type ByteRange } from '../../shared/range-map.ts';
import {
  type Decision,
  type HeldLock,
  isProcessInTheWay,
  type LockHolder,
  LockingProcess,
  type LockKind,
  type LockOutcome,
  LockOwner,
  type LockRequest,
  type LockTable,
} from '../state/file-locks.ts';
import type { LockMode } from '../state/page-range-locks.ts';

/** What a client asks for. */
export interface WantedLock extends ByteRange {
  readonly owner: string;
  readonly pid: number;
  readonly mode: LockMode;
}

const errnoOfOutcome = { granted: 0, conflict: errno.EAGAIN, deadlock: errno.EDEADLK } as const satisfies Record<
  LockOutcome,
  number
>;

export class SessionLocks implements LockHolder {
  readonly client: string;
  lockCount = 0;
  readonly #owners = new Map<string, LockOwner>();
  readonly #processes = new Map<number, LockingProcess>();
  /** By ticket: what waits, and what has been decided without the client knowing. */
  readonly #waiting = new Map<number, LockRequest>();
  readonly #tickets = new Map<LockRequest, number>();
  readonly #untaken = new Map<number, number>();
  readonly #tell: (ticket: number, errno: number) => void;
  /** Called when a lock that is held is in somebody's way. */
  readonly contested: () => void;

  /** `tell` says a decision to the client, if it is connected. */
  constructor(client: string, tell: (ticket: number, errno: number) => void, contested: () => void) {
    this.client = client;
    this.#tell = tell;
    this.contested = contested;
  }

  /** Decisions that the client has not taken: errno by ticket. */
  get untaken(): ReadonlyMap<number, number> {
    return this.#untaken;
  }

  get waitingCount(): number {
    return this.#waiting.size;
  }

  /** Somebody waits for what it holds. */
  get isInTheWay(): boolean {
    for (const process of this.#processes.values()) if (isProcessInTheWay(process)) return true;
    return false;
  }

  /** What is held, then what waits. */
  *all(): Generator<{ lock: HeldLock; ino: number | bigint; isWaiting: boolean }> {
    for (const owner of this.#owners.values()) {
      for (const table of owner.holds) {
        for (const lock of table.heldBy(owner)) yield { lock, ino: table.ino, isWaiting: false };
      }
    }
    for (const lock of this.#waiting.values()) yield { lock, ino: lock.table.ino, isWaiting: true };
  }

  /** True: granted. False: it waits, and is decided later. EAGAIN without a ticket; EDEADLK, ENOLCK, EINVAL. */
  lock(table: LockTable, wanted: WantedLock, ticket: number | undefined): boolean {
    if (this.lockCount >= limits.maxLocks) throw new FsError(errno.ENOLCK, 'lock');
    if (ticket !== undefined) this.#checkTicket(ticket);
    const owner = this.#owner(table.kind, wanted);
    const { mode, start, end } = wanted;
    const request: LockRequest = { table, owner, mode, start, end };
    contest(table, request);
    const decisions = table.request(request, ticket !== undefined);
    const own = decisions.find((decision) => decision.request === request);
    tell(decisions.filter((decision) => decision !== own));
    if (own === undefined) {
      assert(ticket !== undefined, 'only a request with a ticket waits');
      this.#waiting.set(ticket, request);
      this.#tickets.set(request, ticket);
      return false;
    }
    this.#forgetIdle(owner);
    if (own.outcome !== 'granted') throw new FsError(errnoOfOutcome[own.outcome], 'lock');
    return true;
  }

  unlock(table: LockTable, key: string, range: ByteRange): void {
    const owner = this.#owners.get(keyOf(table.kind, key));
    if (owner === undefined) return;
    const splits = table.heldBy(owner).some(({ start, end }) => start < range.start && end > range.end);
    if (splits && this.lockCount >= limits.maxLocks) throw new FsError(errno.ENOLCK, 'unlock');
    tell(table.unlock(owner, range));
    this.#forgetIdle(owner);
  }

  /** Undefined: it waits no more. Otherwise how it was decided already, and that is taken herewith. */
  cancel(ticket: number): number | undefined {
    const code = this.#untaken.get(ticket);
    this.#untaken.delete(ticket);
    const request = this.#waiting.get(ticket);
    if (request) this.#cancel(request, ticket);
    return code;
  }

  /** The client knows the decision. */
  taken(ticket: number): void {
    this.#untaken.delete(ticket);
  }

  /** The first lock in the way of `wanted`, if it were asked for. */
  conflict(table: LockTable, { owner: key, mode, start, end }: Omit<WantedLock, 'pid'>): HeldLock | undefined {
    const known = this.#owners.get(keyOf(table.kind, key));
    const owner = known ?? new LockOwner(table.kind, key, new LockingProcess(this, 0));
    contest(table, { owner, mode, start, end });
    return table.conflictWith({ owner, mode, start, end });
  }

  decided({ request, outcome }: Decision): void {
    const ticket = this.#tickets.get(request);
    assert(ticket !== undefined, 'only what waits is decided later');
    this.#tickets.delete(request);
    this.#waiting.delete(ticket);
    this.#forgetIdle(request.owner);
    const code = errnoOfOutcome[outcome];
    this.#untaken.set(ticket, code);
    this.#tell(ticket, code);
  }

  /** First nothing waits any more, or what is unlocked could be granted to this session itself. */
  close(): void {
    for (const [ticket, request] of this.#waiting) this.#cancel(request, ticket);
    for (const owner of this.#owners.values()) {
      for (const table of owner.holds) tell(table.unlock(owner, ALL_BYTES));
      this.#forgetIdle(owner);
    }
    this.#untaken.clear();
    assert(this.lockCount === 0 && this.#owners.size === 0, 'a session leaves no lock behind');
  }

  #cancel(request: LockRequest, ticket: number): void {
    this.#waiting.delete(ticket);
    this.#tickets.delete(request);
    tell(request.table.cancel(request));
    this.#forgetIdle(request.owner);
  }

  #checkTicket(ticket: number): void {
    if (this.#waiting.has(ticket) || this.#untaken.has(ticket)) throw new FsError(errno.EINVAL, 'ticket');
    if (this.#waiting.size + this.#untaken.size >= limits.maxWaitingLocks) throw new FsError(errno.ENOLCK, 'lock');
  }

  #owner(kind: LockKind, { owner: key, pid }: WantedLock): LockOwner {
    const process = this.#processes.get(pid) ?? new LockingProcess(this, pid);
    this.#processes.set(pid, process);
    const known = this.#owners.get(keyOf(kind, key));
    if (known === undefined) {
      const owner = new LockOwner(kind, key, process);
      this.#owners.set(keyOf(kind, key), owner);
      return owner;
    }
    const before = known.process;
    known.process = process;
    if (before.owners.size === 0) this.#processes.delete(before.pid);
    return known;
  }

  #forgetIdle(owner: LockOwner): void {
    if (!owner.isIdle) return;
    this.#owners.delete(keyOf(owner.kind, owner.key));
    owner.process.owners.delete(owner);
    if (owner.process.owners.size === 0) this.#processes.delete(owner.process.pid);
  }
}

function keyOf(kind: LockKind, key: string): string {
  return `${kind} ${key}`;
}

/** Clients that have been away for too long do not keep `wanted` from anybody. */
function contest(table: LockTable, wanted: HeldLock): void {
  for (const { process } of table.blockersOf(wanted)) process.holder.contested();
}

/** Whoever waited is told, whichever session it is of. */
function tell(decisions: readonly Decision[]): void {
  for (const decision of decisions) decision.request.owner.process.holder.decided(decision);
}
