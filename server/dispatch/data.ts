/**
 * Handlers of operations on a file's data. Each takes the page-range lock of what it touches, for as long as it runs:
 * read shared, everything else exclusive; append from the page of the end of file on, copies both ranges in a fixed order.
 */
import { BufferPool } from '../../shared/buffer-pool.ts';
import { errno, errnoOf, FsError } from '../../shared/errno.ts';
import type { Eventually } from '../../shared/eventually.ts';
import { BLOCK_BYTES, limits, MiB } from '../../shared/limits.ts';
import { FALLOC, SEEK } from '../../shared/linux/constants.ts';
import { copyFileRangeAsync, fallocateAsync, lseek } from '../../shared/linux/libc.ts';
import type { ReplyOf, RequestOf } from '../../shared/protocol/messages.ts';
import type { Change } from '../leases/lease-manager.ts';
import { ALL_BLOCKS, type BlockRange, END_OF_FILE } from '../state/block-leases.ts';
import { type Cancellable, type Grant, pagesFrom, pagesOf } from '../state/page-range-lock-queue.ts';
import type { OpenFile } from '../store/open-file.ts';
import { INLINE_BYTES } from '../store/whole-transfers.ts';
import { wrongKind } from './attributes.ts';
import { accessTimeAfterRead, BulkReply, DONE, dataChanged, type Handlers, type RequestContext } from './handler.ts';
import { endOfWrite, pagesOfWrite, writeExtents } from './write-extents.ts';

/** Enough for the replies that a few clients have queued. */
const buffers = new BufferPool(64 * MiB);
const UNVERSIONED = 0;
const PERMISSIONS = 0o7777;
/** The largest file offset of ext4 and xfs is below it; beyond, Linux says EFBIG. */
const MAX_OFFSET = Number.MAX_SAFE_INTEGER;

export const dataHandlers: Handlers<'read' | 'write' | 'fsync' | 'fallocate' | 'lseek' | 'copyFileRange' | 'syncfs'> = {
  read: { mutates: false, handle: read },
  write: {
    mutates: true,
    handle: (context, request, data) => {
      const { inode } = context.session.file(request.handle);
      const work = (change: Change) => write(context, request, data, change);
      return context.leases.during(context.session, [inode], work, blocksOf(request, data.length));
    },
  },
  fsync: {
    mutates: false,
    handle: async ({ session }, { handle, dataOnly }) => {
      const file = session.file(handle);
      using _use = file.use();
      await file.calls.synchronize(file.fd, dataOnly ? 'data' : 'all');
      return DONE;
    },
  },
  fallocate: {
    mutates: true,
    handle: (context, request) => {
      const { inode } = context.session.file(request.handle);
      return context.leases.during(context.session, [inode], () => fallocate(context, request), ALL_BLOCKS);
    },
  },
  lseek: {
    mutates: false,
    handle: ({ session, leases }, { handle, offset, whence }) => {
      if (whence !== SEEK.DATA && whence !== SEEK.HOLE) throw new FsError(errno.EINVAL, 'lseek');
      const file = regular(session.file(handle));
      const seek = () => ({ offset: lseek(file.fd, offset, whence) });
      const waits = leases.settled(session, file.inode);
      if (waits === undefined) return seek();
      const use = file.use();
      return waits.then(seek).finally(() => use[Symbol.dispose]());
    },
  },
  copyFileRange: {
    mutates: true,
    handle: (context, request) => {
      const { session, leases } = context;
      const { inode } = session.file(request.handleOut);
      const copy = () => leases.during(session, [inode], () => copyFileRange(context, request), ALL_BLOCKS);
      const waits = leases.settled(session, session.file(request.handleIn).inode);
      return waits ? waits.then(copy) : copy();
    },
  },
  syncfs: {
    mutates: false,
    handle: async ({ store }) => {
      await store.sync();
      return DONE;
    },
  },
};

function regular(file: OpenFile): OpenFile {
  if (file.isDirectory) throw wrongKind(true);
  return file;
}

/** Which are changed: in one turn of the event loop, or else all, and nobody has to tell this change from a local program's. */
function blocksOf({ append, offset, extents }: RequestOf<'write'>, length: number): BlockRange {
  if (length > INLINE_BYTES || extents) return ALL_BLOCKS;
  if (append) return END_OF_FILE;
  return { start: Math.floor(offset / BLOCK_BYTES), end: Math.ceil((offset + length) / BLOCK_BYTES) };
}

type GatheredChanges = NonNullable<RequestOf<'write'>['attributes']>;
type ReadReply = BulkReply<ReplyOf<'read'>>;

