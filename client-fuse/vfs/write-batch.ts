/**
 * What was written here and there in a file, in the order of the writes, to be sent with one request: extents whose bytes
 * follow each other in one buffer. Writes that continue the extent that was written last make it longer, writes inside of
 * an extent go over it. Pure but for the buffer, which is its owner's (WriteBehind).
 *
 * Invariant: no two extents have a byte in common, so they may be written in any order.
 */
import { limits } from '../../shared/limits.ts';
import type { Extent } from '../../shared/protocol/messages.ts';

interface Gathered {
  readonly offset: number;
  length: number;
  /** Where its bytes begin in the buffer. */
  readonly at: number;
}

export class WriteBatch {
  readonly buffer: Buffer;
  /** As their bytes lie in the buffer. */
  readonly #extents: Gathered[] = [];
  /** The same by offset. */
  readonly #ordered: Gathered[] = [];
  #length = 0;

  constructor(buffer: Buffer) {
    this.buffer = buffer;
  }

  get data(): Buffer {
    return this.buffer.subarray(0, this.#length);
  }

  get extents(): readonly Extent[] {
    return this.#extents.map(({ offset, length }) => ({ offset, length }));
  }

  get isFull(): boolean {
    return this.#length >= this.buffer.length || this.#extents.length >= limits.maxExtents;
  }

  /** It has bytes of this range. */
  touches({ offset, length }: Extent): boolean {
    const extent = this.#ordered[this.#firstBehind(offset)];
    return extent !== undefined && extent.offset < offset + length;
  }

  /**
   * Takes a copy of `data`, of at least one byte. Returns by how many bytes it is longer; undefined, and nothing is taken:
   * there is no room, or it goes over several extents, or over part of one, and has to be written after them.
   */
  add(offset: number, data: Uint8Array): number | undefined {
    const end = offset + data.length;
    const index = this.#firstBehind(offset);
    const extent = this.#ordered[index];
    if (extent === undefined || end <= extent.offset) return this.#addBetween(index, offset, data);
    if (offset < extent.offset) return undefined;
    const more = end - endOf(extent);
    if (more > 0 && !this.#canGrow(index, more)) return undefined;
    return this.#put(extent, offset - extent.offset, data, Math.max(more, 0));
  }

  /** It has no byte in common with any, and belongs in front of the one at `index`. */
  #addBetween(index: number, offset: number, data: Uint8Array): number | undefined {
    const before = this.#ordered[index - 1];
    if (before && endOf(before) === offset && this.#canGrow(index - 1, data.length)) {
      return this.#put(before, before.length, data, data.length);
    }
    if (this.#extents.length >= limits.maxExtents || !this.#hasRoom(data.length)) return undefined;
    const extent = { offset, length: 0, at: this.#length };
    this.#extents.push(extent);
    this.#ordered.splice(index, 0, extent);
    return this.#put(extent, 0, data, data.length);
  }

  #put(extent: Gathered, from: number, data: Uint8Array, more: number): number {
    this.buffer.set(data, extent.at + from);
    extent.length += more;
    this.#length += more;
    return more;
  }

  /** The bytes behind it in the buffer are free, and those behind it in the file are no other extent's. */
  #canGrow(index: number, more: number): boolean {
    const extent = this.#ordered[index] as Gathered;
    const next = this.#ordered[index + 1];
    const isFree = next === undefined || endOf(extent) + more <= next.offset;
    return extent === this.#extents.at(-1) && isFree && this.#hasRoom(more);
  }

  #hasRoom(bytes: number): boolean {
    return this.#length + bytes <= this.buffer.length;
  }

  /** The index of the first extent, by offset, that ends behind `offset`. */
  #firstBehind(offset: number): number {
    let [low, high] = [0, this.#ordered.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (endOf(this.#ordered[middle] as Gathered) <= offset) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

function endOf({ offset, length }: Extent): number {
  return offset + length;
}
