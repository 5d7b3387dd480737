/**
 * MemoryFilesystem: a small Filesystem in memory, to drive the kernel driver without a server. One owner: the test. Keeps
 * lookup counts and open handles exactly, so that a test can see leaks. An operation in `hanging` waits until `resume`
 * or, when interruptible, until its caller gives up.
 */

import type {
  AttributeChanges,
  AttributesReply,
  Caller,
  DirectoryEntry,
  Entry,
  Eventually,
  Filesystem,
  Lock,
  NodeId,
  OpenedFile,
} from '../client-fuse/vfs/filesystem.ts';
import { type Attributes, type FilesystemStatistics, mode as S, type U64 } from '../shared/attributes.ts';
import { errno, FsError } from '../shared/errno.ts';
import { DT, O, RENAME, SEEK } from '../shared/linux/constants.ts';

interface Inode {
  readonly node: NodeId;
  attributes: Attributes;
  /** Regular files and symbolic links. */
  data: Buffer;
  /** Directories: names as latin1, so that any bytes are kept. */
  readonly names: Map<string, Inode>;
  readonly xattrs: Map<string, Buffer>;
  lookups: number;
}

interface Listing {
  readonly directory: Inode;
  entries: readonly (readonly [string, Inode])[];
}

export interface MemoryOptions {
  readonly directIo?: boolean;
  readonly attributesMs?: number;
  readonly entryMs?: number;
}

const key = (name: Uint8Array) => Buffer.from(name).toString('latin1');

export class MemoryFilesystem implements Filesystem {
  readonly root: Inode;
  readonly writeSizes: number[] = [];
  readonly readSizes: number[] = [];
  readonly locks: Lock[] = [];
  /** Names of operations that wait, and whether their wait may be interrupted. */
  readonly hanging = new Map<string, { interruptible: boolean }>();
  /** Operations that hang at this moment. */
  waiting = 0;
  lastGroups: readonly number[] = [];
  readonly #options: Required<MemoryOptions>;
  readonly #nodes = new Map<NodeId, Inode>();
  readonly #files = new Map<number, Inode>();
  readonly #listings = new Map<number, Listing>();
  #resumes: (() => void)[] = [];
  #nextNode = 1;
  #nextHandle = 1;

  constructor(options: MemoryOptions = {}) {
    this.#options = { directIo: true, attributesMs: 0, entryMs: 0, ...options };
    this.root = this.#make(S.S_IFDIR | 0o755, process.geteuid?.() ?? 0, process.getegid?.() ?? 0);
  }

  /** Lookup counts of all inodes but the root, and open handles: zero when nothing leaks and the kernel dropped all. */
  get held(): { lookups: number; inodes: number; handles: number } {
    let lookups = 0;
    for (const inode of this.#nodes.values()) if (inode !== this.root) lookups += inode.lookups;
    const inodes = [...this.#nodes.values()].filter((inode) => inode.lookups > 0).length;
    return { lookups, inodes, handles: this.#files.size + this.#listings.size };
  }

  resume(): void {
    this.hanging.clear();
    for (const resume of this.#resumes.splice(0)) resume();
  }

  #make(mode: number, uid: number, gid: number): Inode {
    const node = this.#nextNode++;
    const now = { sec: Math.floor(Date.now() / 1000), nsec: 0 };
    const times = { atime: now, mtime: now, ctime: now, btime: now };
    const size = { size: 0, blocks: 0, blksize: 4096, nlink: (mode & S.S_IFMT) === S.S_IFDIR ? 2 : 1, rdev: 0 };
    const attributes = { ino: node, mode, uid, gid, ...size, ...times };
    const inode = { node, attributes, data: Buffer.alloc(0), names: new Map(), xattrs: new Map(), lookups: 0 };
    this.#nodes.set(node, inode);
    return inode;
  }

  /** Now, or after the hang is over; an interruptible wait ends with EINTR when its caller gives up. */
  #answer<T>(operation: string, caller: Caller, work: () => T): Eventually<T> {
    const hang = this.hanging.get(operation);
    if (!hang) return work();
    this.waiting++;
    return new Promise<T>((resolve, reject) => {
      const end = (then: () => void) => () => {
        this.waiting--;
        then();
      };
      this.#resumes.push(end(() => resolve(Promise.resolve().then(work))));
      if (!hang.interruptible) return;
      caller.signal.addEventListener(
        'abort',
        end(() => reject(new FsError(errno.EINTR, operation))),
      );
    });
  }

  #inode(node: NodeId): Inode {
    const inode = this.#nodes.get(node);
    if (!inode) throw new FsError(errno.ESTALE, 'memory');
    return inode;
  }

  #file(handle: number): Inode {
    const inode = this.#files.get(handle);
    if (!inode) throw new FsError(errno.EBADF, 'memory');
    return inode;
  }

