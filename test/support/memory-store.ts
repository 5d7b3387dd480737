/**
 * A Store in memory for models of the server: names and attributes only. Every change gives its register (a name, or the
 * attributes of an inode) a new value, kept for ever, with who made it: a model can tell how old an answer is.
 */

import type { Identity } from '../../server/store/identity.ts';
import { Inode, VersionCounter } from '../../server/store/inode.ts';
import type { FoundInode } from '../../server/store/inode-table.ts';
import type { MetadataChanges, Store } from '../../server/store/store.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { RENAME } from '../../shared/linux/constants.ts';
import type { LocalAttributes } from '../../shared/linux/libc.ts';

/** All values that something has had, oldest first. */
export interface Register {
  readonly what: string;
  readonly values: unknown[];
  /** Nobody may be answered with an older one than this. */
  floor: number;
  /** Values made by local programs that clients need not know of yet. */
  readonly unseen: Set<number>;
}

interface Item {
  readonly inode: Inode;
  readonly isDirectory: boolean;
  readonly names: Map<string, Item>;
  nlink: number;
  mode: number;
  version: number;
  readonly attributes: Register;
}

const time = { sec: 1, nsec: 0 };
const keyOf = (name: Uint8Array) => Buffer.from(name).toString('latin1');

export class MemoryStore {
  readonly #items = new Map<string, Item>();
  readonly #registers = new Map<string, Register>();
  /** What the operation of a caller (told by uid) has changed. */
  readonly changesOf = new Map<number, [Register, number][]>();
  /** Called with an inode that a local program changed. */
  onLocalChange: (inode: Inode, changed: readonly [Register, number][]) => void = () => {};
  readonly #versions = new VersionCounter();
  readonly #top: Item;
  #lastIno = 1;

  constructor() {
    this.#top = this.#add(true);
  }

  get root(): Inode {
    return this.#top.inode;
  }

  get items(): Iterable<Item> {
    return this.#items.values();
  }

  /** As a Store; what a model of names and attributes does not ask for is missing. */
  get asStore(): Store {
    return this as unknown as Store;
  }

  nameRegister(ino: number, name: string): Register {
    return this.#register(`name ${ino}/${name}`, null);
  }

  attributesRegister(ino: number): Register {
    return this.#register(`attributes ${ino}`, undefined);
  }

  resolve(handle: Uint8Array): Inode {
    const item = this.#items.get(keyOf(handle));
    if (item === undefined) throw new FsError(errno.ESTALE, 'handle');
    return item.inode;
  }

  known(handle: Uint8Array): Inode | undefined {
    return this.#items.get(keyOf(handle))?.inode;
  }

  pin(): void {}
  unpin(): void {}
  nameRemoved(): void {}
  closeUnused(): void {}
  withKey(): undefined {}
  letGo(): void {}
  closeRemoved(): void {}
  access(): void {}
  close(): void {}

  find(parent: Inode, name: Uint8Array): Inode | null {
    return this.#item(parent).names.get(keyOf(name))?.inode ?? null;
  }

  lookup(_as: Identity, parent: Inode, name: Uint8Array): FoundInode {
    const item = this.#item(parent).names.get(keyOf(name));
    if (item === undefined) throw new FsError(errno.ENOENT, 'lookup');
    return { inode: item.inode, attributes: this.attributes(item.inode) };
  }

  attributes(inode: Inode): LocalAttributes {
    const { version, mode, nlink, isDirectory } = this.#item(inode);
    const times = { atime: { sec: 2 ** 40, nsec: 0 }, mtime: time, ctime: { sec: version, nsec: 0 }, btime: time };
    const sizes = { nlink, uid: 0, gid: 0, rdev: 0, size: version, blocks: 0, blksize: 4096, device: 1 };
    return { ino: inode.ino, mode: (isDirectory ? 0o040000 : 0o100000) | mode, ...sizes, ...times };
  }

  change(as: Identity, inode: Inode, { mode }: MetadataChanges): void {
    const item = this.#item(inode);
    if (mode !== undefined) item.mode = mode & 0o7777;
    this.#touch(as, item);
  }

