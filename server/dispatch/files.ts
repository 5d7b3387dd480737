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
      return createdReply(context, store.tmpfile(identity, store.resolve(parent), mode, umask, flags), flags);
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
  const { session, store, identity, request } = context;
  const openNow = () => {
    const fd = store.open(identity, inode, flags);
    if (flags & O.TRUNC) inode.dataChanged();
    if (killSuidgid && changes(flags)) store.killSuidgid(inode);
    return { handle: session.addFile(new OpenFile(store, inode, fd, kindOf(flags))) };
  };
  if (!(flags & O.TRUNC)) return openNow();
  return (async () => {
    using _grant = await inode.rangeLocks.acquire('exclusive', pagesFrom(0), request);
    return openNow();
  })();
}

async function create(context: RequestContext, request: RequestOf<'create'>): Promise<ReplyOf<'create'>> {
  const { store, identity } = context;
  const parent = store.resolve(request.parent);
  const created = store.create(identity, parent, request.name, request.mode, request.umask, request.flags);
  if (created) return createdReply(context, created, request.flags);
  // Another client was faster: O_CREAT opens what is there. Gone again meanwhile is ENOENT, as a caller would see it.
  const found = store.lookup(identity, parent, request.name);
  const { handle } = await open(context, found.inode, request.flags, false);
  return { entry: entryOf(context, { ...found, attributes: store.attributes(found.inode) }), handle };
}

function createdReply(context: RequestContext, created: CreatedFile, flags: number): ReplyOf<'create'> {
  const { session, store } = context;
  const handle = session.addFile(new OpenFile(store, created.inode, created.fd, kindOf(flags)));
  return { entry: entryOf(context, created), handle };
}
