/**
 * Finds inodes by descriptor and by wire handle, and holds their O_PATH descriptors within the limit of open files. One
 * table an export. Two ways to come back to an inode whose descriptor was closed:
 *
 * - kernel handles (name_to_handle_at): exact, over renames and restarts of the server. Needs CAP_DAC_READ_SEARCH.
 * - counters: the name it was last seen under, checked by device and inode number. For servers of ordinary users and
 *   filesystems without handles; after a restart, or when a local program renamed it, the handle is stale (ESTALE).
 */
import { randomBytes } from 'node:crypto';
import { assert } from '../../shared/assert.ts';
import { isDirectory } from '../../shared/attributes.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { limits } from '../../shared/limits.ts';
import { O } from '../../shared/linux/constants.ts';
import { close, fstat, handleOf, type LocalAttributes, openat } from '../../shared/linux/libc.ts';
import { Inode, type NameHint, VersionCounter } from './inode.ts';
import { type HandleContent, type HandleSigner, handleKind, keyOfHandle } from './inode-handle.ts';
import { Mounts, ROOT_FILESYSTEM } from './mounts.ts';

const FORGET_AT_ONCE = 8;
/** What is in them is gone, but each takes an inode and a block of the disk. */
const MOST_REMOVED_DIRECTORIES = 128;
/** Of each a fstat(2). */
const LOOKED_AT_ONCE = 256;
const EMPTY = new Uint8Array(0);

export interface FoundInode {
  readonly inode: Inode;
  readonly attributes: LocalAttributes;
}

export class InodeTable {
  readonly #signer: HandleSigner;
  readonly #maxDescriptors: number;
  /** By identity (`key`), in the order of last use: the first is the one to forget. */
  readonly #byKey = new Map<string, Inode>();
  readonly #byHandle = new Map<string, Inode>();
  /** Inodes with an open descriptor, in the order of last use. */
  readonly #described = new Set<Inode>();
  /** Where `closeRemoved` goes on. */
  #looking = this.#described.values();
  readonly #mounts: Mounts;
  readonly #instance = randomBytes(8);
  readonly #versions = new VersionCounter();
  /** They lost their last name, and may be in use yet. */
  readonly #removed = new Set<Inode>();
  /** Directories that did, in that order: each may be some program's working directory, which nobody says. */
  readonly #removedDirectories = new Set<Inode>();
  #counter = 0n;
  /** Some inodes are found again by name. */
  #usesHints = false;
  readonly root: Inode;

  /** `rootFd` is an O_PATH descriptor of the exported directory, the table's from now on. */
  constructor(rootFd: number, signer: HandleSigner, maxDescriptors: number) {
    this.#signer = signer;
    this.#maxDescriptors = maxDescriptors;
    this.#mounts = new Mounts(rootFd);
    this.root = this.found(rootFd).inode;
    this.root.pins++;
  }

  /** Of the export's own filesystem; there may be others in it. */
  get usesKernelHandles(): boolean {
    return this.#mounts.usesHandles;
  }

  get usesHints(): boolean {
    return this.#usesHints;
  }

  get size(): number {
    return this.#byKey.size;
  }

  get openDescriptors(): number {
    return this.#described.size;
  }

