/**
 * The Filesystem that a server exports: an operation is a request, unless a lease allows an answer from memory.
 * Owns the node table and the handle table of a mount. Data operations are in file-data.ts.
 */
import type { Attributes, FilesystemStatistics, U64 } from '../../shared/attributes.ts';
import { errno, FsError } from '../../shared/errno.ts';
import type { Eventually } from '../../shared/eventually.ts';
import { limits } from '../../shared/limits.ts';
import { O } from '../../shared/linux/constants.ts';
import type { OperationName, ReplyOf, RequestOf, WireEntry } from '../../shared/protocol/messages.ts';
import { LeaseCache } from '../leases/lease-cache.ts';
import type { CallerIdentity, ServerSession } from '../transport/server-session.ts';
import { FileData } from './file-data.ts';
import type {
  AttributeChanges,
  AttributesReply,
  Caller,
  DirectoryEntry,
  Entry,
  Filesystem,
  NodeId,
  OpenedFile,
} from './filesystem.ts';
import { ForgetQueue } from './forget-queue.ts';
import { type Node, NodeTable } from './node-table.ts';
import { ensureOpen, HandleTable, type OpenHandle } from './open-handle.ts';

/** How attributes are shown on this mount, whatever the server says (`-o uid=,gid=,umask=`). */
export interface Presentation {
  readonly uid?: number | undefined;
  readonly gid?: number | undefined;
  /** Permission bits that are taken away. */
  readonly umask?: number | undefined;
}

/** The kernel asks every time; what a lease allows is answered here, so a recall has nothing to take from the kernel. */
const ASK_EVERY_TIME = { entryMs: 0, attributesMs: 0 } as const;
/** What opening a file again must not do again. */
const ONCE_FLAGS = O.CREAT | O.EXCL | O.TRUNC;
/** Flags with a meaning to the server; the others (O_DIRECT, O_NONBLOCK, ...) are this machine's business. */
const SENT_FLAGS = O.ACCMODE | O.TRUNC | O.EXCL | O.NOATIME | O.EXEC;

export class RemoteFilesystem implements Filesystem {
  readonly #session: ServerSession;
  readonly #presentation: Presentation;
  readonly #nodes: NodeTable;
  readonly #handles = new HandleTable();
  readonly #data: FileData;
  readonly #forgotten: ForgetQueue | undefined;
  readonly #leases: LeaseCache;

  constructor(session: ServerSession, presentation: Presentation = {}, maxIdleNodes: number = limits.maxIdleNodes) {
    this.#session = session;
    this.#presentation = presentation;
    this.#nodes = new NodeTable(session.hello.root.inode, maxIdleNodes);
    this.#data = new FileData(session);
    if (session.hello.wantsForget) this.#forgotten = new ForgetQueue(session);
    this.#leases = new LeaseCache(() => session.mayUseLeases);
    session.onRecall = (inode) => {
      if (inode !== null) return this.#leases.recall(this.#nodeOf(inode)).map((node) => node.inode);
      this.#leases.clear();
      return [];
    };
  }

  /** For status. */
  get counts(): { nodes: number; handles: number } {
    return { nodes: this.#nodes.referenced, handles: this.#handles.size };
  }

  // --- names

  lookup(caller: Caller, parent: NodeId, name: Uint8Array): Eventually<Entry> {
    checkName(name);
    const directory = this.#nodes.get(parent);
    const known = this.#leases.name(directory, keyOfName(name));
    if (known === null) throw new FsError(errno.ENOENT, 'lookup');
    const attributes = known && this.#leases.attributes(known);
    if (known && attributes) return this.#entryOf(this.#nodes.foundAgain(known), attributes);
    return this.#lookUp(caller, directory, name);
  }

  async #lookUp(caller: Caller, directory: Node, name: Uint8Array): Promise<Entry> {
    const asOf = this.#leases.clock;
    const key = keyOfName(name);
    const { found, leased } = await this.#call('lookup', caller, { parent: this.#inodeOf(directory), name });
    if (found === undefined) {
      this.#leases.learnName(directory, key, null, leased, asOf);
      throw new FsError(errno.ENOENT, 'lookup');
    }
    const { node, entry } = this.#found(found, asOf);
    this.#leases.learnName(directory, key, node, leased, asOf);
    return entry;
  }

  forget(id: NodeId, count: number): void {
    const node = this.#nodes.forget(id, count);
    if (node) this.#forgotten?.add(node.inode, node.entries);
  }

