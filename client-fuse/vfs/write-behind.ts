/**
 * Gathers the writes of the one handle that holds the exclusive lease on its file: acknowledged at once, many of them sent with
 * one request (`write-batch.ts`), when it is full, when they have waited for a while, and on `flush`; and with them changes of
 * attributes. An error is told once, to the next flush. Owned by the handle; bytes are bounded by a budget of its own within one that
 * the mount's handles share.
 *
 * Invariant: of requests that overlap only one is on its way, so the server applies them in the order of the writes. One
 * that changes attributes overlaps all others: they set the times that it may set differently.
 */
import type { Attributes } from '../../shared/attributes.ts';
import { BufferPool } from '../../shared/buffer-pool.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { limits, MiB } from '../../shared/limits.ts';
import type { Extent, RequestOf } from '../../shared/protocol/messages.ts';
import { UnansweredError } from '../transport/unanswered-error.ts';
import type { AttributeChanges, Caller } from './filesystem.ts';
import { GatheredAttributes, type GatheredChanges } from './gathered-attributes.ts';
import { WriteBatch } from './write-batch.ts';

const CHUNK_BYTES = MiB;
const SPARE_BYTES = 16 * MiB;
const NO_DATA = new Uint8Array(0);

type DataKeeper = Pick<Caller, 'keepData'>;

type Sync = RequestOf<'write'>['sync'];

/** One request. */
export interface GatheredWrite {
  /** Where `data` belongs, one after the other. */
  readonly extents: readonly Extent[];
  readonly data: Uint8Array;
  /** To be done when all of it is written. */
  readonly attributes: GatheredChanges | undefined;
  readonly sync: Sync;
}

/** Resolves with the bytes written. */
export type SendWrite = (write: GatheredWrite) => Promise<number>;

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
  readonly extents: readonly Extent[];
  readonly done: Promise<void>;
}

/** What a change of attributes touches. */
const EVERYTHING: readonly Extent[] = [{ offset: 0, length: Number.POSITIVE_INFINITY }];

export class WriteBehind {
  readonly #send: SendWrite;
  readonly #budget: DirtyBudget;
  readonly #buffers: BufferPool;
  #batch: WriteBatch | undefined;
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
    return this.#batch === undefined && this.#sent.size === 0 && this.#attributes.isEmpty;
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
    if (data.length === 0) return 0;
    this.#attributes.wrote();
    let more = this.#batch?.add(offset, data);
    if (more === undefined) {
      this.#sendGathered();
      if (data.length >= CHUNK_BYTES && caller.keepData) {
        this.#put([{ offset, length: data.length }], data, undefined, 'none', caller.keepData());
        return data.length;
      }
      this.#batch = new WriteBatch(this.#buffers.take(Math.max(data.length, CHUNK_BYTES)));
      more = this.#batch.add(offset, data) ?? 0;
    }
    // Bytes that are written over count once.
    if (more < data.length) this.#budget.giveBack(data.length - more);
    if (this.#batch?.isFull) this.#sendGathered();
    else this.#timer ??= setTimeout(() => this.#sendAll(), limits.writeBehindMs);
    return data.length;
  }

  /** Attributes go with the last bytes, or, when others are on their way, after all of them. */
  #sendAll(sync: Sync = 'none'): void {
    if (this.#sent.size > 0) this.#sendGathered();
    this.#sendGathered(this.#attributes.take(this.#batch !== undefined), sync);
  }

  #sendGathered(attributes?: GatheredChanges, sync: Sync = 'none'): void {
    if (this.#attributes.isEmpty) {
      clearTimeout(this.#timer);
      this.#timer = undefined;
    }
    const batch = this.#batch;
    if (batch === undefined && attributes === undefined) return;
    this.#batch = undefined;
    this.#put(batch?.extents ?? [], batch?.data ?? NO_DATA, attributes, sync, () => {
      if (batch) this.#buffers.giveBack(batch.buffer);
    });
  }

  /** Sends it when what it overlaps is written. `release` is called when nobody needs `data` any more. */
  #put(
    extents: readonly Extent[],
    data: Uint8Array,
    attributes: GatheredChanges | undefined,
    sync: Sync,
    release: () => void,
  ): void {
    const touched = attributes ? EVERYTHING : inOrder(extents);
    const earlier = [...this.#sent].filter((one) => haveCommon(one.extents, touched)).map(({ done }) => done);
    const send = () => this.#sendBoth({ extents, data, attributes, sync });
    const written = earlier.length > 0 ? Promise.all(earlier).then(send) : send();
    const sent: Sent = { extents: touched, done: this.#noted(written) };
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
  async #sendBoth(write: GatheredWrite): Promise<void> {
    try {
      await this.#sendWhole(write);
    } catch (error) {
      if (write.attributes && write.data.length > 0) {
        await this.#sendWhole({ ...write, extents: [], data: NO_DATA }).catch(() => {});
      }
      throw error;
    }
  }

  /** What a full disk did not take is sent again, to learn why. */
  async #sendWhole(write: GatheredWrite): Promise<void> {
    let { extents, data } = write;
    do {
      if (this.isFenced) throw new FsError(errno.ESTALE, 'write behind');
      const count = await this.#send({ ...write, extents, data });
      if (count === 0 && data.length > 0) throw new FsError(errno.EIO, 'write behind');
      ({ extents, data } = leftOf({ extents, data }, count));
    } while (data.length > 0);
  }

  /** Never rejects. */
  async #noted(written: Promise<void>): Promise<void> {
    try {
      await written;
    } catch (error) {
      this.#error ??= error;
    }
  }

  /** Resolves when the server has what was written to this range. */
  async drainRange(range: Extent): Promise<void> {
    if (this.#batch?.touches(range)) this.#sendGathered();
    await Promise.all([...this.#sent].filter(({ extents }) => haveCommon(extents, [range])).map(({ done }) => done));
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

  /**
   * The same, and if it takes one request to write it, the server's disk has it too, and all that was written before: true. Otherwise
   * the server has to be asked.
   */
  async synchronize(sync: 'data' | 'all'): Promise<boolean> {
    const isOne = this.#sent.size === 0 && this.#batch !== undefined;
    if (isOne) this.#sendAll(sync);
    await this.flush();
    return isOne;
  }

  /** The same as `flush`, and keeps an error for the next one. */
  async drain(): Promise<void> {
    this.#sendAll();
    while (this.#sent.size > 0) await Promise.all([...this.#sent].map(({ done }) => done));
  }
}

function inOrder(extents: readonly Extent[]): readonly Extent[] {
  return extents.length < 2 ? extents : [...extents].sort((a, b) => a.offset - b.offset);
}

/** Both in order. */
function haveCommon(some: readonly Extent[], others: readonly Extent[]): boolean {
  let [index, other] = [0, 0];
  for (;;) {
    const a = some[index];
    const b = others[other];
    if (a === undefined || b === undefined) return false;
    if (a.offset + a.length <= b.offset) index++;
    else if (b.offset + b.length <= a.offset) other++;
    else return true;
  }
}

/** What is left behind the first `count` bytes of the data. */
export function leftOf({ extents, data }: Pick<GatheredWrite, 'extents' | 'data'>, count: number) {
  const left: Extent[] = [];
  let skip = count;
  for (const { offset, length } of extents) {
    if (skip < length) left.push({ offset: offset + skip, length: length - skip });
    skip = Math.max(0, skip - length);
  }
  return { extents: left as readonly Extent[], data: data.subarray(count) };
}
