/**
 * Latencies in nanoseconds in buckets that grow with the value (64 to each power of two, as HdrHistogram does): constant
 * memory, any number of values, percentiles within 1.6 %.
 */

const SUB_BITS = 6;
const SUB = 1 << SUB_BITS;
const BUCKETS = (50 - SUB_BITS) * SUB;

export interface LatencySummary {
  readonly count: number;
  readonly p50Ms: number;
  readonly p95Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
  readonly meanMs: number;
}

function bucketOf(valueNs: number): number {
  const value = Math.max(0, Math.floor(valueNs));
  if (value < 2 * SUB) return value;
  const exponent = Math.floor(Math.log2(value)) - SUB_BITS;
  return Math.min(BUCKETS - 1, exponent * SUB + Math.floor(value / 2 ** exponent));
}

/** The largest value of a bucket. */
function bucketTop(bucket: number): number {
  if (bucket < 2 * SUB) return bucket;
  const exponent = Math.floor(bucket / SUB) - 1;
  return (bucket - exponent * SUB + 1) * 2 ** exponent - 1;
}

export class LatencyHistogram {
  readonly #counts = new Uint32Array(BUCKETS);
  #count = 0;
  #sumNs = 0;
  #maxNs = 0;

  add(valueNs: number): void {
    const bucket = bucketOf(valueNs);
    this.#counts[bucket] = (this.#counts[bucket] as number) + 1;
    this.#count++;
    this.#sumNs += valueNs;
    if (valueNs > this.#maxNs) this.#maxNs = valueNs;
  }

  get count(): number {
    return this.#count;
  }

  /** The value that `percent` of the values do not exceed; 0 when there are none. */
  percentileNs(percent: number): number {
    const rank = Math.max(1, Math.ceil((percent / 100) * this.#count));
    let passed = 0;
    for (let bucket = 0; bucket < BUCKETS; bucket++) {
      passed += this.#counts[bucket] as number;
      if (passed >= rank) return Math.min(bucketTop(bucket), this.#maxNs);
    }
    return this.#maxNs;
  }

  summary(): LatencySummary {
    const ms = (valueNs: number) => Math.round(valueNs / 1000) / 1000;
    return {
      count: this.#count,
      p50Ms: ms(this.percentileNs(50)),
      p95Ms: ms(this.percentileNs(95)),
      p99Ms: ms(this.percentileNs(99)),
      maxMs: ms(this.#maxNs),
      meanMs: ms(this.#count === 0 ? 0 : this.#sumNs / this.#count),
    };
  }

  /** Counts between powers of `2^(1/4)`, for a plot: where each begins, and how many. Empty ends are left out. */
  bars(): { readonly fromMs: number; readonly toMs: number; readonly count: number }[] {
    const bars = new Map<number, number>();
    for (let bucket = 0; bucket < BUCKETS; bucket++) {
      const count = this.#counts[bucket] as number;
      if (count === 0) continue;
      const step = Math.floor(Math.log2(Math.max(1, bucketTop(bucket))) * 4);
      bars.set(step, (bars.get(step) ?? 0) + count);
    }
    if (bars.size === 0) return [];
    const first = Math.min(...bars.keys());
    const last = Math.max(...bars.keys());
    return Array.from({ length: last - first + 1 }, (_, index) => ({
      fromMs: 2 ** ((first + index) / 4) / 1e6,
      toMs: 2 ** ((first + index + 1) / 4) / 1e6,
      count: bars.get(first + index) ?? 0,
    }));
  }
}