  /** The inode behind an O_PATH descriptor, which is the table's from now on. EREMOTE when it is in a weft mount. */
  found(fd: number, hint?: NameHint): FoundInode {
    try {
      const content = this.#kernelContent(fd); // before its filesystem is asked anything
      const attributes = fstat(fd);
      const key = keyOf(content, attributes);
      let inode = this.#byKey.get(key);
      if (inode && content === undefined && !isStill(inode, attributes)) {
        this.#displace(inode);
        inode = undefined;
      }
      if (inode === undefined) {
        const handle = this.#signer.sign(content ?? this.#counterContent());
        inode = new Inode(handle, key, attributes.device, attributes.ino, this.#versions);
        this.#add(inode);
      }
      if (attributes.nlink > 0) inode.isRemoved = false; // O_TMPFILE, which was given a name
      if (content === undefined) {
        inode.born = birthOf(attributes);
        if (hint) inode.hint = hint;
        this.#usesHints = true;
      }
      this.#adopt(inode, fd);
      return { inode, attributes };
    } catch (error) {
      close(fd);
      throw error;
    }
  }

  withKey(key: string): Inode | undefined {
    return this.#byKey.get(key);
  }

  numbered(ino: bigint): Inode[] {
    return [...this.#byKey.values()].filter((inode) => BigInt(inode.ino) === ino);
  }

  /** The inode that a wire handle names, if it is in memory. */
  known(handle: Uint8Array): Inode | undefined {
    return this.#byHandle.get(keyOfHandle(handle));
  }

  /** The inode that a wire handle names. ESTALE when it is gone, or the handle was not made by this server. */
  resolve(handle: Uint8Array): Inode {
    const known = this.#byHandle.get(keyOfHandle(handle));
    if (known !== undefined) return known;
    const content = this.#signer.open(handle);
    if (content?.kind !== handleKind.KERNEL) throw new FsError(errno.ESTALE, 'file handle');
    const { inode } = this.found(this.#mounts.open(content.filesystem, content.body));
    // Reached by a mount that may be written to and by one that may not, and known by the other one now.
    if (!inode.handle.equals(handle)) throw new FsError(errno.ESTALE, 'file handle');
    return inode;
  }

  /** An O_PATH descriptor of the inode; good until the next await. */
  descriptorOf(inode: Inode): number {
    if (inode.descriptor >= 0) {
      // The order costs more than the call it serves, so it is kept only where some will have to go soon.
      if (this.#described.size > this.#maxDescriptors / 2) {
        this.#described.delete(inode);
        this.#described.add(inode);
      }
      return inode.descriptor;
    }
    const fd = this.#reach(inode);
    this.#adopt(inode, fd);
    return fd;
  }

  pin(inode: Inode): void {
    inode.pins++;
  }

  unpin(inode: Inode): void {
    assert(inode.pins > 0, 'an inode is unpinned as often as it was pinned');
    inode.pins--;
    if (inode.isGone && !this.#removedDirectories.has(inode)) this.#closeDescriptor(inode);
  }

  /**
   * The inode may have lost its last name. Its space is free only when no descriptor is left, so the table does not keep
   * one longer than the last open handle; of a directory, in which somebody may be, until more were removed.
   */
  nameRemoved(inode: Inode): void {
    const attributes = inode.descriptor < 0 ? undefined : fstat(inode.descriptor);
    if (attributes === undefined || attributes.nlink > 0) return;
    inode.isRemoved = true;
    if (!isDirectory(attributes)) return this.#letGoRemoved(inode);
    this.#removedDirectories.add(inode);
    const [oldest] = this.#removedDirectories;
    if (oldest === undefined || this.#removedDirectories.size <= MOST_REMOVED_DIRECTORIES) return;
    this.#removedDirectories.delete(oldest);
    this.#letGoRemoved(oldest);
  }

  #letGoRemoved(inode: Inode): void {
    if (inode.pins === 0) this.#closeDescriptor(inode);
    this.#removed.add(inode);
    this.#forgetRemoved();
  }

  /**
   * Local programs may have removed some of which no event tells: looks at the next few of all, in turn. Not in a filesystem that is mounted
   * inside: it may be one over a network, and make everybody wait.
   */
  closeRemoved(): void {
    for (let looked = 0; looked < LOOKED_AT_ONCE; looked++) {
      const next = this.#looking.next();
      if (next.done) {
        this.#looking = this.#described.values();
        return;
      }
      const inode = next.value;
      if (inode.watch === undefined && inode.device === this.root.device) this.#lookAt(inode);
    }
  }

  #lookAt(inode: Inode): void {
    try {
      this.nameRemoved(inode);
    } catch (error) {
      if (!(error instanceof FsError)) throw error; // whoever asks for it is told
    }
  }

  /** Nobody would be told that it is removed, so it is reached anew when it is asked for. */
  letGo(inode: Inode): void {
    if (inode.pins === 0 && inode.born === undefined) this.#closeDescriptor(inode);
  }

  /** Descriptors keep filesystems mounted. Those of inodes that may not be found again by name stay. */
  closeUnused(): void {
    for (const inode of [...this.#described]) {
      if (inode.pins === 0 && inode.born === undefined) this.#closeDescriptor(inode);
    }
    this.#mounts.closeInner();
  }

  close(): void {
    for (const inode of [...this.#described]) this.#closeDescriptor(inode);
    this.#mounts.close();
    this.#byKey.clear();
    this.#byHandle.clear();
    this.#removed.clear();
    this.#removedDirectories.clear();
  }

  #reach(inode: Inode): number {
    const content = this.#signer.open(inode.handle);
    assert(content, 'the table holds only handles that it signed');
    if (content.kind === handleKind.KERNEL) return this.#mounts.open(content.filesystem, content.body);
    return this.#reachByName(inode);
  }

  /** Directories on the way are opened for this one step, so that no descriptor in use has to make room for them. */
  #reachByName(inode: Inode): number {
    if (inode.hint === undefined) throw new FsError(errno.ESTALE, 'file handle');
    const { parent, name } = inode.hint;
    const isOpen = parent.descriptor >= 0;
    const directory = isOpen ? parent.descriptor : this.#reach(parent);
    let fd: number;
    try {
      fd = openat(directory, name, O.PATH | O.NOFOLLOW | O.CLOEXEC);
    } catch (error) {
      throw new FsError(errno.ESTALE, 'file handle', { cause: error });
    } finally {
      if (!isOpen) close(directory);
    }
    try {
      this.#mounts.checkDevice(fd);
      const attributes = fstat(fd);
      if (attributes.device === inode.device && attributes.ino === inode.ino) return fd;
    } catch (error) {
      close(fd);
      throw error;
    }
    close(fd);
    throw new FsError(errno.ESTALE, 'file handle');
  }

  /** Undefined where there are no kernel handles. */
  #kernelContent(fd: number): HandleContent | undefined {
    const handle = this.usesKernelHandles ? handleOf(fd) : undefined;
    if (handle === undefined) {
      this.#mounts.checkDevice(fd);
      return undefined;
    }
    const filesystem = this.#mounts.filesystemOf(handle.mountId);
    return filesystem === undefined ? undefined : { kind: handleKind.KERNEL, filesystem, body: handle.bytes };
  }

  #counterContent(): HandleContent {
    const body = Buffer.alloc(16);
    this.#instance.copy(body);
    body.writeBigUInt64LE(++this.#counter, 8);
    return { kind: handleKind.COUNTER, filesystem: ROOT_FILESYSTEM, body };
  }

  #add(inode: Inode): void {
    this.#byKey.set(inode.key, inode);
    this.#byHandle.set(keyOfHandle(inode.handle), inode);
    if (this.#byKey.size > limits.maxIdleInodes) this.#forgetIdle();
  }

  /** Forgets the idle ones among the oldest few; what is in use goes to the young end. A few each time keep up with any growth. */
  #forgetIdle(): void {
    let looked = 0;
    for (const [key, inode] of this.#byKey) {
      if (++looked > FORGET_AT_ONCE) return;
      this.#byKey.delete(key);
      if (inode.isIdle) this.#forget(inode);
      else this.#byKey.set(key, inode);
    }
  }

  /** Whoever makes and removes files for ever is not to fill the table with them. The present one is in use yet: it goes later. */
  #forgetRemoved(): void {
    let looked = 0;
    for (const inode of this.#removed) {
      if (++looked > FORGET_AT_ONCE) return;
      this.#removed.delete(inode);
      if (inode.isIdle) this.#forget(inode);
      else this.#removed.add(inode);
    }
  }

  /** Its number is another inode's now. */
  #displace(inode: Inode): void {
    this.#byKey.delete(inode.key);
    inode.key = `${inode.key}:${inode.born}`;
    this.#byKey.set(inode.key, inode);
    if (inode.isIdle) this.#forget(inode);
  }

