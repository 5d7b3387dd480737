/**
 * Files on which somebody else of this machine has a kernel lease: nfsd, Samba, another export of this server by a hard
 * link. Their holder is asked by the kernel when the file is opened, and a local program waits; this server may not, so it
 * opens with O_NONBLOCK, is told EAGAIN, and looks again.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { errno, FsError } from '../../shared/errno.ts';
import type { Eventually } from '../../shared/eventually.ts';
import type { Cancellable } from '../state/page-range-lock-queue.ts';

/** The kernel takes a lease away after so long: /proc/sys/fs/lease-break-time, as it is by default. */
const LEASE_BREAK_MS = 45_000;
const LOOK_AGAIN_MS = 20;

/** Does `open`, which may be done several times, when no such lease is in its way. Rejects with EINTR when it is cancelled. */
export function pastForeignLeases<T>(cancellable: Cancellable, open: () => Eventually<T>): Eventually<T> {
  let opened: Eventually<T>;
  try {
    opened = open();
  } catch (error) {
    if (!isLeased(error)) throw error;
    return openLater(cancellable, open);
  }
  if (!(opened instanceof Promise)) return opened;
  return opened.catch((error: unknown) => {
    if (!isLeased(error)) throw error;
    return openLater(cancellable, open);
  });
}

async function openLater<T>({ signal }: Cancellable, open: () => Eventually<T>): Promise<T> {
  const untilMs = performance.now() + LEASE_BREAK_MS;
  for (;;) {
    await delay(LOOK_AGAIN_MS, undefined, { signal }).catch(() => {
      throw new FsError(errno.EINTR, 'open');
    });
    try {
      return await open();
    } catch (error) {
      if (!isLeased(error) || performance.now() > untilMs) throw error;
    }
  }
}

function isLeased(error: unknown): boolean {
  return error instanceof FsError && error.code === errno.EAGAIN;
}
