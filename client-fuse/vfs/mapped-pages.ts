/**
 * Pages of files that the kernel has without a lease, because a program has mapped the file: kept in step by the locks of
 * programs, which is release consistency (see page-twins.ts). Before a lock is said to be granted, and before it is given
 * back, the kernel writes back and drops the file's pages; of what it writes back, only what was stored here is sent. One a mount.
 *
 * FUSE tells nobody of a mapping, nor of a page that becomes dirty. But reads into the page cache can be told from a program's
 * read(2) past it (READ_LOCKOWNER), so a file that is not mapped pays nothing for its locks.
 *
 * NOTIFY_INVAL_INODE writes dirty pages back (fuse_launder_folio), hence answers only when this client has answered these writes, and
 * holds a thread of the pool until then: a few at a time, so that some are left for what such a write may need. SETLK and FLUSH
 * hold no lock of the kernel that it needs (fuse_setlk in fs/fuse/file.c).
 */
import { errno, FsError } from '../../shared/errno.ts';
import { limits } from '../../shared/limits.ts';
import type { KernelCaches } from '../leases/kernel-caches.ts';
import { BlockBudget } from './block-cache.ts';
import type { MappedFile, Node } from './node.ts';
import { type ByteRange, PageTwins } from './page-twins.ts';

/** Of 32 threads; recalls need some too. */
const DROPS_AT_ONCE = 8;
const WRITES_AT_ONCE = 64;

/** Sends a part of what the kernel writes back; resolves with the number of bytes written. */
export type SendPart = (offset: number, data: Uint8Array) => Promise<number>;

export class MappedPages {
  readonly #kernel: KernelCaches;
  readonly #budget = new BlockBudget(limits.maxTwins);
  /** Numbers reads, and drops among them. */
  #clock = 0;
  #drops = 0;
  readonly #waiting: (() => void)[] = [];

  constructor(kernel: KernelCaches) {
    this.#kernel = kernel;
  }

  /** The kernel reads pages into its cache; `isLeased`: a recall takes them back. Returns the number of the read. */
  reads(node: Node, isLeased: boolean): number {
    node.mapped ??= { mayHavePages: false, twins: undefined, dropping: undefined, next: undefined };
    if (!isLeased) node.mapped.mayHavePages = true;
    return ++this.#clock;
  }

  /** This is what it is given. */
  given(node: Node, read: number, offset: number, size: number, data: Uint8Array): void {
    const { mapped } = node;
    if (!mapped) return;
    // Pages from before the first lock are dropped at that lock.
    if (node.locks && node.writers > 0) mapped.twins ??= new PageTwins(this.#budget);
    mapped.twins?.remember(read, offset, size, data);
  }

  /** Nobody has the file open for writing: there are no dirty pages. */
  hasNoWriters(node: Node): void {
    node.mapped?.twins?.clear();
    if (node.mapped) node.mapped.twins = undefined;
  }

  /**
   * Resolves when the kernel has no pages that came in before this call, and what was stored in them is written. Undefined: it has
   * none.
   */
  drop(node: Node): Promise<void> | undefined {
    const { mapped } = node;
    if (!mapped) return undefined;
    if (!mapped.mayHavePages) return mapped.dropping;
    mapped.next ??= this.#dropAfter(node, mapped, mapped.dropping);
    return mapped.next;
  }

  async #dropAfter(node: Node, mapped: MappedFile, before: Promise<void> | undefined): Promise<void> {
    await before?.catch(() => {});
    while (this.#drops >= DROPS_AT_ONCE) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    this.#drops++;
    // What is read from now on may miss it.
    mapped.dropping = mapped.next;
    mapped.next = undefined;
    mapped.mayHavePages = false;
    const read = ++this.#clock;
    try {
      await this.#kernel.dropAllPages(node);
      mapped.twins?.dropped(read);
    } catch (error) {
      mapped.mayHavePages = true;
      throw error;
    } finally {
      mapped.dropping = undefined;
      this.#drops--;
      this.#waiting.shift()?.();
    }
  }

  /** The kernel writes dirty pages back: what was stored in them is sent, by `send`. */
  async writeBack(node: Node, offset: number, data: Uint8Array, send: SendPart): Promise<void> {
    const twins = node.mapped?.twins;
    const parts = twins?.differences(offset, data) ?? [{ start: offset, end: offset + data.length }];
    twins?.seen(offset, data);
    const sendPart = async ({ start, end }: ByteRange) => {
      for (let at = start; at < end; ) {
        const part = data.subarray(at - offset, end - offset);
        const written = await send(at, part);
        // The kernel does not look at a count: an error is all that it can be told.
        if (written === 0) throw new FsError(errno.EIO, 'write back');
        twins?.wrote(at, part.subarray(0, written));
        at += written;
      }
    };
    for (let first = 0; first < parts.length; first += WRITES_AT_ONCE) {
      // All of them end before the kernel may write the same pages again.
      const ended = await Promise.allSettled(parts.slice(first, first + WRITES_AT_ONCE).map(sendPart));
      const failed = ended.find(({ status }) => status === 'rejected');
      if (failed) throw (failed as PromiseRejectedResult).reason;
    }
  }

  /** Pages that were written back are gathered, whole: nobody else has the file. */
  gathered(node: Node, offset: number, data: Uint8Array): void {
    node.mapped?.twins?.seen(offset, data);
    node.mapped?.twins?.wrote(offset, data);
  }

  /** The file was cut, or a part of it made zeros; the kernel does the same to its pages. */
  zeroed(node: Node, start: number, end: number): void {
    node.mapped?.twins?.zeroed(start, end);
  }
}
