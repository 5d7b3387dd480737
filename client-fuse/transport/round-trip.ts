/**
 * How long the line takes there and back: the quickest answers of late. One that waited for a lease, a disk or a processor says nothing
 * of the line; one that came sooner does.
 */

/** How much one answer that took longer counts: a line that has become slow is known to be after some hundred requests. */
const SLOWER_WEIGHT = 0.01;
/** A local line takes a fifth of a millisecond. */
const SLOW_MS = 2;
/** Requests that keep both ends busy, on a line that answers at once and on a slow one. */
const DEPTH = 8;
const DEPTH_OF_SLOW = 32;

export class RoundTrip {
  #ms = Number.POSITIVE_INFINITY;

  /** In milliseconds; 0 before the first answer. */
  get ms(): number {
    return Number.isFinite(this.#ms) ? this.#ms : 0;
  }

  /** How many requests that nobody waits for yet are worth having under way: more only hold up what somebody waits for. */
  get depth(): number {
    return this.ms >= SLOW_MS ? DEPTH_OF_SLOW : DEPTH;
  }

  answered(ms: number): void {
    this.#ms = ms < this.#ms ? ms : this.#ms + (ms - this.#ms) * SLOWER_WEIGHT;
  }
}
