/**
 * What the kernel may answer by itself, because a reply of ours said so under a lease: attributes of inodes, names of
 * directories (absent ones too) and what they list, pages of files. Remembers until when, and takes it back by notifications before a
 * recall is acknowledged. One a mount, owned by the filesystem; without a notifier (the second driver) nothing is given.
 *
 * Whatever is given ends with the client's own right to use leases (`usableMs`), so a stopped or disconnected client
 * leaves no kernel answering from a cache that nobody can recall.
 *
 * Three hazards of the kernel, each met here (fs/fuse/dir.c, fs/fuse/inode.c; docs/decisions/0009):
 * - A caller takes in its reply only after it was written: an inode may come to be after its invalidation (ENOENT).
 * - INVAL_ENTRY takes the directory's lock, which a creation or removal that waits for its reply holds. Each that waits
 *   keeps a thread of the pool, and so does the epoch that ends the wait: few may wait at once.
 * - INC_EPOCH and an entry's full invalidation unmount what is mounted on a directory.
 */
import type { NodeId } from '../vfs/filesystem.ts';
import type { Given, GivenListing, GivenName, Node } from '../vfs/node.ts';
import { PageReads } from './page-reads.ts';

/** The notifications that are needed. Each resolves when the kernel has done it. */
export interface CacheNotifier {
  /** Attributes, and the pages from `offset` on (-1: none). False: the kernel has no such inode. */
  invalidateInode(node: NodeId, offset: number, length: number): Promise<boolean>;
  /** What a directory lists, and its attributes. */
  invalidateListing(node: NodeId): Promise<void>;
  invalidateEntry(parent: NodeId, name: Uint8Array, options?: { expireOnly?: boolean }): Promise<void>;
  incrementEpoch(): Promise<void>;
  /** Whole pages of a file that nobody has asked for. The kernel waits for those that are being read. */
  storePages(node: NodeId, offset: number, data: Uint8Array): Promise<void>;
}

export interface KernelAccess {
  readonly notifier: CacheNotifier;
  /** NOTIFY_INC_EPOCH is there: names may be given, for there is a way to take them back under any lock. */
  readonly epochs: boolean;
  /** Something is mounted on a directory of this mount. */
  hasMountsInside(): Promise<boolean>;
}

const NEVER = Number.NEGATIVE_INFINITY;
/** More names than this are cheaper looked up again, all of the mount's, than taken back one by one. */
const MOST_SINGLE_NAMES = 256;
/** Expired names are dropped from memory each time so many more were given. */
const PRUNED_NAMES = 1024;
/** How long a directory's lock is waited for before the epoch is used. */
const LOCK_PATIENCE_MS = 20;
/** So many directories are waited for at once, one thread each: with the next the epoch is used straight away. */
const MOST_AWAITED_LOCKS = 8;
/** A caller that got its reply has taken it in by then, or nearly always: see `#takeBackOneByOne`. */
const TAKEN_IN_MS = 10;
/** An inode that the kernel was told of and does not know yet, is asked for again after this. */
const UNKNOWN_RETRY_MS = 1;

export class KernelCaches {
  readonly #usableMs: () => number;
  #kernel: KernelAccess | undefined;
  /** Notifications that wait for the lock of a directory, or may. */
  #awaitedLocks = 0;
  /** Of the last `takeBackAll`, and those before it: each answers for all of them. */
  #asksAgain: Promise<void> | undefined;

  /** `usableMs`: how long this client may go on using its leases, in milliseconds; 0 or less: it may not. */
  constructor(usableMs: () => number) {
    this.#usableMs = usableMs;
  }

  attach(kernel: KernelAccess): void {
    this.#kernel = kernel;
  }

  // --- giving

