/**
 * The Filesystem that a server exports: an operation is a request, unless a lease allows an answer from memory. Names,
 * directories and files have their own rooms beside this one; here are attributes, and how a lease is given back.
 */
import type { FilesystemStatistics, U64 } from '../../shared/attributes.ts';
import { errno, FsError } from '../../shared/errno.ts';
import type { Eventually } from '../../shared/eventually.ts';
import { limits } from '../../shared/limits.ts';
import type { KernelAccess } from '../leases/kernel-caches.ts';
import { CAPABILITY } from '../leases/known-xattrs.ts';
import { keyOfName } from '../leases/lease-cache.ts';
import type { Recall, ServerSession } from '../transport/server-session.ts';
import type {
  AttributeChanges,
  AttributesReply,
  Caller,
  Filesystem,
  Lock,
  LockOwner,
  LockRange,
  NodeId,
} from './filesystem.ts';
import { gatherAttributes } from './gathering.ts';
import type { Node } from './node.ts';
import { pathOf } from './node-path.ts';
import { dropAhead } from './open-handle.ts';
import { reclaim } from './reclaim.ts';
import { type Presentation, RemoteContext } from './remote-context.ts';
import { RemoteDirectories } from './remote-directories.ts';
import { RemoteFiles } from './remote-files.ts';
import { RemoteLocks } from './remote-locks.ts';
import { RemoteNames } from './remote-names.ts';

export type { Presentation } from './remote-context.ts';

const NO_NAMES = new Uint8Array(0);
const NOTHING_ELSE: Recall = { ready: undefined, finish: () => [] };

export class RemoteFilesystem implements Filesystem {
  readonly #context: RemoteContext;
  readonly #names: RemoteNames;
  readonly #locks: RemoteLocks;
  readonly #files: RemoteFiles;
  readonly #directories: RemoteDirectories;
  /** Leases are being given back that nobody has asked for. */
  #givesUp = false;

  constructor(session: ServerSession, presentation: Presentation = {}, maxIdleNodes: number = limits.maxIdleNodes) {
    this.#context = new RemoteContext(session, presentation, maxIdleNodes);
    this.#names = new RemoteNames(this.#context);
    this.#locks = new RemoteLocks(this.#context);
    this.#files = new RemoteFiles(this.#context, this.#names, this.#locks);
    this.#directories = new RemoteDirectories(this.#context, this.#names, this.#files.ahead);
    session.onRecall = (inodes) => (inodes === null ? this.#revoked() : this.#giveBack(inodes));
    session.onRecallBlocks = (inode, blocks) => {
      const node = this.#context.nodeOf(inode);
      if (node) this.#context.blocks.recalled(node, blocks);
    };
    session.onShare = (inode) => this.#share(this.#context.nodeOf(inode));
    session.onLost = () => void this.#loseShared();
    session.onForgotten = (isSameServer, isSameMachine) => {
      const lost = this.#loseShared();
      if (!isSameMachine) this.#tellOfLost();
      this.#files.stopGathering(isSameServer);
      void reclaim(this.#context, this.#locks.forgotten(isSameServer), lost);
    };
  }

  #tellOfLost(): void {
    const { session, unsynced } = this.#context;
    for (const node of unsynced.lost()) {
      const file = pathOf(node);
      session.log.error(
        { file },
        'what was written and not synchronized may be lost: the server has been started anew',
      );
    }
  }

  /** From now on the kernel may keep what is known under leases; it is taken back through `kernel`. */
  attachKernel(kernel: KernelAccess): void {
    this.#context.kernel.attach(kernel);
  }

  /** For status. */
  get counts() {
    const { nodes, handles, leases } = this.#context;
    let held = 0;
    for (const node of nodes.all) if (leases.isHeld(node)) held++;
    const { hits, misses, recalls } = leases;
    return { nodes: nodes.referenced, handles: handles.size, leases: held, hits, misses, recalls };
  }

  // --- leases

  /** Undefined: the reply that names it is on its way, and it is not alone when that is here. Others that it knows of are shared, too. */
  #share(directory: Node | undefined): Promise<void> | undefined {
    const { leases, unmade } = this.#context;
    leases.recalls++;
    if (directory === undefined) leases.changedUnknown();
    else {
      leases.alone.end(directory);
      leases.changed(directory); // else the reply that says it is alone could still be on its way through promises
    }
    this.#context.sharing.shareAll();
    return directory && unmade.inside(directory);
  }

