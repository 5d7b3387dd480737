/**
 * Node ids towards the kernel and inode handles towards the server, in both directions. A node lives while the kernel
 * holds lookup counts on it, and some time longer; counts are exact, so memory follows the kernel's own inode cache. Ids
 * are never used again.
 */

import { assert } from '../../shared/assert.ts';
import type { Attributes } from '../../shared/attributes.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { limits } from '../../shared/limits.ts';
import { type NodeId, ROOT_NODE } from './filesystem.ts';

/** What is known of one node; set by LeaseCache alone. */
export interface Knowledge {
  /** Everything known in an earlier generation is void. */
  generation: number;
  attributes: Attributes | undefined;
  /** Names of a directory under its lease; null is "absent". Undefined: no lease. */
  names: Map<string, Node | null> | undefined;
  changedAt: number;
  /** Own changes under way: what the server says of the attributes meanwhile may be of before. */
  changing: number;
}

export interface Node {
  readonly id: NodeId;
  /** The server's handle (an own copy). */
  readonly inode: Buffer;
  readonly key: string;
  /** References that the kernel holds. */
  lookups: number;
  /** Entries that the server sent for it: what it is told when the node is forgotten. */
  entries: number;
  known: Knowledge | undefined;
  /** It has left the table: whoever still has it looks the name up again. */
  isForgotten: boolean;
}

export class NodeTable {
  readonly #byId = new Map<NodeId, Node>();
  readonly #byKey = new Map<string, Node>();
  #lastId: NodeId = ROOT_NODE;
  readonly root: Node;

  readonly #idle = new Set<Node>();
  readonly #maxIdle: number;

  constructor(rootInode: Uint8Array, maxIdle: number = limits.maxIdleNodes) {
    this.#maxIdle = maxIdle;
    this.root = this.#add(ROOT_NODE, rootInode, keyOf(rootInode));
    this.root.lookups = 1;
  }

  get size(): number {
    return this.#byId.size;
  }

  /** Nodes that the kernel holds a reference to. */
  get referenced(): number {
    return this.#byId.size - this.#idle.size;
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
    node.entries++;
    return this.foundAgain(node);
  }

  /** A name that is known led the kernel to the node: one more reference. */
  foundAgain(node: Node): Node {
    this.#idle.delete(node);
    node.lookups++;
    return node;
  }

  byInode(inode: Uint8Array): Node | undefined {
    return this.#byKey.get(keyOf(inode));
  }

  /** A node without references stays for a while, since names may be known to lead to it. Returns one that had to go. */
  forget(id: NodeId, count: number): Node | undefined {
    const node = this.#byId.get(id);
    if (node === undefined || node === this.root) return undefined;
    assert(count <= node.lookups, 'the kernel forgets no more than it was told');
    node.lookups -= count;
    if (node.lookups > 0) return undefined;
    this.#idle.add(node);
    if (this.#idle.size <= this.#maxIdle) return undefined;
    const [oldest = node] = this.#idle;
    this.#idle.delete(oldest);
    oldest.isForgotten = true;
    this.#byId.delete(oldest.id);
    this.#byKey.delete(oldest.key);
    return oldest;
  }

  #add(id: NodeId, inode: Uint8Array, key: string): Node {
    const node: Node = {
      id,
      inode: Buffer.from(inode),
      key,
      lookups: 0,
      entries: 0,
      known: undefined,
      isForgotten: false,
    };
    this.#byId.set(id, node);
    this.#byKey.set(key, node);
    return node;
  }
}

function keyOf(inode: Uint8Array): string {
  return Buffer.from(inode.buffer, inode.byteOffset, inode.length).toString('latin1');
}
