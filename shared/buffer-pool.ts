/**
 * Buffers for bulk data, used again instead of allocated: a fresh megabyte costs its page faults each time. Bounded:
 * what does not fit into the pool is left to the garbage collector. Whoever took a buffer gives it back once.
 */
const SMALLEST = 64 * 1024;

export class BufferPool {
  readonly #free = new Map<number, Buffer[]>();
  readonly #maxPooledBytes: number;
  #pooledBytes = 0;

  constructor(maxPooledBytes: number) {
    this.#maxPooledBytes = maxPooledBytes;
  }

  /** At least `size` bytes, with whatever was in them. */
  take(size: number): Buffer {
    if (size < SMALLEST) return Buffer.allocUnsafe(size);
    const sizeClass = classOf(size);
    const buffer = this.#free.get(sizeClass)?.pop();
    if (buffer === undefined) return Buffer.allocUnsafeSlow(sizeClass);
    this.#pooledBytes -= sizeClass;
    return buffer;
  }

  giveBack(buffer: Buffer): void {
    const size = buffer.length;
    if (size < SMALLEST || size !== classOf(size) || this.#pooledBytes + size > this.#maxPooledBytes) return;
    this.#pooledBytes += size;
    const free = this.#free.get(size);
    if (free) free.push(buffer);
    else this.#free.set(size, [buffer]);
  }
}

function classOf(size: number): number {
  return 2 ** Math.ceil(Math.log2(size));
}
