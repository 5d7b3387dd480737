/**
 * Open files. Three ways to have one open: cached (read-only, pages kept by the kernel under a shared lease, and opened
 * without asking when that was allowed before); gathering (the only handle, under an exclusive lease); and plain, each
 * read and write one request past all caches.
 */
import type { U64 } from '../../shared/attributes.ts';
import { errno, FsError } from '../../shared/errno.ts';
import type { Eventually } from '../../shared/eventually.ts';
import { BLOCK_BYTES, limits } from '../../shared/limits.ts';
import { FALLOC, O } from '../../shared/linux/constants.ts';
import type { ReplyOf, RequestOf } from '../../shared/protocol/messages.ts';
import { ClosingFiles } from './closing-files.ts';
import { FileData, WRITTEN_THROUGH } from './file-data.ts';
import { FilesAhead, type Opening } from './files-ahead.ts';
import type { Caller, Entry, NodeId, OpenedFile } from './filesystem.ts';
import { expectedOf, gatherWrite } from './gathering.ts';
import type { Node, OpenHandle } from './node.ts';
import { pathOf } from './node-path.ts';
import { canWrite, ensureOpen, NOT_OPENED, newHandle } from './open-handle.ts';
import { checkName, type RemoteContext } from './remote-context.ts';
import type { RemoteLocks } from './remote-locks.ts';
import type { RemoteNames } from './remote-names.ts';

/** What opening a file again must not do again. */
const ONCE_FLAGS = O.CREAT | O.EXCL | O.TRUNC;
/** Flags with a meaning to the server; the others (O_DIRECT, O_NONBLOCK, ...) are this machine's business. */
const SENT_FLAGS = O.ACCMODE | O.TRUNC | O.EXCL | O.NOATIME | O.EXEC;

type Wanted = RequestOf<'open'>['wants'];

export class RemoteFiles {
  readonly #context: RemoteContext;
  readonly #names: RemoteNames;
  readonly #locks: RemoteLocks;
  readonly #data: FileData;
  readonly #closing: ClosingFiles;
  readonly ahead: FilesAhead;

  constructor(context: RemoteContext, names: RemoteNames, locks: RemoteLocks) {
    this.#context = context;
    this.#names = names;
    this.#locks = locks;
    this.#data = new FileData(context);
    this.#closing = new ClosingFiles(context, locks);
    this.ahead = new FilesAhead(context, (node, opening) => this.#openAhead(node, opening));
  }

  get dirtyBytes(): number {
    return this.#data.dirtyBytes;
  }

  // --- opening

  open(caller: Caller, id: NodeId, flags: number, killSuidgid: boolean): Eventually<OpenedFile> {
    const node = this.#context.nodes.get(id);
    const opener = this.#context.identity(caller);
    const { leases } = this.#context;
    if (this.#isCacheable(flags, killSuidgid)) {
      this.ahead.opens(node, opener, flags & SENT_FLAGS);
      const right = rightOf(opener, flags);
      const known = this.#openedByKnowledge(node, flags, opener);
      leases.count(known !== undefined);
      if (known) return known;
      const ask = () => this.#ask(caller, node, flags, killSuidgid, right);
      return this.ahead.asked(node)?.then(() => this.#openedByKnowledge(node, flags, opener) ?? ask()) ?? ask();
    }
    node.opening++;
    return this.#ask(caller, node, flags, killSuidgid, undefined).finally(() => {
      node.opening--;
    });
  }

