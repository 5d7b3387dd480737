/**
 * The Store of an ordinary directory: each operation is one or two system calls relative to the descriptor of an inode,
 * as the calling user. No path of a client is ever resolved: a name is one component, never followed when it is a
 * symbolic link, and `.` and `..` do not pass the protocol.
 */
import type { FilesystemStatistics, Timespec } from '../../shared/attributes.ts';
import { isDirectory, isRegular, mode as modeBits } from '../../shared/attributes.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { AT, O, RENAME, UTIME } from '../../shared/linux/constants.ts';
import * as libc from '../../shared/linux/libc.ts';
import { linuxDescriptors } from './descriptor-calls.ts';
import { actsAsCallers, type Identity, runAs, runAsCreator } from './identity.ts';
import type { Inode } from './inode.ts';
import type { HandleSigner } from './inode-handle.ts';
import { type FoundInode, InodeTable, openExportDirectory } from './inode-table.ts';
import type { CreatedFile, MetadataChanges, Store } from './store.ts';

const KEEP_ID = 0xffffffff;
const X_OK = 1;
/** What a client may ask of open(2) here. O_APPEND, O_SYNC and O_DIRECT are not the descriptor's business. */
const OPEN_FLAGS = O.ACCMODE | O.TRUNC | O.NOATIME;
/** A name that turned into a fifo or device in between must not block or touch anything. */
const SAFE_FLAGS = O.CLOEXEC | O.NONBLOCK;
const FIND_FLAGS = O.PATH | O.NOFOLLOW | O.CLOEXEC;
/** What no client can be told of, and so none holds a lease on: times and sizes out of range, a weft mount. */
const UNSHOWN = [errno.EOVERFLOW, errno.EREMOTE] as const;
const DOT = Buffer.from('.');
/** Changing them needs CAP_SYS_ADMIN or CAP_SETFCAP. */
const ROOT_XATTRS = ['trusted.', 'security.'];

export class DirectoryStore implements Store {
  readonly descriptors = linuxDescriptors;
  readonly #inodes: InodeTable;

  constructor(directory: string, signer: HandleSigner, maxDescriptors: number) {
    this.#inodes = new InodeTable(openExportDirectory(directory), signer, maxDescriptors);
  }

  get root(): Inode {
    return this.#inodes.root;
  }

  get inodes(): InodeTable {
    return this.#inodes;
  }

  resolve(handle: Uint8Array): Inode {
    return this.#inodes.resolve(handle);
  }

  numbered(ino: bigint): Inode[] {
    return this.#inodes.numbered(ino);
  }

  known(handle: Uint8Array): Inode | undefined {
    return this.#inodes.known(handle);
  }

  pin(inode: Inode): void {
    this.#inodes.pin(inode);
  }

  unpin(inode: Inode): void {
    this.#inodes.unpin(inode);
  }

  nameRemoved(inode: Inode): void {
    this.#inodes.nameRemoved(inode);
  }

  withKey(key: string): Inode | undefined {
    return this.#inodes.withKey(key);
  }

  letGo(inode: Inode): void {
    this.#inodes.letGo(inode);
  }

  closeRemoved(): void {
    this.#inodes.closeRemoved();
  }

  // names

  lookup(as: Identity, parent: Inode, name: Uint8Array): FoundInode {
    const directory = this.#fd(parent);
    const fd = runAs(as, () => libc.openat(directory, name, FIND_FLAGS));
    return this.#inodes.found(fd, { parent, name: Buffer.from(name) });
  }

