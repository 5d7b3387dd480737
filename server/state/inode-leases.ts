/**
 * The leases on one inode: who may answer for its attributes, and for a directory's names, without asking. Shared among
 * any number of holders; a change by somebody else recalls them first. Pure: no clock, no messages; `Holder` is a session
 * to the server, and anything to a test.
 *
 * Invariants: nothing is granted while a change is in progress; a change begins only when nobody but its author holds
 * the lease, or is known to be about to lose it. Under contention only the author of the last change is granted the lease
 * for a while (back-off): a contended directory costs one round trip an operation, without ping-pong of recalls.
 */
import { assert } from '../../shared/assert.ts';

const FIRST_BACKOFF_MS = 100;
const LONGEST_BACKOFF_MS = 3_200;
/** A recall that comes this long after a back-off has ended starts with a short one again. */
const FORGIVEN_AFTER_MS = 10_000;

export class InodeLeases<Holder> {
  readonly #holders = new Set<Holder>();
  #changes = 0;
  #takingBack = 0;
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

  /** True when `holder` holds the lease from now on. */
  grant(holder: Holder, nowMs: number): boolean {
    if (this.#changes > 0 || this.#takingBack > 0) return false;
    if (nowMs < this.#backoffUntilMs && holder !== this.#author) return false;
    this.#holders.add(holder);
    return true;
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
  }

  endChange(): void {
    assert(this.#changes > 0, 'a change ends once');
    this.#changes--;
  }

  /** It gave the lease back, or it was taken from it. */
  drop(holder: Holder): void {
    this.#holders.delete(holder);
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
