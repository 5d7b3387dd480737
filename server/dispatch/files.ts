/** Handlers that open and close files and directories. */

import { errno, FsError } from '../../shared/errno.ts';
import type { Eventually } from '../../shared/eventually.ts';
import { limits } from '../../shared/limits.ts';
import { O } from '../../shared/linux/constants.ts';
import type { ReplyOf, RequestOf } from '../../shared/protocol/messages.ts';
import { ALL_BLOCKS } from '../state/block-leases.ts';
import { pagesFrom } from '../state/page-range-lock-queue.ts';
import type { Inode } from '../store/inode.ts';
import { OpenFile } from '../store/open-file.ts';
import type { CreatedFile } from '../store/store.ts';
import { writeFirst } from './data.ts';
import { pastForeignLeases } from './foreign-leases.ts';
import { BulkReply, DONE, dataChanged, entryOf, type Handlers, type RequestContext } from './handler.ts';
import { makeOnce } from './replays.ts';
import { endOfWrite, pagesOfWrite } from './write-extents.ts';

export const fileHandlers: Handlers<'open' | 'create' | 'createWith' | 'tmpfile' | 'release'> = {
  open: { mutates: false, handle: open },
  create: { mutates: true, handle: create },
  createWith: { mutates: true, handle: createWith },
  tmpfile: {
    mutates: true,
    handle: (context, { parent, mode, umask, flags }) => {
      const { store, identity } = context;
      const created = store.tmpfile(identity, store.resolve(parent), mode, umask, flags);
      return createdReply(context, created, flags, 'none', undefined);
    },
  },
  release: {
    mutates: false,
    handle: ({ session }, { handles }) => {
      for (const handle of handles) session.releaseFile(handle);
      return DONE;
    },
  },
};

type OpenRequest = RequestOf<'open'>;
type Wanted = OpenRequest['wants'];
type OpenReply = ReplyOf<'open'> | BulkReply<ReplyOf<'open'>>;

/** Opening with these flags changes the file, or lets the handle change it: the caller's right to was checked. */
function changes(flags: number): boolean {
  return (flags & O.ACCMODE) !== O.RDONLY || (flags & O.TRUNC) !== 0;
}

function kindOf(flags: number): { isDirectory: boolean; canWrite: boolean } {
  return { isDirectory: false, canWrite: (flags & O.ACCMODE) !== O.RDONLY && !(flags & O.EXEC) };
}

function open(context: RequestContext, request: OpenRequest): Eventually<OpenReply> {
  return pastForeignLeases(context.request, () => openOnce(context, request));
}

/** Whoever gathers writes to the file writes them first: one handle can, and this is another. */
function openOnce(context: RequestContext, request: OpenRequest): Eventually<OpenReply> {
  const { session, store, leases } = context;
  if (changes(request.flags) && session.isReadOnly) throw new FsError(errno.EROFS, 'open');
  const inode = store.resolve(request.inode);
  const waits = leases.recallExclusive(inode);
  // And looks again: whoever else waited may be the only one by then.
  return waits ? waits.then(() => openOnce(context, request)) : openSettled(context, inode, request);
}

/**
 * From when a file is opened to be written, nobody opens it to be read through the page cache without asking: such reads
 * would be whole by the page only. O_TRUNC changes every page: it is ordered with the reads and writes of the same file.
 */
function openSettled(context: RequestContext, inode: Inode, request: OpenRequest): Eventually<OpenReply> {
  const { session, leases } = context;
  const { flags, killSuidgid } = request;
  const truncates = (flags & O.TRUNC) !== 0;
  const answer = (file: OpenFile) => openReply(context, file, request);
  if (!killSuidgid && !changes(flags)) return answer(openNow(context, inode, request));
  const work = (): Eventually<OpenFile> => {
    if (!truncates) return openNow(context, inode, request);
    return (async () => {
      using _grant = await inode.rangeLocks.acquire('exclusive', pagesFrom(0), context.request);
      return openNow(context, inode, request);
    })();
  };
  // It had the file open to write before the server was started anew, and the others wait until it has it again.
  const isReclaim = session.isReclaiming && request.wants === 'none' && !truncates && !killSuidgid;
  const opened = isReclaim
    ? leases.duringReclaim(session, [inode], work)
    : leases.during(session, [inode], work, truncates ? ALL_BLOCKS : undefined);
  return opened instanceof Promise ? opened.then(answer) : answer(opened);
}

function openNow(context: RequestContext, inode: Inode, { flags, killSuidgid }: OpenRequest): OpenFile {
  const { store, identity, leases } = context;
  if (flags & O.TRUNC) context.request.applyingAgain();
  if (changes(flags)) leases.opensToWrite(inode);
  const fd = store.open(identity, inode, flags);
  if (flags & O.TRUNC) dataChanged(context, inode);
  if (killSuidgid && changes(flags)) store.killSuidgid(inode);
  if (flags & O.TRUNC) context.request.applied();
  return new OpenFile(store, inode, fd, kindOf(flags));
}

