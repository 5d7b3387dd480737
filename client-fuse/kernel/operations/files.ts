/**
 * Operations on open files as such: opening, making, closing and syncing them. A handle whose number the kernel did not take in is
 * released again.
 */
import { errno } from '../../../shared/errno.ts';
import type { Entry, OpenedFile } from '../../vfs/filesystem.ts';
import { FSYNC_FDATASYNC, OPEN_KILL_SUIDGID } from '../constants.ts';
import { type Mounted, operation } from '../operation.ts';
import { putEntry, putOpened, type Reply } from '../reply.ts';
import { BODY, type Request } from '../request.ts';
import { createIn, flushIn, fsyncIn, openIn, releaseIn } from '../structures.ts';
import { PERMISSIONS } from './names.ts';

interface Created {
  readonly entry: Entry;
  readonly opened: OpenedFile;
}

export const open = operation<OpenedFile>({
  call(request, { filesystem }) {
    request.expect(openIn.bytes);
    const { flags, openFlags } = openIn.fields;
    const killSuidgid = (openFlags.get(request.view, BODY) & OPEN_KILL_SUIDGID) !== 0;
    return filesystem.open(request, request.node, flags.get(request.view, BODY), killSuidgid);
  },
  encode: putOpened,
  undo: (opened, { filesystem }) => filesystem.release(opened.handle),
});

const createdReply = {
  encode(reply: Reply, { entry, opened }: Created): void {
    putEntry(reply, entry);
    putOpened(reply, opened);
  },
  undo({ entry, opened }: Created, { filesystem }: Mounted): void {
    filesystem.release(opened.handle);
    filesystem.forget(entry.node, 1);
  },
};

/** fuse_create_in: what CREATE and TMPFILE share. */
function creationOf(request: Request): { mode: number; umask: number; flags: number } {
  request.expect(createIn.bytes);
  const { mode, umask, flags } = createIn.fields;
  const { view } = request;
  return { mode: mode.get(view, BODY) & PERMISSIONS, umask: umask.get(view, BODY), flags: flags.get(view, BODY) };
}

export const create = operation<Created>({
  ...createdReply,
  call(request, { filesystem }) {
    const { mode, umask, flags } = creationOf(request);
    const name = request.string(BODY + createIn.bytes);
    return filesystem.create(request, request.node, name, mode, umask, flags);
  },
});

export const tmpfile = operation<Created>({
  ...createdReply,
  call(request, { filesystem }) {
    const { mode, umask, flags } = creationOf(request);
    return filesystem.tmpfile(request, request.node, mode, umask, flags);
  },
});

export const release = operation<void>({
  call(request, { filesystem }) {
    request.expect(releaseIn.bytes);
    filesystem.release(releaseIn.fields.fh.get(request.view, BODY, errno.EBADF));
  },
});

export const flush = operation<void>({
  call(request, { filesystem }) {
    request.expect(flushIn.bytes);
    const { fh, lockOwner } = flushIn.fields;
    return filesystem.flush(request, fh.get(request.view, BODY, errno.EBADF), lockOwner.get(request.view, BODY));
  },
});

export const fsync = operation<void>({
  call(request, { filesystem }) {
    request.expect(fsyncIn.bytes);
    const { fh, fsyncFlags } = fsyncIn.fields;
    const dataOnly = (fsyncFlags.get(request.view, BODY) & FSYNC_FDATASYNC) !== 0;
    return filesystem.fsync(request, fh.get(request.view, BODY, errno.EBADF), dataOnly);
  },
});

export const syncfs = operation<void>({
  call: (request, { filesystem }) => filesystem.syncfs(request),
});
