/**
 * A disk, and the store of a server process on it. The disk outlives the process: what it was given stays when the process
 * ends; when the machine ends, each page that was not synchronized is the old or the new one, by chance. Names are durable
 * at once, as on a journal that is written with each. Transfers of data take their time, a page after the other.
 */
import type { DescriptorCalls } from '../../server/store/descriptor-calls.ts';
import type { Identity } from '../../server/store/identity.ts';
import { Inode, VersionCounter } from '../../server/store/inode.ts';
import type { FoundInode } from '../../server/store/inode-table.ts';
import type { CreatedFile, MetadataChanges, Store } from '../../server/store/store.ts';
import type { Timespec } from '../../shared/attributes.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { PAGE_SIZE } from '../../shared/limits.ts';
import { O } from '../../shared/linux/constants.ts';
import type { LocalAttributes } from '../../shared/linux/libc.ts';
import type { Random } from './random.ts';

/** When whatever was written was written. */
export const WRITTEN_SEC = 1;

export interface DiskFile {
  readonly ino: number;
  readonly names: Map<string, DiskFile> | undefined;
  readonly bornMs: number;
  nlink: number;
  mode: number;
  /** The time of modification that was set after the last write. */
  modified: Timespec | undefined;
  data: Buffer;
  /** The data as they were synchronized last. */
  durable: Buffer;
  changes: number;
  /** How many changes those have in them. */
  durableChanges: number;
}

const keyOf = (name: Uint8Array) => Buffer.from(name).toString('latin1');
const handleOf = (ino: number) => Buffer.from(`inode-${ino}`);

export class SimulatedDisk {
  readonly files = new Map<number, DiskFile>();
  readonly random: Random;
  readonly root: DiskFile;
  /** Calls on data take so much longer. */
  slowMs = 0;
  isFull = false;
  /** Some reads need not wait for it: the page cache has what they ask for. */
  hasPageCache = false;
  #lastIno = 0;
  /** Of each name that a directory ever had, in its listing. */
  readonly #places = new Map<string, number>();

  constructor(random: Random) {
    this.random = random;
    this.root = this.add(true);
  }

  placeOf(name: string): number {
    const place = this.#places.get(name) ?? this.#places.size + 1;
    this.#places.set(name, place);
    return place;
  }

  add(isDirectory: boolean): DiskFile {
    const ino = ++this.#lastIno;
    const names = isDirectory ? new Map<string, DiskFile>() : undefined;
    const file = {
      ino,
      names,
      bornMs: Date.now(),
      nlink: 1,
      mode: isDirectory ? 0o040755 : 0o100644,
      modified: undefined,
      data: Buffer.alloc(0),
      durable: Buffer.alloc(0),
      changes: 0,
      durableChanges: 0,
    };
    this.files.set(ino, file);
    return file;
  }

  /** Returns the files that had something to lose. */
  crashMachine(): DiskFile[] {
    const unsynchronized = [...this.files.values()].filter(({ data, durable }) => !data.equals(durable));
    for (const file of unsynchronized) {
      const { data, durable } = file;
      const after = Buffer.from(this.random.chance(0.5) ? data : durable);
      for (let at = 0; at < after.length; at += PAGE_SIZE) {
        const from = this.random.chance(0.5) ? data : durable;
        if (at < from.length) from.copy(after, at, at, at + PAGE_SIZE);
      }
      file.data = after;
      file.durable = Buffer.from(after);
      file.durableChanges = file.changes;
    }
    return unsynchronized;
  }

  delay(): Promise<void> {
    return new Promise((resolve) => setTimeout(resolve, 1 + this.random.below(2) + this.slowMs));
  }
}

/** What a process has of the disk: after `crash` none of its calls goes on, and none does anything. */
export class SimulatedStore {
  readonly #disk: SimulatedDisk;
  readonly #inodes = new Map<number, Inode>();
  readonly #versions = new VersionCounter();
  readonly #descriptors = new Map<number, { readonly file: DiskFile; readonly appends: boolean }>();
  #lastDescriptor = 0;
  #hasCrashed = false;

  constructor(disk: SimulatedDisk) {
    this.#disk = disk;
  }

  /** What the simulated processes do not use (attributes other than the size, links, other kinds of files) is missing. */
  get asStore(): Store {
    return this as unknown as Store;
  }

  get inodes(): Iterable<Inode> {
    return this.#inodes.values();
  }

  crash(): void {
    this.#hasCrashed = true;
  }

