/**
 * What clients keep of a file's data, and the server's kernel: as long as any of them may, the server holds a kernel lease on
 * the file (fcntl F_SETLEASE, F_RDLCK). A local program that opens it to write, or truncates it, waits in the kernel until
 * all clients have dropped what they read, and so they never show what was there before. One an export, owned by its
 * LeaseManager. Source: fcntl(2) "Leases".
 *
 * A file that a local program has open to write cannot have such a lease: then nothing of it is leased to anybody.
 */
import { FsError } from '../../shared/errno.ts';
import type { ReadLease } from '../../shared/linux/libc.ts';
import type { Inode } from '../store/inode.ts';
import type { Store } from '../store/store.ts';

/** When there are too many, those that have been held for so long make room, so many at a time. */
const OLD_MS = 30_000;
const MADE_ROOM_FOR = 64;

interface Held {
  readonly lease: ReadLease;
  readonly sinceMs: number;
}

export class ReadLeases {
  readonly #store: Store;
  readonly #most: number;
  /** In the order in which they were taken. */
  readonly #held = new Map<Inode, Held>();
  /** Files whose filesystem has no leases, or on which this user may have none: seen afterwards only, by inotify. */
  #hasRefused = false;
  /** A local program waits to write to this inode. */
  readonly #onWriter: (inode: Inode) => void;
  /** There are too many: clients are to give these back. */
  readonly #onFull: (inodes: readonly Inode[]) => void;

  /** At most `most` descriptors are held. */
  constructor(
    store: Store,
    most: number,
    onWriter: (inode: Inode) => void,
    onFull: (inodes: readonly Inode[]) => void,
  ) {
    this.#store = store;
    this.#most = most;
    this.#onWriter = onWriter;
    this.#onFull = onFull;
  }

  get size(): number {
    return this.#held.size;
  }

  get hasRefused(): boolean {
    return this.#hasRefused;
  }

  has(inode: Inode): boolean {
    return this.#held.has(inode);
  }

  /** True when local programs that would write wait from now on, or where the kernel knows no way to make them wait. */
  take(inode: Inode): boolean {
    if (this.#held.has(inode)) return true;
    if (inode.writers > 0 || !this.#hasRoom()) return false;
    const lease = this.#ask(inode);
    inode.isWrittenLocally = lease === 'written';
    if (lease === 'written' || lease === undefined) return false;
    if (lease === 'refused') this.#hasRefused = true;
    else this.#held.set(inode, { lease, sinceMs: performance.now() });
    return true;
  }

  /** Undefined: it is gone, or there are no descriptors left. */
  #ask(inode: Inode): ReadLease | 'written' | 'refused' | undefined {
    try {
      const fd = this.#store.descriptorOf(inode);
      return this.#store.descriptors.holdOffLocalWriters(fd, () => this.#onWriter(inode));
    } catch (error) {
      if (error instanceof FsError) return undefined;
      throw error;
    }
  }

  #hasRoom(): boolean {
    if (this.#held.size < this.#most) return true;
    const oldMs = performance.now() - OLD_MS;
    const old: Inode[] = [];
    for (const [inode, { sinceMs }] of this.#held) {
      if (sinceMs > oldMs || old.length === MADE_ROOM_FOR) break;
      old.push(inode);
    }
    if (old.length > 0) this.#onFull(old);
    return this.#held.size < this.#most;
  }

  /** Whoever waits in the kernel goes on. */
  end(inode: Inode): void {
    const held = this.#held.get(inode);
    if (held === undefined) return;
    this.#held.delete(inode);
    held.lease[Symbol.dispose]();
  }

  close(): void {
    for (const inode of [...this.#held.keys()]) this.end(inode);
  }
}
