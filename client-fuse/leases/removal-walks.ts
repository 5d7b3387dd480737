/**
 * What another client comes to next that removes a tree, one name after the other, as `rm -r` does: each directory would be recalled by
 * itself, and it would wait each time. The first is, and with each that follows right after it the directories that such a walk
 * comes to next had better be given back, too, with their files: those below it, the one that it is in, those next to it, but none
 * outside of what all that were recalled have in common. Twice as many each time, and only while each is the one that was expected:
 * so clients that remove files here and there, each in a directory of its own, take nothing. Pure: LeaseCache asks.
 */
import type { Node } from '../vfs/node.ts';

/** Directories that go back after the second one of a walk, and after any. */
const FIRST = 2;
const MOST = 32;
/** Of them, at once: for more the kernel would be asked to forget not their names, but all names of the mount (see KernelCaches). */
const MOST_AT_ONCE = 4;
/** A walk that has removed nothing of what is held here for so long is over. */
const PAUSE_MS = 1_000;
/**
 * Names that are looked at for it, and how far down: what is in the way is not worth a longer search. All that are found fit into one
 * message (limits.maxLeasesGivenBack).
 */
const MOST_LOOKS = 2048;
const DEEPEST = 64;

export class RemovalWalks {
  readonly #nowMs: () => number;
  #last: Node | undefined;
  #lastMs = Number.NEGATIVE_INFINITY;
  /** All directories of the walk are this one, or below it. */
  #top: Node | undefined;
  /** Where the next name is removed, if it is a walk: there, or as far down as the first ones go. */
  #expected: ReadonlySet<Node> = new Set();
  #most = FIRST;

  constructor(nowMs: () => number = () => performance.now()) {
    this.#nowMs = nowMs;
  }

  get #isUnderWay(): boolean {
    return this.#nowMs() - this.#lastMs < PAUSE_MS;
  }

  /**
   * Leases are recalled: perhaps since a name is removed. Returns what else had better go, of what `mayGo`: one group after the
   * other; nothing while what was returned last is under way (`isGivingUp`).
   */
  recalled(
    asked: readonly (Node | undefined)[],
    mayGo: (node: Node) => boolean,
    isGivingUp: boolean,
  ): readonly (readonly Node[])[] {
    const directory = directoryOfRemoved(asked);
    if (directory === undefined || directory === this.#last) return [];
    const isNext = this.#isUnderWay && this.#expected.has(directory);
    if (isGivingUp && !isNext) return [];
    this.#last = directory;
    this.#lastMs = this.#nowMs();
    this.#top = (isNext && this.#top && commonAncestor(this.#top, directory)) || directory;
    let next: readonly (readonly Node[])[] = [];
    if (!isNext) this.#most = FIRST;
    else if (!isGivingUp) {
      next = nextOf(directory, this.#top, mayGo, this.#most);
      this.#most = Math.min(MOST, this.#most * 2);
    }
    const going = new Set(next.flat());
    this.#expected = wayDown(directory, (node) => mayGo(node) && !going.has(node));
    return next;
  }

  /** The names of a directory are about to be forgotten: which directories below it may still be held stays known while a walk goes on. */
  forgets({ known }: Node): void {
    if (known?.names === undefined) return;
    known.kept = undefined;
    if (!this.#isUnderWay) return;
    for (const child of known.names.values()) {
      if (!child?.known?.names) continue;
      known.kept ??= new Set();
      known.kept.add(child);
    }
  }
}

/** Where a name is removed: then the lease on what it means is recalled with the directory's. */
function directoryOfRemoved(asked: readonly (Node | undefined)[]): Node | undefined {
  return asked.find((node) => node?.foundIn && asked.includes(node.foundIn))?.foundIn;
}

/** The directory itself and those above it, as far as they are known. Directories that were moved into each other may seem to go round. */
function* upFrom(directory: Node): Generator<Node> {
  let at: Node | undefined = directory;
  for (let depth = 0; at !== undefined && depth < DEEPEST; depth++, at = at.foundIn) yield at;
}

function commonAncestor(a: Node, b: Node): Node | undefined {
  const ofA = new Set(upFrom(a));
  for (const node of upFrom(b)) if (ofA.has(node)) return node;
  return undefined;
}

function nextOf(
  directory: Node,
  top: Node,
  mayGo: (node: Node) => boolean,
  most: number,
): readonly (readonly Node[])[] {
  const next: Node[][] = [];
  let directories = 0;
  let looks = 0;
  /** False: enough, here and below. */
  const add = (node: Node): boolean => {
    const isDirectory = node.known?.names !== undefined;
    if (isDirectory && directories === most) return false;
    if (next.length === 0 || (isDirectory && directories % MOST_AT_ONCE === 0)) next.push([]);
    if (isDirectory) directories++;
    next.at(-1)?.push(node);
    return true;
  };
  const addBelow = (parent: Node, depth: number, except?: Node): boolean => {
    for (const child of childrenOf(parent)) {
      if (++looks > MOST_LOOKS) return false;
      if (!child || child === except) continue;
      if (!mayGo(child)) {
        if (!hasBelow(child)) parent.known?.kept?.delete(child);
      } else if (!add(child)) return false;
      if (depth < DEEPEST && !addBelow(child, depth + 1)) return false;
    }
    return true;
  };
  let from: Node | undefined;
  for (const parent of upFrom(directory)) {
    // What a walk is in it removes, too.
    if (from && parent !== top && mayGo(parent) && !add(parent)) break;
    if (!addBelow(parent, 0, from) || parent === top) break;
    from = parent;
  }
  return next;
}

/** Those whose leases were kept when the directory's own was given back, if it was. */
function childrenOf({ known }: Node): Iterable<Node | null | undefined> {
  return known?.names?.values() ?? known?.kept ?? [];
}

/** The first directory that a walk comes to after this one, the first in that, and so on: it removes something in one of them next. */
function wayDown(directory: Node, mayGo: (node: Node) => boolean): ReadonlySet<Node> {
  const way = new Set<Node>();
  let looks = 0;
  const isNext = (node: Node | null | undefined): node is Node => !!node?.known?.names && mayGo(node);
  const find = (parent: Node, except?: Node): Node | undefined => {
    for (const child of childrenOf(parent)) {
      if (++looks > MOST_LOOKS) return undefined;
      if (child && child !== except && (isNext(child) || (hasBelow(child) && find(child)))) return child;
    }
    return undefined;
  };
  let from: Node | undefined;
  for (const parent of upFrom(directory)) {
    for (let at = find(parent, from); at && way.size < DEEPEST; at = find(at)) way.add(at);
    if (way.size > 0) break;
    from = parent;
  }
  return way;
}

function hasBelow({ known }: Node): boolean {
  return known?.names !== undefined || !!known?.kept?.size;
}
