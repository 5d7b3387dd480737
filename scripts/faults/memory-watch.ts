/**
 * What a process needs after collections, over a run. Memory is flat when the last quarter of the samples is not above the
 * second by more than a bound: the first is left out, in which caches and compiled code find their sizes. Pure.
 */

export interface MemoryGrowth {
  readonly fromBytes: number;
  readonly toBytes: number;
  readonly growthBytes: number;
}

export class MemoryWatch {
  readonly #samples: number[] = [];

  add(bytes: number): void {
    this.#samples.push(bytes);
  }

  get count(): number {
    return this.#samples.length;
  }

  get latestBytes(): number {
    return this.#samples.at(-1) ?? 0;
  }

  /** From the second quarter to the last. Fewer than four samples tell nothing: then it is none. */
  get growth(): MemoryGrowth {
    const { latestBytes } = this;
    if (this.#samples.length < 4) return { fromBytes: latestBytes, toBytes: latestBytes, growthBytes: 0 };
    const quarter = this.#samples.length / 4;
    const fromBytes = median(this.#samples.slice(Math.floor(quarter), Math.floor(2 * quarter)));
    const toBytes = median(this.#samples.slice(Math.floor(3 * quarter)));
    return { fromBytes, toBytes, growthBytes: toBytes - fromBytes };
  }
}

function median(numbers: readonly number[]): number {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[sorted.length >> 1] ?? 0;
}
