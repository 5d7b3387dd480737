/** What becomes of a request beyond its answer: which lane it takes, and whether it may be made twice, or given up. */
import { KiB } from '../../shared/limits.ts';
import { RENAME } from '../../shared/linux/constants.ts';
import type { OperationName, RequestOf } from '../../shared/protocol/messages.ts';
import type { Lane } from './link.ts';

/** Requests and replies with more data than this travel on the bulk lane. */
const BULK_BYTES = 64 * KiB;

const OWED: ReadonlySet<OperationName> = new Set<OperationName>(['release', 'unlock', 'cancelLock', 'forget']);

const OPENING: ReadonlySet<OperationName> = new Set<OperationName>([
  'open',
  'create',
  'createWith',
  'tmpfile',
  'opendir',
]);

/** Its reply may bring a handle, which is released by whoever asked for it, or else by the session. */
export function opens(operation: OperationName): boolean {
  return OPENING.has(operation);
}

/** It gives something back: owed to the server, whoever still waits for the answer. */
export function isOwed(operation: OperationName): boolean {
  return OWED.has(operation);
}

export function laneOf(request: object, bulk: Uint8Array | undefined): Lane {
  return Math.max(bulk?.length ?? 0, expectedBulkBytes(request)) > BULK_BYTES ? 'bulk' : 'small';
}

/** The others show it: an error of a second attempt, or the same result. */
export function isOnceOnly(operation: OperationName, request: object): boolean {
  if (operation === 'rename') return ((request as RequestOf<'rename'>).flags & RENAME.EXCHANGE) !== 0;
  return operation === 'fallocate' || (operation === 'write' && (request as RequestOf<'write'>).append);
}

/** What a reply is likely to bring: a read that only asks whether known data are still good, nothing. */
function expectedBulkBytes(request: { readonly size?: unknown; readonly knownVersion?: unknown }): number {
  return 'knownVersion' in request && !request.knownVersion ? Number(request.size) : 0;
}
