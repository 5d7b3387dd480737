/**
 * The page-range locks of one inode: shared or exclusive on half-open page ranges. First come, first served among
 * requests that overlap, so neither readers nor writers starve; ranges that do not overlap pass each other.
 *
 * Pure: no clock, no promises; events go in, the tickets that are granted by them come out. Owned by the inode; the
 * promises around it are in page-range-lock-queue.ts. Invariants: granted ranges overlap only when both are shared; a waiting
 * ticket conflicts with a granted one or with an earlier waiting one (so no wake-up is lost).
 */
import { assert } from '../../shared/assert.ts';

export type LockMode = 'shared' | 'exclusive';

/** Pages [start, end); `end` may be Infinity. */
export interface PageRange {
  readonly start: number;
  readonly end: number;
}

/** One request for a lock, waiting or granted, until it is released or cancelled. */
export interface Ticket extends PageRange {
  readonly mode: LockMode;
}

function conflicts(a: Ticket, b: Ticket): boolean {
  return a.start < b.end && b.start < a.end && (a.mode === 'exclusive' || b.mode === 'exclusive');
}

export class PageRangeLocks {
  readonly #granted = new Set<Ticket>();
  /** In the order of arrival. */
  #waiting: Ticket[] = [];

  get isIdle(): boolean {
    return this.#granted.size === 0 && this.#waiting.length === 0;
  }

  get granted(): ReadonlySet<Ticket> {
    return this.#granted;
  }

  get waiting(): readonly Ticket[] {
    return this.#waiting;
  }

  /** True: `ticket` is granted at once. False: it waits, and a later release or cancel will return it. */
  request(ticket: Ticket): boolean {
    assert(ticket.start >= 0 && ticket.start < ticket.end, 'a lock covers at least one page');
    if (this.#blocked(ticket, this.#waiting, this.#waiting.length)) {
      this.#waiting.push(ticket);
      return false;
    }
    this.#granted.add(ticket);
    return true;
  }

  /** Gives back a granted lock. Returns the waiting tickets that are granted by it, in the order of their arrival. */
  release(ticket: Ticket): Ticket[] {
    assert(this.#granted.delete(ticket), 'only a granted lock is released');
    return this.#grantWaiting();
  }

  /** Takes back a waiting ticket. Those that waited behind it alone are granted and returned. */
  cancel(ticket: Ticket): Ticket[] {
    const index = this.#waiting.indexOf(ticket);
    assert(index >= 0, 'only a waiting lock is cancelled');
    this.#waiting.splice(index, 1);
    return this.#grantWaiting();
  }

  #blocked(ticket: Ticket, earlier: readonly Ticket[], count: number): boolean {
    for (const held of this.#granted) if (conflicts(ticket, held)) return true;
    for (let index = 0; index < count; index++) if (conflicts(ticket, earlier[index] as Ticket)) return true;
    return false;
  }

  #grantWaiting(): Ticket[] {
    if (this.#waiting.length === 0) return [];
    const granted: Ticket[] = [];
    const still: Ticket[] = [];
    for (const ticket of this.#waiting) {
      if (this.#blocked(ticket, still, still.length)) {
        still.push(ticket);
      } else {
        this.#granted.add(ticket);
        granted.push(ticket);
      }
    }
    this.#waiting = still;
    return granted;
  }
}
