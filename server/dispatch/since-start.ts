/**
 * What clients have done since this server was started that decides about what comes late, from before: names that they
 * removed, one of which an earlier process may have made for a request whose end it did not note; and files that they
 * wrote, over which nothing is written that another client had gathered before. Kept for as long as clients need to come
 * back; afterwards everything may have been done. Changes are left to the next process too (KeptChanges), which meets clients
 * that have missed this one. Owned by the Dispatcher.
 */
import { limits } from '../../shared/limits.ts';
import type { KeptChanges } from '../session/kept-changes.ts';
import type { Inode } from '../store/inode.ts';

export type Changed = 'data' | 'attributes';

/** A client, by what stays the same over a restart: the id of its session. */
export interface Author {
  readonly key: string;
}

const SEVERAL = 'several';
/** Of a client whose lease was taken away: what it had gathered is void. Until it says that it knows. */
const FENCED = 'fenced';
const TOLD = 'told';

export class SinceStart {
  /** When that was, in milliseconds since 1970. */
  readonly startedMs = Date.now();
  readonly #untilMs = performance.now() + limits.sessionLeaseMs;
  readonly #kept: KeptChanges | undefined;
  /** Clients of earlier processes may come back. */
  readonly #awaitsClients: boolean;
  /** Undefined: it is not known any more. */
  #removed: Set<string> | undefined = new Set();
  /** By what was changed of an inode: the only client that changed it, or that there are several. */
  #changed: Map<string, string> | undefined;
  /** For the next process. */
  readonly #fenced = new Set<string>();
  #isCleared = false;

  constructor(kept?: KeptChanges, awaitsClients = false) {
    this.#kept = kept;
    this.#awaitsClients = awaitsClients;
    this.#changed = new Map();
    for (const [about, by] of kept?.read() ?? []) {
      if (by === TOLD) this.#changed.delete(about);
      else this.#note(about, by);
    }
  }

  removed(directory: Inode, name: Uint8Array): void {
    this.#removed?.add(keyOf(directory, name));
    if (this.#isOver(this.#removed)) this.#removed = undefined;
  }

  mayBeRemoved(directory: Inode, name: Uint8Array): boolean {
    return this.#removed === undefined || this.#removed.has(keyOf(directory, name));
  }

  /** Before it is answered. */
  changed({ key }: Inode, by: Author, what: Changed = 'data'): void {
    if (this.#changed === undefined) return;
    const about = `${what} ${key}`;
    if (this.#note(about, by.key) && this.#awaitsClients) this.#kept?.add([about, by.key]);
    if (this.#isOver(this.#changed)) this.#changed = undefined;
  }

  /** The lease under which `holder` gathers was taken from it. It may be away, and hear of it from the next process. */
  fenced({ key }: Inode, holder: Author): void {
    const about = fenceOf(key, holder);
    if (this.#kept === undefined || this.#fenced.has(about)) return;
    this.#fenced.add(about);
    const [oldest] = this.#fenced.size > limits.maxKnownSinceStart ? this.#fenced : [];
    if (oldest !== undefined) this.#fenced.delete(oldest);
    this.#kept.add([about, FENCED]);
  }

  /** It knows of all the leases that were taken from it, and gathers anew. */
  told(holder: Author): void {
    for (const about of this.#fenced) {
      if (!about.startsWith(fenceOf('', holder))) continue;
      this.#fenced.delete(about);
      this.#kept?.add([about, TOLD]);
    }
  }

  mayBeChangedByOthers({ key }: Inode, than: Author, what: Changed = 'data'): boolean {
    if (this.#isOver(this.#changed) || this.#changed?.has(fenceOf(key, than))) return true;
    return (this.#changed?.get(`${what} ${key}`) ?? than.key) !== than.key;
  }

  /** Called now and then. Nobody comes late any more, to the next process neither; but for whom this one has fenced. */
  expire(): void {
    if (this.#isCleared || performance.now() <= this.#untilMs) return;
    this.#isCleared = true;
    this.#changed = undefined;
    this.#kept?.replace([...this.#fenced].map((about) => [about, FENCED] as const));
  }

  /** True: that is new. */
  #note(about: string, by: string): boolean {
    const before = this.#changed?.get(about);
    if (before === by || before === SEVERAL) return false;
    this.#changed?.set(about, before === undefined ? by : SEVERAL);
    return true;
  }

  #isOver(known: { readonly size: number } | undefined): boolean {
    return known === undefined || known.size > limits.maxKnownSinceStart || performance.now() > this.#untilMs;
  }
}

function keyOf({ key }: Inode, name: Uint8Array): string {
  return `${key}/${Buffer.from(name).toString('latin1')}`;
}

function fenceOf(key: string, { key: client }: Author): string {
  return `${FENCED} ${client} ${key}`;
}