  find(parent: Inode, name: Uint8Array): Inode | null {
    const fd = libc.tryOpenat(this.#fd(parent), name, FIND_FLAGS);
    if (fd === -errno.ENOENT) return null;
    if (fd < 0) throw new FsError(-fd, 'openat');
    try {
      return this.#inodes.found(fd, { parent, name: Buffer.from(name) }).inode;
    } catch (error) {
      if (error instanceof FsError && UNSHOWN.includes(error.code as never)) return null;
      throw error;
    }
  }

  descriptorOf(inode: Inode): number {
    return this.#fd(inode);
  }

  /** After a creation: the name is there by the server's own doing, whatever the caller may search. */
  #find(parent: Inode, name: Uint8Array): FoundInode {
    const fd = libc.openat(this.#fd(parent), name, FIND_FLAGS);
    return this.#inodes.found(fd, { parent, name: Buffer.from(name) });
  }

  readlink(inode: Inode): Buffer {
    return libc.readlink(this.#fd(inode));
  }

  mknod(as: Identity, parent: Inode, name: Uint8Array, mode: number, rdev: number, umask: number): FoundInode {
    const directory = this.#fd(parent);
    runAsCreator(as, umask, () => libc.mknodat(directory, name, mode, rdev));
    return this.#find(parent, name);
  }

  mkdir(as: Identity, parent: Inode, name: Uint8Array, mode: number, umask: number): FoundInode {
    const directory = this.#fd(parent);
    runAsCreator(as, umask, () => libc.mkdirat(directory, name, mode));
    return this.#find(parent, name);
  }

  symlink(as: Identity, parent: Inode, name: Uint8Array, target: Uint8Array): FoundInode {
    const directory = this.#fd(parent);
    runAs(as, () => libc.symlinkat(target, directory, name));
    return this.#find(parent, name);
  }

  link(as: Identity, inode: Inode, parent: Inode, name: Uint8Array): FoundInode {
    const directory = this.#fd(parent);
    const fd = this.#fd(inode);
    runAs(as, () => libc.linkDescriptor(fd, directory, name));
    return this.#find(parent, name);
  }

  unlink(as: Identity, parent: Inode, name: Uint8Array, victim = this.find(parent, name)): void {
    this.#remove(as, parent, name, 0, victim);
  }

  rmdir(as: Identity, parent: Inode, name: Uint8Array, victim = this.find(parent, name)): void {
    this.#remove(as, parent, name, AT.REMOVEDIR, victim);
  }

  #remove(as: Identity, parent: Inode, name: Uint8Array, flags: number, victim: Inode | null): void {
    const directory = this.#fd(parent);
    runAs(as, () => libc.unlinkat(directory, name, flags)); // if there is none, it says what is wrong
    if (victim) this.#inodes.nameRemoved(victim);
  }

  rename(
    as: Identity,
    parent: Inode,
    name: Uint8Array,
    newParent: Inode,
    newName: Uint8Array,
    flags: number,
    replaced = this.find(newParent, newName),
  ): void {
    const from = this.#fd(parent);
    const to = this.#fd(newParent);
    runAs(as, () => libc.renameat2(from, name, to, newName, flags));
    if (replaced && !(flags & RENAME.EXCHANGE)) this.#inodes.nameRemoved(replaced);
    if (!this.#inodes.usesHints) return;
    this.#find(newParent, newName); // its new name is the way back to it
    if (flags & RENAME.EXCHANGE) this.#find(parent, name);
  }

  // attributes

  attributes(inode: Inode): libc.LocalAttributes {
    return libc.fstat(this.#fd(inode));
  }

  /** In this order: chown clears set-ID bits that chmod may set again, and both set the change time only. */
  change(as: Identity, inode: Inode, changes: MetadataChanges): void {
    const fd = this.#fd(inode);
    runAs(as, () => {
      if (changes.uid !== undefined || changes.gid !== undefined) {
        libc.chown(fd, changes.uid ?? KEEP_ID, changes.gid ?? KEEP_ID);
      }
      if (changes.mode !== undefined) libc.chmod(fd, changes.mode & 0o7777);
      if (changes.atime !== undefined || changes.mtime !== undefined) {
        libc.utimens(fd, utimeOf(changes.atime), utimeOf(changes.mtime));
      }
    });
  }

  killSuidgid(inode: Inode): void {
    const { mode } = this.attributes(inode);
    let kept = mode & ~modeBits.S_ISUID;
    if (mode & modeBits.S_IXGRP) kept &= ~modeBits.S_ISGID;
    if (kept !== mode) libc.chmod(this.#fd(inode), kept & 0o7777);
  }

  access(as: Identity, inode: Inode, mask: number): void {
    const fd = this.#fd(inode);
    runAs(as, () => libc.access(fd, mask & 7));
  }

  hasXattrs(inode: Inode): boolean {
    return libc.hasXattrs(this.#fd(inode));
  }

  getxattr(as: Identity, inode: Inode, name: Uint8Array): Buffer {
    const fd = this.#fd(inode);
    if (isRestricted(as, name, ['trusted.'])) throw new FsError(errno.ENODATA, 'getxattr');
    return runAs(as, () => libc.getxattr(fd, name));
  }

  listxattr(as: Identity, inode: Inode): Buffer {
    const fd = this.#fd(inode);
    const names = runAs(as, () => libc.listxattr(fd));
    if (!names.includes('trusted.') || !isRestricted(as, names, [''])) return names;
    const shown = names
      .toString('latin1')
      .match(/[^\0]+\0/g)
      ?.filter((name) => !name.startsWith('trusted.'));
    return Buffer.from(shown?.join('') ?? '', 'latin1');
  }

  setxattr(as: Identity, inode: Inode, name: Uint8Array, value: Uint8Array, flags: number): void {
    const fd = this.#fd(inode);
    if (isRestricted(as, name, ROOT_XATTRS)) throw new FsError(errno.EPERM, 'setxattr');
    runAs(as, () => libc.setxattr(fd, name, value, flags));
  }

  removexattr(as: Identity, inode: Inode, name: Uint8Array): void {
    const fd = this.#fd(inode);
    if (isRestricted(as, name, ROOT_XATTRS)) throw new FsError(errno.EPERM, 'removexattr');
    runAs(as, () => libc.removexattr(fd, name));
  }

  statistics(inode: Inode): FilesystemStatistics {
    return libc.fstatvfs(this.#fd(inode));
  }

  // open files

  open(as: Identity, inode: Inode, flags: number): number {
    const fd = this.#fd(inode);
    const attributes = libc.fstat(fd);
    // The client's kernel opens fifos, sockets and devices itself; here an open might wait for ever.
    if (!isRegular(attributes)) throw new FsError(isDirectory(attributes) ? errno.EISDIR : errno.ENXIO, 'open');
    if (flags & O.EXEC) {
      // To execute a file needs no right to read it; to send its content does not either.
      runAs(as, () => libc.access(fd, X_OK));
      return libc.reopen(fd, O.RDONLY | SAFE_FLAGS);
    }
    return runAs(as, () => libc.reopen(fd, (flags & OPEN_FLAGS) | SAFE_FLAGS));
  }

  openDirectory(as: Identity, inode: Inode): number {
    const fd = this.#fd(inode);
    return runAs(as, () => libc.reopen(fd, O.RDONLY | O.DIRECTORY | SAFE_FLAGS));
  }

  create(
    as: Identity,
    parent: Inode,
    name: Uint8Array,
    mode: number,
    umask: number,
    flags: number,
  ): CreatedFile | undefined {
    const directory = this.#fd(parent);
    const openFlags = (flags & OPEN_FLAGS & ~O.TRUNC) | O.CREAT | O.EXCL | O.NOFOLLOW | SAFE_FLAGS;
    let fd: number;
    try {
      fd = runAsCreator(as, umask, () => libc.openat(directory, name, openFlags, mode & 0o7777));
    } catch (error) {
      if (error instanceof FsError && error.code === errno.EEXIST && !(flags & O.EXCL)) return undefined;
      throw error;
    }
    return this.#created(fd, { parent, name: Buffer.from(name) });
  }

  tmpfile(as: Identity, parent: Inode, mode: number, umask: number, flags: number): CreatedFile {
    const directory = this.#fd(parent);
    const openFlags = (flags & (OPEN_FLAGS | O.EXCL) & ~O.TRUNC) | O.TMPFILE | SAFE_FLAGS;
    const fd = runAsCreator(as, umask, () => libc.openat(directory, DOT, openFlags, mode & 0o7777));
    return this.#created(fd, undefined);
  }

  #created(fd: number, hint: { parent: Inode; name: Buffer } | undefined): CreatedFile {
    try {
      const { inode, attributes } = this.#inodes.found(libc.reopen(fd, O.PATH | O.CLOEXEC), hint);
      return { inode, attributes, fd };
    } catch (error) {
      libc.close(fd);
      throw error;
    }
  }

  async sync(): Promise<void> {
    const fd = libc.reopen(this.#fd(this.root), O.RDONLY | O.DIRECTORY | O.CLOEXEC);
    try {
      await libc.syncfsAsync(fd);
    } finally {
      libc.close(fd);
    }
  }

  closeUnused(): void {
    this.#inodes.closeUnused();
  }

  close(): void {
    this.#inodes.close();
  }

  #fd(inode: Inode): number {
    return this.#inodes.descriptorOf(inode);
  }
}

/** setfsuid(2) takes only some capabilities away: the others, which these attributes need, are the server's, not the caller's. */
function isRestricted(as: Identity, name: Uint8Array, prefixes: readonly string[]): boolean {
  if (!actsAsCallers || as.uid === 0) return false;
  const text = Buffer.from(name.buffer, name.byteOffset, name.length).toString('latin1');
  return prefixes.some((prefix) => text.startsWith(prefix));
}

function utimeOf(time: Timespec | 'now' | undefined): Timespec {
  if (time === undefined) return { sec: 0, nsec: UTIME.OMIT };
  if (time === 'now') return { sec: 0, nsec: UTIME.NOW };
  return time;
}
