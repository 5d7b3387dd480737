/**
 * What clients have done since this server was started that decides about what comes late, from before: names that they
 * removed, one of which an earlier process may have made for a request whose end it did not note; and files that they
 * wrote, over which nothing is written that another client had gathered before. Kept for as long as clients need to come
 * back; afterwards everything may have been done. Owned by the Dispatcher.
 */
import { limits } from '../../shared/limits.ts';
import type { Inode, LeaseHolder } from '../store/inode.ts';

export type Changed = 'data' | 'attributes';

export class SinceStart {
  /** When that was, in milliseconds since 1970. */
  readonly startedMs = Date.now();
  readonly #untilMs = performance.now() + limits.sessionLeaseMs;
  /** Undefined: it is not known any more. */
  #removed: Set<string> | undefined = new Set();
  /** By what was changed of an inode: the only client that changed it, or that there are several. */
  #changed: Map<string, LeaseHolder | 'several'> | undefined = new Map();

  removed(directory: Inode, name: Uint8Array): void {
    this.#removed?.add(keyOf(directory, name));
    if (this.#isOver(this.#removed)) this.#removed = undefined;
  }

  mayBeRemoved(directory: Inode, name: Uint8Array): boolean {
    return this.#removed === undefined || this.#removed.has(keyOf(directory, name));
  }

  changed({ key }: Inode, by: LeaseHolder, what: Changed = 'data'): void {
    if (this.#changed === undefined) return;
    const about = `${what} ${key}`;
    const before = this.#changed.get(about) ?? by;
    this.#changed.set(about, before === by ? by : 'several');
    if (this.#isOver(this.#changed)) this.#changed = undefined;
  }

  mayBeChangedByOthers({ key }: Inode, than: LeaseHolder, what: Changed = 'data'): boolean {
    return this.#isOver(this.#changed) || (this.#changed?.get(`${what} ${key}`) ?? than) !== than;
  }

  #isOver(known: { readonly size: number } | undefined): boolean {
    return known === undefined || known.size > limits.maxKnownSinceStart || performance.now() > this.#untilMs;
  }
}

function keyOf({ key }: Inode, name: Uint8Array): string {
  return `${key}/${Buffer.from(name).toString('latin1')}`;
}
