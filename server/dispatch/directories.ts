/** Handlers that list directories. */
import type { U64 } from '../../shared/attributes.ts';
import { FsError } from '../../shared/errno.ts';
import type { Eventually } from '../../shared/eventually.ts';
import { limits } from '../../shared/limits.ts';
import type { ReplyOf, RequestOf, WireEntry } from '../../shared/protocol/messages.ts';
import type { StreamEntry } from '../store/directory-stream.ts';
import type { Inode } from '../store/inode.ts';
import { OpenFile } from '../store/open-file.ts';
import type { Store } from '../store/store.ts';
import { wrongKind } from './attributes.ts';
import { accessTimeAfterRead, entryOf, type Handlers, type RequestContext } from './handler.ts';

export const directoryHandlers: Handlers<'opendir' | 'readdir' | 'readNames'> = {
  opendir: {
    mutates: false,
    handle: (context, request) => whenKnown(context, context.store.resolve(request.inode), opendir, request),
  },
  readNames: {
    mutates: false,
    handle: (context, request) => whenKnown(context, context.store.resolve(request.inode), readNames, request),
  },
  readdir: {
    mutates: false,
    handle: (context, request) => {
      const file = context.session.file(request.handle);
      if (!file.isDirectory) throw wrongKind(false);
      return whenKnown(context, file.inode, readdir, request);
    },
  },
};

/** When nobody else makes files in the directory that the server does not have yet. */
function whenKnown<Q, R>(
  context: RequestContext,
  directory: Inode,
  list: (context: RequestContext, request: Q) => R,
  request: Q,
): Eventually<R> {
  const waits = context.leases.settled(context.session, directory);
  return waits ? waits.then(() => list(context, request)) : list(context, request);
}

function readdir(
  context: RequestContext,
  { handle, cookie, sizeBytes, plus }: RequestOf<'readdir'>,
): ReplyOf<'readdir'> {
  const file = context.session.file(handle);
  const leased = context.leases.grantNames(context.session, file.inode);
  const { entries, end } = file.calls.entries(file.fd, cookie, Math.min(sizeBytes, limits.maxDirectoryBytes));
  const listed = plus ? lookedUpAll(context, file.inode, entries) : entries.map((one) => entryWith(one, UNKNOWN));
  return { entries: listed, end, leased, atime: accessTimeAfterRead(context.session, file) };
}

/** A short directory is listed with the reply, and need not stay open. */
function opendir(context: RequestContext, request: RequestOf<'opendir'>): ReplyOf<'opendir'> {
  const { store, session, leases, identity } = context;
  const inode = store.resolve(request.inode);
  const fd = store.openDirectory(identity, inode);
  const file = new OpenFile(store, inode, fd, { isDirectory: true, canWrite: false });
  try {
    const isLeased = request.maxEntries > 0 && leases.grantNames(session, inode);
    const names = isLeased ? allNames(store, fd, Math.min(request.maxEntries, limits.maxListedAtOpen)) : undefined;
    if (names === undefined) return { handle: session.addFile(file), listing: undefined, directory: undefined };
    const listing = lookedUpAll(context, inode, names);
    const attributes = store.attributes(inode);
    const directory = leases.grantAttributes(session, inode, attributes) ? attributes : undefined;
    file.release();
    context.request.isRepeatable = true;
    return { handle: 0, listing, directory };
  } catch (error) {
    file.release();
    throw error;
  }
}

/** Like a listing from front to back, in one reply; nothing of it when it is too long. */
function readNames(context: RequestContext, { inode, maxEntries }: RequestOf<'readNames'>): ReplyOf<'readNames'> {
  const { store, session, leases, identity } = context;
  const directory = store.resolve(inode);
  const fd = store.openDirectory(identity, directory);
  try {
    const leased = leases.grantNames(session, directory);
    const names = allNames(store, fd, maxEntries);
    if (names === undefined) return { entries: [], complete: false, leased };
    return { entries: lookedUpAll(context, directory, names), complete: true, leased };
  } finally {
    store.descriptors.close(fd);
  }
}

/** A record of getdents64(2) with a name of up to 40 bytes. */
const TYPICAL_ENTRY_BYTES = 64;

/** Undefined: there are more than `maxEntries`, or than limits.maxNamesAhead; little more than that is read. */
function allNames(store: Store, fd: number, maxEntries: number): StreamEntry[] | undefined {
  const most = Math.min(maxEntries, limits.maxNamesAhead);
  const sizeBytes = Math.min(most * TYPICAL_ENTRY_BYTES, limits.maxDirectoryBytes);
  const names: StreamEntry[] = [];
  for (let cookie: U64 = 0; ; cookie = names.at(-1)?.cookie ?? 0) {
    const { entries, end } = store.descriptors.entries(fd, cookie, sizeBytes);
    names.push(...entries);
    if (names.length > most) return undefined;
    if (end) return names;
  }
}

function lookedUpAll(context: RequestContext, directory: Inode, names: readonly StreamEntry[]) {
  return names.map((one) => entryWith(one, lookedUp(context, directory, one.name)));
}

const DOT = 0x2e;

function isDotOrDotDot(name: Buffer): boolean {
  return name[0] === DOT && (name.length === 1 || (name.length === 2 && name[1] === DOT));
}

interface LookedUp {
  readonly entry: WireEntry | undefined;
  readonly mayHaveXattrs: boolean;
}

const UNKNOWN: LookedUp = { entry: undefined, mayHaveXattrs: true };

function entryWith({ name, ino, type, cookie }: StreamEntry, { entry, mayHaveXattrs }: LookedUp) {
  return { name, ino, type, cookie, entry, mayHaveXattrs };
}

/** Nothing for an entry that has gone, or that the caller may not look up: the listing itself goes on. */
function lookedUp(context: RequestContext, parent: Inode, name: Buffer): LookedUp {
  if (isDotOrDotDot(name)) return UNKNOWN;
  const { store, identity, leases, session } = context;
  try {
    const found = store.lookup(identity, parent, name);
    // Somebody gathers writes to it: who wants its attributes looks it up, and waits.
    if (leases.settled(session, found.inode)) return UNKNOWN;
    leases.saidName(parent, name, found.inode);
    const entry = entryOf(context, found);
    return { entry, mayHaveXattrs: !entry.leased || store.hasXattrs(found.inode) };
  } catch (error) {
    if (error instanceof FsError) return UNKNOWN;
    throw error;
  }
}