  #child(parent: NodeId, name: Uint8Array): Inode {
    const child = this.#inode(parent).names.get(key(name));
    if (!child) throw new FsError(errno.ENOENT, 'memory');
    return child;
  }

  #entry(inode: Inode): Entry {
    inode.lookups++;
    const { entryMs, attributesMs } = this.#options;
    return { node: inode.node, attributes: inode.attributes, entryMs, attributesMs };
  }

  #add(parent: NodeId, name: Uint8Array, inode: Inode): Inode {
    const directory = this.#inode(parent);
    if (directory.names.has(key(name))) throw new FsError(errno.EEXIST, 'memory');
    directory.names.set(key(name), inode);
    return inode;
  }

  #resize(inode: Inode, size: number): void {
    const data = Buffer.alloc(size);
    inode.data.copy(data);
    inode.data = data;
    this.#changeSize(inode);
  }

  #changeSize(inode: Inode): void {
    const size = inode.data.length;
    inode.attributes = { ...inode.attributes, size, blocks: Math.ceil(size / 512) };
  }

  #open(inode: Inode): OpenedFile {
    const handle = this.#nextHandle++;
    this.#files.set(handle, inode);
    return { handle, directIo: this.#options.directIo, keepCache: false };
  }

  lookup(caller: Caller, parent: NodeId, name: Uint8Array): Eventually<Entry> {
    return this.#answer('lookup', caller, () => this.#entry(this.#child(parent, name)));
  }

  forget(node: NodeId, count: number): void {
    const inode = this.#nodes.get(node);
    if (!inode || inode.lookups < count) throw new Error(`forget of ${count} for node ${node}: ${inode?.lookups} held`);
    inode.lookups -= count;
  }

  getattr(caller: Caller, node: NodeId): Eventually<AttributesReply> {
    return this.#answer('getattr', caller, () => {
      const { attributes } = this.#inode(node);
      return { attributes, attributesMs: this.#options.attributesMs };
    });
  }

  setattr(caller: Caller, node: NodeId, changes: AttributeChanges): Eventually<AttributesReply> {
    return this.#answer('setattr', caller, () => {
      const inode = this.#inode(node);
      const now = { sec: Math.floor(Date.now() / 1000), nsec: 0 };
      const { mode, uid, gid, size, atime, mtime } = changes;
      const old = inode.attributes;
      inode.attributes = {
        ...old,
        mode: mode === undefined ? old.mode : (old.mode & S.S_IFMT) | mode,
        uid: uid ?? old.uid,
        gid: gid ?? old.gid,
        atime: atime === 'now' ? now : (atime ?? old.atime),
        mtime: mtime === 'now' ? now : (mtime ?? old.mtime),
      };
      if (size !== undefined) this.#resize(inode, size);
      return { attributes: inode.attributes, attributesMs: this.#options.attributesMs };
    });
  }

  readlink(_caller: Caller, node: NodeId): Uint8Array {
    return this.#inode(node).data;
  }

  mknod(caller: Caller, parent: NodeId, name: Uint8Array, mode: number, _rdev: number, umask: number): Entry {
    const permissions = (mode & S.S_IFMT) | (mode & ~umask & 0o7777);
    return this.#entry(this.#add(parent, name, this.#make(permissions, caller.uid, caller.gid)));
  }

  mkdir(caller: Caller, parent: NodeId, name: Uint8Array, mode: number, umask: number): Eventually<Entry> {
    return this.#answer('mkdir', caller, () => this.mknod(caller, parent, name, S.S_IFDIR | mode, 0, umask));
  }

  symlink(caller: Caller, parent: NodeId, name: Uint8Array, target: Uint8Array): Entry {
    const inode = this.#add(parent, name, this.#make(S.S_IFLNK | 0o777, caller.uid, caller.gid));
    inode.data = Buffer.from(target);
    this.#changeSize(inode);
    return this.#entry(inode);
  }

  link(_caller: Caller, node: NodeId, parent: NodeId, name: Uint8Array): Entry {
    return this.#entry(this.#add(parent, name, this.#inode(node)));
  }

  unlink(_caller: Caller, parent: NodeId, name: Uint8Array): void {
    this.#child(parent, name);
    this.#inode(parent).names.delete(key(name));
  }

  rmdir(caller: Caller, parent: NodeId, name: Uint8Array): void {
    if (this.#child(parent, name).names.size > 0) throw new FsError(errno.ENOTEMPTY, 'rmdir');
    this.unlink(caller, parent, name);
  }

  rename(_: Caller, parent: NodeId, name: Uint8Array, newParent: NodeId, newName: Uint8Array, flags: number): void {
    const moved = this.#child(parent, name);
    const target = this.#inode(newParent).names.get(key(newName));
    if (target && flags & RENAME.NOREPLACE) throw new FsError(errno.EEXIST, 'rename');
    this.#inode(parent).names.delete(key(name));
    this.#inode(newParent).names.set(key(newName), moved);
    if (target && flags & RENAME.EXCHANGE) this.#inode(parent).names.set(key(name), target);
  }

  open(caller: Caller, node: NodeId, flags: number): Eventually<OpenedFile> {
    this.lastGroups = caller.groups;
    return this.#answer('open', caller, () => {
      const inode = this.#inode(node);
      if (flags & O.TRUNC) this.#resize(inode, 0);
      return this.#open(inode);
    });
  }

  create(
    caller: Caller,
    parent: NodeId,
    name: Uint8Array,
    mode: number,
    umask: number,
    flags: number,
  ): Eventually<{ entry: Entry; opened: OpenedFile }> {
    return this.#answer('create', caller, () => {
      let inode = this.#inode(parent).names.get(key(name));
      if (inode && flags & O.EXCL) throw new FsError(errno.EEXIST, 'create');
      inode ??= this.#add(parent, name, this.#make(S.S_IFREG | (mode & ~umask), caller.uid, caller.gid));
      if (flags & O.TRUNC) this.#resize(inode, 0);
      return { entry: this.#entry(inode), opened: this.#open(inode) };
    });
  }

  tmpfile(caller: Caller, _parent: NodeId, mode: number, umask: number) {
    const inode = this.#make(S.S_IFREG | (mode & ~umask), caller.uid, caller.gid);
    return { entry: this.#entry(inode), opened: this.#open(inode) };
  }

  read(caller: Caller, handle: number, offset: number, size: number): Eventually<Uint8Array> {
    return this.#answer('read', caller, () => {
      this.readSizes.push(size);
      return this.#file(handle).data.subarray(offset, offset + size);
    });
  }

  write(caller: Caller, handle: number, offset: number, data: Uint8Array): Eventually<number> {
    return this.#answer('write', caller, () => {
      this.writeSizes.push(data.length);
      const inode = this.#file(handle);
      if (offset + data.length > inode.data.length) this.#resize(inode, offset + data.length);
      inode.data.set(data, offset);
      return data.length;
    });
  }

  flush(caller: Caller): Eventually<void> {
    return this.#answer('flush', caller, () => {});
  }

  findLock(): Lock | undefined {
    return this.locks[0];
  }

  /** Granted whatever others hold. */
  lock(caller: Caller, _handle: number, lock: Lock): Eventually<() => void> {
    return this.#answer('lock', caller, () => {
      this.locks.push(lock);
      return () => this.locks.splice(this.locks.indexOf(lock), 1);
    });
  }

  unlock(): void {
    this.locks.length = 0;
  }

  release(handle: number): void {
    this.#file(handle);
    this.#files.delete(handle);
  }

  fsync(caller: Caller): Eventually<void> {
    return this.#answer('fsync', caller, () => {});
  }

  fallocate(_caller: Caller, handle: number, mode: number, offset: number, length: number): void {
    if (mode !== 0) throw new FsError(errno.EOPNOTSUPP, 'fallocate');
    const inode = this.#file(handle);
    if (offset + length > inode.data.length) this.#resize(inode, offset + length);
  }

  lseek(_caller: Caller, handle: number, offset: number, whence: number): number {
    const { length } = this.#file(handle).data;
    if (offset >= length) throw new FsError(errno.ENXIO, 'lseek');
    return whence === SEEK.HOLE ? length : offset;
  }

  copyFileRange(_: Caller, handleIn: number, offsetIn: number, handleOut: number, offsetOut: number, length: number) {
    const data = this.#file(handleIn).data.subarray(offsetIn, offsetIn + length);
    const out = this.#file(handleOut);
    if (offsetOut + data.length > out.data.length) this.#resize(out, offsetOut + data.length);
    out.data.set(data, offsetOut);
    return data.length;
  }

  opendir(caller: Caller, node: NodeId) {
    return this.#answer('opendir', caller, () => {
      const handle = this.#nextHandle++;
      this.#listings.set(handle, { directory: this.#inode(node), entries: [] });
      return { handle, keepCache: false, cacheDirectory: false };
    });
  }

  readdir(caller: Caller, handle: number, cookie: U64, sizeBytes: number, plus: boolean) {
    return this.#answer('readdir', caller, () => {
      const listing = this.#listings.get(handle);
      if (!listing) throw new FsError(errno.EBADF, 'readdir');
      const self = listing.directory;
      if (cookie === 0) listing.entries = [['.', self], ['..', self], ...self.names];
      const from = Number(cookie);
      // More than fits, so that the driver has to give some back.
      const count = Math.ceil(sizeBytes / (plus ? 150 : 32)) + 3;
      return listing.entries.slice(from, from + count).map(([name, inode], index): DirectoryEntry => {
        const isDot = from + index < 2;
        const type = { [S.S_IFDIR]: DT.DIR, [S.S_IFLNK]: DT.LNK }[inode.attributes.mode & S.S_IFMT] ?? DT.REG;
        const found = { name: Buffer.from(name, 'latin1'), ino: inode.attributes.ino, type, cookie: from + index + 1 };
        return plus && !isDot ? { ...found, entry: this.#entry(inode) } : found;
      });
    });
  }

  releasedir(handle: number): void {
    if (!this.#listings.delete(handle)) throw new Error(`releasedir of ${handle}, which is not open`);
  }

  fsyncdir(): void {}
  access(): void {}
  syncfs(): void {}

  statfs(): FilesystemStatistics {
    return { blocks: 1e6, bfree: 5e5, bavail: 5e5, files: 1e6, ffree: 1e6, bsize: 4096, frsize: 4096, namelen: 255 };
  }

  getxattr(_caller: Caller, node: NodeId, name: Uint8Array): Uint8Array {
    const value = this.#inode(node).xattrs.get(key(name));
    if (!value) throw new FsError(errno.ENODATA, 'getxattr');
    return value;
  }

  listxattr(_caller: Caller, node: NodeId): Uint8Array {
    return Buffer.from([...this.#inode(node).xattrs.keys()].map((name) => `${name}\0`).join(''), 'latin1');
  }

  setxattr(_caller: Caller, node: NodeId, name: Uint8Array, value: Uint8Array): void {
    this.#inode(node).xattrs.set(key(name), Buffer.from(value));
  }

  removexattr(caller: Caller, node: NodeId, name: Uint8Array): void {
    this.getxattr(caller, node, name);
    this.#inode(node).xattrs.delete(key(name));
  }
}
