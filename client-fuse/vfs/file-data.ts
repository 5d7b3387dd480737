/**
 * Reads and writes of open files: which request a read(2) or write(2) becomes. A write goes to the server as one request,
 * hence whole, or is gathered under an exclusive lease; reads are read ahead when sequential, and shared among callers that
 * wait for the same bytes. Requests run as the handle's opener: the right to read or write was checked when it was opened.
 */
import type { Attributes } from '../../shared/attributes.ts';
import { errno, errnoOf, FsError } from '../../shared/errno.ts';
import type { Eventually } from '../../shared/eventually.ts';
import { BLOCK_BYTES, KiB, MiB } from '../../shared/limits.ts';
import { O } from '../../shared/linux/constants.ts';
import { BlockCache, type BlockSource } from './block-cache.ts';
import type { Node, OpenHandle } from './node.ts';
import { ReadAhead, ReadAheadBudget, type VersionedData } from './read-ahead.ts';
import { ReadAround } from './read-around.ts';
import type { RemoteContext } from './remote-context.ts';
import { SharedReads } from './shared-reads.ts';
import { DirtyMemory, type GatheredWrite, leftOf, type SendWrite, WriteBehind } from './write-behind.ts';

const READ_AHEAD_BYTES = 64 * MiB;
/** Reads from front to back of this size are faster by reading ahead than by blocks; smaller ones are not. */
const LARGE_BYTES = 16 * KiB;

export class FileData {
  readonly #context: RemoteContext;
  readonly #shared = new SharedReads();
  readonly #budget = new ReadAheadBudget(READ_AHEAD_BYTES);
  readonly #dirty = new DirtyMemory();
  readonly #around: ReadAround;

  constructor(context: RemoteContext) {
    this.#context = context;
    this.#around = new ReadAround(context, (open, offset, size) => this.#read(open, offset, size));
  }

  readAheadFor(open: OpenHandle): ReadAhead | undefined {
    if ((open.flags & O.ACCMODE) !== O.RDONLY) return undefined;
    const isLeased = () => open.isCached && this.#context.leases.coversData(open.node);
    return new ReadAhead(
      (offset, size, known) => this.#readVersioned(open, offset, size, known),
      this.#budget,
      isLeased,
    );
  }

  // --- reading

  read(open: OpenHandle, offset: number, size: number): Promise<Uint8Array> {
    const ahead = open.readAhead?.read(offset, size);
    if (ahead) return ahead;
    // For the kernel's pages, then, and under a lease: see `readPages`.
    if (open.isCached) this.#around.missed(open, offset);
    return this.#shared.read(`${open.node.id} ${open.epoch} ${offset} ${size}`, () => this.#read(open, offset, size));
  }

  async #read(open: OpenHandle, offset: number, size: number): Promise<Uint8Array> {
    return (await this.#readVersioned(open, offset, size, undefined)).data;
  }

