/**
 * Open directories. A listing that was read from front to back under the directory's lease is kept with it, and answers
 * the next ones; then the directory need not be open at the server. What is listed is looked up with it, and so the kernel
 * need not ask about one name after the other.
 */
import type { U64 } from '../../shared/attributes.ts';
import type { Eventually } from '../../shared/eventually.ts';
import { limits } from '../../shared/limits.ts';
import { keyOfName } from '../leases/lease-cache.ts';
import type { FilesAhead } from './files-ahead.ts';
import type { Caller, DirectoryEntry, NodeId } from './filesystem.ts';
import { type ListedName, ListingParts } from './listing-parts.ts';
import type { Node, OpenHandle } from './node.ts';
import { NOT_OPENED, newHandle } from './open-handle.ts';
import type { RemoteContext } from './remote-context.ts';
import type { RemoteNames } from './remote-names.ts';
import { WalkAhead } from './walk-ahead.ts';

/** fuse_direntplus without its name. */
const ENTRY_BYTES = 152;
/** With so many names left the next part is asked for: the server reads them while the kernel takes these. */
const LEFT_TO_ASK = 512;

interface Opened {
  readonly handle: number;
  readonly keepCache: boolean;
  readonly cacheDirectory: boolean;
}

export class RemoteDirectories {
  readonly #context: RemoteContext;
  readonly #names: RemoteNames;
  readonly #files: FilesAhead;
  readonly #walk: WalkAhead;

  constructor(context: RemoteContext, names: RemoteNames, files: FilesAhead) {
    this.#context = context;
    this.#names = names;
    this.#files = files;
    this.#walk = new WalkAhead(context, (node, opener) => this.#askAhead(node, opener));
  }

  opendir(caller: Caller, id: NodeId): Eventually<Opened> {
    const node = this.#context.nodes.get(id);
    const unmade = this.#context.unmade.inside(node);
    if (unmade) return unmade.then(() => this.opendir(caller, id));
    const opener = this.#context.identity(caller);
    const known = this.#openedByKnowledge(node, opener);
    if (known) return known;
    const ask = async () => {
      const opened = await this.#openAtServer(node, opener);
      this.#walksTo(node, opener);
      return opened;
    };
    return this.#walk.asked(node)?.then(() => this.#openedByKnowledge(node, opener) ?? ask()) ?? ask();
  }

