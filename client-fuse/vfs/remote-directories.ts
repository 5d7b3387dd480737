/**
 * Open directories. A listing that was read from front to back under the directory's lease is kept with it, and answers
 * the next ones; then the directory need not be open at the server.
 */
import type { U64 } from '../../shared/attributes.ts';
import { errno, errnoOf } from '../../shared/errno.ts';
import { type Eventually, mapEventually } from '../../shared/eventually.ts';
import { limits } from '../../shared/limits.ts';
import type { ReplyOf } from '../../shared/protocol/messages.ts';
import { keyOfName } from '../leases/lease-cache.ts';
import type { Caller, DirectoryEntry, NodeId } from './filesystem.ts';
import type { ListedName, Node, OpenHandle } from './node.ts';
import { NOT_OPENED, newHandle } from './open-handle.ts';
import type { RemoteContext } from './remote-context.ts';
import type { RemoteNames } from './remote-names.ts';

/** fuse_direntplus without its name, roughly: how many entries of a kept listing fill a reply. */
const ENTRY_BYTES = 160;
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
      const isOld = leases.wasRecalled(open.node, asOf) || leases.lastChange(open.node) > asOf;
      if (!isOld && leases.isHeld(open.node)) kernel.giveListing(open.node, cookie === 0, entries.length === 0);
      else kernel.dropListing(open.node);
      return entries;
    });
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
    return this.#ask(caller, handle, open, cookie, sizeBytes, plus).catch((error) => {
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
    const { leases, nodes } = this.#context;
    return listing.slice(start, start + Math.max(1, Math.floor(sizeBytes / ENTRY_BYTES))).map((listed) => {
      const key = keyOfName(listed.name);
      const node = plus ? leases.name(directory, key) : undefined;
      const attributes = node && leases.knownAttributes(node);
      if (!node || !attributes || this.#context.written(node)) return listed;
      return { ...listed, entry: this.#context.entry(directory, key, nodes.foundAgain(node), attributes) };
    });
  }

  async #ask(
    caller: Caller,
    handle: number,
    open: OpenHandle,
    cookie: U64,
    sizeBytes: number,
    plus: boolean,
  ): Promise<readonly DirectoryEntry[]> {
    const { leases } = this.#context;
    const asOf = leases.clock;
    const reply = await this.#context.withOpen(handle, ({ server }) =>
      this.#context.call('readdir', caller, { handle: server, cookie, sizeBytes, plus }),
    );
    leases.wasRead(open.node, reply.atime, asOf);
    const entries = reply.entries.map((one) => this.#answered(open.node, one, reply.leased, asOf));
    this.#remember(open, cookie, reply, asOf);
    return entries;
  }

  #answered(
    directory: Node,
    { entry: wire, mayHaveXattrs, ...listed }: ReplyOf<'readdir'>['entries'][number],
    leased: boolean,
    asOf: number,
  ): DirectoryEntry {
    if (wire === undefined) return listed;
    const node = this.#names.found(wire, asOf);
    if (!mayHaveXattrs) this.#context.leases.learnNoXattrs(node, asOf);
    const key = keyOfName(listed.name);
    this.#context.leases.learnName(directory, key, node, leased, asOf);
    // What was gathered for it is not in these attributes: the kernel looks it up.
    if (this.#context.written(node)) {
      this.#context.forget(node.id, 1);
      return listed;
    }
    return { ...listed, entry: this.#context.entry(directory, key, node, wire.attributes) };
  }

  /** Puts the chunks together, as long as they follow each other under one lease. */
  #remember(open: OpenHandle, cookie: U64, { entries, end, leased }: ReplyOf<'readdir'>, asOf: number): void {
    if (cookie === 0) open.listed = leased ? { names: [], asOf } : undefined;
    const { listed } = open;
    if (listed === undefined) return;
    // The kernel goes on after the last entry that it had room for, which may be one of the middle.
    const follows = cookie === 0 ? 0 : listed.names.findLastIndex((one) => one.cookie === cookie) + 1;
    if (!leased || (cookie !== 0 && follows === 0)) {
      open.listed = undefined;
      return;
    }
    listed.names.length = follows;
    for (const { name, ino, type, cookie } of entries)
      listed.names.push({ name: Buffer.from(name), ino, type, cookie });
    if (!end && entries.length > 0) return;
    this.#context.leases.learnListing(open.node, listed.names, listed.asOf);
    open.listed = undefined;
  }
}
