/**
 * Faults by the clock, for a FaultProxy: every now and then the next message is cut or stalled, whoever's it is, so that the
 * busiest connections suffer most. Stalls are shorter than what a server waits for an answer to a recall (5 s), even
 * two of them: a client that is away for longer rightly loses what it has not synchronized.
 */
import type { Random } from '../bench/random.ts';
import type { Fault } from './fault-proxy.ts';

const CUTS = ['cut before', 'cut inside', 'cut after'] as const;
/** Mean times between faults. */
const CUT_EVERY_MS = 400;
const STALL_EVERY_MS = 4_000;
const MOST_STALL_MS = 1_500;
const DELAYED_OF = 50;
const MOST_DELAY_MS = 20;

export class RandomFaults {
  readonly #random: Random;
  #nextCutMs = 0;
  #nextStallMs = 0;
  isOn = false;
  stalls = 0;

  constructor(random: Random) {
    this.#random = random;
  }

  /** What is to happen to a message that passes at `nowMs`. */
  next(nowMs: number): Fault {
    if (!this.isOn) return 'pass';
    if (nowMs >= this.#nextCutMs) {
      this.#nextCutMs = nowMs + this.#wait(CUT_EVERY_MS);
      return this.#random.pick(CUTS);
    }
    if (nowMs >= this.#nextStallMs) {
      this.#nextStallMs = nowMs + this.#wait(STALL_EVERY_MS);
      this.stalls++;
      return { delayMs: this.#random.below(MOST_STALL_MS) };
    }
    return this.#random.below(DELAYED_OF) === 0 ? { delayMs: 1 + this.#random.below(MOST_DELAY_MS) } : 'pass';
  }

  /** Of no memory: exponentially distributed. */
  #wait(meanMs: number): number {
    return -meanMs * Math.log((this.#random.below(1e6) + 1) / 1e6);
  }
}