  /** Undefined: the server must be asked. */
  #openedByKnowledge(node: Node, opener: OpenHandle['opener']): Opened | undefined {
    const { leases } = this.#context;
    const listing = leases.mayOpen(node, rightOf(opener)) ? leases.listing(node) : undefined;
    if (listing === undefined) return undefined;
    this.#walksTo(node, opener);
    return this.#opened(node, opener, 0, NOT_OPENED, leases.clock, listing);
  }

  #walksTo(node: Node, opener: OpenHandle['opener']): void {
    this.#files.listed(node);
    this.#walk.opened(node, opener);
  }

  async #openAtServer(node: Node, opener: OpenHandle['opener']): Promise<Opened> {
    const { leases, session } = this.#context;
    const { epoch } = session;
    const asOf = leases.clock;
    const { handle, listing } = await this.#askListing(node, opener, asOf);
    return this.#opened(node, opener, handle, handle === 0 ? NOT_OPENED : epoch, asOf, listing);
  }

  /** What is listed, if the directory is short: then it is not open at the server. */
  async #askListing(node: Node, opener: OpenHandle['opener'], asOf: number) {
    const { leases, session } = this.#context;
    const request = { inode: this.#context.inodeOf(node), maxEntries: limits.maxListedAtOpen };
    const { handle, listing: entries, directory } = await session.call('opendir', opener, request);
    const listing = entries && this.#names.learnAll(node, entries, asOf);
    if (directory) leases.learnAttributes(node, directory, true, asOf);
    leases.learnOpener(node, rightOf(opener), asOf);
    return { handle, listing };
  }

  /** For a program that will open it; what it would be told then it is told. */
  async #askAhead(node: Node, opener: OpenHandle['opener']): Promise<void> {
    const { leases, session } = this.#context;
    try {
      const { handle } = await this.#askListing(node, opener, leases.clock);
      this.#files.listed(node);
      if (handle !== 0) await session.call('release', [], { handles: [handle] });
    } catch {
      // it is asked again when it is opened
    }
  }

  #opened(
    node: Node,
    opener: OpenHandle['opener'],
    server: number,
    epoch: number,
    asOf: number,
    listing: readonly ListedName[] | undefined,
  ): Opened {
    const open = newHandle({ node, isDirectory: true, flags: 0, opener, server, epoch });
    const { kernel, leases } = this.#context;
    open.listing = listing;
    open.listedAsOf = asOf;
    open.isCached = leases.isHeld(node) && kernel.mayGiveListing(node);
    const keepCache = open.isCached && kernel.hasListing(node);
    return { handle: this.#context.handles.add(open), keepCache, cacheDirectory: open.isCached };
  }

  readdir(
    caller: Caller,
    handle: number,
    cookie: U64,
    sizeBytes: number,
    plus: boolean,
  ): Eventually<readonly DirectoryEntry[]> {
    const open = this.#context.handles.get(handle);
    const unmade = this.#context.unmade.inside(open.node);
    if (unmade) return unmade.then(() => this.readdir(caller, handle, cookie, sizeBytes, plus));
    if (cookie === 0) this.#begin(open);
    const { listing } = open;
    const kept = listing && fromListing(listing, cookie, sizeBytes);
    const names = kept ?? this.#fromParts(caller, handle, open, cookie, sizeBytes, plus);
    return names instanceof Promise
      ? names.then((some) => this.#answer(open, cookie, some, plus))
      : this.#answer(open, cookie, names, plus);
  }

  /** rewinddir(3) is no request: as if it were opened now. */
  #begin(open: OpenHandle): void {
    const { leases } = this.#context;
    if (open.isListingRead || this.#isOld(open)) open.listing = leases.listing(open.node);
    open.parts = undefined;
    open.isListingRead = true;
    open.listedAsOf = leases.clock;
  }

  /** Something has happened to the directory since it was listed. */
  #isOld({ node, listedAsOf }: OpenHandle): boolean {
    const { leases } = this.#context;
    return leases.wasRecalled(node, listedAsOf) || leases.lastChange(node) > listedAsOf;
  }

  /**
   * The kernel adds it to what it keeps of the directory, whoever began with that: it may have names of before a recall, or of
   * before a change of this mount.
   */
  #answer(
    open: OpenHandle,
    cookie: U64,
    names: readonly ListedName[],
    plus: boolean,
  ): Eventually<readonly DirectoryEntry[]> {
    const { kernel, leases } = this.#context;
    const { node } = open;
    const entries = () => this.#entries(node, names, plus);
    if (!open.isCached) return entries();
    if (this.#isOld(open) || !leases.isHeld(node)) return kernel.dropListing(node).then(entries);
    kernel.giveListing(node, cookie === 0, names.length === 0);
    return entries();
  }

  /** A directory that is not known whole: read from the server, ahead of the kernel. */
  #fromParts(
    caller: Caller,
    handle: number,
    open: OpenHandle,
    cookie: U64,
    sizeBytes: number,
    plus: boolean,
  ): Eventually<readonly ListedName[]> {
    if (!open.parts?.has(cookie)) open.parts = new ListingParts(cookie, this.#context.leases.clock);
    const { parts } = open;
    const take = () => {
      const names = parts.take(cookie, fitting(sizeBytes));
      // Whoever reads a long directory reads on. Without its lease nothing is asked before its time.
      const isAhead = parts.isAtEnd || !parts.isLeased || parts.left > LEFT_TO_ASK;
      if (!isAhead) void this.#more(caller, handle, open, parts, plus).catch(() => {}); // asked for again when it is needed
      return names;
    };
    if (parts.isAtEnd || parts.end !== cookie) return take();
    const ask = async () => {
      while (!parts.isAtEnd && parts.end === cookie) await this.#more(caller, handle, open, parts, plus);
      return take();
    };
    return ask();
  }

  /** One request at a time: each begins where the one before ended. */
  #more(caller: Caller, handle: number, open: OpenHandle, parts: ListingParts, plus: boolean): Promise<void> {
    parts.asking ??= this.#ask(caller, handle, open, parts, plus).finally(() => {
      parts.asking = undefined;
    });
    return parts.asking;
  }

  async #ask(caller: Caller, handle: number, open: OpenHandle, parts: ListingParts, plus: boolean): Promise<void> {
    const { leases } = this.#context;
    const asOf = leases.clock;
    // Attributes that may not be kept, or are too many to be kept, are asked for when they are wanted.
    const looksUp = plus && parts.isLeased && parts.count < limits.maxListedWithAttributes;
    const sizeBytes = looksUp ? limits.listingPartBytes : limits.namesPartBytes;
    const reply = await this.#context.withOpen(handle, ({ server }) =>
      this.#context.call('readdir', caller, { handle: server, cookie: parts.end, sizeBytes, plus: looksUp }),
    );
    leases.wasRead(open.node, reply.atime, asOf);
    leases.learnHeld(open.node, reply.leased, asOf);
    const names = this.#names.learnEntries(open.node, reply.entries, reply.leased, asOf);
    parts.add(names, reply.end, reply.leased);
    if (parts.whole) leases.learnListing(open.node, parts.whole, parts.asOf);
  }

  /** What is known of these names goes to the kernel with them. */
  #entries(directory: Node, names: readonly ListedName[], plus: boolean): readonly DirectoryEntry[] {
    if (!plus) return names;
    const { leases, nodes } = this.#context;
    return names.map((listed) => {
      const key = keyOfName(listed.name);
      const node = leases.name(directory, key);
      const attributes = node && leases.knownAttributes(node);
      if (!node || !attributes || this.#context.written(node)) return listed;
      const { name, ino, type, cookie } = listed;
      return {
        name,
        ino,
        type,
        cookie,
        entry: this.#context.entry(directory, key, nodes.foundAgain(node), attributes),
      };
    });
  }
}

function rightOf(opener: OpenHandle['opener']): string {
  return `${opener} directory`;
}

/** Undefined: the position is not one of this listing. */
function fromListing(
  listing: readonly ListedName[],
  cookie: U64,
  sizeBytes: number,
): readonly ListedName[] | undefined {
  const start = cookie === 0 ? 0 : listing.findIndex((one) => one.cookie === cookie) + 1;
  if (start === 0 && cookie !== 0) return undefined;
  const fits = fitting(sizeBytes);
  let end = start;
  for (let name = listing[end]; name && fits(name); name = listing[end]) end++;
  return listing.slice(start, end);
}

/** Says of one name after the other whether it fits into a reply; the first does. */
function fitting(sizeBytes: number): (name: ListedName) => boolean {
  let used = 0;
  return ({ name }) => {
    const isFirst = used === 0;
    used += (ENTRY_BYTES + name.length + 7) & ~7;
    return isFirst || used <= sizeBytes;
  };
}
