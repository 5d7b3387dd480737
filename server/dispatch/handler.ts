/**
 * What a handler is: one function an operation, from a validated request to a reply. It throws FsError for an expected
 * failure. A handler that awaits holds nothing but `using` resources across the await.
 */
import type { Timespec } from '../../shared/attributes.ts';
import type { Eventually } from '../../shared/eventually.ts';
import type { OperationName, ReplyOf, RequestOf, WireEntry } from '../../shared/protocol/messages.ts';
import type { LeaseManager } from '../leases/lease-manager.ts';
import type { InFlightRequest } from '../session/in-flight-request.ts';
import type { Session } from '../session/session.ts';
import type { Identity } from '../store/identity.ts';
import type { Inode } from '../store/inode.ts';
import type { FoundInode } from '../store/inode-table.ts';
import type { OpenFile } from '../store/open-file.ts';
import type { Store } from '../store/store.ts';
import type { SinceStart } from './since-start.ts';

export interface RequestContext {
  readonly session: Session;
  /** Of the server. */
  readonly instance: Buffer;
  /** When the server was started, and what clients have done since. */
  readonly sinceStart: SinceStart;
  readonly store: Store;
  readonly leases: LeaseManager;
  readonly identity: Identity;
  /** Says when the caller gave up, to whoever waits for a lock. */
  readonly request: InFlightRequest;
}

/** A reply with bulk data, and what to do when it has left. */
export class BulkReply<R> {
  readonly reply: R;
  readonly bulk: Uint8Array;
  readonly flushed: () => void;

  constructor(reply: R, bulk: Uint8Array, flushed: () => void) {
    this.reply = reply;
    this.bulk = bulk;
    this.flushed = flushed;
  }
}

export interface Handler<N extends OperationName> {
  /** Refused with EROFS on a read-only export. */
  readonly mutates: boolean;
  handle(
    context: RequestContext,
    request: RequestOf<N>,
    bulk: Uint8Array,
  ): Eventually<ReplyOf<N> | BulkReply<ReplyOf<N>>>;
}

export type Handlers<N extends OperationName> = { readonly [K in N]: Handler<K> };

export const DONE = {};

/** Called under the exclusive page-range lock of what changed. */
export function dataChanged({ session, sinceStart }: RequestContext, inode: Inode): void {
  inode.dataChanged();
  sinceStart.changed(inode, session);
}

/**
 * The access time after a read through `file`, for a client that keeps the attributes. Once a handle: where reading sets it
 * (relatime), only the first read after a change does.
 */
export function accessTimeAfterRead(session: Session, file: OpenFile): Timespec | undefined {
  if (file.saidAccessTime || !session.holdsLease(file.inode)) return undefined;
  file.saidAccessTime = true;
  return file.calls.stat(file.fd).atime;
}

/** The wire's form of an inode that was found; the session remembers it where the server needs that. */
export function entryOf({ session, leases }: RequestContext, { inode, attributes }: FoundInode): WireEntry {
  if (!session.exported.usesKernelHandles) session.remember(inode);
  return { inode: inode.handle, attributes, leased: leases.grantAttributes(session, inode, attributes) };
}