/** Without contention, and with the data in the page cache, it answers without an await. */
function read(context: RequestContext, request: RequestOf<'read'>): Eventually<ReadReply> {
  const { session, leases } = context;
  const file = regular(session.file(request.handle));
  if (request.size > limits.maxDataBytes) throw new FsError(errno.EINVAL, 'read');
  if (request.wantsBlock && (request.size !== BLOCK_BYTES || request.offset % BLOCK_BYTES !== 0)) {
    throw new FsError(errno.EINVAL, 'read');
  }
  const waits = leases.settled(session, file.inode) ?? (request.wantsLease ? quiet(context, file) : undefined);
  if (waits) return waits.then(() => read(context, request));
  const leased = request.wantsLease && leases.grantData(session, file.inode);
  const range = pagesOf(request.offset, request.size);
  const grant = file.inode.rangeLocks.acquire('shared', range, context.request);
  if (grant instanceof Promise) return readAfterWait(context, file, request, leased, grant);
  return readLocked(context, file, request, leased, grant);
}

/**
 * What is read is kept by the client's kernel, so it must not be from before a change that is under way. A holder is not
 * made to wait: the change waits for it, and it for the pages of this very read, which it will drop then.
 */
function quiet({ session }: RequestContext, { inode }: OpenFile): Promise<void> | undefined {
  return session.holdsLease(inode) ? undefined : inode.leases.whenQuiet();
}

/** The handle may be released while its lock is waited for. */
async function readAfterWait(
  context: RequestContext,
  file: OpenFile,
  request: RequestOf<'read'>,
  leased: boolean,
  grant: Promise<Grant>,
): Promise<ReadReply> {
  using _use = file.use();
  return await readLocked(context, file, request, leased, await grant);
}

function readLocked(
  context: RequestContext,
  file: OpenFile,
  request: RequestOf<'read'>,
  leased: boolean,
  grant: Grant,
): Eventually<ReadReply> {
  const use = file.use();
  const release = () => {
    use[Symbol.dispose]();
    grant[Symbol.dispose]();
  };
  let pending: Promise<number>;
  let version = UNVERSIONED;
  const buffer = buffers.take(request.size);
  const target = buffer.subarray(0, request.size);
  const reply = (count: number, isKept = leased): ReadReply => {
    context.session.bytesRead += count;
    const atime = accessTimeAfterRead(context.session, file);
    return new BulkReply({ version, unchanged: false, leased: isKept, atime }, target.subarray(0, count), () =>
      buffers.giveBack(buffer),
    );
  };
  try {
    if (request.knownVersion !== undefined) {
      version = versionOf(file);
      if (version === request.knownVersion) {
        buffers.giveBack(buffer);
        release();
        return new BulkReply({ version, unchanged: true, leased, atime: undefined }, target.subarray(0, 0), () => {});
      }
    }
    const { count, isKept } = readNow(context, file, request, target);
    if (typeof count === 'number') {
      const answer = reply(count, leased || isKept);
      release();
      return answer;
    }
    pending = count;
  } catch (error) {
    release();
    throw error;
  }
  const answer = async () => {
    const count = await pending;
    if (!request.wantsBlock) return reply(count);
    // The page cache has it now: once more, in one turn.
    const again = readNow(context, file, request, target);
    return reply(await again.count, again.isKept);
  };
  return answer().finally(release);
}

/** In this turn of the event loop, if the page cache has all of it; only then a block may be kept. */
function readNow(
  { session, leases: { blocks } }: RequestContext,
  file: OpenFile,
  { offset, size, wantsBlock }: RequestOf<'read'>,
  target: Buffer,
): { readonly count: Eventually<number>; readonly isKept: boolean } {
  const fileSize = wantsBlock ? blocks.prepare(session, file) : undefined;
  // What is there is read at once if it is cached: to find the end of the file takes a trip to the pool.
  const left = fileSize === undefined ? size : Math.max(0, Math.min(size, fileSize - offset));
  const count = left === 0 ? 0 : file.calls.read(file.fd, target.subarray(0, left), offset);
  const isRead = typeof count === 'number' && fileSize !== undefined;
  return { count, isKept: isRead && blocks.grant(session, file.inode, offset / BLOCK_BYTES, count < size) };
}

/** A local program's change shows in the size or the change time. */
function versionOf(file: OpenFile): number {
  const { size, ctime, mtime } = file.calls.stat(file.fd);
  return file.inode.versionAt(`${size} ${ctime.sec}.${ctime.nsec} ${mtime.sec}.${mtime.nsec}`);
}

