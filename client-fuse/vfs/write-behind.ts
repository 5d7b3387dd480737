/**
 * Gathers the writes of the one handle that holds the exclusive lease on its file: acknowledged at once, joined where they
 * touch, sent when they are many, when they have waited for a while, and on `flush`. An error is told once, to the next
 * flush. Owned by the handle; bytes are bounded by a budget of its own within one that the mount's handles share.
 *
 * Invariant: of requests that overlap only one is on its way, so the server applies them in the order of the writes.
 */

import { BufferPool } from '../../shared/buffer-pool.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { limits, MiB } from '../../shared/limits.ts';

const CHUNK_BYTES = MiB;
const SPARE_BYTES = 16 * MiB;

/** Sends one write. Resolves with the bytes written. */
export type SendWrite = (offset: number, data: Uint8Array) => Promise<number>;

/** Bytes that are written and not answered for yet, bounded: of one file, within those of the whole mount. */
export class DirtyBudget {
  readonly #limit: 'maxDirtyBytes' | 'maxDirtyBytesOfFile';
  readonly #whole: DirtyBudget | undefined;
  #used = 0;
  readonly #waiting: (() => void)[] = [];

  constructor(limit: 'maxDirtyBytes' | 'maxDirtyBytesOfFile', whole?: DirtyBudget) {
    this.#limit = limit;
    this.#whole = whole;
  }

  get used(): number {
    return this.#used;
  }

  /** Undefined: there is room now. What is larger than the limit has room when nothing else is there. */
  take(bytes: number): Promise<void> | undefined {
    if (this.#used > 0 && this.#used + bytes > limits[this.#limit]) {
      return new Promise<void>((resolve) => this.#waiting.push(resolve)).then(() => this.take(bytes));
    }
    this.#used += bytes;
    return this.#whole?.take(bytes);
  }

  giveBack(bytes: number): void {
    this.#used -= bytes;
    this.#whole?.giveBack(bytes);
    for (const resolve of this.#waiting.splice(0)) resolve();
  }
}

/** What the gathering handles of a mount share. */
export class DirtyMemory {
  readonly budget = new DirtyBudget('maxDirtyBytes');
  /** Used again by the next file: fresh memory costs its page faults. */
  readonly buffers = new BufferPool(SPARE_BYTES);
}

interface Sent {
  readonly start: number;
  readonly end: number;
  readonly done: Promise<void>;
}

export class WriteBehind {
  readonly #send: SendWrite;
  readonly #budget: DirtyBudget;
  readonly #buffers: BufferPool;
  /** Written bytes in `[0, #length)` of a buffer that belongs at `#offset`. */
  #buffer: Buffer | undefined;
  #offset = 0;
  #length = 0;
  readonly #sent = new Set<Sent>();
  #error: unknown;
  /** The lease is given back: nothing more is gathered. */
  isStopped = false;
  /** The server took the lease away, and others may have changed the file: nothing that is gathered is sent any more. */
  isFenced = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(send: SendWrite, memory: DirtyMemory) {
    this.#send = send;
    this.#budget = new DirtyBudget('maxDirtyBytesOfFile', memory.budget);
    this.#buffers = memory.buffers;
  }

  /** Nothing is gathered or on its way. */
  get isClean(): boolean {
    return this.#length === 0 && this.#sent.size === 0;
  }

  /** Takes a copy of `data`. A promise: there was no room for it yet. Undefined: gathering was stopped meanwhile. */
  write(offset: number, data: Uint8Array): Promise<number | undefined> | number {
    const wait = this.#budget.take(data.length);
    if (wait === undefined) return this.#gather(offset, data);
    this.#sendGathered();
    return wait.then(() => {
      if (!this.isStopped) return this.#gather(offset, data);
      this.#budget.giveBack(data.length);
      return undefined;
    });
  }

  #gather(offset: number, data: Uint8Array): number {
    const at = offset - this.#offset;
    const joins = this.#length > 0 && at >= 0 && at <= this.#length && at + data.length <= this.#capacity;
    if (!joins) {
      this.#sendGathered();
      this.#begin(offset, data.length);
    }
    const from = offset - this.#offset;
    // Bytes that are written over count once.
    const before = this.#length;
    (this.#buffer as Buffer).set(data, from);
    this.#length = Math.max(before, from + data.length);
    const again = data.length - (this.#length - before);
    if (again > 0) this.#budget.giveBack(again);
    if (this.#length >= this.#capacity) this.#sendGathered();
    else this.#timer ??= setTimeout(() => this.#sendGathered(), limits.writeBehindMs);
    return data.length;
  }

  get #capacity(): number {
    return this.#buffer?.length ?? 0;
  }

  #begin(offset: number, length: number): void {
    this.#buffer = this.#buffers.take(Math.max(length, CHUNK_BYTES));
    this.#offset = offset;
    this.#length = 0;
  }

  #sendGathered(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const buffer = this.#buffer;
    if (buffer === undefined || this.#length === 0) return;
    const [start, bytes] = [this.#offset, this.#length];
    this.#buffer = undefined;
    this.#length = 0;
    const end = start + bytes;
    const earlier = [...this.#sent].filter((one) => one.start < end && start < one.end).map(({ done }) => done);
    const send = () => this.#sendAll(start, buffer.subarray(0, bytes));
    const written = earlier.length > 0 ? Promise.all(earlier).then(send) : send();
    const sent: Sent = { start, end, done: this.#noted(written) };
    this.#sent.add(sent);
    void sent.done.then(() => {
      this.#sent.delete(sent);
      this.#budget.giveBack(bytes);
      this.#buffers.giveBack(buffer);
    });
  }

  /** What a full disk did not take is sent again, to learn why. */
  async #sendAll(start: number, data: Uint8Array): Promise<void> {
    for (let done = 0; done < data.length; ) {
      if (this.isFenced) throw new FsError(errno.ESTALE, 'write behind');
      const count = await this.#send(start + done, data.subarray(done));
      if (count === 0) throw new FsError(errno.EIO, 'write behind');
      done += count;
    }
  }

  /** Never rejects. */
  async #noted(written: Promise<void>): Promise<void> {
    try {
      await written;
    } catch (error) {
      this.#error ??= error;
    }
  }

  /** Resolves when all that was written is at the server. Rejects with an error that nobody was told yet. */
  async flush(): Promise<void> {
    await this.drain();
    const error = this.#error;
    this.#error = undefined;
    if (error !== undefined) throw error;
  }

  /** The same, and keeps an error for the next flush. */
  async drain(): Promise<void> {
    this.#sendGathered();
    while (this.#sent.size > 0) await Promise.all([...this.#sent].map(({ done }) => done));
  }
}
