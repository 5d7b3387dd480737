/**
 * The leases on one inode: who may answer for its attributes, a file's data and a directory's names without asking. Shared
 * among any number of holders, or exclusive to one, who may also gather writes. A change by somebody else recalls them
 * first, and so does a look at what is held exclusively. Pure: no clock, no messages; `Holder` is a session to the
 * server, and anything to a test.
 *
 * Invariants: nothing is granted while a change is in progress; a change begins only when nobody but its author holds
 * the lease, or is known to be about to lose it; an exclusive holder is the only one. Under contention only the author of the last change is granted the lease
 * for a while (back-off): a contended directory costs one round trip an operation, without ping-pong of recalls.
 */
import { assert } from '../../shared/assert.ts';
import { limits } from '../../shared/limits.ts';

const FIRST_BACKOFF_MS = 100;
const LONGEST_BACKOFF_MS = 3_200;
/** A recall that comes this long after a back-off has ended starts with a short one again. */
const FORGIVEN_AFTER_MS = 10_000;

export class InodeLeases<Holder> {
  readonly #holders = new Set<Holder>();
  #changes = 0;
  #takingBack = 0;
  #exclusive: Holder | undefined;
  #waiting: (() => void)[] = [];
  #author: Holder | undefined;
  #backoffMs = 0;
  #backoffUntilMs = 0;

  get holders(): ReadonlySet<Holder> {
    return this.#holders;
  }

  get isIdle(): boolean {
    return this.#holders.size === 0 && this.#changes === 0 && this.#takingBack === 0;
  }

  get isChanging(): boolean {
    return this.#changes > 0;
  }

  /** Who may gather writes. */
  get exclusive(): Holder | undefined {
    return this.#exclusive;
  }

  /** True when `holder` holds the lease from now on. `mustKeep`: it cannot help keeping what it is told, whatever speaks against it. */
  grant(holder: Holder, nowMs: number, mustKeep = false): boolean {
    if (this.#isBusy || (this.#exclusive !== undefined && this.#exclusive !== holder)) return false;
    if (!mustKeep && (this.#isBackingOff(holder, nowMs) || this.#isFullFor(holder))) return false;
    this.#holders.add(holder);
    return true;
  }

  /** True when `holder`, alone, holds the lease exclusively from now on. */
  grantExclusive(holder: Holder, nowMs: number): boolean {
    const hasOthers = this.#holders.size > (this.#holders.has(holder) ? 1 : 0);
    if (this.#isBusy || hasOthers || this.#exclusive !== undefined || this.#isBackingOff(holder, nowMs)) return false;
    this.#holders.add(holder);
    this.#exclusive = holder;
    return true;
  }

  /** It holds a shared lease from now on. */
  endExclusive(): void {
    this.#exclusive = undefined;
  }

  /** Resolves when nothing is changed or taken back, at the earliest opportunity; undefined when that is now. */
  whenQuiet(): Promise<void> | undefined {
    return this.#isBusy ? new Promise((resolve) => this.#waiting.push(resolve)) : undefined;
  }

  get #isBusy(): boolean {
    return this.#changes > 0 || this.#takingBack > 0;
  }

  /** One more would make the next change too dear: who is not a holder yet asks each time. */
  #isFullFor(holder: Holder): boolean {
    return this.#holders.size >= limits.maxHolders && !this.#holders.has(holder);
  }

  #isBackingOff(holder: Holder, nowMs: number): boolean {
    return nowMs < this.#backoffUntilMs && holder !== this.#author;
  }

  #wake(): void {
    if (this.#isBusy) return;
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  /** Whoever must give the lease back before `author` (nobody of ours: undefined) may change the inode. */
  beginChange(author: Holder | undefined, nowMs: number): Holder[] {
    this.#changes++;
    const others = [...this.#holders].filter((holder) => holder !== author);
    if (others.length > 0) this.#backOff(author, nowMs);
    return others;
  }

  /** One lease is being taken back, and nothing changes: nothing is granted until it is, lest the two cross. */
  beginTakingBack(): void {
    this.#takingBack++;
  }

  endTakingBack(): void {
    assert(this.#takingBack > 0, 'what is taken back is taken once');
    this.#takingBack--;
    this.#wake();
  }

  endChange(): void {
    assert(this.#changes > 0, 'a change ends once');
    this.#changes--;
    this.#wake();
  }

  /** It gave the lease back, or it was taken from it. */
  drop(holder: Holder): void {
    this.#holders.delete(holder);
    if (this.#exclusive === holder) this.#exclusive = undefined;
  }

  #backOff(author: Holder | undefined, nowMs: number): void {
    const isForgiven = nowMs > this.#backoffUntilMs + FORGIVEN_AFTER_MS;
    this.#backoffMs = isForgiven
      ? FIRST_BACKOFF_MS
      : Math.min(LONGEST_BACKOFF_MS, Math.max(FIRST_BACKOFF_MS, this.#backoffMs * 2));
    this.#backoffUntilMs = nowMs + this.#backoffMs;
    this.#author = author;
  }
}
