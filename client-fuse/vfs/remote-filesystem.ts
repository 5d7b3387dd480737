/**
 * The Filesystem that a server exports: every operation is a request, since no lease allows an answer from memory yet.
 * Owns the node table and the handle table of a mount. Data operations are in file-data.ts.
 */
import type { Attributes, FilesystemStatistics, U64 } from '../../shared/attributes.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { limits } from '../../shared/limits.ts';
import { O } from '../../shared/linux/constants.ts';
import type { OperationName, ReplyOf, RequestOf, WireEntry } from '../../shared/protocol/messages.ts';
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

/** Without a lease the kernel asks every time. */
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

  constructor(session: ServerSession, presentation: Presentation = {}) {
    this.#session = session;
    this.#presentation = presentation;
    this.#nodes = new NodeTable(session.hello.root.inode);
    this.#data = new FileData(session);
    if (session.hello.wantsForget) this.#forgotten = new ForgetQueue(session);
  }

  /** For status. */
  get counts(): { nodes: number; handles: number } {
    return { nodes: this.#nodes.size, handles: this.#handles.size };
  }

  // --- names

  async lookup(caller: Caller, parent: NodeId, name: Uint8Array): Promise<Entry> {
    checkName(name);
    return this.#entry(await this.#call('lookup', caller, { parent: this.#inode(parent), name }));
  }

  forget(id: NodeId, count: number): void {
    const node = this.#nodes.forget(id, count);
    if (node) this.#forgotten?.add(node.inode, node.entries);
  }

  async readlink(caller: Caller, node: NodeId): Promise<Uint8Array> {
    return (await this.#call('readlink', caller, { inode: this.#inode(node) })).target;
  }

  async mknod(caller: Caller, parent: NodeId, name: Uint8Array, mode: number, rdev: number, umask: number) {
    checkName(name);
    const request = { parent: this.#inode(parent), name, mode, rdev, umask };
    return this.#entry(await this.#call('mknod', caller, request));
  }

  async mkdir(caller: Caller, parent: NodeId, name: Uint8Array, mode: number, umask: number): Promise<Entry> {
    checkName(name);
    return this.#entry(await this.#call('mkdir', caller, { parent: this.#inode(parent), name, mode, umask }));
  }

  async symlink(caller: Caller, parent: NodeId, name: Uint8Array, target: Uint8Array): Promise<Entry> {
    checkName(name);
    if (target.length === 0) throw new FsError(errno.ENOENT, 'symlink');
    if (target.length > limits.maxLinkTargetBytes) throw new FsError(errno.ENAMETOOLONG, 'symlink');
    return this.#entry(await this.#call('symlink', caller, { parent: this.#inode(parent), name, target }));
  }

  async link(caller: Caller, node: NodeId, parent: NodeId, name: Uint8Array): Promise<Entry> {
    checkName(name);
    const request = { inode: this.#inode(node), parent: this.#inode(parent), name };
    return this.#entry(await this.#call('link', caller, request));
  }

  async unlink(caller: Caller, parent: NodeId, name: Uint8Array): Promise<void> {
    checkName(name);
    await this.#call('unlink', caller, { parent: this.#inode(parent), name });
  }

  async rmdir(caller: Caller, parent: NodeId, name: Uint8Array): Promise<void> {
    checkName(name);
    await this.#call('rmdir', caller, { parent: this.#inode(parent), name });
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
    const request = { parent: this.#inode(parent), name, newParent: this.#inode(newParent), newName, flags };
    await this.#call('rename', caller, request);
  }

  // --- attributes

  async getattr(caller: Caller, node: NodeId, handle?: number): Promise<AttributesReply> {
    const ask = async (server: number) =>
      this.#attributes(await this.#call('getattr', caller, { inode: this.#inode(node), handle: server }));
    return handle === undefined ? ask(0) : this.#withOpen(handle, ({ server }) => ask(server));
  }

  async setattr(caller: Caller, node: NodeId, changes: AttributeChanges, handle?: number): Promise<AttributesReply> {
    const ask = async (server: number) => {
      const { mode, uid, gid, size, atime, mtime, killSuidgid = false } = changes;
      const request = { inode: this.#inode(node), handle: server, mode, uid, gid, size, atime, mtime, killSuidgid };
      return this.#attributes(await this.#call('setattr', caller, request));
    };
    return handle === undefined ? ask(0) : this.#withOpen(handle, ({ server }) => ask(server));
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
    await this.#call('setxattr', caller, { inode: this.#inode(node), name, value, flags, killSgid });
  }

  async removexattr(caller: Caller, node: NodeId, name: Uint8Array): Promise<void> {
    await this.#call('removexattr', caller, { inode: this.#inode(node), name });
  }

  // --- open files

  async open(caller: Caller, id: NodeId, flags: number, killSuidgid: boolean): Promise<OpenedFile> {
    const node = this.#nodes.get(id);
    const epoch = this.#session.epoch;
    const request = { inode: this.#inode(id), flags: flags & SENT_FLAGS, killSuidgid };
    const { handle } = await this.#call('open', caller, request);
    return this.#opened(caller, node, flags, handle, epoch);
  }

  async create(caller: Caller, parent: NodeId, name: Uint8Array, mode: number, umask: number, flags: number) {
    checkName(name);
    const epoch = this.#session.epoch;
    const request = { parent: this.#inode(parent), name, mode, umask, flags: flags & SENT_FLAGS };
    return this.#created(caller, await this.#call('create', caller, request), flags, epoch);
  }

  async tmpfile(caller: Caller, parent: NodeId, mode: number, umask: number, flags: number) {
    const epoch = this.#session.epoch;
    const request = { parent: this.#inode(parent), mode, umask, flags: flags & SENT_FLAGS };
    return this.#created(caller, await this.#call('tmpfile', caller, request), flags, epoch);
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
    return this.#withOpen(handle, (open) => this.#data.read(open, offset, size));
  }

  async write(
    _caller: Caller,
    handle: number,
    offset: number,
    data: Uint8Array,
    flags: number,
    killSuidgid: boolean,
  ): Promise<number> {
    return this.#withOpen(handle, (open) => this.#data.write(open, offset, data, flags, killSuidgid));
  }

  /** Every write has been answered by the server: nothing is left to flush. */
  flush(): void {}

  async fsync(caller: Caller, handle: number, dataOnly: boolean): Promise<void> {
    await this.#withOpen(handle, ({ server }) => this.#call('fsync', caller, { handle: server, dataOnly }));
  }

  async fallocate(caller: Caller, handle: number, mode: number, offset: number, length: number): Promise<void> {
    await this.#withOpen(handle, ({ server }) => {
      return this.#call('fallocate', caller, { handle: server, mode, offset, length });
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
        return (await this.#call('copyFileRange', caller, request)).copied;
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
    const { entries } = await this.#withOpen(handle, ask);
    return entries.map(({ entry, ...listed }) => (entry ? { ...listed, entry: this.#entry(entry) } : listed));
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
    const node = this.#nodes.get(id);
    // A restarted server may name its root anew.
    return node === this.#nodes.root ? this.#session.hello.root.inode : node.inode;
  }

  #entry(entry: WireEntry): Entry {
    const node = this.#nodes.found(entry.inode);
    return { node: node.id, attributes: this.#present(entry.attributes), ...ASK_EVERY_TIME };
  }

  #attributes({ attributes }: { attributes: Attributes }): AttributesReply {
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

  #created(
    caller: Caller,
    reply: ReplyOf<'create'>,
    flags: number,
    epoch: number,
  ): { entry: Entry; opened: OpenedFile } {
    const entry = this.#entry(reply.entry);
    const opened = this.#opened(caller, this.#nodes.get(entry.node), flags, reply.handle, epoch);
    return { entry, opened };
  }
}

function checkName(name: Uint8Array): void {
  if (name.length > limits.maxNameBytes) throw new FsError(errno.ENAMETOOLONG, 'name');
  if (name.length === 0) throw new FsError(errno.ENOENT, 'name');
}