  #giveBack(inodes: readonly Uint8Array[]): Recall {
    const { leases, kernel } = this.#context;
    const asked = inodes.map((inode) => this.#context.nodeOf(inode));
    this.#files.releaseNow();
    const next = leases.removedNext(asked, this.#givesUp);
    const { nodes, others } = leases.recall(asked);
    const files = asked.map((node) => node && this.#files.giveBack(node));
    const waits = [...files, kernel.takeBack(nodes)].filter((wait) => wait !== undefined);
    if (next.length > 0) void this.#giveUp(next);
    const finish = () => this.#gaveBack(nodes, others);
    return { ready: waits.length > 0 ? Promise.all(waits).then(() => {}) : undefined, finish };
  }

  /** The kernel has forgotten `nodes`. Returns what the server is told at once, of `unasked`: what it asked for it knows. */
  #gaveBack(nodes: readonly Node[], unasked: readonly Node[]): readonly Buffer[] {
    this.#context.leases.gaveBack(nodes);
    this.#context.kernel.tookBack(nodes);
    return unasked.filter(isUnused).map(({ inode }) => inode);
  }

  /** Before the server asks for them, which nobody waits for: one group after the other. */
  async #giveUp(groups: readonly (readonly Node[])[]): Promise<void> {
    const { leases, kernel, session, unmade } = this.#context;
    this.#givesUp = true;
    for (const group of groups) {
      const nodes = leases.giveUp(group);
      await Promise.all([kernel.takeBack(nodes), ...nodes.map((node) => unmade.inside(node))]);
      const unused = this.#gaveBack(nodes, nodes);
      if (unused.length > 0) session.gaveBack(unused);
    }
    this.#givesUp = false;
  }

