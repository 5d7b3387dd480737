/** Handlers of operations on attributes, extended attributes and the filesystem's figures. */
import { ftruncate } from 'node:fs';
import { promisify } from 'node:util';
import type { Attributes } from '../../shared/attributes.ts';
import { mode as modeBits } from '../../shared/attributes.ts';
import { errno, errnoOf, FsError } from '../../shared/errno.ts';
import { O } from '../../shared/linux/constants.ts';
import { close, fstat } from '../../shared/linux/libc.ts';
import type { RequestOf } from '../../shared/protocol/messages.ts';
import { pagesFrom } from '../state/page-range-lock-queue.ts';
import type { Inode } from '../store/inode.ts';
import { DONE, type Handlers, type RequestContext } from './handler.ts';

const truncate = promisify(ftruncate);
const W_OK = 2;

export const attributeHandlers: Handlers<
  'getattr' | 'setattr' | 'access' | 'getxattr' | 'listxattr' | 'setxattr' | 'removexattr' | 'statfs'
> = {
  getattr: {
    mutates: false,
    handle: (context, { inode, handle }) => ({ attributes: attributesOf(context, inode, handle) }),
  },
  setattr: {
    mutates: true,
    handle: (context, request) => {
      const { store, session } = context;
      const inode = request.handle ? session.file(request.handle).inode : store.resolve(request.inode);
      if (request.size !== undefined) return setSize(context, inode, request, request.size);
      return changeMetadata(context, inode, request);
    },
  },
  access: {
    mutates: false,
    handle: ({ store, identity }, { inode, mask }) => {
      store.access(identity, store.resolve(inode), mask);
      return DONE;
    },
  },
  getxattr: {
    mutates: false,
    handle: ({ store, identity }, { inode, name }) => ({ value: store.getxattr(identity, store.resolve(inode), name) }),
  },
  listxattr: {
    mutates: false,
    handle: ({ store, identity }, { inode }) => ({ names: store.listxattr(identity, store.resolve(inode)) }),
  },
  setxattr: {
    mutates: true,
    handle: ({ store, identity }, request) => {
      const inode = store.resolve(request.inode);
      store.setxattr(identity, inode, request.name, request.value, request.flags);
      if (request.killSgid) {
        const { mode } = store.attributes(inode);
        const change = { uid: undefined, gid: undefined, atime: undefined, mtime: undefined };
        store.change(identity, inode, { ...change, mode: mode & ~modeBits.S_ISGID });
      }
      return DONE;
    },
  },
  removexattr: {
    mutates: true,
    handle: ({ store, identity }, { inode, name }) => {
      store.removexattr(identity, store.resolve(inode), name);
      return DONE;
    },
  },
  statfs: {
    mutates: false,
    handle: ({ store }, { inode }) => ({ statistics: store.statistics(store.resolve(inode)) }),
  },
};

/** Through an open handle an inode is reached even when its last name is gone. */
function attributesOf(context: RequestContext, inode: Uint8Array, handle: number): Attributes {
  if (handle) return fstat(context.session.file(handle).fd);
  return context.store.attributes(context.store.resolve(inode));
}

type SetattrRequest = RequestOf<'setattr'>;

function changeMetadata(context: RequestContext, inode: Inode, request: SetattrRequest): { attributes: Attributes } {
  const { store, identity } = context;
  store.change(identity, inode, request);
  if (request.killSuidgid) {
    // Not the caller's own change of the mode, but what a change of owner or data brings with it: who may do neither, may not.
    const { uid, gid, size } = request;
    if (uid === undefined && gid === undefined && size === undefined) store.access(identity, inode, W_OK);
    store.killSuidgid(inode);
  }
  return { attributes: store.attributes(inode) };
}

/** Truncation changes every page from the smaller of the two sizes on; it is ordered with the writes there. */
async function setSize(
  context: RequestContext,
  inode: Inode,
  request: SetattrRequest,
  size: number,
): Promise<{ attributes: Attributes }> {
  const { store, session, identity, request: cancellable } = context;
  const file = request.handle ? session.file(request.handle) : undefined;
  // Without a handle, opening for writing is the check of the caller's right.
  const ownFd = file ? -1 : store.open(identity, inode, O.WRONLY);
  using _use = file?.use();
  try {
    const before = store.attributes(inode).size;
    using _grant = await inode.rangeLocks.acquire('exclusive', pagesFrom(Math.min(size, before)), cancellable);
    if (request.killSuidgid) store.killSuidgid(inode);
    await truncate(file ? file.fd : ownFd, size).catch((error: unknown) => {
      throw new FsError(errnoOf(error), 'ftruncate', { cause: error });
    });
    inode.dataChanged();
    return changeMetadata(context, inode, { ...request, killSuidgid: false });
  } finally {
    if (ownFd >= 0) close(ownFd);
  }
}

/** For handlers that need a handle of the other kind. */
export function wrongKind(isDirectory: boolean): FsError {
  return new FsError(isDirectory ? errno.EISDIR : errno.ENOTDIR, 'handle');
}
