/**
 * An open file or directory of the mount. It knows what it takes to open it again: after the server has forgotten the
 * session (it was restarted), the handle is opened anew at its next use. Owned by the HandleTable until released.
 */
import { errno, FsError } from '../../shared/errno.ts';
import type { CallerIdentity, ServerSession } from '../transport/server-session.ts';
import type { Node } from './node-table.ts';
import type { ReadAhead } from './read-ahead.ts';

export interface OpenHandle {
  readonly node: Node;
  readonly isDirectory: boolean;
  /** open(2) flags without those that act only once (O_CREAT, O_EXCL, O_TRUNC). */
  readonly flags: number;
  readonly opener: CallerIdentity;
  /** The server's handle, and the session (epoch) in which it was given. */
  server: number;
  epoch: number;
  reopening: Promise<void> | undefined;
  readAhead: ReadAhead | undefined;
}

/** Handles by the number that the kernel knows them by. */
export class HandleTable {
  readonly #handles = new Map<number, OpenHandle>();
  #last = 0;

  get size(): number {
    return this.#handles.size;
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

/** Makes `handle.server` good for the present session. Rejects with ESTALE when the file is gone. */
export async function ensureOpen(handle: OpenHandle, session: ServerSession): Promise<void> {
  while (handle.epoch !== session.epoch) {
    handle.reopening ??= reopen(handle, session).finally(() => {
      handle.reopening = undefined;
    });
    await handle.reopening;
  }
}

async function reopen(handle: OpenHandle, session: ServerSession): Promise<void> {
  const epoch = session.epoch;
  const { inode } = handle.node;
  const { handle: server } = handle.isDirectory
    ? await session.call('opendir', handle.opener, { inode })
    : await session.call('open', handle.opener, { inode, flags: handle.flags, killSuidgid: false });
  handle.server = server;
  handle.epoch = epoch;
  handle.readAhead?.drop();
}
