/**
 * Small files that a program is about to read, since it reads one after the other in what it walks: they are asked for
 * ahead, several at once, with all that they contain. The same request as ever, only sooner, and the reply is learned under the
 * same rules; the content is kept here until the file is opened. Owned by RemoteFiles; RemoteDirectories says which directories a
 * walk comes to.
 */
import { KiB, limits, MiB } from '../../shared/limits.ts';
import { DT } from '../../shared/linux/constants.ts';
import { keyOfName } from '../leases/lease-cache.ts';
import type { CallerIdentity } from '../transport/server-session.ts';
import type { ListedName } from './listing-parts.ts';
import type { Node } from './node.ts';
import type { RemoteContext } from './remote-context.ts';

/** So many files in directories that programs have opened lately, read by one identity in one way, are a walk. */
const WALK_OPENS = 4;
/** Asked for at once: what keeps a line of 10 ms and 25 MiB/s busy, and does not hold up what is asked for besides. */
const MOST_ASKED_BYTES = 256 * KiB;
/** Here and not opened. Whoever walks on without reading them gets no more. */
const MOST_KEPT = 128;
const MOST_KEPT_BYTES = 4 * MiB;
/** A walk that has opened none for so long is over. */
const PAUSE_MS = 2_000;
/** Directories whose files wait to be asked for. */
const MOST_DIRECTORIES = 64;

/** How a program opens its files: what the server is asked in its place. */
export interface Opening {
  readonly opener: CallerIdentity;
  readonly flags: number;
}

interface Walk extends Opening {
  last: Node | undefined;
  lastMs: number;
  opens: number;
  /** Listings whose files were asked for, or are waiting. */
  readonly seen: WeakSet<readonly ListedName[]>;
}

interface Kept {
  readonly content: Uint8Array;
  /** The clock of the leases when it was asked for. */
  readonly asOf: number;
}

interface Waiting {
  readonly directory: Node;
  readonly listing: readonly ListedName[];
  next: number;
}

/** Opens a file in a program's place. Resolves with all that it contains, if it is small and leased. */
export type OpenAhead = (node: Node, opening: Opening) => Promise<Uint8Array | undefined>;

export class FilesAhead {
  readonly #context: RemoteContext;
  readonly #open: OpenAhead;
  readonly #asked = new Map<Node, Promise<void>>();
  #askedBytes = 0;
  readonly #kept = new Map<Node, Kept>();
  #keptBytes = 0;
  #waiting: Waiting[] = [];
  #walk: Walk | undefined;

  constructor(context: RemoteContext, open: OpenAhead) {
    this.#context = context;
    this.#open = open;
  }

  /** It is being asked for. */
  asked(node: Node): Promise<void> | undefined {
    return this.#asked.get(node);
  }

  /** All that the file contains, if that is here and good; once. */
  take(node: Node): Uint8Array | undefined {
    const kept = this.#kept.get(node);
    if (kept === undefined) return undefined;
    this.#forget(node, kept);
    return this.#context.leases.hasCovered(node, kept.asOf) ? kept.content : undefined;
  }

  /** A program opens a file to read it. */
  opens(node: Node, opener: CallerIdentity, flags: number): void {
    const directory = node.foundIn;
    if (directory === undefined || !this.#context.recentDirectories.has(directory)) return;
    const walk = this.#walkOf(opener, flags);
    if (walk.last !== node) walk.opens++;
    walk.last = node;
    walk.lastMs = performance.now();
    this.listed(directory);
    this.#ask();
  }

  /** The one that goes on, or a new one: what an earlier one has left is not wanted any more. */
  #walkOf(opener: CallerIdentity, flags: number): Walk {
    const walk = this.#walk;
    const isSame = walk && String(walk.opener) === String(opener) && walk.flags === flags;
    if (isSame && performance.now() - walk.lastMs < PAUSE_MS) return walk;
    this.#waiting = [];
    for (const [node, kept] of this.#kept) this.#forget(node, kept);
    this.#walk = { opener, flags, last: undefined, lastMs: 0, opens: 0, seen: new WeakSet() };
    return this.#walk;
  }

  /** What a directory lists is known, and a walk comes to it. */
  listed(directory: Node): void {
    if (this.#walk === undefined || this.#walk.opens < WALK_OPENS) return;
    const { seen } = this.#walk;
    const listing = this.#context.leases.listing(directory);
    if (listing === undefined || seen.has(listing) || this.#waiting.length >= MOST_DIRECTORIES) return;
    seen.add(listing);
    this.#waiting.push({ directory, listing, next: 0 });
    this.#ask();
  }

  /** What is waiting was listed for the walk that goes on. */
  #ask(): void {
    for (;;) {
      const [waiting] = this.#waiting;
      if (waiting === undefined || this.#walk === undefined || !this.#isRoom()) return;
      const node = this.#next(waiting);
      if (node) this.#askFor(node, this.#walk);
      else this.#waiting.shift();
    }
  }

  #isRoom(): boolean {
    const isLineBusy =
      this.#asked.size >= this.#context.session.roundTrip.depth || this.#askedBytes >= MOST_ASKED_BYTES;
    return !isLineBusy && this.#kept.size + this.#asked.size < MOST_KEPT && this.#keptBytes < MOST_KEPT_BYTES;
  }

  /** The next small file of the directory that the kernel has nothing of. */
  #next(waiting: Waiting): Node | undefined {
    const { leases } = this.#context;
    while (waiting.next < waiting.listing.length) {
      const { name, type } = waiting.listing[waiting.next++] as ListedName;
      const node = type === DT.REG ? leases.name(waiting.directory, keyOfName(name)) : undefined;
      if (node && this.#isWorthIt(node)) return node;
    }
    return undefined;
  }

  #isWorthIt(node: Node): boolean {
    const size = this.#context.leases.knownAttributes(node)?.size ?? 0;
    const isSmall = size > 0 && size <= limits.maxFirstBytes;
    return isSmall && !this.#context.kernel.hasPages(node) && !this.#asked.has(node) && !this.#kept.has(node);
  }

  #askFor(node: Node, { opener, flags }: Opening): void {
    const { leases } = this.#context;
    const asOf = leases.clock;
    const size = leases.knownAttributes(node)?.size ?? 0;
    this.#askedBytes += size;
    const keep = (content: Uint8Array | undefined) => {
      if (content) this.#keep(node, { content, asOf });
    };
    const done = () => {
      this.#asked.delete(node);
      this.#askedBytes -= size;
      this.#ask();
    };
    // Whoever opens it is told what is wrong.
    this.#asked.set(
      node,
      this.#open(node, { opener, flags })
        .then(keep, () => {})
        .then(done),
    );
  }

  #keep(node: Node, kept: Kept): void {
    this.#kept.set(node, kept);
    this.#keptBytes += kept.content.length;
  }

  #forget(node: Node, { content }: Kept): void {
    this.#kept.delete(node);
    this.#keptBytes -= content.length;
  }
}