  async #readVersioned(
    open: OpenHandle,
    offset: number,
    size: number,
    knownVersion: number | undefined,
  ): Promise<VersionedData> {
    const { leases, session } = this.#context;
    const asOf = leases.clock;
    const request = { handle: open.server, offset, size, knownVersion, wantsLease: false, wantsBlock: false };
    const { reply, bulk } = await session.callForBulk('read', open.opener, request);
    if (!reply.unchanged) leases.wasRead(open.node, reply.atime, asOf);
    return { version: reply.version, unchanged: reply.unchanged, data: bulk };
  }

  // --- reading blocks that this client keeps

  /** From blocks that are kept, or brought for it. Undefined: it is to be one request of its own. */
  readKept(handle: number, open: OpenHandle, offset: number, size: number): Eventually<Uint8Array> | undefined {
    if (size >= LARGE_BYTES && open.readAhead?.continues(offset)) return undefined;
    const { blocks, session } = this.#context;
    const { node } = open;
    const isOpen = open.epoch === session.epoch && !open.hasLostLocks;
    const known = isOpen ? blocks.read(node, offset, size) : undefined;
    if (known) return known;
    const wanted = blocks.wanted(node, offset, size);
    return wanted && this.#readWanted(handle, node, offset, size, wanted);
  }

  async #readWanted(
    handle: number,
    node: Node,
    offset: number,
    size: number,
    wanted: readonly number[],
  ): Promise<Uint8Array> {
    const [brought] = await Promise.all(
      wanted.map((index) => this.#context.withOpen(handle, (opened) => this.#readSharedBlock(opened, index))),
    );
    const from = offset % BLOCK_BYTES;
    // One request has brought all of it; else all must be of one moment.
    if (brought && from + size <= BLOCK_BYTES) return brought.subarray(from, from + size);
    return (
      this.#context.blocks.read(node, offset, size) ??
      this.#context.withOpen(handle, (opened) => this.read(opened, offset, size))
    );
  }

  /** One whole block, kept if the server lets it. Its bytes are as of after the call, like those of `read`. */
  #readSharedBlock(open: OpenHandle, index: number): Promise<Uint8Array> {
    return this.#shared.read(`${open.node.id} ${open.epoch} block ${index}`, () => this.#readBlock(open, index));
  }

  async #readBlock(open: OpenHandle, index: number): Promise<Uint8Array> {
    const { blocks, session, leases } = this.#context;
    const { node, server: handle } = open;
    const asOf = blocks.asOf(node);
    const attributesAsOf = leases.clock;
    const offset = index * BLOCK_BYTES;
    const request = { handle, offset, size: BLOCK_BYTES, knownVersion: undefined, wantsLease: false, wantsBlock: true };
    // On the lane of recalls: what comes before this reply is older.
    const { reply, bulk } = await session.callForBulk('read', open.opener, request, { lane: 'small' });
    if (reply.leased) blocks.keep(node, index, bulk, asOf);
    else blocks.refused(node, index);
    leases.wasRead(node, reply.atime, attributesAsOf);
    return bulk;
  }

  // --- reading pages that the kernel keeps

  /** The lease covers them: what is read stays good until it is recalled. Otherwise it is asked for with the read. */
  async readPages(open: OpenHandle, offset: number, size: number): Promise<Uint8Array> {
    const { leases, session, kernel } = this.#context;
    if (leases.coversData(open.node)) return this.read(open, offset, size);
    const asOf = leases.clock;
    const request = { handle: open.server, offset, size, knownVersion: undefined, wantsLease: true, wantsBlock: false };
    // On the lane on which recalls are acknowledged: the server must know that this lease is not held any more.
    const { reply, bulk } = await session.callForBulk('read', open.opener, request, { lane: 'small' });
    leases.learnHeld(open.node, reply.leased, asOf);
    if (reply.leased) leases.learnCoversData(open.node, asOf);
    leases.wasRead(open.node, reply.atime, asOf);
    // Nobody would recall these: they are for this caller, and are dropped when it has them.
    if (!leases.coversData(open.node)) setImmediate(() => void kernel.dropPages(open.node, offset, size));
    return bulk;
  }

  // --- writing

  async write(open: OpenHandle, offset: number, data: Uint8Array, flags: number): Promise<number> {
    const append = (flags & O.APPEND) !== 0;
    const sync = syncOf(flags);
    const { server: handle, killsSuidgid: killSuidgid } = open;
    const request = {
      handle,
      offset,
      append,
      sync,
      killSuidgid,
      behind: false,
      extents: undefined,
      attributes: undefined,
    };
    const { written } = await this.#context.session.call('write', open.opener, request, { bulk: data });
    if (sync === 'none') this.#context.unsynced.wrote(open);
    return written;
  }

  /** For the one handle that holds the exclusive lease on its file, until it is recalled or the server restarted. */
  writeBehindFor(open: OpenHandle): WriteBehind {
    const sendAlone: SendWrite = (write) =>
      this.#context.withHandle(open, () => {
        // It was on its way when the session ended.
        if (behind.isFenced) throw new FsError(errno.ESTALE, 'write behind');
        return open.hasNoLease ? this.#writeGathered(open, write) : this.#writeBehind(open, write);
      });
    const send: SendWrite = async (write) => {
      try {
        const { unmade } = open.node;
        if (!unmade?.takes(write)) return await sendAlone(write);
        const { written, isComplete } = await unmade.makeWith(write);
        return isComplete ? written : written + (await sendAlone({ ...write, ...leftOf(write, written) }));
      } catch (error) {
        // What is kept is not what the server has.
        open.blocks?.clear();
        // The lease is gone, and nobody said so.
        if (errnoOf(error) === errno.ESTALE) behind.isFenced = behind.isStopped = true;
        throw error;
      }
    };
    const behind = new WriteBehind(send, this.#dirty);
    return behind;
  }

  /** For the same handle, and as long. */
  blocksFor(open: OpenHandle): BlockCache {
    const { node, behind } = open;
    const read = (offset: number, size: number) => this.#context.withHandle(open, () => this.#read(open, offset, size));
    const source: BlockSource = {
      read: async (offset, size) => {
        await this.#context.written(node);
        return read(offset, size);
      },
      readThere: async (offset, size) => {
        await behind?.drainRange({ offset, length: size });
        return read(offset, size);
      },
      size: async () => {
        await this.#context.written(node);
        const { inode } = node;
        return (await this.#context.session.call('getattr', open.opener, { inode, handle: 0 })).attributes.size;
      },
    };
    return new BlockCache(source, this.#context.blockBudget);
  }

  /** A server that was started anew knows of no lease, and takes it as long as nobody else has changed the file. */
  async #writeBehind(open: OpenHandle, { extents: places, data, attributes, sync }: GatheredWrite): Promise<number> {
    const { leases, session, unsynced } = this.#context;
    const { server: handle, killsSuidgid: killSuidgid, expected, node } = open;
    const offset = places[0]?.offset ?? 0;
    const extents = places.length > 1 ? places : undefined;
    const request = { handle, offset, append: false, sync, killSuidgid, behind: true, extents, attributes };
    const asOf = unsynced.clock;
    const keep = <T>(step: () => T) => (expected ? expected.keep(step) : step());
    const mark = keep(() => leases.beginChange(node));
    let after: Attributes | undefined;
    try {
      const reply = await session.call('write', open.opener, request, { bulk: data });
      after = reply.attributes;
      if (sync !== 'none') unsynced.synchronized(node, asOf);
      else if (data.length > 0) unsynced.wrote(open);
      return reply.written;
    } finally {
      keep(() => leases.endChange(node, mark, after, true));
    }
  }

  /** Without a lease: each place as a write of its own. */
  async #writeGathered(open: OpenHandle, { extents, data, attributes, sync }: GatheredWrite): Promise<number> {
    const { node } = open;
    let done = 0;
    for (const { offset, length } of extents) {
      const part = data.subarray(done, done + length);
      const written = await this.#context.changing(node, () => this.write(open, offset, part, SYNC_FLAGS[sync]));
      done += written;
      if (written < length) return done;
    }
    if (attributes) {
      const { mode, atime, mtime } = attributes;
      const { inode } = node;
      const change = {
        inode,
        handle: 0,
        mode: mode?.to,
        uid: undefined,
        gid: undefined,
        size: undefined,
        atime,
        mtime,
      };
      const set = () => this.#context.session.call('setattr', open.opener, { ...change, killSuidgid: false });
      await this.#context.changing(node, set, (reply) => reply);
    }
    return done;
  }

  get dirtyBytes(): number {
    return this.#dirty.budget.used;
  }
}

/** Under these flags a write is not gathered: its place, or its safety, is the caller's business now. */
export const WRITTEN_THROUGH = O.APPEND | O.SYNC | O.DSYNC | O.DIRECT;

const SYNC_FLAGS = { none: 0, data: O.DSYNC, all: O.SYNC } as const;

/** O_SYNC contains the bit of O_DSYNC. */
function syncOf(flags: number): 'none' | 'data' | 'all' {
  if ((flags & O.SYNC) === O.SYNC) return 'all';
  return flags & O.DSYNC ? 'data' : 'none';
}