  async readlink(caller: Caller, node: NodeId): Promise<Uint8Array> {
    return (await this.#call('readlink', caller, { inode: this.#inode(node) })).target;
  }

  async mknod(caller: Caller, parent: NodeId, name: Uint8Array, mode: number, rdev: number, umask: number) {
    const request = { parent: this.#inode(parent), name, mode, rdev, umask };
    return this.#addName(parent, name, () => this.#call('mknod', caller, request));
  }

  async mkdir(caller: Caller, parent: NodeId, name: Uint8Array, mode: number, umask: number): Promise<Entry> {
    const request = { parent: this.#inode(parent), name, mode, umask };
    return this.#addName(parent, name, () => this.#call('mkdir', caller, request));
  }

  async symlink(caller: Caller, parent: NodeId, name: Uint8Array, target: Uint8Array): Promise<Entry> {
    if (target.length === 0) throw new FsError(errno.ENOENT, 'symlink');
    if (target.length > limits.maxLinkTargetBytes) throw new FsError(errno.ENAMETOOLONG, 'symlink');
    const request = { parent: this.#inode(parent), name, target };
    return this.#addName(parent, name, () => this.#call('symlink', caller, request));
  }

  async link(caller: Caller, id: NodeId, parent: NodeId, name: Uint8Array): Promise<Entry> {
    const node = this.#nodes.get(id);
    const request = { inode: this.#inodeOf(node), parent: this.#inode(parent), name };
    return this.#changing(node, () => this.#addName(parent, name, () => this.#call('link', caller, request)));
  }

  async unlink(caller: Caller, parent: NodeId, name: Uint8Array): Promise<void> {
    const request = { parent: this.#inode(parent), name };
    await this.#removeName(parent, name, () => this.#call('unlink', caller, request));
  }

  async rmdir(caller: Caller, parent: NodeId, name: Uint8Array): Promise<void> {
    const request = { parent: this.#inode(parent), name };
    await this.#removeName(parent, name, () => this.#call('rmdir', caller, request));
  }

  async rename(
    caller: Caller,
    parent: NodeId,
    name: Uint8Array,
    newParent: NodeId,
    newName: Uint8Array,
    flags: number,
  ): Promise<void> {
    checkName(name);
    checkName(newName);
    const from = this.#nodes.get(parent);
    const to = this.#nodes.get(newParent);
    const [key, newKey] = [keyOfName(name), keyOfName(newName)];
    const moved = this.#leases.name(from, key);
    const replaced = this.#leases.name(to, newKey);
    for (const node of [moved, replaced]) this.#leases.beginChange(node);
    const markFrom = this.#leases.changingName(from, key);
    const mark = this.#leases.changingName(to, newKey);
    const request = { parent: this.#inodeOf(from), name, newParent: this.#inodeOf(to), newName, flags };
    let reply: ReplyOf<'rename'> | undefined;
    try {
      reply = await this.#call('rename', caller, request);
    } finally {
      for (const node of [moved, replaced]) this.#leases.endChange(node);
      // In one directory the first mark is older than the second, so only the new name may be learned; both are, then.
      // Of two names of one inode, rename(2) leaves both.
      const isPlain = reply !== undefined && flags === 0 && !namesOneInode(reply.changed);
      if (from === to) {
        const isKnown = isPlain && this.#leases.isUndisturbed(from, mark);
        this.#leases.changedName(from, newKey, isKnown ? (moved ?? undefined) : undefined, mark, reply?.directory);
        if (isKnown) this.#leases.addName(from, key, null);
      } else {
        // The old name meant `moved` only if nothing happened there until it was renamed.
        const isKnown = isPlain && this.#leases.isUndisturbed(from, markFrom);
        this.#leases.changedName(from, key, undefined, 0);
        this.#leases.changedName(to, newKey, isKnown ? (moved ?? undefined) : undefined, mark, reply?.newDirectory);
      }
      for (const inode of reply?.changed ?? []) this.#changedElsewhere(inode);
    }
  }

  // --- attributes

  getattr(caller: Caller, id: NodeId, handle?: number): Eventually<AttributesReply> {
    const node = this.#nodes.get(id);
    const known = this.#leases.attributes(node);
    if (known) return this.#attributesReply(known);
    return this.#getAttributes(caller, node, handle);
  }

  async #getAttributes(caller: Caller, node: Node, handle?: number): Promise<AttributesReply> {
    const asOf = this.#leases.clock;
    const ask = (server: number) => this.#call('getattr', caller, { inode: this.#inodeOf(node), handle: server });
    const { attributes, leased } =
      handle === undefined ? await ask(0) : await this.#withOpen(handle, (open) => ask(open.server));
    this.#leases.learnAttributes(node, attributes, leased, asOf);
    return this.#attributesReply(attributes);
  }

  async setattr(caller: Caller, id: NodeId, changes: AttributeChanges, handle?: number): Promise<AttributesReply> {
    const node = this.#nodes.get(id);
    const ask = (server: number) =>
      this.#call('setattr', caller, {
        inode: this.#inodeOf(node),
        handle: server,
        mode: changes.mode,
        uid: changes.uid,
        gid: changes.gid,
        size: changes.size,
        atime: changes.atime,
        mtime: changes.mtime,
        killSuidgid: changes.killSuidgid ?? false,
      });
    const { attributes } = await this.#changing(node, () =>
      handle === undefined ? ask(0) : this.#withOpen(handle, (open) => ask(open.server)),
    );
    return this.#attributesReply(attributes);
  }

  async statfs(caller: Caller, node: NodeId): Promise<FilesystemStatistics> {
    return (await this.#call('statfs', caller, { inode: this.#inode(node) })).statistics;
  }

  async access(caller: Caller, node: NodeId, mask: number): Promise<void> {
    await this.#call('access', caller, { inode: this.#inode(node), mask });
  }

  async getxattr(caller: Caller, node: NodeId, name: Uint8Array): Promise<Uint8Array> {
    return (await this.#call('getxattr', caller, { inode: this.#inode(node), name })).value;
  }

  async listxattr(caller: Caller, node: NodeId): Promise<Uint8Array> {
    return (await this.#call('listxattr', caller, { inode: this.#inode(node) })).names;
  }

  async setxattr(
    caller: Caller,
    node: NodeId,
    name: Uint8Array,
    value: Uint8Array,
    flags: number,
    killSgid: boolean,
  ): Promise<void> {
    const request = { inode: this.#inode(node), name, value, flags, killSgid };
    await this.#changing(this.#nodes.get(node), () => this.#call('setxattr', caller, request));
  }

  async removexattr(caller: Caller, node: NodeId, name: Uint8Array): Promise<void> {
    const request = { inode: this.#inode(node), name };
    await this.#changing(this.#nodes.get(node), () => this.#call('removexattr', caller, request));
  }

  // --- open files

  async open(caller: Caller, id: NodeId, flags: number, killSuidgid: boolean): Promise<OpenedFile> {
    const node = this.#nodes.get(id);
    const epoch = this.#session.epoch;
    const request = { inode: this.#inode(id), flags: flags & SENT_FLAGS, killSuidgid };
    const isChange = (flags & O.TRUNC) !== 0 || killSuidgid;
    const send = () => this.#call('open', caller, request);
    const { handle } = await (isChange ? this.#changing(node, send) : send());
    return this.#opened(caller, node, flags, handle, epoch);
  }

  async create(caller: Caller, parent: NodeId, name: Uint8Array, mode: number, umask: number, flags: number) {
    checkName(name);
    const epoch = this.#session.epoch;
    const directory = this.#nodes.get(parent);
    const key = keyOfName(name);
    const asOf = this.#leases.clock;
    const mark = this.#leases.changingName(directory, key);
    const request = { parent: this.#inodeOf(directory), name, mode, umask, flags: flags & SENT_FLAGS };
    let node: Node | undefined;
    let attributes: Attributes | undefined;
    try {
      const reply = await this.#call('create', caller, request);
      const created = this.#created(caller, reply, flags, epoch, asOf);
      ({ node } = created);
      attributes = reply.directory;
      return created;
    } finally {
      this.#leases.changedName(directory, key, node, mark, attributes);
    }
  }

  async tmpfile(caller: Caller, parent: NodeId, mode: number, umask: number, flags: number) {
    const epoch = this.#session.epoch;
    const request = { parent: this.#inode(parent), mode, umask, flags: flags & SENT_FLAGS };
    const asOf = this.#leases.clock;
    return this.#created(caller, await this.#call('tmpfile', caller, request), flags, epoch, asOf);
  }

  release(handle: number): void {
    const open = this.#handles.remove(handle);
    if (open === undefined) return;
    open.readAhead?.drop();
    if (open.epoch !== this.#session.epoch) return;
    // Nobody waits for it. It fails only when the session has ended, and then the handle is closed already.
    this.#session.call('release', open.opener, { handle: open.server }).catch(() => {});
  }

  async read(_caller: Caller, handle: number, offset: number, size: number): Promise<Uint8Array> {
    return this.#withOpen(handle, async (open) => {
      const data = await this.#data.read(open, offset, size);
      this.#leases.wasRead(open.node);
      return data;
    });
  }

  async write(
    _caller: Caller,
    handle: number,
    offset: number,
    data: Uint8Array,
    flags: number,
    killSuidgid: boolean,
  ): Promise<number> {
    return this.#withOpen(handle, (open) =>
      this.#changing(open.node, () => this.#data.write(open, offset, data, flags, killSuidgid)),
    );
  }

  /** Every write has been answered by the server: nothing is left to flush. */
  flush(): void {}

  async fsync(caller: Caller, handle: number, dataOnly: boolean): Promise<void> {
    await this.#withOpen(handle, ({ server }) => this.#call('fsync', caller, { handle: server, dataOnly }));
  }

  async fallocate(caller: Caller, handle: number, mode: number, offset: number, length: number): Promise<void> {
    await this.#withOpen(handle, ({ node, server }) => {
      const request = { handle: server, mode, offset, length };
      return this.#changing(node, () => this.#call('fallocate', caller, request));
    });
  }

  async lseek(caller: Caller, handle: number, offset: number, whence: number): Promise<number> {
    const ask = ({ server }: OpenHandle) => this.#call('lseek', caller, { handle: server, offset, whence });
    return (await this.#withOpen(handle, ask)).offset;
  }

  async copyFileRange(
    caller: Caller,
    handleIn: number,
    offsetIn: number,
    handleOut: number,
    offsetOut: number,
    length: number,
  ): Promise<number> {
    return this.#withOpen(handleIn, (source) =>
      this.#withOpen(handleOut, async (target) => {
        const request = { handleIn: source.server, offsetIn, handleOut: target.server, offsetOut, length };
        return (await this.#changing(target.node, () => this.#call('copyFileRange', caller, request))).copied;
      }),
    );
  }

  async syncfs(caller: Caller): Promise<void> {
    await this.#call('syncfs', caller, {});
  }

  // --- directories

  async opendir(caller: Caller, id: NodeId) {
    const node = this.#nodes.get(id);
    const epoch = this.#session.epoch;
    const { handle: server } = await this.#call('opendir', caller, { inode: this.#inode(id) });
    const handle = this.#handles.add({
      node,
      isDirectory: true,
      flags: 0,
      opener: this.#identity(caller),
      server,
      epoch,
      reopening: undefined,
      readAhead: undefined,
    });
    return { handle, keepCache: false, cacheDirectory: false };
  }

  async readdir(
    caller: Caller,
    handle: number,
    cookie: U64,
    sizeBytes: number,
    plus: boolean,
  ): Promise<readonly DirectoryEntry[]> {
    const ask = ({ server }: OpenHandle) => this.#call('readdir', caller, { handle: server, cookie, sizeBytes, plus });
    const asOf = this.#leases.clock;
    const { node: directory } = this.#handles.get(handle);
    const { entries, leased } = await this.#withOpen(handle, ask);
    this.#leases.wasRead(directory);
    return entries.map(({ entry: wire, ...listed }) => {
      if (wire === undefined) return listed;
      const { node, entry } = this.#found(wire, asOf);
      this.#leases.learnName(directory, keyOfName(listed.name), node, leased, asOf);
      return { ...listed, entry };
    });
  }

  releasedir(handle: number): void {
    this.release(handle);
  }

  async fsyncdir(caller: Caller, handle: number, dataOnly: boolean): Promise<void> {
    await this.fsync(caller, handle, dataOnly);
  }

  // --- inside

  #call<N extends OperationName>(operation: N, caller: Caller, request: RequestOf<N>): Promise<ReplyOf<N>> {
    return this.#session.call(operation, this.#identity(caller), request);
  }

  /** Groups are read from the caller's process, so only where they matter. */
  #identity(caller: Caller): CallerIdentity {
    if (caller.uid === 0 || this.#session.hello.identity === 'server') return [caller.uid, caller.gid];
    return [caller.uid, caller.gid, ...caller.groups.slice(0, limits.maxGroups)];
  }

  #inode(id: NodeId): Uint8Array {
    return this.#inodeOf(this.#nodes.get(id));
  }

  #nodeOf(inode: Uint8Array): Node | undefined {
    const isRoot = Buffer.compare(inode, this.#session.hello.root.inode) === 0;
    return isRoot ? this.#nodes.root : this.#nodes.byInode(inode);
  }

  #inodeOf(node: Node): Uint8Array {
    // A restarted server may name its root anew.
    return node === this.#nodes.root ? this.#session.hello.root.inode : node.inode;
  }

  /** Does `work`, which changes the inode: what was known of it is void, before and after. */
  async #changing<T>(node: Node, work: () => Promise<T>): Promise<T> {
    this.#leases.beginChange(node);
    try {
      return await work();
    } finally {
      this.#leases.endChange(node);
    }
  }

  async #addName(parent: NodeId, name: Uint8Array, request: () => Promise<ReplyOf<'mkdir'>>): Promise<Entry> {
    checkName(name);
    const directory = this.#nodes.get(parent);
    const key = keyOfName(name);
    const asOf = this.#leases.clock;
    const mark = this.#leases.changingName(directory, key);
    let found: { node: Node; entry: Entry } | undefined;
    let attributes: Attributes | undefined;
    try {
      const reply = await request();
      found = this.#found(reply.entry, asOf);
      attributes = reply.directory;
      return found.entry;
    } finally {
      this.#leases.changedName(directory, key, found?.node, mark, attributes);
    }
  }

  async #removeName(parent: NodeId, name: Uint8Array, request: () => Promise<ReplyOf<'unlink'>>): Promise<void> {
    checkName(name);
    const directory = this.#nodes.get(parent);
    const key = keyOfName(name);
    const victim = this.#leases.name(directory, key);
    this.#leases.beginChange(victim);
    const mark = this.#leases.changingName(directory, key);
    let reply: ReplyOf<'unlink'> | undefined;
    try {
      reply = await request();
    } finally {
      this.#leases.endChange(victim);
      this.#leases.changedName(directory, key, reply && null, mark, reply?.directory);
      for (const inode of reply?.changed ?? []) this.#changedElsewhere(inode);
    }
  }

