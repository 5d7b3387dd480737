/**
 * Keeps the event loop from sleeping for a short while after activity: the next message is then picked up without the
 * system's wake-up (100 us on a virtual machine), which halves the latency of a chain of small requests and more.
 *
 * Adaptive: it stays awake only while activity comes in quick succession (the gap between two, averaged, is short), and
 * not longer than a few such gaps. So an idle process uses no processor time, and a slow trickle of requests, or a
 * server far away, costs none either. One for a process.
 */
const SHORT_GAP_MS = 0.4;
const GAPS_AWAKE = 6;
/** How much one gap counts in the average. */
const WEIGHT = 0.125;

export class LoopPoll {
  readonly #longestMs: number;
  #averageGapMs = Number.POSITIVE_INFINITY;
  #lastMs = 0;
  #untilMs = 0;
  #running = false;
  /** How often something has happened so far. */
  activities = 0;

  /** Stays awake at most `longestUs` microseconds after the last activity; 0 switches it off. */
  constructor(longestUs: number) {
    this.#longestMs = longestUs / 1000;
  }

  /** Something happened: more may follow at once. */
  active(): void {
    this.activities++;
    if (this.#longestMs === 0) return;
    const nowMs = performance.now();
    const gapMs = Math.min(nowMs - this.#lastMs, 4 * SHORT_GAP_MS);
    this.#lastMs = nowMs;
    this.#averageGapMs = Math.min(this.#averageGapMs, 4 * SHORT_GAP_MS) * (1 - WEIGHT) + gapMs * WEIGHT;
    if (this.#averageGapMs > SHORT_GAP_MS) return;
    this.#untilMs = nowMs + Math.min(this.#longestMs, GAPS_AWAKE * this.#averageGapMs);
    if (this.#running) return;
    this.#running = true;
    setImmediate(this.#turn);
  }

  readonly #turn = (): void => {
    if (performance.now() < this.#untilMs) {
      setImmediate(this.#turn);
      return;
    }
    this.#running = false;
  };
}
