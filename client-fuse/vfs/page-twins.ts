/**
 * Twins: what pages of one file contained when the kernel was given them, or wrote them back last. What a page that is written
 * back differs in from its twin is what programs of this machine have stored, and all that is to be sent of it: the rest
 * of the page may be somebody else's by now. Owned by the file's node; pages are bounded, the oldest of a file go first.
 *
 * The multiple-writer protocol of Munin (Carter, Bennett, Zwaenepoel, "Implementation and Performance of Munin", 1991) and
 * TreadMarks (Keleher et al., 1994), by the byte in place of the word, since a lock may cover a single byte.
 *
 * Pure. Reads are numbered by their arrival: the result of an earlier one, whose caller was killed, may come last.
 */
import { limits } from '../../shared/limits.ts';
import type { BlockBudget } from './block-cache.ts';

export const PAGE_BYTES = 4096;

/** Bytes `[start, end)`. */
export interface ByteRange {
  readonly start: number;
  readonly end: number;
}

interface Twin {
  readonly bytes: Buffer;
  /** The read that brought it. */
  readonly read: number;
  /** From here on the kernel may have made its page zeros: see `seen`. */
  cut: number;
}

export class PageTwins {
  readonly #budget: BlockBudget;
  /** By the page's index, in the order of their arrival. */
  readonly #pages = new Map<number, Twin>();

  /** `budget` counts pages of the whole mount. */
  constructor(budget: BlockBudget) {
    this.#budget = budget;
  }

  get size(): number {
    return this.#pages.size;
  }

  /** The kernel is given `data` for `[offset, offset + size)`; what is missing is beyond the end of the file: zeros. */
  remember(read: number, offset: number, size: number, data: Uint8Array): void {
    const end = offset + size;
    for (let at = offset - (offset % PAGE_BYTES); at < end; at += PAGE_BYTES) {
      const index = at / PAGE_BYTES;
      const known = this.#pages.get(index);
      if (known && known.read > read) continue;
      // A part of a page says nothing about the rest.
      if (at < offset || at + PAGE_BYTES > end) this.#forget(index);
      else this.#put(index, read, data.subarray(at - offset, at - offset + PAGE_BYTES));
    }
  }

  #put(index: number, read: number, data: Uint8Array): void {
    const known = this.#pages.get(index);
    // Those that are in use came last.
    this.#pages.delete(index);
    if (!known && !this.#makeRoom()) return;
    const bytes = known?.bytes ?? Buffer.allocUnsafeSlow(PAGE_BYTES);
    bytes.set(data);
    bytes.fill(0, data.length);
    this.#pages.set(index, { bytes, read, cut: PAGE_BYTES });
  }

  #makeRoom(): boolean {
    if (this.#pages.size < limits.maxTwinsOfFile && this.#budget.take()) return true;
    const [oldest] = this.#pages.keys();
    if (oldest === undefined) return false;
    this.#forget(oldest);
    return this.#budget.take();
  }

  /** Where pages that are written back differ from their twins: ranges in the file, joined. Of a page without one, all of it. */
  differences(offset: number, data: Uint8Array): ByteRange[] {
    const found: { start: number; end: number }[] = [];
    const add = (start: number, end: number) => {
      const last = found.at(-1);
      if (last?.end === start) last.end = end;
      else found.push({ start, end });
    };
    const end = offset + data.length;
    for (let at = offset; at < end; ) {
      const within = at % PAGE_BYTES;
      const next = Math.min(end, at - within + PAGE_BYTES);
      const twin = this.#pages.get((at - within) / PAGE_BYTES);
      if (twin === undefined) add(at, next);
      else if (twin.bytes.compare(data, at - offset, next - offset, within, within + next - at) !== 0) {
        const isStored = (byte: number) => {
          const [is, place] = [data[byte - offset], byte - at + within];
          return is !== twin.bytes[place] && (is !== 0 || place < twin.cut);
        };
        for (let from = at; from < next; ) {
          while (from < next && !isStored(from)) from++;
          let to = from;
          while (to < next && isStored(to)) to++;
          if (to > from) add(from, to);
          from = to;
        }
      }
      at = next;
    }
    return found;
  }

  /**
   * These pages are being written back, after `differences`. Where their end, the end of the file as far as the kernel knows, is
   * inside of a page, it makes the rest of its page zeros (iomap_writeback_handle_eof, from Linux 6.17 on), though another
   * machine may have made the file longer: such zeros are nobody's stores.
   */
  seen(offset: number, data: Uint8Array): void {
    const end = offset + data.length;
    this.#each(offset, end, (twin, at, from, to) => {
      for (let place = Math.max(from, twin.cut); place < to; place++)
        if (data[at + place - offset] === 0) twin.bytes[place] = 0;
      twin.cut = to;
    });
  }

  /** The server has these bytes of pages that were written back. */
  wrote(offset: number, data: Uint8Array): void {
    this.#each(offset, offset + data.length, ({ bytes }, at, start, end) =>
      bytes.set(data.subarray(at + start - offset, at + end - offset), start),
    );
  }

  /** The kernel makes these bytes of its pages zeros, as those of the file are. */
  zeroed(start: number, end: number): void {
    this.#each(start, end, ({ bytes }, _at, from, to) => bytes.fill(0, from, to));
  }

  #each(start: number, end: number, work: (twin: Twin, at: number, from: number, to: number) => void): void {
    const first = Math.floor(start / PAGE_BYTES);
    const next = Math.ceil(end / PAGE_BYTES);
    // Mostly a part of a page, now and then the rest of a long file.
    const indexes = next - first < this.#pages.size ? range(first, next) : [...this.#pages.keys()];
    for (const index of indexes) {
      const twin = this.#pages.get(index);
      const at = index * PAGE_BYTES;
      const from = Math.max(0, start - at);
      const to = Math.min(PAGE_BYTES, end - at);
      if (twin && from < to) work(twin, at, from, to);
    }
  }

  /** The kernel has dropped all pages that reads before this one brought. */
  dropped(read: number): void {
    for (const [index, twin] of this.#pages) if (twin.read < read) this.#forget(index);
  }

  clear(): void {
    this.#budget.giveBack(this.#pages.size);
    this.#pages.clear();
  }

  #forget(index: number): void {
    if (this.#pages.delete(index)) this.#budget.giveBack(1);
  }
}

function range(first: number, next: number): number[] {
  return Array.from({ length: next - first }, (_, index) => first + index);
}
