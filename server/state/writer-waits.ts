/**
 * Whether the kernel makes writers wait for the disk (`balance_dirty_pages`), told from small writes into the page cache that were made
 * in the event loop: each takes some microseconds, or the disk's milliseconds. One that took some may also have lost its processor to
 * another thread; the next ones are looked at closely, then. Pure: times in milliseconds, of any one clock.
 */

/** What takes longer may have waited. */
const SLOW_MS = 2;
/** A thread that is ready to run seldom waits for its processor for so long. */
const LONG_MS = 10;
/** How long it is suspected after the last sign of it; and believed: at first, twice as long if another one follows soon, and at most. */
const SUSPECTED_MS = 1_000;
const FIRST_BELIEVED_MS = 100;
const BELIEVED_MS = 2_000;

export class WriterWaits {
  #suspectedUntilMs = Number.NEGATIVE_INFINITY;
  #believedMs = FIRST_BELIEVED_MS;
  #likelyUntilMs = Number.NEGATIVE_INFINITY;
  #longUntilMs = Number.NEGATIVE_INFINITY;

  /** It is worth knowing of the next write whether it waits. */
  areSuspected(nowMs: number): boolean {
    return nowMs < this.#suspectedUntilMs;
  }

  /** A write was made. `hasWaited` says whether it did, asked only if it matters; undefined: nobody knows. */
  took(beganMs: number, doneMs: number, hasWaited?: () => boolean): void {
    const ms = doneMs - beganMs;
    if (ms <= SLOW_MS) return;
    const isLong = ms > LONG_MS;
    const isKnown = hasWaited !== undefined;
    this.#suspectedUntilMs = doneMs + SUSPECTED_MS;
    if (isKnown ? !hasWaited() : !isLong) return;
    const isAgain = beganMs < this.#likelyUntilMs + SUSPECTED_MS;
    const believedMs = isAgain ? this.#believedMs * 2 : FIRST_BELIEVED_MS;
    this.#believedMs = isKnown && isLong ? BELIEVED_MS : Math.min(BELIEVED_MS, believedMs);
    this.#likelyUntilMs = doneMs + this.#believedMs;
    // While it is believed no write is made that could be looked at.
    this.#suspectedUntilMs = this.#likelyUntilMs + SUSPECTED_MS;
    if (isLong) this.#longUntilMs = this.#likelyUntilMs;
  }

  /** The next one may have to. */
  areLikely(nowMs: number): boolean {
    return nowMs < this.#likelyUntilMs;
  }

  /** And for long: worth more than to write in the turn in which it is asked for. */
  areLong(nowMs: number): boolean {
    return nowMs < this.#longUntilMs;
  }
}
