/**
 * Requests that are sent again to another process of the server than the one that had them first: answered from what that
 * process noted in the journal, and not applied again. What it noted is less than a reply: attributes are those of now,
 * and nothing is leased.
 */
import { errno, FsError } from '../../shared/errno.ts';
import type { LocalAttributes } from '../../shared/linux/libc.ts';
import type { OperationName, ReplyOf, RequestOf, WireEntry } from '../../shared/protocol/messages.ts';
import type { EarlierRequest } from '../session/request-journal.ts';
import type { Inode } from '../store/inode.ts';
import type { FoundInode } from '../store/inode-table.ts';
import { DONE, entryOf, type RequestContext } from './handler.ts';

/** To its client it is a handle of an earlier session: the file is opened again at its next use. Not 0, which says more. */
const NOT_OPEN = Number.MAX_SAFE_INTEGER;

/** A second attempt of these fails if the first one was successful. */
const SHOW_THEMSELVES = new Set<OperationName>(['mkdir', 'mknod', 'symlink', 'link', 'create', 'createWith']);

/**
 * The last server was killed between the note that the change begins and the note that it has ended: `makeOnce` decides.
 * Not when there was another in between, since nobody knows what was removed in its time.
 */
export function mayBeTried(operation: OperationName, { isDone, isOfLastProcess }: EarlierRequest): boolean {
  return !isDone && isOfLastProcess && SHOW_THEMSELVES.has(operation);
}

/**
 * Makes a name, and notes that before and after. When an earlier server may have made it, what is known of that is looked
 * at in the same turn: while leases were recalled, others may have removed or taken the name.
 */
export function makeOnce<F extends FoundInode | undefined>(
  context: RequestContext,
  directory: Inode,
  name: Uint8Array,
  make: () => F,
  linked?: Inode,
): F {
  const { request, sinceStart } = context;
  const { earlier } = request;
  // What the first attempt made would be there, unless somebody took it away.
  if (earlier && sinceStart.mayBeRemoved(directory, name)) throw interrupted();
  request.applying();
  let made: F;
  try {
    made = make();
  } catch (error) {
    throw earlier ? certain(context, directory, name, linked, error, earlier) : error;
  }
  request.made = made?.inode.handle;
  request.applied();
  return made;
}

function interrupted(): FsError {
  return new FsError(errno.EIO, 'interrupted by the end of the server');
}

/** Of a kernel's clock that file times are taken from, and of the coarsest filesystem: how far they may be behind. */
const TIMES_BEHIND_MS = 2_000;

/** The name may be there because the first attempt made it: then nobody knows, unless it is provably somebody else's. */
function certain(
  context: RequestContext,
  directory: Inode,
  name: Uint8Array,
  linked: Inode | undefined,
  error: unknown,
  { begunMs }: EarlierRequest,
): unknown {
  if (!(error instanceof FsError) || error.code !== errno.EEXIST) return error;
  try {
    return isOthers(context, directory, name, linked, begunMs) ? error : interrupted();
  } catch {
    return interrupted();
  }
}

/** What has the name was not made by the earlier server. A local program may have made it at the same time, so the reverse is not known. */
function isOthers(
  { store, sinceStart }: RequestContext,
  directory: Inode,
  name: Uint8Array,
  linked: Inode | undefined,
  begunMs: number,
): boolean {
  const there = store.find(directory, name);
  if (there === null) return false;
  if (linked) return there !== linked;
  return isBornAtAnotherTime(bornMsOf(store.attributes(there)), begunMs, sinceStart.startedMs);
}

/** What the earlier server made was born after the note that it begins, and before this server was started. */
function isBornAtAnotherTime(bornMs: number | undefined, begunMs: number, startedMs: number): boolean {
  // The filesystem does not say, or the clock was set back in between.
  if (bornMs === undefined || begunMs >= startedMs) return false;
  return bornMs < begunMs - TIMES_BEHIND_MS || bornMs >= startedMs;
}

function bornMsOf({ btime: { sec, nsec } }: LocalAttributes): number | undefined {
  return sec === 0 ? undefined : sec * 1000 + nsec / 1e6;
}

/** Throws FsError: the errno of then, or EIO when nobody can know whether it was applied. */
export function replayed(
  context: RequestContext,
  operation: OperationName,
  body: RequestOf<OperationName>,
  { isDone, errno: code, inode, count }: EarlierRequest,
): ReplyOf<OperationName> {
  if (!isDone) throw new FsError(errno.EIO, `${operation} was interrupted by the end of the server`);
  if (code !== 0) throw new FsError(code, operation);
  switch (operation) {
    case 'mkdir':
      return { entry: made(context, inode), directory: undefined, alone: false };
    case 'mknod':
    case 'symlink':
    case 'link':
      return { entry: made(context, inode), directory: undefined };
    case 'setattr': {
      const changed = context.store.resolve((body as RequestOf<'setattr'>).inode);
      return { attributes: context.store.attributes(changed), leased: false };
    }
    case 'open':
      return { handle: NOT_OPEN, lease: 'none', attributes: undefined };
    case 'create':
      return { entry: made(context, inode), handle: NOT_OPEN, lease: 'none', directory: undefined };
    case 'createWith':
      return notOpen(made(context, inode), count);
    case 'unlink':
    case 'rmdir':
      return { directory: undefined, changed: [] };
    case 'rename':
      return { directory: undefined, newDirectory: undefined, changed: [] };
    case 'write':
      return { written: count, attributes: undefined };
    case 'copyFileRange':
      return { copied: count };
    default:
      return DONE;
  }
}

/** What is left to be done its client asks for anew: nobody knows what was. */
export function notOpen(entry: WireEntry, written: number): ReplyOf<'createWith'> {
  return { entry, handle: NOT_OPEN, lease: 'none', directory: undefined, written, isComplete: false };
}

function made(context: RequestContext, handle: Uint8Array | undefined) {
  const inode = context.store.resolve(handle ?? Buffer.alloc(0));
  return entryOf(context, { inode, attributes: context.store.attributes(inode) });
}