  #forget(inode: Inode): void {
    this.#byKey.delete(inode.key);
    this.#byHandle.delete(keyOfHandle(inode.handle));
    this.#removed.delete(inode);
    this.#removedDirectories.delete(inode);
    this.#closeDescriptor(inode);
  }

  #adopt(inode: Inode, fd: number): void {
    if (inode.descriptor >= 0) {
      close(fd);
      return;
    }
    inode.descriptor = fd;
    this.#described.add(inode);
    if (this.#described.size <= this.#maxDescriptors) return;
    for (const oldest of this.#described) {
      if (oldest === inode || (oldest === this.root && !this.usesKernelHandles)) continue;
      if (oldest.born !== undefined) oldest.born = birthNow(oldest) ?? oldest.born;
      this.#closeDescriptor(oldest);
      return;
    }
  }

  #closeDescriptor(inode: Inode): void {
    if (inode.descriptor < 0) return;
    close(inode.descriptor);
    inode.descriptor = -1;
    this.#described.delete(inode);
  }
}

/** The kernel's identity of an inode: its handle, or what comes closest. By whichever mount it is reached. */
function keyOf(content: HandleContent | undefined, { device, ino }: LocalAttributes): string {
  return content ? `${device}:${content.body.toString('latin1')}` : `${device}:${ino}`;
}

/**
 * Is the inode that was known by this number the one that has it now? A number is not used again while the inode is open.
 * The time of birth alone does not tell: overlayfs shows another one when a file is copied up.
 */
function isStill(inode: Inode, attributes: LocalAttributes): boolean {
  const born = birthOf(attributes);
  if (inode.born === born) return true;
  return inode.descriptor >= 0 ? birthNow(inode) === born : inode.opens > 0;
}

function birthOf({ btime: { sec, nsec } }: LocalAttributes): string {
  return `${sec}.${nsec}`;
}

/** By its open descriptor; undefined when it is gone, as may be on a network filesystem. */
function birthNow({ descriptor }: Inode): string | undefined {
  try {
    return birthOf(fstat(descriptor));
  } catch (error) {
    if (error instanceof FsError) return undefined;
    throw error;
  }
}

/** Opens a directory that is to be exported, as O_PATH. */
export function openExportDirectory(path: string): number {
  return openat(-100, path === '' ? EMPTY : Buffer.from(path), O.PATH | O.DIRECTORY | O.CLOEXEC);
}
