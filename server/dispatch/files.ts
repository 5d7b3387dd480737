/** Handlers that open and close files and directories. */

import { errno, FsError } from '../../shared/errno.ts';
import { O } from '../../shared/linux/constants.ts';
import type { ReplyOf, RequestOf } from '../../shared/protocol/messages.ts';
import { pagesFrom } from '../state/page-range-lock-queue.ts';
import type { Inode } from '../store/inode.ts';
import { OpenFile } from '../store/open-file.ts';
import type { CreatedFile } from '../store/store.ts';
import { DONE, entryOf, type Handlers, type RequestContext } from './handler.ts';

export const fileHandlers: Handlers<'open' | 'create' | 'tmpfile' | 'release' | 'opendir'> = {
  open: {
    mutates: false,
    handle: (context, { inode, flags, killSuidgid }) => {
      refuseWriting(context, flags);
      return open(context, context.store.resolve(inode), flags, killSuidgid);
    },
  },
  create: { mutates: true, handle: create },
  tmpfile: {
    mutates: true,
    handle: (context, { parent, mode, umask, flags }) => {
      const { store, identity } = context;
      const created = store.tmpfile(identity, store.resolve(parent), mode, umask, flags);
      return { ...createdReply(context, created, flags), directory: undefined };
    },
  },
  release: {
    mutates: false,
    handle: ({ session }, { handle }) => {
      session.releaseFile(handle);
      return DONE;
    },
  },
  opendir: {
    mutates: false,
    handle: ({ session, store, identity }, request) => {
      const inode = store.resolve(request.inode);
      const fd = store.openDirectory(identity, inode);
      return { handle: session.addFile(new OpenFile(store, inode, fd, { isDirectory: true, canWrite: false })) };
    },
  },
};

function refuseWriting({ session }: RequestContext, flags: number): void {
  if (changes(flags) && session.exported.readOnly) throw new FsError(errno.EROFS, 'open');
}

/** Opening with these flags changes the file, or lets the handle change it: the caller's right to was checked. */
function changes(flags: number): boolean {
  return (flags & O.ACCMODE) !== O.RDONLY || (flags & O.TRUNC) !== 0;
}

function kindOf(flags: number): { isDirectory: boolean; canWrite: boolean } {
  return { isDirectory: false, canWrite: (flags & O.ACCMODE) !== O.RDONLY && !(flags & O.EXEC) };
}

/** O_TRUNC changes every page: it is ordered with the reads and writes of the same file. */
function open(
  context: RequestContext,
  inode: Inode,
  flags: number,
  killSuidgid: boolean,
): ReplyOf<'open'> | Promise<ReplyOf<'open'>> {
  const { session, store, leases, identity, request } = context;
  const openNow = (): ReplyOf<'open'> => {
    const fd = store.open(identity, inode, flags);
    if (flags & O.TRUNC) inode.dataChanged();
    if (killSuidgid && changes(flags)) store.killSuidgid(inode);
    return { handle: session.addFile(new OpenFile(store, inode, fd, kindOf(flags))) };
  };
  const truncates = (flags & O.TRUNC) !== 0;
  if (!truncates && !killSuidgid) return openNow();
  return leases.during(session, [inode], async () => {
    using _grant = truncates ? await inode.rangeLocks.acquire('exclusive', pagesFrom(0), request) : undefined;
    return openNow();
  });
}

async function create(context: RequestContext, request: RequestOf<'create'>): Promise<ReplyOf<'create'>> {
  const { session, store, leases, identity } = context;
  const { name, mode, umask, flags } = request;
  const parent = store.resolve(request.parent);
  const reply = await leases.during(session, [parent], () => {
    const created = store.create(identity, parent, name, mode, umask, flags);
    if (created === undefined) return undefined;
    leases.madeName(parent, name, created.inode);
    const directory = leases.attributesForHolder(session, parent);
    return { ...createdReply(context, created, flags), directory };
  });
  if (reply) return reply;
  // Another client was faster: O_CREAT opens what is there. Gone again meanwhile is ENOENT, as a caller would see it.
  const { inode } = store.lookup(identity, parent, name);
  const { handle } = await open(context, inode, flags, false);
  return { entry: entryOf(context, { inode, attributes: store.attributes(inode) }), handle, directory: undefined };
}

function createdReply(context: RequestContext, created: CreatedFile, flags: number) {
  const { session, store } = context;
  const handle = session.addFile(new OpenFile(store, created.inode, created.fd, kindOf(flags)));
  return { entry: entryOf(context, created), handle };
}