  /** An own change of names changed this inode's attributes too. */
  #changedElsewhere(inode: Uint8Array): void {
    const node = this.#nodeOf(inode);
    if (node) this.#leases.changed(node);
  }

  /** The server named an inode: the kernel gets a reference to its node. */
  #found({ inode, attributes, leased }: WireEntry, asOf: number): { node: Node; entry: Entry } {
    const node = this.#nodes.found(inode);
    this.#leases.learnAttributes(node, attributes, leased, asOf);
    return { node, entry: this.#entryOf(node, attributes) };
  }

  #entryOf(node: Node, attributes: Attributes): Entry {
    return { node: node.id, attributes: this.#present(attributes), ...ASK_EVERY_TIME };
  }

  #attributesReply(attributes: Attributes): AttributesReply {
    return { attributes: this.#present(attributes), attributesMs: ASK_EVERY_TIME.attributesMs };
  }

  #present(attributes: Attributes): Attributes {
    const { uid, gid, umask } = this.#presentation;
    if (uid === undefined && gid === undefined && umask === undefined) return attributes;
    return {
      ...attributes,
      uid: uid ?? attributes.uid,
      gid: gid ?? attributes.gid,
      mode: attributes.mode & ~((umask ?? 0) & 0o777),
    };
  }

  /**
   * Uses an open handle. A request that was under way while the server was restarted went to the new one with a handle
   * that it does not know (EBADF): then the file is opened again, and the request made again.
   */
  async #withOpen<T>(handle: number, use: (open: OpenHandle) => Promise<T>): Promise<T> {
    const open = this.#handles.get(handle);
    for (;;) {
      if (open.epoch !== this.#session.epoch) await ensureOpen(open, this.#session);
      const { epoch } = open;
      try {
        return await use(open);
      } catch (error) {
        const wasForgotten = error instanceof FsError && error.code === errno.EBADF && epoch !== this.#session.epoch;
        if (!wasForgotten) throw error;
      }
    }
  }

  #opened(caller: Caller, node: Node, flags: number, server: number, epoch: number): OpenedFile {
    const open: OpenHandle = {
      node,
      isDirectory: false,
      flags: flags & SENT_FLAGS & ~ONCE_FLAGS,
      opener: this.#identity(caller),
      server,
      epoch,
      reopening: undefined,
      readAhead: undefined,
    };
    open.readAhead = this.#data.readAheadFor(open);
    return { handle: this.#handles.add(open), directIo: true, keepCache: false };
  }

  #created(caller: Caller, reply: ReplyOf<'create'>, flags: number, epoch: number, asOf: number) {
    const { node, entry } = this.#found(reply.entry, asOf);
    return { node, entry, opened: this.#opened(caller, node, flags, reply.handle, epoch) };
  }
}

function keyOfName(name: Uint8Array): string {
  return Buffer.from(name.buffer, name.byteOffset, name.length).toString('latin1');
}

function namesOneInode([moved, replaced]: readonly Uint8Array[]): boolean {
  return moved !== undefined && replaced !== undefined && Buffer.compare(moved, replaced) === 0;
}

function checkName(name: Uint8Array): void {
  if (name.length > limits.maxNameBytes) throw new FsError(errno.ENAMETOOLONG, 'name');
  if (name.length === 0) throw new FsError(errno.ENOENT, 'name');
}
