/**
 * Open directories. A listing that was read from front to back under the directory's lease is kept with it, and answers
 * the next ones; then the directory need not be open at the server. What is listed is looked up with it, and so the kernel
 * need not ask about one name after the other.
 */
import type { U64 } from '../../shared/attributes.ts';
import { errno, errnoOf } from '../../shared/errno.ts';
import { type Eventually, mapEventually } from '../../shared/eventually.ts';
import { limits } from '../../shared/limits.ts';
import { keyOfName } from '../leases/lease-cache.ts';
import type { Caller, DirectoryEntry, NodeId } from './filesystem.ts';
import { type ListedName, ListingParts } from './listing-parts.ts';
import type { Node, OpenHandle } from './node.ts';
import { NOT_OPENED, newHandle } from './open-handle.ts';
import type { RemoteContext } from './remote-context.ts';
import type { RemoteNames } from './remote-names.ts';

/** fuse_direntplus without its name. */
const ENTRY_BYTES = 152;
/** With so many names left the next part is asked for: the server reads them while the kernel takes these. */
const LEFT_TO_ASK = 512;
const OPENED = 'directory';

export class RemoteDirectories {
  readonly #context: RemoteContext;
  readonly #names: RemoteNames;

  constructor(context: RemoteContext, names: RemoteNames) {
    this.#context = context;
    this.#names = names;
  }

  opendir(caller: Caller, id: NodeId): Eventually<{ handle: number; keepCache: boolean; cacheDirectory: boolean }> {
    const node = this.#context.nodes.get(id);
    const opener = this.#context.identity(caller);
    const { leases } = this.#context;
    const right = `${opener} ${OPENED}`;
    const listing = leases.mayOpen(node, right) ? leases.listing(node) : undefined;
    if (listing) return this.#opened(node, opener, 0, NOT_OPENED, listing);
    const { epoch } = this.#context.session;
    const asOf = leases.clock;
    const request = { inode: this.#context.inodeOf(node), maxEntries: limits.maxListedAtOpen };
    return this.#context.call('opendir', caller, request).then(({ handle, listing: entries, directory }) => {
      const listing = entries && this.#names.learnAll(node, entries, asOf);
      if (directory) leases.learnAttributes(node, directory, true, asOf);
      leases.learnOpener(node, right, asOf);
      return this.#opened(node, opener, handle, handle === 0 ? NOT_OPENED : epoch, listing);
    });
  }

  #opened(
    node: Node,
    opener: OpenHandle['opener'],
    server: number,
    epoch: number,
    listing: readonly ListedName[] | undefined,
  ) {
    const open = newHandle({ node, isDirectory: true, flags: 0, opener, server, epoch });
    open.listing = listing;
    const { kernel, leases } = this.#context;
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
    const { kernel, leases } = this.#context;
    const asOf = leases.clock;
    const listed = this.#list(caller, handle, open, cookie, sizeBytes, plus);
    if (!open.isCached) return listed;
    return mapEventually(listed, (entries) => {
      if (!this.#isOld(open.node, asOf) && leases.isHeld(open.node))
        kernel.giveListing(open.node, cookie === 0, entries.length === 0);
      else kernel.dropListing(open.node);
      return entries;
    });
  }

  /** What was listed then may be different now. */
  #isOld(directory: Node, asOf: number): boolean {
    const { leases } = this.#context;
    return leases.wasRecalled(directory, asOf) || leases.lastChange(directory) > asOf;
  }

  #list(
    caller: Caller,
    handle: number,
    open: OpenHandle,
    cookie: U64,
    sizeBytes: number,
    plus: boolean,
  ): Eventually<readonly DirectoryEntry[]> {
    const isRewound = cookie === 0 && open.isListingRead;
    open.isListingRead = true;
    // rewinddir(3): as if it were opened now. What the kernel keeps is never of before a recall, or a change of this mount.
    const isAnew = isRewound || open.isCached;
    const listing = isAnew ? this.#context.leases.listing(open.node) : open.listing;
    if (isRewound || listing) open.listing = listing;
    const kept = listing && this.#fromListing(open.node, listing, cookie, sizeBytes, plus);
    if (kept) return kept;
    const read = this.#fromParts(caller, handle, open, cookie, sizeBytes, plus);
    if (!(read instanceof Promise)) return read;
    return read.catch((error) => {
      // Removed since, and it was not open at the server: what it listed last.
      const known = errnoOf(error) === errno.ESTALE ? open.listing : undefined;
      const last = known && this.#fromListing(open.node, known, cookie, sizeBytes, false);
      if (!last) throw error;
      return last;
    });
  }

  /** Undefined: the position is not one of this listing. */
  #fromListing(
    directory: Node,
    listing: readonly ListedName[],
    cookie: U64,
    sizeBytes: number,
    plus: boolean,
  ): readonly DirectoryEntry[] | undefined {
    const start = cookie === 0 ? 0 : listing.findIndex((one) => one.cookie === cookie) + 1;
    if (start === 0 && cookie !== 0) return undefined;
    const fits = fitting(sizeBytes);
    let end = start;
    for (let name = listing[end]; name && fits(name); name = listing[end]) end++;
    return this.#entries(directory, listing.slice(start, end), plus);
  }

  /** A directory that is not known whole: read from the server, ahead of the kernel. */
  #fromParts(
    caller: Caller,
    handle: number,
    open: OpenHandle,
    cookie: U64,
    sizeBytes: number,
    plus: boolean,
  ): Eventually<readonly DirectoryEntry[]> {
    const { clock } = this.#context.leases;
    const isKept = cookie !== 0 && open.parts?.has(cookie) && !this.#isOld(open.node, open.parts.asOf);
    const parts = isKept && open.parts ? open.parts : new ListingParts(cookie, clock);
    open.parts = parts;
    const take = () => {
      const names = parts.take(cookie, fitting(sizeBytes));
      // Whoever reads a long directory reads on. Without its lease nothing is asked before its time.
      const isAhead = parts.isAtEnd || !parts.isLeased || parts.left > LEFT_TO_ASK;
      if (!isAhead) void this.#more(caller, handle, open, parts, plus).catch(() => {}); // asked for again when it is needed
      return this.#entries(open.node, names, plus);
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
      return { ...listed, entry: this.#context.entry(directory, key, nodes.foundAgain(node), attributes) };
    });
  }
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
