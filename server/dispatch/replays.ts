/**
 * Requests that are sent again to another process of the server than the one that had them first: answered from what that
 * process noted in the journal, and not applied again. What it noted is less than a reply: attributes are those of now,
 * and nothing is leased.
 */
import { errno, FsError } from '../../shared/errno.ts';
import type { OperationName, ReplyOf, RequestOf } from '../../shared/protocol/messages.ts';
import type { EarlierRequest } from '../session/request-journal.ts';
import { DONE, entryOf, type RequestContext } from './handler.ts';

/** To its client it is a handle of an earlier session: the file is opened again at its next use. Not 0, which says more. */
const NOT_OPEN = Number.MAX_SAFE_INTEGER;

/** A second attempt of these fails if the first one was successful. */
const SHOW_THEMSELVES = new Set<OperationName>(['mkdir', 'mknod', 'symlink', 'link', 'create']);

/** The server was killed between the note that the change begins and the note that it has ended. */
export function mayBeTried(operation: OperationName, { isDone }: EarlierRequest): boolean {
  return !isDone && SHOW_THEMSELVES.has(operation);
}

/** The name may be there because the first attempt made it. */
export function certain(error: unknown, earlier: EarlierRequest | undefined): unknown {
  const isOwn = earlier && !earlier.isDone && error instanceof FsError && error.code === errno.EEXIST;
  return isOwn ? new FsError(errno.EIO, 'interrupted by the end of the server') : error;
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
    case 'mknod':
    case 'mkdir':
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

function made(context: RequestContext, handle: Uint8Array | undefined) {
  const inode = context.store.resolve(handle ?? Buffer.alloc(0));
  return entryOf(context, { inode, attributes: context.store.attributes(inode) });
}
