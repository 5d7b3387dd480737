/**
 * Writes that the last process of the server had begun and did not note the end of: what they change is the old, the new,
 * or a part of each. So their page-range locks survive it: until the client sends the request again, and this process
 * finishes it, nobody reads or writes these pages, and nobody is let keep anything of the file. A client that does not
 * (its caller was killed, it says goodbye, the time is over) gives the lock up; from then on nobody finishes it.
 *
 * Invariant: what is here has its first note in the journal, and no newer one in its slot. Given up, it is noted as failed,
 * so the next process does not wait for it once more. Owned by the SessionTable.
 */
import { errno, FsError } from '../../shared/errno.ts';
import type { Export } from '../export.ts';
import type { PageRange } from '../state/page-range-locks.ts';
import type { Inode } from '../store/inode.ts';
import type { RequestJournal } from './request-journal.ts';

/** One of them; disposing lets go of its pages. */
export class InterruptedWrite implements Disposable {
  readonly inode: Inode;
  readonly pages: PageRange;
  readonly #held: readonly Disposable[];

  constructor(inode: Inode, pages: PageRange, held: readonly Disposable[]) {
    this.inode = inode;
    this.pages = pages;
    this.#held = held;
  }

  [Symbol.dispose](): void {
    for (const one of this.#held) one[Symbol.dispose]();
  }
}

interface Awaited {
  readonly session: string;
  readonly slot: number;
  readonly seq: number;
  readonly write: InterruptedWrite;
}

export class InterruptedWrites {
  readonly #journal: RequestJournal | undefined;
  readonly #awaited = new Map<string, Awaited>();

  /** Called before anybody is served. */
  constructor(journal?: RequestJournal, exports: Iterable<Export> = []) {
    this.#journal = journal;
    for (const { session, slot, seq, inode, pages } of journal?.interrupted() ?? []) {
      const write = hold(exports, inode, pages);
      if (write) this.#awaited.set(keyOf(session, slot), { session, slot, seq, write });
      else journal?.done(session, slot, seq, errno.EIO);
    }
  }

  get size(): number {
    return this.#awaited.size;
  }

  /** The interrupted write that this request is, and the caller's from now on. Something newer in its slot: nobody waits for it. */
  arrived(session: string, slot: number, seq: number): InterruptedWrite | undefined {
    if (this.#awaited.size === 0) return undefined;
    const awaited = this.#awaited.get(keyOf(session, slot));
    if (awaited === undefined || seq < awaited.seq) return undefined;
    if (seq > awaited.seq) this.#giveUp(awaited);
    else this.#awaited.delete(keyOf(session, slot));
    return seq === awaited.seq ? awaited.write : undefined;
  }

  sessionEnded(session: string): void {
    for (const awaited of this.#awaited.values()) if (awaited.session === session) this.#giveUp(awaited);
  }

  giveUpAll(): void {
    for (const awaited of this.#awaited.values()) this.#giveUp(awaited);
  }

  /** Noted first: whoever gets the pages now may change them, and then it must not come back. */
  #giveUp({ session, slot, seq, write }: Awaited): void {
    this.#awaited.delete(keyOf(session, slot));
    this.#journal?.done(session, slot, seq, errno.EIO);
    write[Symbol.dispose]();
  }
}

/** Undefined: the file is gone, or two of them have a page in common, as after a note that the disk had no room for. */
function hold(exports: Iterable<Export>, handle: Uint8Array, pages: PageRange): InterruptedWrite | undefined {
  for (const { store, leases } of exports) {
    const inode = found(() => store.resolve(handle));
    if (inode === undefined) continue;
    const grant = inode.rangeLocks.acquire('exclusive', pages);
    if (grant instanceof Promise) {
      void grant.then((late) => late[Symbol.dispose]());
      return undefined;
    }
    const change = leases.change(undefined, [inode]);
    // Nobody holds a lease yet.
    if (!(change instanceof Promise)) return new InterruptedWrite(inode, pages, [grant, change]);
    void change.then((late) => late[Symbol.dispose]());
    grant[Symbol.dispose]();
  }
  return undefined;
}

/** Handles are signed by their export: others do not know them. */
function found(resolve: () => Inode): Inode | undefined {
  try {
    return resolve();
  } catch (error) {
    if (error instanceof FsError) return undefined;
    throw error;
  }
}

function keyOf(session: string, slot: number): string {
  return `${session} ${slot}`;
}
