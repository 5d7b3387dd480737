/**
 * What supervisor (A) and client (B) tell each other over Node's channel, and the descriptor of the socket on which A hands the
 * mounted /dev/fuse over. Each checks whom it hears: a message that does not fit is ignored.
 *
 *   A: check mount point        spawn B
 *   B:                                   connect to the server   ready
 *   A:                                                                   mount   descriptor, mounted
 *   B:                                                                                   serving ... unmounted   exit 0
 *   A:                                                                   stat the root, tell the parent, wait for B
 */
import type { Mount } from './mount-table.ts';

/** In B: the socket on which the /dev/fuse descriptor arrives. */
export const DESCRIPTOR_SOCKET = 3;

export type ToClient =
  | { readonly type: 'mounted'; readonly mount: Mount }
  /** Unmounted lazily, but still in use: stop serving all the same. */
  | { readonly type: 'end' };

export type ToSupervisor =
  /** The server has been reached: mount now. */
  | { readonly type: 'ready' }
  /** It will not work, and why: one line for the user. */
  | { readonly type: 'failed'; readonly line: string }
  /** INIT is answered. */
  | { readonly type: 'serving' }
  /** B got a signal to stop. */
  | { readonly type: 'stop' }
  /** The mount is gone; B closes its session and exits. */
  | { readonly type: 'unmounted' };

export function messageType(message: unknown): string | undefined {
  const type = (message as { type?: unknown } | null)?.type;
  return typeof type === 'string' ? type : undefined;
}

/** The signals that end a mount cleanly. */
export const STOP_SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
