/**
 * How long the line takes there and back: the quickest answers of late. One that waited for a lease, a disk or a processor says nothing
 * of the line; one that came sooner does.
 */

/** How much one answer that took longer counts: a line that has become slow is known to be after some hundred requests. */
const SLOWER_WEIGHT = 0.01;
/** A local line takes a fifth of a millisecond. */
const SLOW_MS = 2;

export class RoundTrip {
  #ms = Number.POSITIVE_INFINITY;

  /** In milliseconds; 0 before the first answer. */
  get ms(): number {
    return Number.isFinite(this.#ms) ? this.#ms : 0;
  }

  /** What a program will want is worth asking for ahead; elsewhere the processors have nothing else to do than what is asked ahead. */
  get isSlow(): boolean {
    return this.ms >= SLOW_MS;
  }

  answered(ms: number): void {
    this.#ms = ms < this.#ms ? ms : this.#ms + (ms - this.#ms) * SLOWER_WEIGHT;
  }
}