function openReply(context: RequestContext, file: OpenFile, { wants, firstBytes }: OpenRequest): Eventually<OpenReply> {
  const { session } = context;
  const handle = session.addFile(file);
  if (wants !== 'shared') return { handle, lease: grant(context, file, wants), attributes: undefined };
  // While somebody writes, what is read is not kept: each write would have to recall it, and a handle whose reads fill the
  // page cache reads by the page for as long as it is open. Right after a start it is not known who writes.
  const isWritten = file.inode.writers > 0 || session.awaitsWriters;
  const isKept = !isWritten && context.leases.keepsData(file.inode);
  const attributes = file.calls.stat(file.fd);
  const isLeased = isKept && context.leases.grantAttributes(session, file.inode, attributes);
  const reply: ReplyOf<'open'> = { handle, lease: isLeased ? 'shared' : 'none', attributes };
  if (!isLeased || attributes.size === 0 || attributes.size > Math.min(firstBytes, limits.maxFirstBytes)) return reply;
  // Under the lease that was just granted: who changes the file now waits until this client has dropped what it read.
  const data = Buffer.allocUnsafe(attributes.size);
  const withData = (count: number) => {
    if (count < data.length) return reply;
    // The read has set it, and this client will not ask for it when its caller reads what is sent here.
    const { atime } = file.calls.stat(file.fd);
    session.releaseFile(handle);
    return new BulkReply({ ...reply, handle: 0, attributes: { ...attributes, atime } }, data, () => {});
  };
  const count = file.calls.read(file.fd, data, 0);
  if (typeof count === 'number') return withData(count);
  const use = file.use();
  return count.then(withData).finally(() => use[Symbol.dispose]());
}

function grant(
  { session, leases }: RequestContext,
  file: OpenFile,
  wants: Wanted,
  isNew = false,
): 'none' | 'exclusive' {
  return wants === 'exclusive' && leases.grantExclusive(session, file, isNew) ? 'exclusive' : 'none';
}

async function create(context: RequestContext, request: RequestOf<'create'>): Promise<ReplyOf<'create'>> {
  const { session, store, leases, identity } = context;
  const { name, mode, umask, flags, wants } = request;
  const parent = store.resolve(request.parent);
  const reply = await leases.during(session, [parent], (change) => {
    const make = () => store.create(identity, parent, name, mode, umask, flags);
    const created = flags & O.EXCL ? makeOnce(context, parent, name, make) : makeOrOpen(context, flags, make);
    if (created === undefined) return undefined;
    leases.madeName(parent, name, created.inode);
    const directory = leases.attributesForHolder(session, change, parent);
    return createdReply(context, created, flags, wants, directory);
  });
  if (reply) return reply;
  // Another client was faster: O_CREAT opens what is there. Gone again meanwhile is ENOENT, as a caller would see it.
  const { inode } = store.lookup(identity, parent, name);
  context.request.made = inode.handle;
  const there = { inode: inode.handle, flags, killSuidgid: false, wants: 'none', firstBytes: 0 } as const;
  const opened = await open(context, there);
  const { handle, lease } = opened instanceof BulkReply ? opened.reply : opened;
  const entry = entryOf(context, { inode, attributes: store.attributes(inode) });
  return { entry, handle, lease, directory: undefined };
}

/** Often it is closed by then, and needs no lease but that on what is said of it. */
function createWith(
  context: RequestContext,
  request: RequestOf<'createWith'>,
  data: Uint8Array,
): Eventually<ReplyOf<'createWith'>> {
  const { session, store, leases, identity } = context;
  const { name, mode, umask } = request;
  const flags = request.flags | O.EXCL;
  // Before there is a file: what is wrong with the request, not with the disk.
  if (data.length > limits.maxUnmadeBytes) throw new FsError(errno.EINVAL, 'create with');
  if (data.length > 0) pagesOfWrite(request, data.length);
  if (endOfWrite(request, data.length) > Number.MAX_SAFE_INTEGER) throw new FsError(errno.EFBIG, 'create with');
  const parent = store.resolve(request.parent);
  return leases.during(session, [parent], async (change) => {
    const created = makeOnce(context, parent, name, () => store.create(identity, parent, name, mode, umask, flags));
    if (created === undefined) throw new FsError(errno.EEXIST, 'create with');
    const { inode, fd } = created;
    leases.madeName(parent, name, inode);
    const directory = leases.attributesForHolder(session, change, parent);
    const file = new OpenFile(store, inode, fd, kindOf(flags));
    const handle = session.addFile(file);
    const first = await leases.during(session, [inode], () => writeFirst(context, file, request, data), ALL_BLOCKS);
    const entry = entryOf(context, { inode, attributes: store.attributes(inode) });
    const isClosed = request.closes && first.isComplete && entry.leased;
    if (isClosed) session.releaseFile(handle);
    const lease = isClosed ? 'none' : grant(context, file, 'exclusive', true);
    return { entry, handle: isClosed ? 0 : handle, lease, directory, ...first };
  });
}

/** A second attempt would open what the first one made, and must not truncate what others have written to it since. */
function makeOrOpen(
  { request }: RequestContext,
  flags: number,
  make: () => CreatedFile | undefined,
): CreatedFile | undefined {
  const created = make();
  if (created && flags & O.TRUNC) {
    request.made = created.inode.handle;
    request.applied();
  }
  return created;
}

function createdReply(
  context: RequestContext,
  created: CreatedFile,
  flags: number,
  wants: Wanted,
  directory: ReplyOf<'create'>['directory'],
): ReplyOf<'create'> {
  const { session, store } = context;
  const file = new OpenFile(store, created.inode, created.fd, kindOf(flags));
  const handle = session.addFile(file);
  return { entry: entryOf(context, created), handle, lease: grant(context, file, wants, true), directory };
}
