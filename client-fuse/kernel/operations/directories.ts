/**
 * Operations on open directories. A listing is cut to the size the kernel asked for; with READDIRPLUS each entry but `.`
 * and `..` carries a lookup count, so entries that did not fit are given back at once, and all when the reply was not
 * taken in.
 */
import { errno, FsError } from '../../../shared/errno.ts';
import type { DirectoryEntry, Eventually, Filesystem } from '../../vfs/filesystem.ts';
import { FOPEN, FSYNC_FDATASYNC } from '../constants.ts';
import { type Mounted, mapEventually, operation } from '../operation.ts';
import { putEntryAt, putOpen, type Reply } from '../reply.ts';
import { BODY, type Request } from '../request.ts';
import { dirent, entryOut, fsyncIn, readdirIn, releaseIn } from '../structures.ts';

interface OpenedDirectory {
  readonly handle: number;
  readonly keepCache: boolean;
  readonly cacheDirectory: boolean;
}

export const opendir = operation<OpenedDirectory>({
  call: (request, { filesystem }) => filesystem.opendir(request, request.node),
  encode(reply, { handle, keepCache, cacheDirectory }) {
    putOpen(reply, handle, (keepCache ? FOPEN.KEEP_CACHE : 0) | (cacheDirectory ? FOPEN.CACHE_DIR : 0));
  },
  undo: (opened, { filesystem }) => filesystem.releasedir(opened.handle),
});

export const releasedir = operation<void>({
  call(request, { filesystem }) {
    request.expect(releaseIn.bytes);
    filesystem.releasedir(releaseIn.fields.fh.get(request.view, BODY, errno.EBADF));
  },
});

export const fsyncdir = operation<void>({
  call(request, { filesystem }) {
    request.expect(fsyncIn.bytes);
    const { fh, fsyncFlags } = fsyncIn.fields;
    const dataOnly = (fsyncFlags.get(request.view, BODY) & FSYNC_FDATASYNC) !== 0;
    return filesystem.fsyncdir(request, fh.get(request.view, BODY, errno.EBADF), dataOnly);
  },
});

type Listing = readonly DirectoryEntry[];

function list(request: Request, { filesystem }: Mounted, plus: boolean): Eventually<Listing> {
  request.expect(readdirIn.bytes);
  const { fh, cookie, size } = readdirIn.fields;
  const { view } = request;
  const room = size.get(view, BODY);
  const entries = filesystem.readdir(request, fh.get(view, BODY, errno.EBADF), cookie.get(view, BODY), room, plus);
  return mapEventually(entries, (listing) => fitting(listing, room, plus, filesystem));
}

function recordBytes(entry: DirectoryEntry, plus: boolean): number {
  const unpadded = (plus ? entryOut.bytes : 0) + dirent.bytes + entry.name.length;
  return (unpadded + 7) & ~7;
}

/** The entries that fit into `room`. Counts of the others are given back. */
function fitting(listing: Listing, room: number, plus: boolean, filesystem: Filesystem): Listing {
  let used = 0;
  let count = 0;
  for (const entry of listing) {
    used += recordBytes(entry, plus);
    if (used > room) break;
    count++;
  }
  if (count === listing.length) return listing;
  forgetEntries(listing.slice(count), filesystem);
  // An empty reply means the end of the directory, which this is not.
  if (count === 0) throw new FsError(errno.EINVAL, 'readdir: no room for one entry');
  return listing.slice(0, count);
}

function forgetEntries(listing: Listing, filesystem: Filesystem): void {
  for (const { entry } of listing) if (entry) filesystem.forget(entry.node, 1);
}

export const readdir = operation<Listing>({
  call: (request, mounted) => list(request, mounted, false),
  encode(reply, listing) {
    for (const entry of listing) putDirent(reply, reply.claimZeroed(recordBytes(entry, false)), entry);
  },
});

export const readdirplus = operation<Listing>({
  call: (request, mounted) => list(request, mounted, true),
  encode(reply, listing) {
    for (const entry of listing) {
      const base = reply.claimZeroed(recordBytes(entry, true));
      // Node id 0 tells the kernel that only the name is known.
      if (entry.entry) putEntryAt(reply.view, base, entry.entry);
      putDirent(reply, base + entryOut.bytes, entry);
    }
  },
  undo: (listing, { filesystem }) => forgetEntries(listing, filesystem),
});

const d = dirent.fields;

function putDirent(reply: Reply, base: number, entry: DirectoryEntry): void {
  d.ino.set(reply.view, base, entry.ino);
  d.off.set(reply.view, base, entry.cookie);
  d.namelen.set(reply.view, base, entry.name.length);
  d.type.set(reply.view, base, entry.type);
  reply.bytes.set(entry.name, base + dirent.bytes);
}
