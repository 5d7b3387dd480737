/**
 * One line of `bench io` or `bench meta`: a kind of call made many times, and how it went. A Meter makes the calls and
 * tells from time to time that it is alive.
 */
import { CallTally } from './call-tally.ts';
import type { CallSummary } from './overlap-report.ts';

const TELL_EVERY_MS = 200;

export interface Measurement extends CallSummary {
  readonly name: string;
  readonly callers: number;
  readonly elapsedSeconds: number;
  /** How often which latency: for the plot. */
  readonly bars: readonly { readonly fromMs: number; readonly toMs: number; readonly count: number }[];
}

export interface MeasureOptions {
  readonly name: string;
  /** Ends after so many calls, or after so long, whichever comes first. */
  readonly calls?: number;
  readonly durationMs?: number;
  readonly callers?: number;
  /** One call; returns the bytes that it moved. */
  call(index: number): number | Promise<number>;
  /** Part of the time, after the last call: fsync. */
  finish?(): void;
}

export class Meter {
  readonly #alive: (text: string) => Promise<void>;

  constructor(alive: (text: string) => Promise<void>) {
    this.#alive = alive;
  }

  async measure(options: MeasureOptions): Promise<Measurement> {
    const { name, calls = Infinity, durationMs = Infinity, callers = 1, call, finish } = options;
    const tally = new CallTally();
    const startMs = performance.now();
    const endMs = startMs + durationMs;
    let next = 0;
    let tellMs = 0;
    await this.#alive(name);
    const caller = async () => {
      let fromMs = performance.now();
      while (next < calls && fromMs < endMs) {
        try {
          const moved = call(next++);
          const sizeBytes = typeof moved === 'number' ? moved : await moved;
          const toMs = performance.now();
          tally.add((toMs - fromMs) * 1e6, sizeBytes, toMs - startMs);
        } catch (error) {
          tally.addFaults({ errors: 1, short: 0, error: error instanceof Error ? error.message : String(error) });
        }
        fromMs = performance.now();
        if (fromMs >= tellMs) {
          tellMs = fromMs + TELL_EVERY_MS;
          await this.#alive(name);
          fromMs = performance.now();
        }
      }
    };
    await Promise.all(Array.from({ length: callers }, caller));
    finish?.();
    const elapsedMs = performance.now() - startMs;
    return { name, callers, elapsedSeconds: elapsedMs / 1000, ...tally.summary(elapsedMs), bars: tally.latency.bars() };
  }
}
