/**
 * The promises around one inode's page-range locks: an uncontended lock is granted synchronously, a contended one when
 * its turn comes. A grant is released exactly once by its holder (`using`), whatever happens in between.
 */

import { assert } from '../../shared/assert.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { PAGE_SIZE } from '../../shared/limits.ts';
import { type LockMode, type PageRange, PageRangeLocks, type Ticket } from './page-range-locks.ts';

/** Its signal is looked at only when there is something to wait for. */
export interface Cancellable {
  readonly signal: AbortSignal;
}

interface Waiter {
  grant(): void;
}

/** A lock that is held; disposing releases it. */
export class Grant implements Disposable {
  readonly #queue: PageRangeLockQueue;
  readonly #ticket: Ticket;
  #held = true;

  constructor(queue: PageRangeLockQueue, ticket: Ticket) {
    this.#queue = queue;
    this.#ticket = ticket;
  }

  [Symbol.dispose](): void {
    assert(this.#held, 'a grant is released once');
    this.#held = false;
    this.#queue.release(this.#ticket);
  }
}

/** The pages that the bytes [offset, offset + length) touch; a length of 0 still touches the page at `offset`. */
export function pagesOf(offset: number, length: number): PageRange {
  const start = Math.floor(offset / PAGE_SIZE);
  return { start, end: Math.max(start + 1, Math.ceil((offset + length) / PAGE_SIZE)) };
}

/** All pages from the one that holds `offset` on. */
export function pagesFrom(offset: number): PageRange {
  return { start: Math.floor(offset / PAGE_SIZE), end: Number.POSITIVE_INFINITY };
}

export class PageRangeLockQueue {
  readonly locks = new PageRangeLocks();
  readonly #waiters = new Map<Ticket, Waiter>();

  /** Resolves when the range is held. Rejects with EINTR when it is cancelled while it waits. */
  acquire(mode: LockMode, range: PageRange, cancellable?: Cancellable): Grant | Promise<Grant> {
    const ticket: Ticket = { mode, start: range.start, end: range.end };
    if (this.locks.request(ticket)) return new Grant(this, ticket);
    const signal = cancellable?.signal;
    return new Promise<Grant>((resolve, reject) => {
      const onAbort = () => {
        this.#waiters.delete(ticket);
        this.#wake(this.locks.cancel(ticket));
        reject(new FsError(errno.EINTR, 'page-range lock'));
      };
      this.#waiters.set(ticket, {
        grant: () => {
          signal?.removeEventListener('abort', onAbort);
          resolve(new Grant(this, ticket));
        },
      });
      if (signal?.aborted) onAbort();
      else signal?.addEventListener('abort', onAbort, { once: true });
    });
  }

  /** Called by Grant alone. */
  release(ticket: Ticket): void {
    this.#wake(this.locks.release(ticket));
  }

  #wake(granted: readonly Ticket[]): void {
    for (const ticket of granted) {
      const waiter = this.#waiters.get(ticket);
      assert(waiter, 'a waiting ticket has a waiter');
      this.#waiters.delete(ticket);
      waiter.grant();
    }
  }
}