  /** The server took everything back: what was gathered is refused, and whoever wrote it is told. */
  #revoked(): Recall {
    this.#files.stopGathering(true);
    void this.#loseShared();
    return NOTHING_ELSE;
  }

  /** Resolves when the kernel answers nothing by itself. */
  #loseShared(): Promise<void> {
    const { leases, kernel, nodes, blocks, unmade } = this.#context;
    void unmade.settled(undefined);
    leases.clear();
    blocks.clearAll();
    const given = [...nodes.all].filter((node) => node.given !== undefined);
    for (const node of nodes.all) dropAhead(node);
    return kernel.takeBackAll(given);
  }

  // --- attributes

  getattr(caller: Caller, id: NodeId, handle?: number): Eventually<AttributesReply> {
    const node = this.#context.nodes.get(id);
    if (node.unmade?.takeOpening(caller.pid)) {
      const expected = node.gatherer?.expected?.now(false);
      if (expected) return this.#context.expectedReply(expected);
    }
    const made = node.unmade?.made() ?? this.#context.unmade.inside(node);
    if (made) return made.then(() => this.getattr(caller, id, handle));
    const known = this.#context.leases.attributes(node);
    const wait = this.#context.written(node) ?? this.#context.kernel.quiet(node);
    if (known && !wait) return this.#context.attributesReply(node, known);
    return this.#getAttributes(caller, node, handle, wait);
  }

  async #getAttributes(
    caller: Caller,
    node: Node,
    handle: number | undefined,
    wait: Promise<void> | undefined,
  ): Promise<AttributesReply> {
    await wait;
    const { leases } = this.#context;
    const asOf = leases.clock;
    const inode = this.#context.inodeOf(node);
    const ask = (server: number) => this.#context.call('getattr', caller, { inode, handle: server });
    const isOpen = handle !== undefined && !node.unopened?.has(this.#context.handles.get(handle));
    const { attributes, leased } = isOpen
      ? await this.#context.withOpen(handle, (open) => ask(open.server))
      : await ask(0);
    leases.learnAttributes(node, attributes, leased, asOf);
    return this.#context.attributesReply(node, attributes);
  }

  async setattr(caller: Caller, id: NodeId, changes: AttributeChanges, handle?: number): Promise<AttributesReply> {
    const node = this.#context.nodes.get(id);
    node.unmade?.opened();
    const expected = gatherAttributes(this.#context.leases, caller, node, changes);
    if (expected) return this.#context.expectedReply(expected);
    await this.#context.written(node);
    const ask = (server: number) =>
      this.#context.call('setattr', caller, {
        inode: this.#context.inodeOf(node),
        handle: server,
        mode: changes.mode,
        uid: changes.uid,
        gid: changes.gid,
        size: changes.size,
        atime: changes.atime,
        mtime: changes.mtime,
        killSuidgid: changes.killSuidgid ?? false,
      });
    const changesRights = changes.mode !== undefined || changes.uid !== undefined || changes.gid !== undefined;
    const work = async () => {
      if (changesRights) await this.#names.openForGood(node);
      return handle === undefined ? ask(0) : this.#context.withOpen(handle, (open) => ask(open.server));
    };
    const { attributes } = await this.#context.changing(node, work, (reply) => reply);
    if (changes.size !== undefined) {
      if (handle !== undefined) this.#context.unsynced.wrote(this.#context.handles.get(handle));
      this.#files.truncated(node, changes.size);
    }
    return this.#context.attributesReply(node, attributes);
  }

  async statfs(caller: Caller, node: NodeId): Promise<FilesystemStatistics> {
    await this.#context.written(this.#context.nodes.get(node));
    return (await this.#context.call('statfs', caller, { inode: this.#context.inode(node) })).statistics;
  }

  async access(caller: Caller, id: NodeId, mask: number): Promise<void> {
    const node = this.#context.nodes.get(id);
    await this.#context.written(node);
    await this.#context.call('access', caller, { inode: this.#context.inodeOf(node), mask });
  }

  readlink(caller: Caller, id: NodeId): Eventually<Uint8Array> {
    const node = this.#context.nodes.get(id);
    return this.#context.leases.target(node) ?? this.#readlink(caller, node);
  }

  async #readlink(caller: Caller, node: Node): Promise<Uint8Array> {
    const { leases } = this.#context;
    const asOf = leases.clock;
    const { target } = await this.#context.call('readlink', caller, { inode: this.#context.inodeOf(node) });
    leases.learnTarget(node, Buffer.from(target), asOf);
    return target;
  }

  /** What the kernel and `ls -l` ask of each file: whether there is an ACL, a label, a capability. The same for everybody. */
  getxattr(caller: Caller, id: NodeId, name: Uint8Array): Eventually<Uint8Array> {
    const node = this.#context.nodes.get(id);
    const key = keyOfName(name);
    // Nobody but this client could have given it one.
    if (node.unmade && key === CAPABILITY) throw new FsError(errno.ENODATA, 'getxattr');
    if (!key.startsWith('system.') && !key.startsWith('security.')) return this.#getXattr(caller, node, name);
    const known = this.#context.leases.xattr(node, key);
    if (typeof known === 'number') throw new FsError(known, 'getxattr');
    return known ?? this.#getSystemXattr(caller, node, name, key);
  }

  async #getXattr(caller: Caller, node: Node, name: Uint8Array): Promise<Uint8Array> {
    if (node.unmade) await node.unmade.made();
    return (await this.#context.call('getxattr', caller, { inode: this.#context.inodeOf(node), name })).value;
  }

  async #getSystemXattr(caller: Caller, node: Node, name: Uint8Array, key: string): Promise<Uint8Array> {
    const { leases } = this.#context;
    // The mode that was gathered is in its access list too.
    await this.#context.written(node);
    const asOf = leases.clock;
    try {
      const value = await this.#getXattr(caller, node, name);
      leases.learnXattr(node, key, Buffer.from(value), asOf);
      return value;
    } catch (error) {
      const isAbsent = error instanceof FsError && (error.code === errno.ENODATA || error.code === errno.EOPNOTSUPP);
      if (isAbsent) leases.learnXattr(node, key, error.code, asOf);
      throw error;
    }
  }

  async listxattr(caller: Caller, id: NodeId): Promise<Uint8Array> {
    const node = this.#context.nodes.get(id);
    if (this.#context.leases.hasNoXattrs(node)) return NO_NAMES;
    if (node.unmade) await node.unmade.made();
    return (await this.#context.call('listxattr', caller, { inode: this.#context.inodeOf(node) })).names;
  }

  async setxattr(
    caller: Caller,
    id: NodeId,
    name: Uint8Array,
    value: Uint8Array,
    flags: number,
    killSgid: boolean,
  ): Promise<void> {
    const node = this.#context.nodes.get(id);
    await this.#context.written(node);
    const request = { inode: this.#context.inodeOf(node), name, value, flags, killSgid };
    this.#context.leases.mayHaveCapability(node);
    // A default access list says what new files are to be.
    if (this.#context.leases.alone.has(node)) this.#context.sharing.shareAll();
    await this.#context.changing(node, async () => {
      await this.#names.openForGood(node); // an access list may take the right to open it
      return this.#context.call('setxattr', caller, request);
    });
  }

  async removexattr(caller: Caller, id: NodeId, name: Uint8Array): Promise<void> {
    const node = this.#context.nodes.get(id);
    await this.#context.written(node);
    const request = { inode: this.#context.inodeOf(node), name };
    await this.#context.changing(node, () => this.#context.call('removexattr', caller, request));
  }

  /** Resolves when the server has everything that was written through this mount. */
  drain(): Promise<void> {
    return this.#files.drain();
  }

  /** For people: files of which it has not. */
  get unwritten(): string[] {
    return this.#files.unwritten;
  }

  async syncfs(caller: Caller): Promise<void> {
    await this.#files.drain();
    await this.#context.call('syncfs', caller, {});
  }

  // --- names

  forget(id: NodeId, count: number): void {
    this.#context.forget(id, count);
  }

  lookup(caller: Caller, parent: NodeId, name: Uint8Array) {
    return this.#names.lookup(caller, parent, name);
  }

  mknod(caller: Caller, parent: NodeId, name: Uint8Array, mode: number, rdev: number, umask: number) {
    return this.#names.mknod(caller, parent, name, mode, rdev, umask);
  }

  mkdir(caller: Caller, parent: NodeId, name: Uint8Array, mode: number, umask: number) {
    return this.#names.mkdir(caller, parent, name, mode, umask);
  }

  symlink(caller: Caller, parent: NodeId, name: Uint8Array, target: Uint8Array) {
    return this.#names.symlink(caller, parent, name, target);
  }

  link(caller: Caller, node: NodeId, parent: NodeId, name: Uint8Array) {
    return this.#names.link(caller, node, parent, name);
  }

  unlink(caller: Caller, parent: NodeId, name: Uint8Array) {
    return this.#names.unlink(caller, parent, name);
  }

  rmdir(caller: Caller, parent: NodeId, name: Uint8Array) {
    return this.#names.rmdir(caller, parent, name);
  }

  rename(
    caller: Caller,
    parent: NodeId,
    name: Uint8Array,
    newParent: NodeId,
    newName: Uint8Array,
    flags: number,
  ): Promise<void> {
    return this.#names.rename(caller, parent, name, newParent, newName, flags);
  }

  // --- directories

  opendir(caller: Caller, node: NodeId) {
    return this.#directories.opendir(caller, node);
  }

  readdir(caller: Caller, handle: number, cookie: U64, sizeBytes: number, plus: boolean) {
    return this.#directories.readdir(caller, handle, cookie, sizeBytes, plus);
  }

  releasedir(handle: number): void {
    this.#files.release(handle);
  }

  fsyncdir(caller: Caller, handle: number, dataOnly: boolean) {
    return this.#files.fsync(caller, handle, dataOnly);
  }

  // --- files

  open(caller: Caller, node: NodeId, flags: number, killSuidgid: boolean) {
    return this.#files.open(caller, node, flags, killSuidgid);
  }

  create(caller: Caller, parent: NodeId, name: Uint8Array, mode: number, umask: number, flags: number) {
    return this.#files.create(caller, parent, name, mode, umask, flags);
  }

  tmpfile(caller: Caller, parent: NodeId, mode: number, umask: number, flags: number) {
    return this.#files.tmpfile(caller, parent, mode, umask, flags);
  }

  release(handle: number): void {
    this.#files.release(handle);
  }

  read(caller: Caller, handle: number, offset: number, size: number, forPages = false) {
    return this.#files.read(caller, handle, offset, size, forPages);
  }

  write(
    caller: Caller,
    handle: number,
    offset: number,
    data: Uint8Array,
    flags: number,
    killSuidgid: boolean,
    isWriteback = false,
  ): Promise<number> {
    return this.#files.write(caller, handle, offset, data, flags, killSuidgid, isWriteback);
  }

  flush(_caller: Caller, handle: number, owner: U64) {
    return this.#files.flush(handle, owner);
  }

  findLock(caller: Caller, handle: number, lock: Lock) {
    return this.#locks.find(caller, handle, lock);
  }

  lock(caller: Caller, handle: number, lock: Lock, waits: boolean) {
    return this.#locks.lock(caller, handle, lock, waits);
  }

  unlock(_caller: Caller, handle: number, owner: LockOwner, range: LockRange) {
    return this.#locks.unlock(handle, owner, range);
  }

  fsync(caller: Caller, handle: number, dataOnly: boolean) {
    return this.#files.fsync(caller, handle, dataOnly);
  }

  fallocate(caller: Caller, handle: number, mode: number, offset: number, length: number) {
    return this.#files.fallocate(caller, handle, mode, offset, length);
  }

  lseek(caller: Caller, handle: number, offset: number, whence: number) {
    return this.#files.lseek(caller, handle, offset, whence);
  }

  copyFileRange(
    caller: Caller,
    handleIn: number,
    offsetIn: number,
    handleOut: number,
    offsetOut: number,
    length: number,
  ): Promise<number> {
    return this.#files.copyFileRange(caller, handleIn, offsetIn, handleOut, offsetOut, length);
  }
}

/** A lease that was granted meanwhile must not be given back: who opens the file to write may gather under it, or is about to be told so. */
function isUnused({ gatherer, opening }: Node): boolean {
  return gatherer === undefined && opening === 0;
}
