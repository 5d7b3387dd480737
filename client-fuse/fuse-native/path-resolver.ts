/**
 * From paths, which libfuse's high-level interface speaks, to nodes: component by component, asked anew for every
 * operation, because without leases a remembered path may name another file by now.
 *
 * Invariant: every lookup count that the filesystem hands out is held by exactly one HeldNode, and given back when it is
 * disposed of. An open file keeps its HeldNode until it is released.
 */
import type { Attributes } from '../../shared/attributes.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { type Caller, type Entry, type Filesystem, type NodeId, ROOT_NODE } from '../vfs/filesystem.ts';

const SLASH = 0x2f;

/** One lookup count on a node (none on the root, which needs none). */
export class HeldNode implements Disposable {
  readonly node: NodeId;
  /** As of the lookup; the root has none. */
  readonly attributes: Attributes | undefined;
  readonly #filesystem: Filesystem;
  #isHeld: boolean;

  constructor(filesystem: Filesystem, entry?: Entry) {
    this.#filesystem = filesystem;
    this.node = entry?.node ?? ROOT_NODE;
    this.attributes = entry?.attributes;
    this.#isHeld = entry !== undefined;
  }

  [Symbol.dispose](): void {
    if (!this.#isHeld) return;
    this.#isHeld = false;
    this.#filesystem.forget(this.node, 1);
  }
}

/** Where a name is, or is to be made. */
export interface HeldName extends Disposable {
  readonly parent: NodeId;
  readonly name: Uint8Array;
}

export class PathResolver {
  readonly #filesystem: Filesystem;
  readonly #caller: Caller;

  constructor(filesystem: Filesystem, caller: Caller) {
    this.#filesystem = filesystem;
    this.#caller = caller;
  }

  /** Rejects with ENOENT, ENOTDIR, ... of the component that is not there. */
  resolve(path: Uint8Array): Promise<HeldNode> {
    return this.#walk(componentsOf(path));
  }

  /** The directory of a path's last component, which need not exist. */
  async resolveParent(path: Uint8Array): Promise<HeldName> {
    const components = componentsOf(path);
    const name = components.pop();
    if (name === undefined) throw new FsError(errno.EBUSY, 'root');
    const directory = await this.#walk(components);
    return { parent: directory.node, name, [Symbol.dispose]: () => directory[Symbol.dispose]() };
  }

  async #walk(components: readonly Uint8Array[]): Promise<HeldNode> {
    let held = new HeldNode(this.#filesystem);
    for (const name of components) {
      using parent = held;
      const found = await this.#filesystem.lookup(this.#caller, parent.node, name);
      if (found.node === 0) throw new FsError(errno.ENOENT, 'lookup');
      held = new HeldNode(this.#filesystem, found as Entry);
    }
    return held;
  }
}

function componentsOf(path: Uint8Array): Uint8Array[] {
  const components: Uint8Array[] = [];
  for (let start = 0; start < path.length; ) {
    const slash = path.indexOf(SLASH, start);
    const end = slash < 0 ? path.length : slash;
    if (end > start) components.push(path.subarray(start, end));
    start = end + 1;
  }
  return components;
}
