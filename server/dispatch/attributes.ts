/** Handlers of operations on attributes, extended attributes and the filesystem's figures. */
import { mode as modeBits } from '../../shared/attributes.ts';
import { errno, FsError } from '../../shared/errno.ts';
import type { Eventually } from '../../shared/eventually.ts';
import { O } from '../../shared/linux/constants.ts';
import type { LocalAttributes } from '../../shared/linux/libc.ts';
import type { ReplyOf, RequestOf } from '../../shared/protocol/messages.ts';
import { ALL_BLOCKS } from '../state/block-leases.ts';
import { pagesFrom } from '../state/page-range-lock-queue.ts';
import type { Inode } from '../store/inode.ts';
import { pastForeignLeases } from './foreign-leases.ts';
import { DONE, dataChanged, type Handlers, type RequestContext } from './handler.ts';

const W_OK = 2;

export const attributeHandlers: Handlers<
  'getattr' | 'setattr' | 'access' | 'getxattr' | 'listxattr' | 'setxattr' | 'removexattr' | 'statfs'
> = {
  getattr: {
    mutates: false,
    handle: (context, { inode: inodeHandle, handle }) => {
      const { session, store, leases } = context;
      // Through an open handle an inode is reached even when its last name is gone.
      const inode = handle ? session.file(handle).inode : store.resolve(inodeHandle);
      const reply = () => attributesReply(context, inode, attributesNow(context, inode, handle));
      const waits = leases.settled(session, inode);
      return waits ? waits.then(reply) : reply();
    },
  },
  setattr: { mutates: true, handle: setattr },
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
    handle: ({ session, store, leases, identity, sinceStart, request: inFlight }, request) => {
      const inode = store.resolve(request.inode);
      return leases.during(session, [inode], () => {
        inFlight.applying();
        sinceStart.changed(inode, session, 'attributes');
        store.setxattr(identity, inode, request.name, request.value, request.flags);
        if (request.killSgid) {
          const { mode } = store.attributes(inode);
          const change = { uid: undefined, gid: undefined, atime: undefined, mtime: undefined };
          store.change(identity, inode, { ...change, mode: mode & ~modeBits.S_ISGID });
        }
        return DONE;
      });
    },
  },
  removexattr: {
    mutates: true,
    handle: ({ session, store, leases, identity, request }, { inode: handle, name }) => {
      const inode = store.resolve(handle);
      return leases.during(session, [inode], () => {
        request.applying();
        store.removexattr(identity, inode, name);
        return DONE;
      });
    },
  },
  statfs: {
    mutates: false,
    handle: ({ store }, { inode }) => ({ statistics: store.statistics(store.resolve(inode)) }),
  },
};

function setattr(context: RequestContext, request: SetattrRequest): Eventually<ReplyOf<'setattr'>> {
  const { store, session, leases } = context;
  const inode = request.handle ? session.file(request.handle).inode : store.resolve(request.inode);
  const { size } = request;
  // Without a handle the file is opened, which an exclusive lease, its author's too, would not let happen.
  const opens = size !== undefined && !request.handle;
  const waits = opens ? leases.recallExclusive(inode) : undefined;
  if (waits) return waits.then(() => setattr(context, request));
  const work = () =>
    size === undefined ? changeMetadata(context, inode, request) : setSize(context, inode, request, size);
  const change = () => leases.during(session, [inode], work, size === undefined ? undefined : ALL_BLOCKS);
  // From the start each time: nobody waits for what others of this machine hold with a change under way.
  const changed: Eventually<void> = opens ? pastForeignLeases(context.request, change) : change();
  const reply = () => attributesReply(context, inode, attributesNow(context, inode, request.handle));
  return changed instanceof Promise ? changed.then(reply) : reply();
}

/** What is sent of an inode's attributes, and whether the client may keep them. */
function attributesReply({ session, leases }: RequestContext, inode: Inode, attributes: LocalAttributes) {
  return { attributes, leased: leases.grantAttributes(session, inode, attributes) };
}

function attributesNow({ session, store }: RequestContext, inode: Inode, handle: number): LocalAttributes {
  return handle ? store.descriptors.stat(session.file(handle).fd) : store.attributes(inode);
}

type SetattrRequest = RequestOf<'setattr'>;

function changeMetadata(context: RequestContext, inode: Inode, request: SetattrRequest): void {
  const { store, identity, sinceStart, session } = context;
  context.request.applyingAgain();
  store.change(identity, inode, request);
  sinceStart.changed(inode, session, 'attributes');
  if (request.killSuidgid) {
    // Not the caller's own change of the mode, but what a change of owner or data brings with it: who may do neither, may not.
    const { uid, gid, size } = request;
    if (uid === undefined && gid === undefined && size === undefined) store.access(identity, inode, W_OK);
    store.killSuidgid(inode);
  }
}

/** Truncation changes every page from the smaller of the two sizes on; it is ordered with the writes there. */
async function setSize(context: RequestContext, inode: Inode, request: SetattrRequest, size: number): Promise<void> {
  const { store, session, identity, leases, request: cancellable } = context;
  const file = request.handle ? session.file(request.handle) : undefined;
  if (file && !file.canWrite) throw new FsError(errno.EINVAL, 'ftruncate');
  // Without a handle, opening for writing is the check of the caller's right.
  if (!file) leases.opensToWrite(inode);
  const ownFd = file ? -1 : store.open(identity, inode, O.WRONLY);
  using _use = file?.use();
  try {
    const before = store.attributes(inode).size;
    using _grant = await inode.rangeLocks.acquire('exclusive', pagesFrom(Math.min(size, before)), cancellable);
    cancellable.applyingAgain();
    if (request.killSuidgid) store.killSuidgid(inode);
    await store.descriptors.truncate(file ? file.fd : ownFd, size);
    dataChanged(context, inode);
    changeMetadata(context, inode, { ...request, killSuidgid: false });
    cancellable.applied();
  } finally {
    if (ownFd >= 0) store.descriptors.close(ownFd);
  }
}

/** For handlers that need a handle of the other kind. */
export function wrongKind(isDirectory: boolean): FsError {
  return new FsError(isDirectory ? errno.EISDIR : errno.ENOTDIR, 'handle');
}