async function write(
  context: RequestContext,
  request: RequestOf<'write'>,
  data: Uint8Array,
  change: Change,
): Promise<ReplyOf<'write'>> {
  const file = regular(context.session.file(request.handle));
  const isGathered = request.attributes !== undefined || request.extents !== undefined;
  if (!file.canWrite) throw new FsError(errno.EBADF, 'write');
  if (data.length > limits.maxDataBytes || (isGathered && (!request.behind || request.append)))
    throw new FsError(errno.EINVAL, 'write');
  if (!request.append && endOfWrite(request, data.length) > MAX_OFFSET) throw new FsError(errno.EFBIG, 'write');
  // Its client gathers no more. An append opens the file once more, which the kernel's lease would not let happen.
  if (!request.behind && file.isExclusive) context.leases.endExclusive(file.inode);
  using _use = file.use();
  const pages = request.append ? undefined : pagesOfWrite(request, data.length);
  using _grant = pages
    ? await file.inode.rangeLocks.acquire('exclusive', pages, context.request)
    : await lockEndOfFile(file, context.request);
  if (request.behind && !file.isExclusive && !isFromBefore(context, file))
    throw new FsError(errno.ESTALE, 'write behind');
  context.request.applying(pages && { inode: file.inode.handle, pages });
  const written = await writeLocked(context, file, request, data);
  const isLeased = request.behind && file.isExclusive;
  return { written, attributes: isLeased ? context.leases.attributesAfter(change, file.inode) : undefined };
}

/** Its end is noted before its pages are free: what is interrupted has them to itself. */
export async function writeLocked(
  context: RequestContext,
  file: OpenFile,
  request: RequestOf<'write'>,
  data: Uint8Array,
): Promise<number> {
  const { attributes } = request;
  try {
    const written = data.length > 0 || !attributes ? await writeData(context, file, request, data) : 0;
    if (attributes && written === data.length) changeGathered(context, file, attributes, !file.isExclusive);
    context.request.applied();
    return written;
  } catch (error) {
    context.request.ended(errnoOf(error));
    throw error;
  }
}

/**
 * What was gathered of a file before it was made, in the request that has just made it: nobody else knows of it. An error is for the next
 * request to find again; this one has made the file.
 */
export async function writeFirst(
  context: RequestContext,
  file: OpenFile,
  { offset, extents, sync, attributes }: RequestOf<'createWith'>,
  data: Uint8Array,
): Promise<{ readonly written: number; readonly isComplete: boolean }> {
  const { request } = context;
  const write = { handle: 0, offset, extents, sync, append: false, killSuidgid: false, behind: true, attributes };
  try {
    if (data.length > 0) {
      const pages = pagesOfWrite(write, data.length);
      using _grant = await file.inode.rangeLocks.acquire('exclusive', pages, request);
      request.applying({ inode: file.inode.handle, pages });
      await writeData(context, file, write, data);
    }
    const isWritten = request.count === data.length;
    if (attributes && isWritten) changeGathered(context, file, attributes, false);
    return { written: request.count, isComplete: isWritten };
  } catch (error) {
    if (!(error instanceof FsError)) throw error;
    // It is said once that data could not be synchronized: they are to be written again.
    if (sync !== 'none') request.count = 0;
    return { written: request.count, isComplete: false };
  } finally {
    request.applied();
  }
}

async function writeData(
  context: RequestContext,
  file: OpenFile,
  { append, offset, extents, sync, killSuidgid }: RequestOf<'write'>,
  data: Uint8Array,
): Promise<number> {
  const { blocks } = context.leases;
  blocks.beforeWrite(file);
  if (killSuidgid) context.store.killSuidgid(file.inode);
  const result = extents
    ? writeExtents(file, extents, data)
    : append
      ? file.calls.write(file.appendDescriptor(), data, null, file.inode.hasHeldBlocks)
      : file.calls.write(file.fd, data, offset, file.inode.hasHeldBlocks);
  blocks.afterWrite(file);
  const written = await result;
  context.request.count = written;
  if (!append && !extents) file.wrote(offset, written);
  dataChanged(context, file.inode);
  if (sync !== 'none') await file.calls.synchronize(file.fd, sync);
  context.session.bytesWritten += written;
  return written;
}

/**
 * What a client has told its programs already. Who has changed the mode since (a local program, that is; or this very
 * request, before a restart) came later. Nobody else has the file, unless the server was started anew.
 */
