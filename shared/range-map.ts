/**
 * RangeMap: what holds for which bytes of a file. Disjoint half-open ranges in order, each with a value; setting a range
 * splits what it covers in part, and neighbours of the same value are one range. Byte offsets are bigints: locks reach
 * up to 2^63, beyond what a number holds exactly. Used for the locks of one owner, by server and client.
 */
export interface ByteRange {
  readonly start: bigint;
  readonly end: bigint;
}

export interface Ranged<V> extends ByteRange {
  readonly value: V;
}

/** One past the last byte that a file can have (OFFSET_MAX of the kernel, plus one). */
export const END_OF_BYTES = 1n << 63n;
export const ALL_BYTES: ByteRange = { start: 0n, end: END_OF_BYTES };

export function overlaps(a: ByteRange, b: ByteRange): boolean {
  return a.start < b.end && b.start < a.end;
}

export class RangeMap<V> {
  /** Another array after each change: who goes over the one of before is not disturbed. */
  #ranges: readonly Ranged<V>[] = [];

  get ranges(): readonly Ranged<V>[] {
    return this.#ranges;
  }

  get size(): number {
    return this.#ranges.length;
  }

  set(range: ByteRange, value: V): void {
    this.#replace(range, { start: range.start, end: range.end, value });
  }

  clear(range: ByteRange): void {
    this.#replace(range, undefined);
  }

  /** Those that have bytes of `range`, in order. */
  *overlapping({ start, end }: ByteRange): Generator<Ranged<V>> {
    const ranges = this.#ranges;
    for (let index = this.#firstThatReaches(start + 1n); index < ranges.length; index++) {
      const range = ranges[index] as Ranged<V>;
      if (range.start >= end) return;
      yield range;
    }
  }

  /** The index of the first range whose end is `byte` or behind it. */
  #firstThatReaches(byte: bigint): number {
    let [low, high] = [0, this.#ranges.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#ranges[middle] as Ranged<V>).end < byte) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #replace({ start, end }: ByteRange, put: Ranged<V> | undefined): void {
    const next: Ranged<V>[] = [];
    const add = (range: Ranged<V>) => {
      const last = next.at(-1);
      const joins = last !== undefined && last.end === range.start && last.value === range.value;
      if (joins) next[next.length - 1] = { start: last.start, end: range.end, value: range.value };
      else next.push(range);
    };
    // Neighbours that only touch it may become one with it.
    const first = this.#firstThatReaches(start);
    let after = first;
    while (after < this.#ranges.length && (this.#ranges[after] as Ranged<V>).start <= end) after++;
    const touched = this.#ranges.slice(first, after);
    for (const range of touched) if (range.start < start) add({ ...range, end: min(range.end, start) });
    if (put) add(put);
    for (const range of touched) if (range.end > end) add({ ...range, start: max(range.start, end) });
    this.#ranges = this.#ranges.toSpliced(first, touched.length, ...next);
  }
}

function min(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}

function max(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}
