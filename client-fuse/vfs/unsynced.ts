/**
 * Which handles have written what the server's disk may not have yet: it is in the memory of the server's machine until an
 * fsync, of whichever handle. When that machine was started anew, each of them is told once, by its next fsync or close.
 * Owned by the RemoteContext.
 */
import type { Node, OpenHandle } from './node.ts';

export class Unsynced {
  /** By node: when each handle was told last that the server has something of it. */
  readonly #written = new Map<Node, Map<OpenHandle, number>>();
  #clock = 0;

  /** The server has what it wrote. */
  wrote(open: OpenHandle): void {
    let handles = this.#written.get(open.node);
    if (handles === undefined) {
      handles = new Map();
      this.#written.set(open.node, handles);
    }
    handles.set(open, ++this.#clock);
  }

  /** To be taken before the server is asked to synchronize. */
  get clock(): number {
    return this.#clock;
  }

  /** What the server had of the file at `asOf` is on its disk. */
  synchronized(node: Node, asOf: number): void {
    for (const [open, at] of this.#written.get(node) ?? []) if (at <= asOf) this.released(open);
  }

  released(open: OpenHandle): void {
    const handles = this.#written.get(open.node);
    if (handles?.delete(open) && handles.size === 0) this.#written.delete(open.node);
  }

  /** The server's machine was started anew. Returns the files. */
  lost(): Node[] {
    const nodes = [...this.#written.keys()];
    for (const handles of this.#written.values()) for (const open of handles.keys()) open.hasLostWrites = true;
    this.#written.clear();
    return nodes;
  }
}
