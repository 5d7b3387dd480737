/** Directories that programs of this mount opened last: those from the root down to where a walk is are among them, and of some walks at once. */
import type { Node } from './node.ts';

const MOST = 32;

export class RecentDirectories {
  readonly #nodes: Node[] = [];

  opened(directory: Node): void {
    if (this.#nodes.at(-1) !== directory) this.#nodes.push(directory);
    if (this.#nodes.length > MOST) this.#nodes.shift();
  }

  has(directory: Node): boolean {
    return this.#nodes.includes(directory);
  }
}
