/** What is known of an inode: nothing yet, or nothing any more. The shape is in vfs/node.ts. */
import type { Knowledge, Node } from '../vfs/node.ts';

export function newKnowledge(generation: number): Knowledge {
  return {
    generation,
    isHeld: false,
    coversData: false,
    uncoveredAt: 0,
    attributes: undefined,
    isAccessTimeOld: false,
    names: undefined,
    hasAllNames: false,
    listing: undefined,
    target: undefined,
    openers: undefined,
    xattrs: undefined,
    hasNoXattrs: false,
    hasNoCapability: false,
    seeks: undefined,
    lookups: 0,
    changedAt: 0,
    recalledAt: 0,
    left: undefined,
    kept: undefined,
    changing: 0,
    recalling: 0,
  };
}

/** The lease is gone, and all that it covered. What happened to the inode, and what is under way, stays. */
export function clearKnowledge(known: Knowledge): void {
  known.isHeld = false;
  known.coversData = false;
  known.attributes = undefined;
  known.names = undefined;
  known.hasAllNames = false;
  known.listing = undefined;
  known.target = undefined;
  known.openers = undefined;
  known.xattrs = undefined;
  known.hasNoXattrs = false;
  known.hasNoCapability = false;
  known.seeks = undefined;
  known.lookups = 0;
}

/** More than attributes, names and pages depends on its lease. */
export function isInUse({ known, unopened, cached, gatherer }: Node): boolean {
  return !!known?.changing || !!unopened?.size || !!cached?.size || gatherer !== undefined;
}
