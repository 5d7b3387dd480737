/** Where a node is, for people. */
import type { Node } from './node.ts';

const LONGEST_PATH = 32;

/** As far as it is known; it may have been renamed since. */
export function pathOf(node: Node): string {
  const names: string[] = [];
  // Directories that were moved into each other may seem to go round.
  for (let at: Node | undefined = node; at?.foundAs !== undefined && names.length < LONGEST_PATH; at = at.foundIn) {
    names.unshift(Buffer.from(at.foundAs, 'latin1').toString());
  }
  return names.join('/');
}
