/**
 * Node ids towards the kernel and inode handles towards the server, in both directions. A node lives while the kernel
 * holds lookup counts on it, and some time longer; counts are exact, so memory follows the kernel's own inode cache. Ids
 * are never used again.
 */

import { assert } from '../../shared/assert.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { limits } from '../../shared/limits.ts';
import { type NodeId, ROOT_NODE } from './filesystem.ts';
import type { Node } from './node.ts';

const NO_INODE = new Uint8Array(0);

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

  get all(): Iterable<Node> {
    return this.#byId.values();
  }

  get(id: NodeId): Node {
    const node = this.#byId.get(id);
    if (node === undefined) throw new FsError(errno.ESTALE, `node ${id}`);
    return node;
  }

  /** The server named an inode to the kernel: one more reference to its node. */
  found(inode: Uint8Array): Node {
    return this.foundAgain(this.named(inode));
  }

  /** The server named an inode. The kernel does not know of it: a new node is idle. */
  named(inode: Uint8Array): Node {
    const key = keyOf(inode);
    let node = this.#byKey.get(key);
    if (node === undefined) {
      node = this.#add(++this.#lastId, inode, key);
      this.#idle.add(node);
    }
    node.entries++;
    return node;
  }

  /** A file that the server does not have yet: the kernel has a reference to it, and nobody finds it by an inode. */
  unmade(): Node {
    const node = this.#add(++this.#lastId, NO_INODE, '');
    node.lookups = 1;
    return node;
  }

  /** The server has made it. Throws FsError when the kernel knows it as another node. */
  made(node: Node, inode: Uint8Array): void {
    const key = keyOf(inode);
    const other = this.#byKey.get(key);
    // Something that was asked for ahead has named it meanwhile.
    if (other && other.lookups > 0) throw new FsError(errno.ESTALE, `node ${node.id}`);
    if (other) this.#drop(other);
    node.inode = Buffer.from(inode);
    node.key = key;
    node.entries += 1 + (other?.entries ?? 0);
    node.unmade = undefined;
    this.#byKey.set(key, node);
    if (node.lookups === 0) this.#idle.add(node);
  }

  /** It could not be made: the kernel forgets it sooner or later. */
  notMade(node: Node): void {
    if (node.lookups === 0) this.#drop(node);
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
    if (node.given && node.given.changes === 0 && !node.given.takingBack) node.given = undefined;
    if (node.unmade?.hasFailed) this.#drop(node);
    if (node.unmade) return undefined;
    this.#idle.add(node);
    return this.dropIdle();
  }

  /** A node that has to go, since there are too many idle ones. */
  dropIdle(): Node | undefined {
    if (this.#idle.size <= this.#maxIdle) return undefined;
    const [oldest] = this.#idle;
    if (oldest === undefined) return undefined;
    this.#drop(oldest);
    return oldest;
  }

  #drop(node: Node): void {
    this.#idle.delete(node);
    node.isForgotten = true;
    this.#byId.delete(node.id);
    this.#byKey.delete(node.key);
  }

  #add(id: NodeId, inode: Uint8Array, key: string): Node {
    const node: Node = {
      id,
      inode: Buffer.from(inode),
      key,
      unmade: undefined,
      lookups: 0,
      entries: 0,
      known: undefined,
      given: undefined,
      unopened: undefined,
      cached: undefined,
      missed: undefined,
      mapped: undefined,
      blocks: undefined,
      gatherer: undefined,
      writers: 0,
      opening: 0,
      foundIn: undefined,
      foundAs: undefined,
      locks: undefined,
      isForgotten: false,
    };
    this.#byId.set(id, node);
    if (key !== '') this.#byKey.set(key, node);
    return node;
  }
}

function keyOf(inode: Uint8Array): string {
  return Buffer.from(inode.buffer, inode.byteOffset, inode.length).toString('latin1');
}
