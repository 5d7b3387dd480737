/**
 * Node ids towards the kernel and inode handles towards the server, in both directions. A node lives while the kernel
 * holds lookup counts on it; counts are exact, so memory follows the kernel's own inode cache. Ids are never used again.
 */
import { assert } from '../../shared/assert.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { type NodeId, ROOT_NODE } from './filesystem.ts';

export interface Node {
  readonly id: NodeId;
  /** The server's handle (an own copy). */
  readonly inode: Buffer;
  readonly key: string;
  /** References that the kernel holds. */
  lookups: number;
  /** Entries that the server sent for it: what it is told when the node is forgotten. */
  entries: number;
}

export class NodeTable {
  readonly #byId = new Map<NodeId, Node>();
  readonly #byKey = new Map<string, Node>();
  #lastId: NodeId = ROOT_NODE;
  readonly root: Node;

  constructor(rootInode: Uint8Array) {
    this.root = this.#add(ROOT_NODE, rootInode, keyOf(rootInode));
    this.root.lookups = 1;
  }

  get size(): number {
    return this.#byId.size;
  }

  get(id: NodeId): Node {
    const node = this.#byId.get(id);
    if (node === undefined) throw new FsError(errno.ESTALE, `node ${id}`);
    return node;
  }

  /** The server named an inode to the kernel: one more reference to its node. */
  found(inode: Uint8Array): Node {
    const key = keyOf(inode);
    const node = this.#byKey.get(key) ?? this.#add(++this.#lastId, inode, key);
    node.lookups++;
    node.entries++;
    return node;
  }

  /** Returns the node when its last reference is gone. */
  forget(id: NodeId, count: number): Node | undefined {
    const node = this.#byId.get(id);
    if (node === undefined || node === this.root) return undefined;
    assert(count <= node.lookups, 'the kernel forgets no more than it was told');
    node.lookups -= count;
    if (node.lookups > 0) return undefined;
    this.#byId.delete(id);
    this.#byKey.delete(node.key);
    return node;
  }

  #add(id: NodeId, inode: Uint8Array, key: string): Node {
    const node: Node = { id, inode: Buffer.from(inode), key, lookups: 0, entries: 0 };
    this.#byId.set(id, node);
    this.#byKey.set(key, node);
    return node;
  }
}

function keyOf(inode: Uint8Array): string {
  return Buffer.from(inode.buffer, inode.byteOffset, inode.length).toString('latin1');
}