  /** Undefined: the server must be asked. */
  #openedByKnowledge(node: Node, flags: number, opener: OpenHandle['opener']): OpenedFile | undefined {
    const { leases } = this.#context;
    if (!isOnlyRead(node) || !leases.isHeld(node) || !leases.mayOpen(node, rightOf(opener, flags))) return undefined;
    const open = this.#unopened(node, flags, opener);
    open.first = this.ahead.take(node);
    return this.#cached(open);
  }

  /** In the place of a program that will open it to read. */
  async #openAhead(node: Node, { opener, flags }: Opening): Promise<Uint8Array | undefined> {
    const { leases, session } = this.#context;
    if (!isOnlyRead(node) || this.#closing.has(node) || node.gatherer) return undefined;
    const asOf = leases.clock;
    const firstBytes = limits.maxFirstBytes;
    const request = {
      inode: this.#context.inodeOf(node),
      flags,
      killSuidgid: false,
      wants: 'shared',
      firstBytes,
    } as const;
    const { reply, bulk } = await session.callForBulk('open', opener, request, { lane: 'small' });
    // It has grown, or is not leased.
    if (reply.handle !== 0) await session.call('release', [], { handles: [reply.handle] });
    const isGood = reply.handle === 0 && this.#learnOpened(node, reply, asOf) === 'undisturbed' && isOnlyRead(node);
    if (!isGood || bulk.length === 0) return undefined;
    leases.learnCoversData(node, asOf);
    leases.learnOpener(node, rightOf(opener, flags), asOf);
    return bulk;
  }

  /** 'undisturbed': nothing was done to the file since it was asked for. */
  #learnOpened(node: Node, { attributes, lease }: ReplyOf<'open'>, asOf: number): 'none' | 'held' | 'undisturbed' {
    const { leases } = this.#context;
    if (attributes) leases.learnAttributes(node, attributes, lease === 'shared', asOf);
    if (lease !== 'shared' || !leases.isHeld(node)) return 'none';
    return leases.knownAttributes(node) === attributes ? 'undisturbed' : 'held';
  }

  /** Its lease is as good as having it open at the server. */
  #unopened(node: Node, flags: number, opener: OpenHandle['opener']): OpenHandle {
    const open = this.#handle(node, flags, opener, 0, NOT_OPENED);
    node.unopened ??= new Set();
    node.unopened.add(open);
    this.#context.withUnopened.add(node);
    return open;
  }

  #isCacheable(flags: number, killSuidgid: boolean): boolean {
    const isReadOnly = (flags & O.ACCMODE) === O.RDONLY && !(flags & (O.TRUNC | O.DIRECT));
    return isReadOnly && !killSuidgid && this.#context.kernel.isAttached;
  }

  /** `right`: the file is opened to be read through the page cache, and this is to be remembered. */
  async #ask(
    caller: Caller,
    node: Node,
    flags: number,
    killSuidgid: boolean,
    right: string | undefined,
    maxFirstBytes = limits.maxFirstBytes,
  ): Promise<OpenedFile> {
    const { leases, session } = this.#context;
    // The server would recall it, for this handle is one more.
    if (this.#closing.has(node)) this.#closing.releaseNow();
    await this.#context.written(node);
    const { epoch } = session;
    const opener = this.#context.identity(caller);
    const wants = right === undefined ? this.#wantedToWrite(flags, node) : 'shared';
    const firstBytes = right === undefined ? 0 : maxFirstBytes;
    const request = { inode: this.#context.inodeOf(node), flags: flags & SENT_FLAGS, killSuidgid, wants, firstBytes };
    const isChange = (flags & O.TRUNC) !== 0 || killSuidgid;
    // With O_RDONLY | O_TRUNC the server does so too.
    if (isChange || (flags & O.ACCMODE) !== O.RDONLY) {
      leases.opensToWrite(node);
      await this.#context.kernel.stored(node);
    }
    const send = () => session.callForBulk('open', opener, request, { lane: 'small' });
    const asOf = leases.clock;
    const { reply, bulk } = await (isChange ? this.#context.changing(node, send) : send());
    if (isChange) this.#dropAhead(node);
    const lease = this.#learnOpened(node, reply, asOf);
    const isHeld = right !== undefined && lease !== 'none';
    const isUndisturbed = isHeld && lease === 'undisturbed';
    const isOpen = reply.handle !== 0;
    // It may have been removed before there was a handle here to keep it, or another handle may gather what it writes.
    if (!isOpen && !(isUndisturbed && isOnlyRead(node))) return this.#ask(caller, node, flags, killSuidgid, right, 0);
    const open = isOpen ? this.#handle(node, flags, opener, reply.handle, epoch) : this.#unopened(node, flags, opener);
    if (isHeld) {
      leases.learnCoversData(node, asOf);
      leases.learnOpener(node, right, asOf);
      if (isUndisturbed && bulk.length > 0) open.first = bulk;
      return this.#cached(open);
    }
    return this.#plain(open, reply.lease, asOf);
  }

  #wantedToWrite(flags: number, node?: Node): Wanted {
    // The server may not know of handles whose reads the kernel caches: see `unopened`.
    if (node?.cached?.size) return 'none';
    const writes = (flags & O.ACCMODE) !== O.RDONLY && !(flags & O.EXEC);
    // The second driver could not tell a late error at close(2).
    return writes && this.#context.kernel.isAttached && !(flags & WRITTEN_THROUGH) ? 'exclusive' : 'none';
  }

  #handle(node: Node, flags: number, opener: OpenHandle['opener'], server: number, epoch: number): OpenHandle {
    const kept = flags & SENT_FLAGS & ~ONCE_FLAGS;
    const open = newHandle({ node, isDirectory: false, flags: kept, opener, server, epoch });
    open.isDirect = (flags & O.DIRECT) !== 0;
    open.readAhead = this.#data.readAheadFor(open);
    if (canWrite(open)) node.writers++;
    return open;
  }

  #cached(open: OpenHandle): OpenedFile {
    const { node } = open;
    open.isCached = true;
    node.cached ??= new Set();
    node.cached.add(open);
    return { handle: this.#context.handles.add(open), directIo: false, keepCache: this.#context.kernel.hasPages(node) };
  }

  #plain(open: OpenHandle, lease: ReplyOf<'open'>['lease'], asOf: number): OpenedFile {
    const { blocks } = this.#context;
    blocks.opened(open);
    const isAlone = !open.node.cached?.size && !this.#context.leases.wasRecalled(open.node, asOf);
    if (lease === 'exclusive' && isAlone) {
      open.behind = this.#data.writeBehindFor(open);
      open.blocks = this.#data.blocksFor(open);
      open.node.gatherer = open;
      blocks.clear(open.node);
    }
    return { handle: this.#context.handles.add(open), directIo: true, keepCache: false };
  }

  async create(caller: Caller, parent: NodeId, name: Uint8Array, mode: number, umask: number, flags: number) {
    checkName(name);
    const { session, nodes, leases } = this.#context;
    const { epoch } = session;
    const asOf = leases.clock;
    const directory = nodes.get(parent);
    const wants = this.#wantedToWrite(flags);
    const request = { parent: this.#context.inodeOf(directory), name, mode, umask, flags: flags & SENT_FLAGS, wants };
    const made = await this.#names.adding(directory, name, () => this.#context.call('create', caller, request));
    const opened = this.#created(caller, made.node, made.reply, flags, epoch, asOf);
    // O_CREAT may have found a file that is being read by another name.
    const stored = this.#context.kernel.stored(made.node);
    if (stored) await stored;
    return { entry: made.entry, opened };
  }

  async tmpfile(
    caller: Caller,
    parent: NodeId,
    mode: number,
    umask: number,
    flags: number,
  ): Promise<{ entry: Entry; opened: OpenedFile }> {
    const { leases, session } = this.#context;
    const { epoch } = session;
    const request = { parent: this.#context.inode(parent), mode, umask, flags: flags & SENT_FLAGS };
    const asOf = leases.clock;
    const reply = await this.#context.call('tmpfile', caller, request);
    const node = this.#names.found(reply.entry, asOf);
    const opened = this.#created(caller, node, reply, flags, epoch, asOf);
    return { entry: this.#context.nodeEntry(node, reply.entry.attributes), opened };
  }

  #created(
    caller: Caller,
    node: Node,
    reply: ReplyOf<'create'>,
    flags: number,
    epoch: number,
    asOf: number,
  ): OpenedFile {
    const open = this.#handle(node, flags, this.#context.identity(caller), reply.handle, epoch);
    // O_CREAT may have found the file there, and O_TRUNC have emptied it.
    if (canWrite(open)) this.#context.leases.opensToWrite(node);
    if (flags & O.TRUNC) this.#dropAhead(node);
    const opened = this.#plain(open, reply.lease, asOf);
    // The server takes this caller for the one that it says it is: not so where it maps users to others.
    const isOwn = reply.entry.attributes.uid === caller.uid;
    if (open.behind) {
      // Not one that O_CREAT found there: on that no such lease is granted.
      this.#context.leases.learnNew(node, reply.entry.leased, asOf);
      if (isOwn) open.expected = expectedOf(this.#context.leases, node);
    }
    return opened;
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
    const mayWait = open.behind?.isStopped === false && open.node.locks === undefined;
    const hasEnded = open.behind && this.#endGathering(open);
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
    this.#dropAhead(node);
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

  /** What is here and the kernel has not asked for yet. */
  #dropAhead(node: Node): void {
    for (const open of node.cached ?? []) {
      open.first = undefined;
      open.readAhead?.drop();
    }
  }

  #changedData(node: Node): void {
    node.gatherer?.blocks?.clear();
    this.#dropAhead(node);
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

  /** The leases on these are gone. */
  dropAhead(nodes: readonly Node[]): void {
    for (const node of nodes) this.#dropAhead(node);
  }

  /** No exclusive lease holds any more. `isFenced`: others may have had it, so what was gathered is refused. */
  stopGathering(isFenced: boolean): void {
    for (const open of [...this.#context.handles.all, ...this.#closing.unfinished]) {
      if (open.behind === undefined) continue;
      if (isFenced && !open.behind.isClean) open.behind.isFenced = true;
      void this.#endGathering(open);
    }
  }

  /** Called at each close(2): tells an error of what was gathered, and lets go of the owner's POSIX locks after it. */
  async flush(handle: number, owner: U64): Promise<void> {
    const open = this.#context.handles.get(handle);
    try {
      await open.behind?.flush();
      tellLost(open);
    } finally {
      const unlocked = this.#locks.closed(open, owner);
      if (unlocked) await unlocked;
    }
  }

  async fsync(caller: Caller, handle: number, dataOnly: boolean): Promise<void> {
    const open = this.#context.handles.get(handle);
    const { unsynced } = this.#context;
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
    await Promise.all([...open, this.#closing.finished()]);
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
    this.#dropAhead(node);
    const { gatherer, unopened } = node;
    if (!gatherer && !unopened?.size) return undefined;
    const opened = [...(unopened ?? [])].map((open) => ensureOpen(open, this.#context.session));
    const written = gatherer && this.#endGathering(gatherer);
    // One that cannot be opened is told so at its next use.
    return Promise.allSettled([...opened, written]).then(() => {});
  }
}

/**
 * Opening it need not be told to the server. Who opens it to write may be granted the exclusive lease as its only handle: the
 * server would recall that when it hears of the other one, which this client opens before it gives any lease back.
 */
function isOnlyRead(node: Node): boolean {
  return node.writers === 0 && node.opening === 0;
}

function rightOf(opener: OpenHandle['opener'], flags: number): string {
  return `${opener} ${flags & SENT_FLAGS}`;
}

/** Once. */
function tellLost(open: OpenHandle): void {
  if (!open.hasLostWrites) return;
  open.hasLostWrites = false;
  throw new FsError(errno.EIO, 'what was written and not synchronized is lost');
}