function changeGathered(
  { store, identity, sinceStart, session }: RequestContext,
  { inode }: OpenFile,
  { mode, atime, mtime }: GatheredChanges,
  isLate: boolean,
): void {
  if (isLate && (!session.mayWriteLate || sinceStart.mayBeChangedByOthers(inode, session, 'attributes'))) {
    throw new FsError(errno.ESTALE, 'attributes behind');
  }
  const isAsBefore = mode !== undefined && (store.attributes(inode).mode & PERMISSIONS) === mode.from;
  store.change(identity, inode, {
    mode: isAsBefore ? mode.to : undefined,
    uid: undefined,
    gid: undefined,
    atime,
    mtime,
  });
  sinceStart.changed(inode, session, 'attributes');
}

/**
 * Gathered under a lease of an earlier process of the server, and nobody else has changed the file since. Not so when the
 * lease was of this one, and was revoked while its holder was away: others have looked at the file since.
 */
function isFromBefore({ sinceStart, session }: RequestContext, file: OpenFile): boolean {
  return session.mayWriteLate && !file.wasExclusive && !sinceStart.mayBeChangedByOthers(file.inode, session);
}

/**
 * The end of the file can move while the lock is waited for, so it is looked at again under the lock: growth leaves the
 * locked range right, only a file that shrank below it needs an earlier start.
 */
async function lockEndOfFile(file: OpenFile, cancellable: Cancellable): Promise<Grant> {
  for (;;) {
    const size = file.calls.stat(file.fd).size;
    const grant = await file.inode.rangeLocks.acquire('exclusive', pagesFrom(size), cancellable);
    if (file.calls.stat(file.fd).size >= size) return grant;
    grant[Symbol.dispose]();
  }
}

/** As the kernel does for who is not root; of a write, it tells by `killSuidgid`. */
function clearSetIds({ store, identity }: RequestContext, { inode }: OpenFile): void {
  if (identity.uid !== 0) store.killSuidgid(inode);
}

/** Collapsing and inserting move everything behind `offset`; the other modes change their own range, and the size. */
async function fallocate(context: RequestContext, request: RequestOf<'fallocate'>): Promise<Record<string, never>> {
  const { mode, offset, length } = request;
  const file = regular(context.session.file(request.handle));
  if (offset + length > MAX_OFFSET) throw new FsError(errno.EFBIG, 'fallocate');
  const keepsSize = (mode & FALLOC.KEEP_SIZE) !== 0;
  const range = keepsSize ? pagesOf(offset, length) : pagesFrom(Math.min(offset, file.calls.stat(file.fd).size));
  using _use = file.use();
  using _grant = await file.inode.rangeLocks.acquire('exclusive', range, context.request);
  context.request.applying();
  clearSetIds(context, file);
  await fallocateAsync(file.fd, mode, offset, length);
  dataChanged(context, file.inode);
  return DONE;
}

/** Locks source and target in the order of inode and offset, so that two copies cannot wait for each other. */
async function copyFileRange(
  context: RequestContext,
  request: RequestOf<'copyFileRange'>,
): Promise<ReplyOf<'copyFileRange'>> {
  const { offsetIn, offsetOut } = request;
  const source = regular(context.session.file(request.handleIn));
  const target = regular(context.session.file(request.handleOut));
  // A piece at a time: the lock is held, and a copy on a disk without reflinks takes its time.
  const length = Math.min(request.length, limits.maxDataBytes);
  if (length === 0) return { copied: 0 };
  using _useSource = source.use();
  using _useTarget = target.use();
  using _grants = await lockBoth(source, target, offsetIn, offsetOut, length, context.request);
  context.request.applying();
  clearSetIds(context, target);
  const copied = await copyFileRangeAsync(source.fd, offsetIn, target.fd, offsetOut, length);
  context.request.count = copied;
  dataChanged(context, target.inode);
  return { copied };
}

async function lockBoth(
  source: OpenFile,
  target: OpenFile,
  offsetIn: number,
  offsetOut: number,
  length: number,
  cancellable: Cancellable,
): Promise<Disposable> {
  const from = pagesOf(offsetIn, length);
  const to = pagesOf(offsetOut, length);
  if (source.inode === target.inode) {
    const whole = { start: Math.min(from.start, to.start), end: Math.max(from.end, to.end) };
    return source.inode.rangeLocks.acquire('exclusive', whole, cancellable);
  }
  const lockSource = () => source.inode.rangeLocks.acquire('shared', from, cancellable);
  const lockTarget = () => target.inode.rangeLocks.acquire('exclusive', to, cancellable);
  const [lockFirst, lockSecond] =
    source.inode.key < target.inode.key ? [lockSource, lockTarget] : [lockTarget, lockSource];
  const first = await lockFirst();
  try {
    const second = await lockSecond();
    return {
      [Symbol.dispose]: () => {
        second[Symbol.dispose]();
        first[Symbol.dispose]();
      },
    };
  } catch (error) {
    first[Symbol.dispose]();
    throw error;
  }
}
