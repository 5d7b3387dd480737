/** Handlers of programs' locks (fcntl, flock). They hold among clients; local programs do not see them. */
import type { U64 } from '../../shared/attributes.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { type ByteRange, END_OF_BYTES } from '../../shared/range-map.ts';
import { DONE, type Handlers } from './handler.ts';

export const lockHandlers: Handlers<'lock' | 'unlock' | 'cancelLock' | 'getlk' | 'reclaimComplete'> = {
  lock: {
    mutates: false,
    handle: ({ session }, { handle, kind, owner, pid, mode, start, end, ticket, reclaim }) => {
      // First: a handle of an earlier run says so, whatever the time.
      const table = session.file(handle).inode.lockTable(kind);
      session.admitLock(reclaim);
      const wanted = { owner: String(owner), pid, mode, ...rangeOf(start, end) };
      return { granted: session.locks.lock(table, wanted, ticket) };
    },
  },
  unlock: {
    mutates: false,
    handle: ({ session, store }, { inode, kind, owner, start, end }) => {
      // An inode with a lock is in memory.
      const table = store.known(inode)?.lockTable(kind);
      if (table) session.locks.unlock(table, String(owner), rangeOf(start, end));
      return DONE;
    },
  },
  cancelLock: {
    mutates: false,
    handle: ({ session }, { ticket }) => ({ errno: session.locks.cancel(ticket) }),
  },
  reclaimComplete: {
    mutates: false,
    handle: ({ session, instance }, request) => {
      // One that was sent to an earlier instance, and arrived here.
      if (instance.equals(request.instance)) session.reclaimed();
      return DONE;
    },
  },
  getlk: {
    mutates: false,
    handle: ({ session }, { handle, owner, mode, start, end }) => {
      const table = session.file(handle).inode.lockTable('posix');
      const found = session.locks.conflict(table, { owner: String(owner), mode, ...rangeOf(start, end) });
      if (found === undefined) return { lock: undefined };
      const { holder, pid } = found.owner.process;
      const isOwn = holder === session.locks;
      return { lock: { mode: found.mode, start: found.start, end: found.end, pid: isOwn ? pid : 0 } };
    },
  },
};

function rangeOf(start: U64, end: U64): ByteRange {
  const range = { start: BigInt(start), end: BigInt(end) };
  if (range.start >= range.end || range.end > END_OF_BYTES) throw new FsError(errno.EINVAL, 'range of a lock');
  return range;
}
