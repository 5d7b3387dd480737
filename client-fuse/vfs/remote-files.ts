/**
 * Open files: their data, what is gathered of them, and what a lease that goes back asks for first. How a file is opened, and what that
 * says of its reads and writes, is file-opening.ts.
 */
import type { U64 } from '../../shared/attributes.ts';
import { errno, FsError } from '../../shared/errno.ts';
import type { Eventually } from '../../shared/eventually.ts';
import { BLOCK_BYTES } from '../../shared/limits.ts';
import { FALLOC, O } from '../../shared/linux/constants.ts';
import { ClosingFiles } from './closing-files.ts';
import { FileCreation } from './file-creation.ts';
import { FileData, WRITTEN_THROUGH } from './file-data.ts';
import { FileOpening } from './file-opening.ts';
import type { FilesAhead } from './files-ahead.ts';
import type { Caller, NodeId, OpenedFile } from './filesystem.ts';
import { gatherWrite } from './gathering.ts';
import type { Node, OpenHandle } from './node.ts';
import { pathOf } from './node-path.ts';
import { canWrite, dropAhead, ensureOpen } from './open-handle.ts';
import type { RemoteContext } from './remote-context.ts';
import type { RemoteLocks } from './remote-locks.ts';
import type { RemoteNames } from './remote-names.ts';

export class RemoteFiles {
  readonly #context: RemoteContext;
  readonly #locks: RemoteLocks;
  readonly #data: FileData;
  readonly #closing: ClosingFiles;
  readonly #opening: FileOpening;
  readonly #creation: FileCreation;

  constructor(context: RemoteContext, names: RemoteNames, locks: RemoteLocks) {
    this.#context = context;
    this.#locks = locks;
    this.#data = new FileData(context);
    this.#closing = new ClosingFiles(context, locks);
    this.#opening = new FileOpening(context, this.#data, this.#closing);
    this.#creation = new FileCreation(context, names, this.#opening, (open) => this.#endGathering(open));
  }

  /** Files that a walk is about to read. */
  get ahead(): FilesAhead {
    return this.#opening.ahead;
  }

  get dirtyBytes(): number {
    return this.#data.dirtyBytes;
  }

  // --- opening and closing

  open(caller: Caller, id: NodeId, flags: number, killSuidgid: boolean): Eventually<OpenedFile> {
    return this.#opening.open(caller, id, flags, killSuidgid);
  }

  create(caller: Caller, parent: NodeId, name: Uint8Array, mode: number, umask: number, flags: number) {
    return this.#creation.create(caller, parent, name, mode, umask, flags);
  }

  tmpfile(caller: Caller, parent: NodeId, mode: number, umask: number, flags: number) {
    return this.#creation.tmpfile(caller, parent, mode, umask, flags);
  }

  release(handle: number): void {
    const open = this.#context.handles.remove(handle);
    if (open === undefined) return;
    if (canWrite(open) && --open.node.writers === 0) this.#context.mapped.hasNoWriters(open.node);
    open.readAhead?.drop();
    open.node.unopened?.delete(open);
    if (!open.node.unopened?.size) this.#context.withUnopened.delete(open.node);
    if (open.isCached) open.node.cached?.delete(open);
    else if (!open.isDirectory) this.#context.blocks.closed(open, this.#context.session.epoch);
    const { unmade } = open.node;
    if (unmade) unmade.isClosing = true;
    const mayWait = open.behind?.isStopped === false && open.node.locks === undefined;
    const hasEnded = open.behind && this.#endGathering(open);
    if (unmade) return this.#closing.closeUnmade(open, unmade, hasEnded);
    this.#closing.close(open, hasEnded, mayWait);
  }

  /** Before a lease is given back: the server closes nothing itself. */
  releaseNow(): void {
    this.#closing.releaseNow();
  }

  // --- data

  async read(_caller: Caller, handle: number, offset: number, size: number, forPages: boolean): Promise<Uint8Array> {
    const open = this.#context.handles.get(handle);
    if (!forPages) return this.#read(handle, open, offset, size);
    const { mapped, leases } = this.#context;
    const read = mapped.reads(open.node, open.isCached && leases.coversData(open.node));
    const data = await this.#read(handle, open, offset, size);
    mapped.given(open.node, read, offset, size, data);
    return data;
  }

