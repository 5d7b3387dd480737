/**
 * Finishes a write that the last process of the server was killed in the middle of (session/interrupted-writes.ts), when its
 * client sends it again. Its pages have been locked for it since then, so it takes no lock, and nobody has come in between.
 */
import { errno, FsError } from '../../shared/errno.ts';
import type { Eventually } from '../../shared/eventually.ts';
import { O } from '../../shared/linux/constants.ts';
import type { OperationName, ReplyOf, RequestOf } from '../../shared/protocol/messages.ts';
import type { InterruptedWrite } from '../session/interrupted-writes.ts';
import { ALL_BLOCKS } from '../state/block-leases.ts';
import { SERVER } from '../store/identity.ts';
import { OpenFile } from '../store/open-file.ts';
import { writeLocked } from './data.ts';
import { entryOf, type RequestContext } from './handler.ts';
import { notOpen } from './replays.ts';
import { pagesOfWrite } from './write-extents.ts';

/** Throws FsError: EIO when the client asks for something else under the same number. */
export function finished(
  context: RequestContext,
  { inode, pages }: InterruptedWrite,
  operation: OperationName,
  body: RequestOf<OperationName>,
  data: Uint8Array,
): Eventually<ReplyOf<'write'> | ReplyOf<'createWith'>> {
  const request = writeOf(operation, body);
  const { start, end } = request ? pagesOfWrite(request, data.length) : { start: -1, end: -1 };
  if (!request || start !== pages.start || end !== pages.end || request.append) {
    throw new FsError(errno.EIO, 'interrupted write');
  }
  const { store, session, leases } = context;
  const work = async () => {
    context.request.applyingAgain();
    if (operation === 'createWith') context.request.made = inode.handle;
    leases.opensToWrite(inode);
    // With the server's own rights, as its handle is of the last process: it was open for writing.
    const fd = store.open(SERVER, inode, O.WRONLY);
    const file = new OpenFile(store, inode, fd, { isDirectory: false, canWrite: true });
    try {
      const written = await writeLocked(context, file, request, data);
      if (operation === 'write') return { written, attributes: undefined };
      return notOpen(entryOf(context, { inode, attributes: store.attributes(inode) }), written);
    } finally {
      file.release();
    }
  };
  return leases.during(session, [inode], work, ALL_BLOCKS);
}

/** What was written, or was to a file that had just been made. */
function writeOf(operation: OperationName, body: RequestOf<OperationName>): RequestOf<'write'> | undefined {
  if (operation === 'write') return body as RequestOf<'write'>;
  if (operation !== 'createWith') return undefined;
  const { offset, extents, sync } = body as RequestOf<'createWith'>;
  return { handle: 0, offset, extents, sync, append: false, killSuidgid: false, behind: true, attributes: undefined };
}
