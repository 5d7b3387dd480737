/**
 * What a client does first when the server has forgotten it: whatever others are held off from until it is back. It takes
 * its locks again, opens again the files that it may write to, so that the server knows who writes, and forgets what it knew.
 */
import type { OpenHandle } from './node.ts';
import { canWrite, ensureOpen } from './open-handle.ts';
import type { RemoteContext } from './remote-context.ts';

/**
 * `locked`: handles through which locks are held. Others wait until it has said that it is done: nor does anybody change before
 * what this client, or its kernel, would answer for from `leases` of before, which go meanwhile.
 */
export async function reclaim(
  { session, handles }: RemoteContext,
  locked: Iterable<OpenHandle>,
  leases: Promise<void>,
): Promise<void> {
  const { epoch } = session;
  const { instance } = session.hello;
  const opening = new Set([...locked, ...[...handles.all].filter((open) => canWrite(open) && !open.node.unmade)]);
  // An error is told at the next use.
  await Promise.allSettled([leases, ...[...opening].map((open) => ensureOpen(open, session))]);
  if (epoch === session.epoch) await session.call('reclaimComplete', [], { instance }).catch(() => {});
}