  readonly descriptors: DescriptorCalls = {
    stat: (fd) => this.#attributes(this.#open(fd).file),
    read: (fd, buffer, offset) => {
      const { file } = this.#open(fd);
      if (!this.#disk.hasPageCache || this.#disk.random.chance(0.3)) return this.#readByPages(file, buffer, offset);
      return file.data.copy(buffer, 0, Math.min(offset, file.data.length), offset + buffer.length);
    },
    write: async (fd, data, offset) => {
      const { file, appends } = this.#open(fd);
      await this.#turn();
      for (let done = 0; done < data.length; done += PAGE_SIZE) {
        if (this.#disk.isFull && done === 0) throw new FsError(errno.ENOSPC, 'write');
        const at = offset === null || appends ? file.data.length : offset + done;
        const page = data.subarray(done, done + PAGE_SIZE);
        if (at + page.length > file.data.length) {
          file.data = Buffer.concat([file.data, Buffer.alloc(at + page.length - file.data.length)]);
        }
        file.data.set(page, at);
        file.changes++;
        file.modified = undefined;
        await this.#turn();
      }
      return data.length;
    },
    synchronize: async (fd) => {
      const { file } = this.#open(fd);
      const { changes } = file;
      const durable = Buffer.from(file.data);
      await this.#turn();
      // Of two at once the later one may be done first.
      if (changes < file.durableChanges) return;
      file.durable = durable;
      file.durableChanges = changes;
    },
    truncate: async (fd, size) => {
      const { file } = this.#open(fd);
      await this.#turn();
      file.data = Buffer.concat([file.data.subarray(0, size), Buffer.alloc(Math.max(0, size - file.data.length))]);
      file.changes++;
    },
    startWriteback: () => Promise.resolve(),
    openToAppend: (fd) => this.#descriptor(this.#open(fd).file, true),
    holdOffLocalOpens: () => true,
    holdOffLocalWriters: () => ({ [Symbol.dispose]: () => {} }),
    // A place in this order stays when names come and go.
    entries: (fd, cookie) => {
      const listed = [...(this.#open(fd).file.names ?? [])].map(([name, { ino }]) => ({
        name: Buffer.from(name, 'latin1'),
        ino,
        type: 8,
        cookie: this.#disk.placeOf(name),
      }));
      const entries = listed.filter((one) => one.cookie > cookie).sort((one, other) => one.cookie - other.cookie);
      return { entries, end: true };
    },
    close: (fd) => {
      this.#descriptors.delete(fd);
    },
  };

  get root(): Inode {
    return this.#inode(this.#disk.root);
  }

  resolve(handle: Uint8Array): Inode {
    const file = this.#disk.files.get(Number(keyOf(handle).slice('inode-'.length)));
    if (file === undefined || (file.nlink === 0 && !this.#inodes.get(file.ino)?.pins)) {
      throw new FsError(errno.ESTALE, 'handle');
    }
    return this.#inode(file);
  }

  known(handle: Uint8Array): Inode | undefined {
    return this.#inodes.get(Number(keyOf(handle).slice('inode-'.length)));
  }

  pin(inode: Inode): void {
    inode.pins++;
  }

  unpin(inode: Inode): void {
    inode.pins--;
  }

  /** A file of this disk needs no descriptor. */
  nameRemoved(): void {}
  closeUnused(): void {}
  withKey(): undefined {}
  letGo(): void {}
  closeRemoved(): void {}
  descriptorOf(): number {
    return -1;
  }

  access(): void {}
  killSuidgid(): void {}
  close(): void {}

  find(parent: Inode, name: Uint8Array): Inode | null {
    const file = this.#names(parent).get(keyOf(name));
    return file ? this.#inode(file) : null;
  }

  lookup(_as: Identity, parent: Inode, name: Uint8Array): FoundInode {
    const file = this.#names(parent).get(keyOf(name));
    if (file === undefined) throw new FsError(errno.ENOENT, 'lookup');
    return this.#found(file);
  }

  attributes(inode: Inode): LocalAttributes {
    return this.#attributes(this.#file(inode));
  }

  /** Durable at once. */
  change(_as: Identity, inode: Inode, { mode, mtime }: MetadataChanges): void {
    const file = this.#file(inode);
    file.changes++;
    if (mode !== undefined) file.mode = (file.mode & ~0o7777) | mode;
    if (mtime !== undefined && mtime !== 'now') file.modified = mtime;
  }

  mknod(_as: Identity, parent: Inode, name: Uint8Array, mode: number): FoundInode {
    const names = this.#names(parent);
    if (names.has(keyOf(name))) throw new FsError(errno.EEXIST, 'mknod');
    const file = this.#disk.add(false);
    file.mode = 0o100000 | (mode & 0o7777);
    names.set(keyOf(name), file);
    this.#file(parent).changes++;
    return this.#found(file);
  }

  create(as: Identity, parent: Inode, name: Uint8Array, mode: number): CreatedFile | undefined {
    if (this.#names(parent).has(keyOf(name))) return undefined;
    const found = this.mknod(as, parent, name, mode);
    return { ...found, fd: this.#descriptor(this.#file(found.inode), false) };
  }

  unlink(_as: Identity, parent: Inode, name: Uint8Array): void {
    const file = this.#names(parent).get(keyOf(name));
    if (file === undefined) throw new FsError(errno.ENOENT, 'unlink');
    this.#names(parent).delete(keyOf(name));
    this.#file(parent).changes++;
    this.#unnamed(file);
  }

  rename(_as: Identity, parent: Inode, name: Uint8Array, newParent: Inode, newName: Uint8Array): void {
    const file = this.#names(parent).get(keyOf(name));
    if (file === undefined) throw new FsError(errno.ENOENT, 'rename');
    const replaced = this.#names(newParent).get(keyOf(newName));
    if (replaced === file) return;
    this.#names(newParent).set(keyOf(newName), file);
    this.#names(parent).delete(keyOf(name));
    this.#file(parent).changes++;
    this.#file(newParent).changes++;
    file.changes++;
    if (replaced) this.#unnamed(replaced);
  }

  open(_as: Identity, inode: Inode, flags: number): number {
    const file = this.#file(inode);
    if (flags & O.TRUNC) file.data = Buffer.alloc(0);
    return this.#descriptor(file, false);
  }

  openDirectory(_as: Identity, inode: Inode): number {
    return this.#descriptor(this.#file(inode), false);
  }

  hasXattrs(): boolean {
    return false;
  }

  sync(): Promise<void> {
    for (const file of this.#disk.files.values()) file.durable = Buffer.from(file.data);
    return Promise.resolve();
  }

  #unnamed(file: DiskFile): void {
    file.nlink = 0;
    file.changes++;
    this.#inode(file).isRemoved = true;
  }

  async #readByPages(file: DiskFile, buffer: Buffer, offset: number): Promise<number> {
    let done = 0;
    while (done < buffer.length && offset + done < file.data.length) {
      const at = offset + done;
      const length = Math.min(PAGE_SIZE, buffer.length - done, file.data.length - at);
      file.data.copy(buffer, done, at, at + length);
      done += length;
      await this.#turn();
    }
    return done;
  }

  async #turn(): Promise<void> {
    await this.#disk.delay();
    if (this.#hasCrashed) await new Promise(() => {});
  }

  #descriptor(file: DiskFile, appends: boolean): number {
    this.#descriptors.set(++this.#lastDescriptor, { file, appends });
    return this.#lastDescriptor;
  }

  /** Timers of a process that is gone still fire here: what they set off must not reach the disk. */
  #checkAlive(): void {
    if (this.#hasCrashed) throw new FsError(errno.ESHUTDOWN, 'store of a process that ended');
  }

  #open(fd: number): { readonly file: DiskFile; readonly appends: boolean } {
    this.#checkAlive();
    const open = this.#descriptors.get(fd);
    if (open === undefined) throw new FsError(errno.EBADF, 'descriptor');
    return open;
  }

  #inode(file: DiskFile): Inode {
    let inode = this.#inodes.get(file.ino);
    if (inode === undefined) {
      const handle = handleOf(file.ino);
      inode = new Inode(handle, keyOf(handle), 1, file.ino, this.#versions);
      this.#inodes.set(file.ino, inode);
    }
    return inode;
  }

  #file(inode: Inode): DiskFile {
    this.#checkAlive();
    return this.#disk.files.get(Number(inode.ino)) as DiskFile;
  }

  #names(inode: Inode): Map<string, DiskFile> {
    // What it still does, a timer let it: that is not done any more.
    if (this.#hasCrashed) throw new FsError(errno.EIO, 'the process has ended');
    const { names } = this.#file(inode);
    if (names === undefined) throw new FsError(errno.ENOTDIR, 'name');
    return names;
  }

  #found(file: DiskFile): FoundInode {
    return { inode: this.#inode(file), attributes: this.#attributes(file) };
  }

  #attributes({ ino, bornMs, nlink, mode, modified, data, changes }: DiskFile): LocalAttributes {
    const time = { sec: WRITTEN_SEC, nsec: 0 };
    const changed = { sec: WRITTEN_SEC, nsec: changes };
    const btime = { sec: Math.floor(bornMs / 1000), nsec: Math.round((bornMs % 1000) * 1e6) };
    const times = { atime: time, mtime: modified ?? changed, ctime: changed, btime };
    const kind = { mode, nlink, uid: 0, gid: 0, rdev: 0, device: 1 };
    return { ino, ...kind, size: data.length, blocks: Math.ceil(data.length / 512), blksize: PAGE_SIZE, ...times };
  }
}
