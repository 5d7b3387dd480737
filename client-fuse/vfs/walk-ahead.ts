/**
 * Directories that a program is about to open, since it walks a tree: it opens one right after the directory that lists it. They are
 * asked for ahead, some at a time, in the order of the listing: the same request as ever, only sooner, where each would
 * be waited for (a `grep -r` on a line of 10 ms), or each end would wait for the other (on a local one). Only what is known
 * under a lease tells where a walk leads. Owned by RemoteDirectories.
 */
import { DT } from '../../shared/linux/constants.ts';
import { keyOfName } from '../leases/lease-cache.ts';
import type { CallerIdentity } from '../transport/server-session.ts';
import type { ListedName } from './listing-parts.ts';
import type { Node } from './node.ts';
import type { RemoteContext } from './remote-context.ts';

/** Asked for in one directory and not opened yet; and as soon as it is known what is in one of these, in that one. */
const AHEAD = 16;
const AHEAD_BELOW = 4;
/** Asked for and not opened yet, in all. */
const MOST_AHEAD = 64;
/** Longer than that nobody walks from one directory to the next: other walks may have their place. */
const AHEAD_MS = 10_000;

/** How far the directories of one listing have been asked for. */
interface Progress {
  readonly listing: readonly ListedName[];
  next: number;
  readonly unopened: Set<Node>;
}

export class WalkAhead {
  readonly #context: RemoteContext;
  /** Asks for what a directory lists. Never rejects. */
  readonly #ask: (node: Node, opener: CallerIdentity) => Promise<void>;
  readonly #asked = new Map<Node, Promise<void>>();
  /** Those that were not opened yet, and when they were asked for, in that order. */
  readonly #ahead = new Map<Node, number>();
  readonly #progress = new WeakMap<Node, Progress>();

  constructor(context: RemoteContext, ask: (node: Node, opener: CallerIdentity) => Promise<void>) {
    this.#context = context;
    this.#ask = ask;
  }

  /** It is being asked for. */
  asked(node: Node): Promise<void> | undefined {
    return this.#asked.get(node);
  }

  /** A program has opened it, and what it lists is known, if it ever will be. */
  opened(node: Node, opener: CallerIdentity): void {
    this.#ahead.delete(node);
    const parent = node.foundIn;
    const { recentDirectories } = this.#context;
    const isWalk = parent !== undefined && recentDirectories.has(parent);
    recentDirectories.opened(node);
    if (!isWalk) return;
    this.#progress.get(parent)?.unopened.delete(node);
    // A walk goes down before it goes on.
    this.#askBelow(node, opener, AHEAD);
    this.#askBelow(parent, opener, AHEAD);
  }

  /** `most`: of this directory. */
  #askBelow(directory: Node, opener: CallerIdentity, most: number): void {
    const { leases } = this.#context;
    const listing = leases.listing(directory);
    if (listing === undefined) return;
    let progress = this.#progress.get(directory);
    if (progress?.listing !== listing) {
      progress = { listing, next: 0, unopened: new Set() };
      this.#progress.set(directory, progress);
    }
    const { unopened } = progress;
    const { depth } = this.#context.session.roundTrip;
    for (; progress.next < listing.length; progress.next++) {
      if (unopened.size >= most || this.#asked.size >= depth || !this.#isRoom()) return;
      const { name, type } = listing[progress.next] as ListedName;
      if (type !== DT.DIR) continue;
      const child = leases.name(directory, keyOfName(name));
      if (!child || leases.listing(child) || this.#asked.has(child)) continue;
      unopened.add(child);
      this.#ahead.set(child, performance.now());
      const asked = this.#ask(child, opener).finally(() => {
        this.#asked.delete(child);
        if (leases.listing(child)) return this.#askBelow(child, opener, AHEAD_BELOW);
        // Refused, or too long: its place is free, though nobody may ever open it.
        unopened.delete(child);
        this.#ahead.delete(child);
      });
      this.#asked.set(child, asked);
    }
  }

  #isRoom(): boolean {
    for (const [node, sinceMs] of this.#ahead) {
      if (this.#ahead.size < MOST_AHEAD || sinceMs > performance.now() - AHEAD_MS) break;
      this.#ahead.delete(node);
    }
    return this.#ahead.size < MOST_AHEAD;
  }
}
