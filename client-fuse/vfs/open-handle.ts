/**
 * An open file or directory of the mount. It knows what it takes to open it again: after the server has forgotten the
 * session (it was restarted), a handle that can write, or through which something is locked, is opened anew at once
 * (reclaim.ts), any other at its next use; so is one that was opened on the credit of a lease, without asking. Owned by
 * the HandleTable until released.
 */
import { errno, FsError } from '../../shared/errno.ts';
import { O } from '../../shared/linux/constants.ts';
import type { ServerSession } from '../transport/server-session.ts';
import type { Node, OpenHandle } from './node.ts';

/** Not open at the server in any session. */
export const NOT_OPENED = -1;

/** One is made for each opening: each property by its name, since V8 adds those that follow a spread one by one, slowly. */
export function newHandle({
  node,
  isDirectory,
  flags,
  opener,
  server,
  epoch,
}: Pick<OpenHandle, 'node' | 'isDirectory' | 'flags' | 'opener' | 'server' | 'epoch'>): OpenHandle {
  return {
    node,
    isDirectory,
    flags,
    opener,
    server,
    epoch,
    reopening: undefined,
    hasLostLocks: false,
    hasLostWrites: false,
    readAhead: undefined,
    isCached: false,
    isDirect: false,
    first: undefined,
    behind: undefined,
    hasNoLease: false,
    expected: undefined,
    blocks: undefined,
    killsSuidgid: false,
    listing: undefined,
    isListingRead: false,
    listedAsOf: 0,
    parts: undefined,
  };
}

export function canWrite({ flags, isDirectory }: OpenHandle): boolean {
  return !isDirectory && (flags & O.ACCMODE) !== O.RDONLY && (flags & O.EXEC) === 0;
}

/** What is here of the file's data and the kernel has not asked for yet is not what the file contains any more. */
export function dropAhead({ cached }: Node): void {
  for (const open of cached ?? []) {
    open.first = undefined;
    open.readAhead?.drop();
  }
}

/** Handles by the number that the kernel knows them by. */
export class HandleTable {
  readonly #handles = new Map<number, OpenHandle>();
  #last = 0;

  get size(): number {
    return this.#handles.size;
  }

  get all(): Iterable<OpenHandle> {
    return this.#handles.values();
  }

  add(handle: OpenHandle): number {
    this.#handles.set(++this.#last, handle);
    return this.#last;
  }

  get(number: number): OpenHandle {
    const handle = this.#handles.get(number);
    if (handle === undefined) throw new FsError(errno.EBADF, `handle ${number}`);
    return handle;
  }

  remove(number: number): OpenHandle | undefined {
    const handle = this.#handles.get(number);
    this.#handles.delete(number);
    return handle;
  }
}

/**
 * Makes `handle.server` good for the present session. Rejects with ESTALE when the file is gone, and with EIO from when
 * locks that were taken through it could not be taken again.
 */
export async function ensureOpen(handle: OpenHandle, session: ServerSession): Promise<void> {
  if (handle.node.unmade) await handle.node.unmade.made();
  while (handle.epoch !== session.epoch || handle.hasLostLocks) {
    if (handle.hasLostLocks) throw new FsError(errno.EIO, 'locks are lost');
    handle.reopening ??= reopen(handle, session).finally(() => {
      handle.reopening = undefined;
    });
    await handle.reopening;
  }
}

async function reopen(handle: OpenHandle, session: ServerSession): Promise<void> {
  const epoch = session.epoch;
  const { inode } = handle.node;
  const again = { inode, flags: handle.flags, killSuidgid: false, wants: 'none', firstBytes: 0 } as const;
  const { handle: server } = handle.isDirectory
    ? await session.call('opendir', handle.opener, { inode, maxEntries: 0 })
    : await session.call('open', handle.opener, again);
  // Before anybody uses the handle: what is read and written under a lock is so still.
  if (!(await reclaimLocks(handle, server, session, epoch))) return;
  handle.server = server;
  handle.epoch = epoch;
  handle.node.unopened?.delete(handle);
  handle.readAhead?.drop();
}

/** False: the server was started anew meanwhile. */
async function reclaimLocks(
  handle: OpenHandle,
  server: number,
  session: ServerSession,
  epoch: number,
): Promise<boolean> {
  for (const { kind, owner, pid, ranges } of handle.node.locks?.through(handle) ?? []) {
    for (const { start, end, value: mode } of ranges.ranges) {
      try {
        const lock = { handle: server, kind, owner, pid, mode, start, end, ticket: undefined, reclaim: true };
        await session.call('lock', handle.opener, lock);
      } catch (error) {
        if (epoch !== session.epoch) return false;
        handle.hasLostLocks = true;
        session.log.error({ err: error, pid }, 'a lock could not be taken again; its open file is of no use any more');
        return true;
      }
    }
  }
  return epoch === session.epoch;
}
