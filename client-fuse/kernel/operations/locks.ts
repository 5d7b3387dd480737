/**
 * Locks of programs: fcntl's and flock's. A lock whose grant its caller does not learn of (it was killed meanwhile) is
 * given back. Source: fuse_setlk(), fuse_getlk() and fuse_flush() in the kernel's fs/fuse/file.c.
 */
import { errno, FsError } from '../../../shared/errno.ts';
import { F } from '../../../shared/linux/constants.ts';
import type { Eventually, FoundLock, Lock } from '../../vfs/filesystem.ts';
import { LK_FLOCK } from '../constants.ts';
import { type Mounted, mapEventually, operation } from '../operation.ts';
import { BODY, type Request } from '../request.ts';
import { lkIn, lkOut } from '../structures.ts';

interface Arguments extends Omit<Lock, 'mode'> {
  readonly handle: number;
  /** Undefined: unlock. */
  readonly mode: Lock['mode'] | undefined;
}

function argumentsOf(request: Request): Arguments {
  request.expect(lkIn.bytes);
  const { view } = request;
  const { fh, owner, start, end, type, pid, lkFlags } = lkIn.fields;
  return {
    handle: fh.get(view, BODY, errno.EBADF),
    kind: (lkFlags.get(view, BODY) & LK_FLOCK) === 0 ? 'posix' : 'flock',
    owner: owner.get(view, BODY),
    pid: pid.get(view, BODY),
    mode: modeOf(type.get(view, BODY)),
    start: BigInt(start.get(view, BODY)),
    end: BigInt(end.get(view, BODY)) + 1n,
  };
}

function modeOf(type: number): Lock['mode'] | undefined {
  if (type === F.UNLCK) return undefined;
  if (type === F.RDLCK) return 'shared';
  if (type === F.WRLCK) return 'exclusive';
  throw new FsError(errno.EINVAL, 'type of a lock');
}

export const getlk = operation<FoundLock | undefined>({
  call(request, { filesystem }) {
    const { handle, mode, ...rest } = argumentsOf(request);
    if (mode === undefined) throw new FsError(errno.EINVAL, 'type of a lock');
    return filesystem.findLock(request, handle, { ...rest, mode });
  },
  encode(reply, found) {
    const base = reply.claimZeroed(lkOut.bytes);
    const { start, end, type, pid } = lkOut.fields;
    type.set(reply.view, base, found === undefined ? F.UNLCK : found.mode === 'shared' ? F.RDLCK : F.WRLCK);
    if (found === undefined) return;
    start.set(reply.view, base, found.start);
    end.set(reply.view, base, found.end - 1n);
    pid.set(reply.view, base, found.pid);
  },
});

function set(request: Request, { filesystem }: Mounted, waits: boolean): Eventually<(() => void) | undefined> {
  const { handle, mode, ...rest } = argumentsOf(request);
  if (mode !== undefined) return filesystem.lock(request, handle, { ...rest, mode }, waits);
  return mapEventually(filesystem.unlock(request, handle, rest, rest), () => undefined);
}

const undo = (giveBack: (() => void) | undefined) => giveBack?.();

export const setlk = operation<(() => void) | undefined>({
  call: (request, mounted) => set(request, mounted, false),
  undo,
});

export const setlkw = operation<(() => void) | undefined>({
  call: (request, mounted) => set(request, mounted, true),
  undo,
});