  #read(handle: number, open: OpenHandle, offset: number, size: number): Promise<Uint8Array> {
    return open.isCached ? this.#readPages(handle, open, offset, size) : this.#readPlain(handle, open, offset, size);
  }

  async #readPlain(handle: number, open: OpenHandle, offset: number, size: number): Promise<Uint8Array> {
    const { blocks, behind, node } = open;
    const mayUse = this.#context.session.mayUseLeases;
    if (blocks && !behind?.isStopped && size <= BLOCK_BYTES && mayUse) return blocks.read(offset, size);
    if (size <= BLOCK_BYTES && size > 0 && !open.isDirect && !node.gatherer) {
      const read = this.#data.readKept(handle, open, offset, size);
      if (read) return read;
    }
    await this.#context.written(node);
    return this.#context.withOpen(handle, (opened) => this.#data.read(opened, offset, size));
  }

  async #readPages(handle: number, open: OpenHandle, offset: number, size: number): Promise<Uint8Array> {
    const { kernel, leases } = this.#context;
    const recall = kernel.beginRead(open.node, offset, size);
    if (recall) await recall;
    const { first } = open;
    if (first && leases.coversData(open.node)) {
      // The server read it when it was opened, and said the access time of then. The kernel has it now, or asks again.
      if (offset + size >= first.length) open.first = undefined;
      return first.subarray(Math.min(offset, first.length), Math.min(offset + size, first.length));
    }
    return this.#context.withOpen(handle, (opened) => this.#data.readPages(opened, offset, size));
  }

  async write(
    caller: Caller,
    handle: number,
    offset: number,
    data: Uint8Array,
    flags: number,
    killSuidgid: boolean,
    isWriteback: boolean,
  ): Promise<number> {
    const open = this.#context.handles.get(handle);
    const { node, behind } = open;
    node.unmade?.opened();
    if (behind && !behind.isStopped && !(flags & WRITTEN_THROUGH)) {
      // What was gathered before by somebody who may not keep them goes with this.
      open.killsSuidgid ||= killSuidgid;
      gatherWrite(this.#context.leases, open, offset, data.length);
      const written = await behind.write(offset, data, caller);
      if (written !== undefined) {
        open.blocks?.write(offset, data);
        if (isWriteback) this.#context.mapped.gathered(node, offset, data);
        return written;
      }
    }
    if (node.gatherer === open) await this.#endGathering(open);
    open.killsSuidgid = killSuidgid;
    dropAhead(node);
    if (isWriteback) return this.#writeBack(handle, node, offset, data, flags);
    const { blocks } = this.#context;
    const start = flags & O.APPEND ? Number.POSITIVE_INFINITY : offset;
    const written = await blocks.writing(node, start, data, () =>
      this.#context.withOpen(handle, (opened) =>
        this.#context.changing(node, () => this.#data.write(opened, offset, data, flags)),
      ),
    );
    await this.#changedPages(node, offset, flags & O.APPEND ? 0 : data.length);
    return written;
  }

  /** The pages are what the file is now; and to drop them would be to wait for this very answer. */
  async #writeBack(handle: number, node: Node, offset: number, data: Uint8Array, flags: number): Promise<number> {
    const { mapped, blocks } = this.#context;
    await blocks.writing(node, offset, data, () =>
      this.#context.withOpen(handle, (open) => {
        const send = (at: number, part: Uint8Array) => this.#data.write(open, at, part, flags);
        return this.#context.changing(node, () => mapped.writeBack(node, offset, data, send));
      }),
    );
    this.#changedData(node);
    return data.length;
  }

  #changedData(node: Node): void {
    node.gatherer?.blocks?.clear();
    dropAhead(node);
  }

  /** The kernel dropped pages before it sent a change; a reader may have brought them back while it was under way. */
  async #changedPages(node: Node, offset: number, length: number): Promise<void> {
    this.#changedData(node);
    if (node.cached?.size) await this.#context.kernel.dropPages(node, offset, length);
    else this.#context.kernel.distrustPages(node);
  }

  /** The lease goes: what was gathered is written, an error is told to the next flush, and writes are requests again. */
  async #endGathering(open: OpenHandle): Promise<void> {
    const { behind, node } = open;
    if (behind === undefined) return;
    behind.isStopped = true;
    open.blocks?.clear();
    await behind.drain();
    if (node.gatherer === open) node.gatherer = undefined;
  }

  /** No exclusive lease holds any more. `isFenced`: others may have had it, so what was gathered is refused. */
  stopGathering(isFenced: boolean): void {
    for (const open of [...this.#context.handles.all, ...this.#closing.unfinished]) {
      if (open.behind === undefined) continue;
      // What was gathered for a file that nobody has seen is nobody's but its maker's.
      if (isFenced && !open.behind.isClean && !open.node.unmade) open.behind.isFenced = true;
      void this.#endGathering(open);
    }
  }

  /** Called at each close(2): tells an error of what was gathered, and lets go of the owner's POSIX locks after it. */
  async flush(handle: number, owner: U64): Promise<void> {
    const open = this.#context.handles.get(handle);
    const { unmade } = open.node;
    if (unmade) unmade.isClosing = true;
    try {
      await open.behind?.flush();
      if (unmade) await unmade.made();
      tellLost(open);
    } finally {
      const unlocked = this.#locks.closed(open, owner);
      if (unlocked) await unlocked;
    }
  }

  async fsync(caller: Caller, handle: number, dataOnly: boolean): Promise<void> {
    const open = this.#context.handles.get(handle);
    const { unsynced, unmade } = this.#context;
    if (open.isDirectory) await unmade.inside(open.node);
    if (!(await open.behind?.synchronize(dataOnly ? 'data' : 'all'))) {
      const asOf = unsynced.clock;
      await this.#context.withHandle(open, ({ server: handle }) =>
        this.#context.call('fsync', caller, { handle, dataOnly }),
      );
      unsynced.synchronized(open.node, asOf);
    }
    // The server that did it may have been started on the way.
    tellLost(open);
  }

  async fallocate(caller: Caller, handle: number, mode: number, offset: number, length: number): Promise<void> {
    const { node } = this.#context.handles.get(handle);
    await this.#context.written(node);
    await this.#context.withOpen(handle, ({ server }) => {
      const request = { handle: server, mode, offset, length };
      return this.#context.changing(node, () => this.#context.call('fallocate', caller, request));
    });
    this.#context.unsynced.wrote(this.#context.handles.get(handle));
    if (mode & (FALLOC.PUNCH_HOLE | FALLOC.ZERO_RANGE)) this.#context.mapped.zeroed(node, offset, offset + length);
    await this.#changedPages(node, offset, 0);
  }

  /**
   * The kernel cuts its pages itself, but for those that came in while the request was under way. Not waited for: until this
   * request is answered the kernel writes no dirty page back, and it drops none before that.
   */
  truncated(node: Node, size: number): void {
    this.#context.leases.opensToWrite(node);
    this.#context.mapped.zeroed(node, size, Number.POSITIVE_INFINITY);
    void this.#changedPages(node, size, 0);
  }

  async lseek(caller: Caller, handle: number, offset: number, whence: number): Promise<number> {
    const { node } = this.#context.handles.get(handle);
    const { leases } = this.#context;
    const key = `${whence} ${offset}`;
    const known = leases.seek(node, key);
    if (known !== undefined) return known;
    await this.#context.written(node);
    const asOf = leases.clock;
    const reply = await this.#context.withOpen(handle, ({ server }) =>
      this.#context.call('lseek', caller, { handle: server, offset, whence }),
    );
    if (!node.gatherer) leases.learnSeek(node, key, reply.offset, asOf);
    return reply.offset;
  }

  async copyFileRange(
    caller: Caller,
    handleIn: number,
    offsetIn: number,
    handleOut: number,
    offsetOut: number,
    length: number,
  ): Promise<number> {
    const { handles } = this.#context;
    const { node } = handles.get(handleOut);
    await this.#context.written(handles.get(handleIn).node);
    await this.#context.written(node);
    const copied = await this.#context.withOpen(handleIn, (source) =>
      this.#context.withOpen(handleOut, async (target) => {
        const request = { handleIn: source.server, offsetIn, handleOut: target.server, offsetOut, length };
        return (await this.#context.changing(node, () => this.#context.call('copyFileRange', caller, request))).copied;
      }),
    );
    this.#context.unsynced.wrote(handles.get(handleOut));
    if (copied > 0) await this.#changedPages(node, offsetOut, copied);
    return copied;
  }

  /** Resolves when the server has everything that was written through this mount. */
  async drain(): Promise<void> {
    const open = [...this.#context.handles.all].map(({ behind }) => behind?.drain());
    await Promise.all([...open, this.#context.unmade.settled(undefined), this.#closing.finished()]);
  }

  /** For people: files of which the server has not everything. */
  get unwritten(): string[] {
    const open = [...this.#context.handles.all].filter(({ behind }) => behind?.isClean === false);
    return [...new Set([...open, ...this.#closing.unfinished].map(({ node }) => pathOf(node)))];
  }

  // --- recalls

  /**
   * The lease on the file is given back. Undefined: nothing is to be done first. Otherwise: gathered writes go to the
   * server, and handles that were opened on the credit of the lease are opened, before somebody else removes the file.
   */
  giveBack(node: Node): Promise<void> | undefined {
    dropAhead(node);
    const { gatherer, unopened } = node;
    const inside = this.#context.unmade.inside(node);
    if (!gatherer && !unopened?.size) return inside;
    const opened = [...(unopened ?? [])].map((open) => ensureOpen(open, this.#context.session));
    const written = gatherer && this.#endGathering(gatherer);
    // One that cannot be opened is told so at its next use.
    return Promise.allSettled([...opened, written]).then(() => {});
  }
}

/** Once. */
function tellLost(open: OpenHandle): void {
  if (!open.hasLostWrites) return;
  open.hasLostWrites = false;
  throw new FsError(errno.EIO, 'what was written and not synchronized is lost');
}
