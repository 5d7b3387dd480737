/**
 * Directories of which nobody else is told anything without asking this client first: it made them, and holds their leases exclusively.
 * Files may be made in them before the server has them. Of a directory that is not used for a while, and of all as soon as somebody asks
 * for one, the lease becomes a shared one: others who look around there need not ask for each. Pure; owned by the LeaseCache.
 */
import { limits } from '../../shared/limits.ts';
import type { Node } from '../vfs/node.ts';

export class AloneDirectories {
  readonly #nowMs: () => number;
  /** When each was used last, in that order. */
  readonly #usedMs = new Map<Node, number>();

  constructor(nowMs: () => number = () => performance.now()) {
    this.#nowMs = nowMs;
  }

  get size(): number {
    return this.#usedMs.size;
  }

  has(directory: Node): boolean {
    return this.#usedMs.has(directory);
  }

  /** It was granted, or a file was made in it. */
  used(directory: Node): void {
    this.#usedMs.delete(directory);
    this.#usedMs.set(directory, this.#nowMs());
  }

  /** Its lease is gone. */
  end(directory: Node): void {
    this.#usedMs.delete(directory);
  }

  /** All leases are. */
  clear(): void {
    this.#usedMs.clear();
  }

  /** The server is to be told that these are shared from now on: those that were not used, and those that are too many. */
  takeIdle(isInUse: (directory: Node) => boolean): Node[] {
    const beforeMs = this.#nowMs() - limits.aloneIdleMs;
    let excess = this.#usedMs.size - limits.maxAlone;
    return this.#take((directory, usedMs) => !isInUse(directory) && (usedMs <= beforeMs || excess-- > 0));
  }

  /** The same, since others have begun to look around. */
  takeAll(isInUse: (directory: Node) => boolean): Node[] {
    return this.#take((directory) => !isInUse(directory));
  }

  #take(which: (directory: Node, usedMs: number) => boolean): Node[] {
    const taken: Node[] = [];
    for (const [directory, usedMs] of this.#usedMs) if (which(directory, usedMs)) taken.push(directory);
    for (const directory of taken) this.#usedMs.delete(directory);
    return taken;
  }
}
