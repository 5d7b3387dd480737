/**
 * Gathers the writes of the one handle that holds the exclusive lease on its file: acknowledged at once, joined where they
 * touch, sent when they are many, when they have waited for a while, and on `flush`; and with them changes of attributes.
 * An error is told once, to the next flush. Owned by the handle; bytes are bounded by a budget of its own within one that
 * the mount's handles share.
 *
 * Invariant: of requests that overlap only one is on its way, so the server applies them in the order of the writes. One
 * that changes attributes overlaps all others: they set the times that it may set differently.
 */
import type { Attributes } from '../../shared/attributes.ts';
import { BufferPool } from '../../shared/buffer-pool.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { limits, MiB } from '../../shared/limits.ts';
import { UnansweredError } from '../transport/unanswered-error.ts';
import type { AttributeChanges, Caller } from './filesystem.ts';
import { GatheredAttributes, type GatheredChanges } from './gathered-attributes.ts';

const CHUNK_BYTES = MiB;
const SPARE_BYTES = 16 * MiB;
const NO_DATA = new Uint8Array(0);

type DataKeeper = Pick<Caller, 'keepData'>;

/** Sends one write, and what is to be done to the attributes when all of it is written. Resolves with the bytes written. */
export type SendWrite = (offset: number, data: Uint8Array, attributes?: GatheredChanges) => Promise<number>;

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
  readonly #attributes = new GatheredAttributes();
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
    return this.#length === 0 && this.#sent.size === 0 && this.#attributes.isEmpty;
  }

  /** `after` follows on `before`, as `gathered` has said; applied when all that was written until now is. */
  change(before: Attributes, after: Attributes, changes: AttributeChanges): void {
    this.#attributes.add(before, after, changes);
    this.#timer ??= setTimeout(() => this.#sendAll(), limits.writeBehindMs);
  }

  /**
   * Takes a copy of `data`, unless it makes a request by itself and its caller can keep it as it is.
   * A promise: there was no room for it yet. Undefined: gathering was stopped meanwhile.
   */
  write(offset: number, data: Uint8Array, caller: DataKeeper = {}): Promise<number | undefined> | number {
    const wait = this.#budget.take(data.length);
    if (wait === undefined) return this.#take(offset, data, caller);
    this.#sendGathered();
    return wait.then(() => {
      if (!this.isStopped) return this.#take(offset, data, caller);
      this.#budget.giveBack(data.length);
      return undefined;
    });
  }

  #take(offset: number, data: Uint8Array, caller: DataKeeper): number {
    const at = offset - this.#offset;
    const joins = this.#length > 0 && at >= 0 && at <= this.#length && at + data.length <= this.#capacity;
    if (!joins) this.#sendGathered();
    if (joins || data.length < CHUNK_BYTES || !caller.keepData) return this.#gather(offset, data, joins);
    this.#attributes.wrote();
    this.#put(offset, data, undefined, caller.keepData());
    return data.length;
  }

  #gather(offset: number, data: Uint8Array, joins: boolean): number {
    if (!joins) this.#begin(offset, data.length);
    const from = offset - this.#offset;
    // Bytes that are written over count once.
    const before = this.#length;
    (this.#buffer as Buffer).set(data, from);
    this.#length = Math.max(before, from + data.length);
    const again = data.length - (this.#length - before);
    if (again > 0) this.#budget.giveBack(again);
    if (data.length > 0) this.#attributes.wrote();
    if (this.#length >= this.#capacity) this.#sendGathered();
    else this.#timer ??= setTimeout(() => this.#sendAll(), limits.writeBehindMs);
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

  /** Attributes go with the last bytes, or, when others are on their way, after all of them. */
  #sendAll(): void {
    if (this.#sent.size > 0) this.#sendGathered();
    this.#sendGathered(this.#attributes.take(this.#length > 0));
  }

  #sendGathered(attributes?: GatheredChanges): void {
    if (this.#attributes.isEmpty) {
      clearTimeout(this.#timer);
      this.#timer = undefined;
    }
    const bytes = this.#length;
    if (bytes === 0 && attributes === undefined) return;
    const buffer = bytes > 0 ? this.#buffer : undefined;
    if (buffer) this.#buffer = undefined;
    this.#length = 0;
    const data = buffer?.subarray(0, bytes) ?? NO_DATA;
    this.#put(buffer ? this.#offset : 0, data, attributes, () => {
      if (buffer) this.#buffers.giveBack(buffer);
    });
  }

  /** Sends it when what it overlaps is written. `release` is called when nobody needs `data` any more. */
  #put(offset: number, data: Uint8Array, attributes: GatheredChanges | undefined, release: () => void): void {
    const [start, end] = attributes ? [0, Number.POSITIVE_INFINITY] : [offset, offset + data.length];
    const earlier = [...this.#sent].filter((one) => one.start < end && start < one.end).map(({ done }) => done);
    const send = () => this.#sendBoth(offset, data, attributes);
    const written = earlier.length > 0 ? Promise.all(earlier).then(send) : send();
    const sent: Sent = { start, end, done: this.#noted(written) };
    this.#sent.add(sent);
    void sent.done.then(() => {
      this.#sent.delete(sent);
      this.#budget.giveBack(data.length);
    });
    written.then(release, (error: unknown) => {
      if (!(error instanceof UnansweredError)) release();
    });
  }

  /** Data that could not be written do not undo what was done to the attributes. */
  async #sendBoth(start: number, data: Uint8Array, attributes: GatheredChanges | undefined): Promise<void> {
    try {
      await this.#sendWhole(start, data, attributes);
    } catch (error) {
      if (attributes && data.length > 0) await this.#sendWhole(0, NO_DATA, attributes).catch(() => {});
      throw error;
    }
  }

  /** What a full disk did not take is sent again, to learn why. */
  async #sendWhole(start: number, data: Uint8Array, attributes: GatheredChanges | undefined): Promise<void> {
    let done = 0;
    do {
      if (this.isFenced) throw new FsError(errno.ESTALE, 'write behind');
      const count = await this.#send(start + done, data.subarray(done), attributes);
      if (count === 0 && data.length > 0) throw new FsError(errno.EIO, 'write behind');
      done += count;
    } while (done < data.length);
  }

  /** Never rejects. */
  async #noted(written: Promise<void>): Promise<void> {
    try {
      await written;
    } catch (error) {
      this.#error ??= error;
    }
  }

  /** An error that no flush has told. */
  get untold(): unknown {
    return this.#error;
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
    this.#sendAll();
    while (this.#sent.size > 0) await Promise.all([...this.#sent].map(({ done }) => done));
  }
}
