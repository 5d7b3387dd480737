/**
 * The kernel's reads of one file's pages against the recall of its lease. NOTIFY_INVAL_INODE waits for the pages of reads
 * that have no reply yet, and misses pages that come in behind it; a read that waits for the recall to be over, while the
 * invalidation waits for its pages, would be the end of both. So while a range is being invalidated, a read in it goes
 * on at once and is invalidated once more; any other read waits until the recall is acknowledged, and brings fresh data.
 *
 * Pure but for promises; one a node that has pages, owned by KernelCaches.
 */
interface Bytes {
  readonly start: number;
  readonly end: number;
}

function overlaps(range: Bytes, start: number, end: number): boolean {
  return start < range.end && range.start < end;
}

const WHOLE: Bytes = { start: 0, end: Number.POSITIVE_INFINITY };
const NOTHING: Bytes = { start: 0, end: 0 };

export class PageReads {
  /** Undefined: no recall is under way. */
  #invalidating: Bytes | undefined;
  #late: Bytes | undefined;
  #waiting: (() => void)[] = [];

  /** A read arrives. A promise: it must wait, and its lease is gone then. */
  begin(offset: number, size: number): Promise<void> | undefined {
    const range = this.#invalidating;
    if (range === undefined) return undefined;
    const end = offset + size;
    // What is to be invalidated next must not wait either: its pages would be locked then.
    if (!overlaps(range, offset, end) && !(this.#late && overlaps(this.#late, offset, end))) {
      return new Promise((resolve) => this.#waiting.push(resolve));
    }
    const late = this.#late ?? { start: offset, end };
    this.#late = { start: Math.min(late.start, offset), end: Math.max(late.end, end) };
    return undefined;
  }

  /** There is nothing to invalidate: reads wait for `end`. */
  hold(): void {
    this.#invalidating ??= NOTHING;
  }

  /** `invalidate` is called until no read came in between; then reads wait for `end`. */
  async takeBack(invalidate: (start: number, end: number) => Promise<void>): Promise<void> {
    for (let range: Bytes | undefined = WHOLE; range !== undefined; range = this.#late) {
      this.#invalidating = range;
      this.#late = undefined;
      await invalidate(range.start, range.end);
    }
    this.#invalidating = NOTHING;
  }

  /** The recall is acknowledged. */
  end(): void {
    this.#invalidating = undefined;
    for (const resolve of this.#waiting.splice(0)) resolve();
  }
}
