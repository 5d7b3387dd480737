/** What a handle that holds the exclusive lease on its file says of what it gathers, and to whom. */
import type { Attributes } from '../../shared/attributes.ts';
import type { LeaseCache } from '../leases/lease-cache.ts';
import { ExpectedAttributes } from './expected-attributes.ts';
import type { AttributeChanges, Caller } from './filesystem.ts';
import { gathered } from './gathered-attributes.ts';
import type { Node, OpenHandle } from './node.ts';

export function expectedOf(leases: LeaseCache, node: Node): ExpectedAttributes {
  return new ExpectedAttributes({
    get attributes() {
      return leases.knownAttributes(node);
    },
    get lastChange() {
      return leases.lastChange(node);
    },
    isUndisturbed: (since) => leases.isUndisturbed(node, since),
  });
}

/** Bytes are about to be gathered: what is known of the file is void. */
export function gatherWrite(leases: LeaseCache, open: OpenHandle, offset: number, length: number): void {
  open.expected?.now(open.behind?.isClean === true);
  open.expected?.wrote(offset, length);
  voidKnowledge(leases, open);
}

/**
 * Attributes are changed, and that is gathered, by whoever makes the change: the server takes it for who made the file.
 * Returns what they are then; undefined: the server must be asked.
 */
export function gatherAttributes(
  leases: LeaseCache,
  caller: Caller,
  node: Node,
  changes: AttributeChanges,
): Attributes | undefined {
  const { gatherer: open } = node;
  if (!open?.behind || open.behind.isStopped || !open.expected || caller.uid !== open.opener[0]) return undefined;
  // A capability would go with the change of owner, at the server.
  const isOwner = changes.uid !== undefined || changes.gid !== undefined;
  if (isOwner && !node.unmade && !leases.hasNoCapability(node)) return undefined;
  const before = open.expected.now(open.behind.isClean);
  const after = before && gathered(before, caller.uid, changes);
  if (!after) return undefined;
  open.behind.change(before, after, changes);
  open.expected.become(after);
  voidKnowledge(leases, open);
  return after;
}

function voidKnowledge(leases: LeaseCache, { node, expected }: OpenHandle): void {
  const changed = () => leases.changed(node);
  if (expected) expected.keep(changed);
  else changed();
}