  mknod(as: Identity, parent: Inode, name: Uint8Array): FoundInode {
    return this.#make(as, parent, name, false);
  }

  mkdir(as: Identity, parent: Inode, name: Uint8Array): FoundInode {
    return this.#make(as, parent, name, true);
  }

  link(as: Identity, inode: Inode, parent: Inode, name: Uint8Array): FoundInode {
    const item = this.#item(inode);
    if (item.isDirectory) throw new FsError(errno.EPERM, 'link');
    if (item.nlink === 0) throw new FsError(errno.ENOENT, 'link');
    this.#set(as, parent, name, item, true);
    item.nlink++;
    this.#touch(as, item);
    return { inode, attributes: this.attributes(inode) };
  }

  unlink(as: Identity, parent: Inode, name: Uint8Array): void {
    const item = this.#item(parent).names.get(keyOf(name));
    if (item === undefined) throw new FsError(errno.ENOENT, 'unlink');
    if (item.isDirectory) throw new FsError(errno.EISDIR, 'unlink');
    this.#set(as, parent, name, undefined, false);
    item.nlink--;
    this.#touch(as, item);
  }

  /** `flags`: 0 or RENAME_EXCHANGE. */
  rename(as: Identity, parent: Inode, name: Uint8Array, newParent: Inode, newName: Uint8Array, flags: number): void {
    const isExchange = flags === RENAME.EXCHANGE;
    const item = this.#item(parent).names.get(keyOf(name));
    const victim = this.#item(newParent).names.get(keyOf(newName));
    if (item === undefined || (isExchange && victim === undefined)) throw new FsError(errno.ENOENT, 'rename');
    if (item.isDirectory || victim?.isDirectory) throw new FsError(errno.EISDIR, 'rename');
    if (item === victim) return;
    this.#set(as, newParent, newName, item, false);
    this.#set(as, parent, name, isExchange ? victim : undefined, false);
    if (isExchange && victim) {
      this.#touch(as, victim);
    } else if (victim) {
      victim.nlink--;
      this.#touch(as, victim);
    }
    this.#touch(as, item);
  }

  #make(as: Identity, parent: Inode, name: Uint8Array, isDirectory: boolean): FoundInode {
    if (this.#item(parent).names.has(keyOf(name))) throw new FsError(errno.EEXIST, 'mknod');
    const item = this.#add(isDirectory);
    this.#set(as, parent, name, item, true);
    return { inode: item.inode, attributes: this.attributes(item.inode) };
  }

  #add(isDirectory: boolean): Item {
    const ino = ++this.#lastIno;
    const handle = Buffer.from(`inode-${ino}`);
    const inode = new Inode(handle, handle.toString('latin1'), 1, ino, this.#versions);
    const attributes = this.attributesRegister(ino);
    const item = { inode, isDirectory, names: new Map(), nlink: 1, mode: 0o644, version: 0, attributes };
    attributes.values[0] = 0;
    this.#items.set(inode.key, item);
    return item;
  }

  #item(inode: Inode): Item {
    return this.#items.get(inode.key) as Item;
  }

  #register(what: string, first: unknown): Register {
    let register = this.#registers.get(what);
    if (register === undefined) {
      register = { what, values: [first], floor: 0, unseen: new Set() };
      this.#registers.set(what, register);
    }
    return register;
  }

  #set(as: Identity, parent: Inode, name: Uint8Array, item: Item | undefined, isNew: boolean): void {
    const directory = this.#item(parent);
    if (isNew && directory.names.has(keyOf(name))) throw new FsError(errno.EEXIST, 'name');
    if (item) directory.names.set(keyOf(name), item);
    else directory.names.delete(keyOf(name));
    this.#note(as, this.nameRegister(Number(parent.ino), keyOf(name)), item ? Number(item.inode.ino) : null);
    this.#touch(as, directory);
  }

  #touch(as: Identity, item: Item): void {
    item.version++;
    this.#note(as, item.attributes, item.version);
  }

  #note(as: Identity, register: Register, value: unknown): void {
    const changes = this.changesOf.get(as.uid) ?? [];
    changes.push([register, register.values.push(value) - 1]);
    this.changesOf.set(as.uid, changes);
  }
}