  /** The kernel is told attributes that are known under a lease: for how many milliseconds it may keep them. */
  giveAttributes(node: Node): number {
    const ms = this.#usableMs();
    if (this.#kernel === undefined || ms <= 0 || node.given?.takingBack) return 0;
    givenOf(node).attributesUntilMs = performance.now() + ms;
    return ms;
  }

  /** The same for a name. */
  giveName(directory: Node, key: string, isDirectory: boolean): number {
    const ms = this.#usableMs();
    if (!this.#kernel?.epochs || ms <= 0 || directory.given?.takingBack) return 0;
    const nowMs = performance.now();
    const { names } = givenOf(directory);
    if (names.size % PRUNED_NAMES === PRUNED_NAMES - 1) {
      for (const [name, { untilMs }] of names) if (untilMs <= nowMs) names.delete(name);
    }
    names.set(key, { givenMs: nowMs, untilMs: nowMs + ms, isDirectory });
    return ms;
  }

  /**
   * The kernel moves a name itself when it has its reply, and with it for how long it may keep it. To a directory whose lease
   * is not held nobody would call it back: then the reply must wait for the promise, and all names are looked up again.
   */
  movedName(
    from: Node,
    key: string,
    to: Node,
    newKey: string,
    isHeld: (directory: Node) => boolean,
  ): Promise<void> | undefined {
    const moved = from.given?.names.get(key);
    const replaced = to.given?.names.get(newKey);
    for (const directory of [from, to]) givenOf(directory).moves++;
    if (moved) givenOf(to).names.set(newKey, moved);
    if (replaced) givenOf(from).names.set(key, replaced);
    const movedUntilMs = isHeld(to) ? NEVER : (moved?.untilMs ?? NEVER);
    const replacedUntilMs = isHeld(from) ? NEVER : (replaced?.untilMs ?? NEVER);
    const lastMs = Math.max(movedUntilMs, replacedUntilMs);
    if (this.#kernel === undefined || lastMs <= performance.now()) return undefined;
    return this.#forgetAllNames(lastMs, this.#kernel);
  }

  /** A directory is opened: the kernel may keep what it reads of it. */
  mayGiveListing(directory: Node): boolean {
    return this.#kernel !== undefined && this.#usableMs() > 0 && directory.given?.takingBack === undefined;
  }

  /** Names of a listing go to the kernel, which keeps them; after the last ones none. */
  giveListing(directory: Node, isFirst: boolean, isEnd: boolean): void {
    const given = givenOf(directory);
    const givenMs = performance.now();
    const untilMs = isFirst ? givenMs + this.#usableMs() : NEVER;
    if (isFirst || given.listing === undefined) given.listing = { givenMs, untilMs, isWhole: false };
    given.listing.givenMs = givenMs;
    if (isEnd) given.listing.isWhole = true;
  }

  /**
   * The kernel has all that the directory lists, and may use the names that it got with it. When it may not, to read the
   * listing again is the cheaper way to get them: one request brings many.
   */
  hasListing({ given }: Node): boolean {
    const listing = given?.takingBack === undefined ? given?.listing : undefined;
    return listing?.isWhole === true && listing.untilMs > performance.now();
  }

  /** The kernel is told what it must not keep: what others have begun to read goes before that, and all of it after it. */
  async dropListing(directory: Node): Promise<void> {
    givenOf(directory).listing = undefined;
    const drop = () => this.#kernel?.notifier.invalidateListing(directory.id);
    await drop();
    setTimeout(drop, TAKEN_IN_MS);
  }

  /** False: the driver takes nothing back. What is read must go past its caches, and what is written is not gathered. */
  get isAttached(): boolean {
    return this.#kernel !== undefined;
  }

  /** The kernel reads pages that it will keep. A promise: the read must wait for a recall, and its lease is gone then. */
  beginRead(node: Node, offset: number, size: number): Promise<void> | undefined {
    const given = givenOf(node);
    const wait = given.reads.begin(offset, size);
    if (wait === undefined) {
      given.hasPages = true;
      return undefined;
    }
    return wait.then(() => this.beginRead(node, offset, size));
  }

  /**
   * Pages go to the kernel unasked; `isCovered`: by the lease, since before they were read. What changes the file waits for `stored`
   * before it is done, and a recall before it invalidates.
   */
  async storePages(node: Node, offset: number, data: Uint8Array, isCovered: () => boolean): Promise<void> {
    if (this.#kernel === undefined || this.#usableMs() <= 0 || node.given?.takingBack || !isCovered()) return;
    const given = givenOf(node);
    given.hasPages = true;
    const before = given.storing;
    const stored = this.#kernel.notifier.storePages(node.id, offset, data);
    const storing = Promise.allSettled([before, stored]).then(() => {
      if (given.storing === storing) given.storing = undefined;
    });
    given.storing = storing;
    await stored;
    // Not by a recall, which waits: the connection was lost, or the server has been silent for too long.
    if (!isCovered()) await this.dropPages(node, offset, data.length);
  }

  /** Resolves when the kernel has taken in what is being stored. Undefined: nothing is. */
  stored({ given }: Node): Promise<void> | undefined {
    return given?.storing;
  }

  /** A creation, removal or rename in the directory begins; call the result when its reply is there. */
  beginChange(directory: Node): () => void {
    const given = givenOf(directory);
    given.changes++;
    given.listing = undefined;
    return () => {
      given.changes--;
      given.listing = undefined;
    };
  }

  // --- taking back

  /**
   * Resolves when the kernel answers nothing of these by itself any more. Undefined: it did not anyway. Reads of their
   * pages wait until `tookBack`.
   */
  takeBack(nodes: Iterable<Node>): Promise<void> | undefined {
    if (this.#kernel === undefined) return undefined;
    let waits: Promise<unknown>[] | undefined;
    for (const node of nodes) {
      const taken = this.#takeBackOne(node, this.#kernel);
      if (taken === undefined) continue;
      waits ??= [];
      waits.push(taken);
    }
    return waits && Promise.all(waits).then(() => {});
  }

  /** The attributes alone, which no lock is needed for. */
  takeBackAttributes(node: Node): Promise<unknown> | undefined {
    const { given } = node;
    if (given === undefined || given.attributesUntilMs <= performance.now()) return undefined;
    given.attributesUntilMs = NEVER;
    return this.#kernel?.notifier.invalidateInode(node.id, -1, 0);
  }

  /**
   * Of the whole mount. Resolves when the kernel asks about everything again, what it was given before included. Pages may take
   * longer, for those that are dirty are written first; but each read looks at the attributes before (AUTO_INVAL_DATA).
   */
  takeBackAll(nodes: readonly Node[]): Promise<void> {
    let lastMs = NEVER;
    for (const { given } of nodes) {
      for (const { untilMs } of given?.names.values() ?? []) lastMs = Math.max(lastMs, untilMs);
      given?.names.clear();
    }
    const names = this.#kernel && lastMs > performance.now() ? this.#forgetAllNames(lastMs, this.#kernel) : undefined;
    const withPages = nodes.filter(({ given }) => given?.hasPages);
    const attributes = withPages.map(({ id }) => this.#kernel?.notifier.invalidateInode(id, -1, 0));
    const others = this.takeBack(nodes.filter(({ given }) => !given?.hasPages));
    const asksAgain = Promise.all([this.#asksAgain, names, others, ...attributes]).then(() => {});
    this.#asksAgain = asksAgain;
    void Promise.all([asksAgain, this.takeBack(withPages)]).then(() => this.tookBack(nodes));
    return asksAgain;
  }

  /** The recall of these is acknowledged. */
  tookBack(nodes: Iterable<Node>): void {
    for (const { given } of nodes) if (given?.takingBack === undefined) given?.reads.end();
  }

  /** Resolves when nothing of the node is being taken back. */
  quiet(node: Node): Promise<void> | undefined {
    return node.given?.takingBack;
  }

  #takeBackOne(node: Node, kernel: KernelAccess): Promise<void> | undefined {
    // Even without pages: those that are read from now on would be from before the change that is waited for.
    if (node.cached?.size) givenOf(node).reads.hold();
    const { given } = node;
    if (given === undefined) return undefined;
    if (given.takingBack) return given.takingBack;
    const nowMs = performance.now();
    const hasAttributes = given.attributesUntilMs > nowMs;
    const names = [...given.names].filter(([, { untilMs }]) => untilMs > nowMs);
    const { hasPages, listing } = given;
    given.attributesUntilMs = NEVER;
    given.names.clear();
    given.listing = undefined;
    if (!hasAttributes && !hasPages && !listing && names.length === 0) return undefined;
    const work: Promise<unknown>[] = [];
    // Attributes go with the pages; an inode that has any is known to the kernel.
    if (listing) work.push(this.#takeBackListing(node, listing, kernel));
    else if (hasAttributes && !hasPages) work.push(this.#takeBackAttributes(node, kernel));
    if (hasPages) work.push(this.#takeBackPages(node, given, kernel));
    if (names.length > 0) work.push(this.#takeBackNames(node, given, names, kernel));
    const done = Promise.all(work).then(() => {
      given.takingBack = undefined;
      given.hasPages = false;
    });
    given.takingBack = done;
    return done;
  }

  /** Pages that the kernel has came in under the lease that is held now. */
  hasPages(node: Node): boolean {
    return node.given?.hasPages === true;
  }

  /** Pages that may come in from now on are covered by nothing: whoever opens the file next starts without any. */
  distrustPages(node: Node): void {
    if (node.given) node.given.hasPages = false;
  }

  /** Pages in [offset, offset + length) that came in are old; length 0: to the end. */
  dropPages(node: Node, offset: number, length: number): Promise<unknown> | undefined {
    if (!node.given?.hasPages || this.#kernel === undefined) return undefined;
    return this.#kernel.notifier.invalidateInode(node.id, offset, length);
  }

  /** Whether they were given under a lease or not; dirty ones are written back before. */
  dropAllPages(node: Node): Promise<unknown> | undefined {
    return this.#kernel?.notifier.invalidateInode(node.id, 0, 0);
  }

  async #takeBackAttributes(node: Node, { notifier }: KernelAccess): Promise<void> {
    // Until the kernel has it, or has forgotten it: a reply that tells of the inode may still be on its way to a caller.
    while (!(await notifier.invalidateInode(node.id, -1, 0)) && node.lookups > 0) await delay(UNKNOWN_RETRY_MS);
  }

  /** A directory's pages. Twice, if a caller may be taking in names: the kernel keeps them when it has them. */
  async #takeBackListing(directory: Node, { givenMs }: GivenListing, { notifier }: KernelAccess): Promise<void> {
    const leftMs = givenMs + TAKEN_IN_MS - performance.now();
    await notifier.invalidateListing(directory.id);
    if (leftMs <= 0) return;
    await delay(leftMs);
    await notifier.invalidateListing(directory.id);
  }

  #takeBackPages(node: Node, given: Given, { notifier }: KernelAccess): Promise<void> {
    return given.reads.takeBack(async (start, end) => {
      // Reads go on meanwhile, which is what a store may wait for.
      await given.storing;
      await notifier.invalidateInode(node.id, start, Number.isFinite(end) ? end - start : 0);
    });
  }

  async #takeBackNames(
    directory: Node,
    given: Given,
    names: [string, GivenName][],
    kernel: KernelAccess,
  ): Promise<void> {
    const lastMs = Math.max(...names.map(([, { untilMs }]) => untilMs));
    const isBusy = given.changes > 0 || this.#awaitedLocks >= MOST_AWAITED_LOCKS;
    if (isBusy || names.length > MOST_SINGLE_NAMES) return this.#forgetAllNames(lastMs, kernel);
    const { moves } = given;
    const patience = new AbortController();
    const single = this.#takeBackOneByOne(directory, names, kernel.notifier, patience.signal);
    // A change that took the lock since may wait for this very recall to be answered.
    const ended = delay(LOCK_PATIENCE_MS + TAKEN_IN_MS).then(() => 'locked' as const);
    const isLocked = (await Promise.race([single, ended])) === 'locked';
    patience.abort();
    // What was moved away from its name meanwhile was missed.
    if (isLocked || given.moves !== moves) await this.#forgetAllNames(lastMs, kernel);
  }

  /**
   * One after the other: they need the same lock, and those that wait for it would take all threads of the pool.
   *
   * Directories are not taken away as a file's name is: a process may have one as its working directory, and something may
   * be mounted on it. A lookup that only revalidates may put its reply's time over this expiry: then it is made twice.
   */
  async #takeBackOneByOne(
    directory: Node,
    names: readonly [string, GivenName][],
    notifier: CacheNotifier,
    patience: AbortSignal,
  ): Promise<void> {
    const take = async ([key, { isDirectory }]: [string, GivenName]) => {
      if (patience.aborted) return;
      this.#awaitedLocks++;
      try {
        await notifier.invalidateEntry(directory.id, Buffer.from(key, 'latin1'), { expireOnly: isDirectory });
      } finally {
        this.#awaitedLocks--;
      }
    };
    const beganMs = performance.now();
    for (const name of names) await take(name);
    const twice = names.filter(([, { isDirectory, givenMs }]) => isDirectory && givenMs + TAKEN_IN_MS > beganMs);
    if (twice.length === 0) return;
    await delay(Math.max(...twice.map(([, { givenMs }]) => givenMs)) + TAKEN_IN_MS - beganMs);
    for (const name of twice) await take(name);
  }

  /** Every name of the mount is looked up again; or these are waited out, when that would unmount something. */
  async #forgetAllNames(lastMs: number, kernel: KernelAccess): Promise<void> {
    if (await kernel.hasMountsInside()) await delay(Math.max(0, lastMs - performance.now()));
    else await kernel.notifier.incrementEpoch();
  }
}

function givenOf(node: Node): Given {
  node.given ??= {
    attributesUntilMs: NEVER,
    names: new Map(),
    listing: undefined,
    hasPages: false,
    storing: undefined,
    reads: new PageReads(),
    changes: 0,
    moves: 0,
    takingBack: undefined,
  };
  return node.given;
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
