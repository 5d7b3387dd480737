/**
 * What the client may answer without asking: attributes of inodes and names of directories that the server granted with
 * a reply, until it recalls them, the connection is lost, or the server has not answered for a while. Pure: owned by
 * the filesystem, which hands in replies, own changes and recalls in the order in which they happen.
 *
 * Replies overtake each other (two lanes, promises), so each is taken in only if nothing has happened to its inode since its
 * request was sent: `asOf` is the clock at that time, `changedAt` of the node the clock of the last change or recall.
 */
import type { Attributes } from '../../shared/attributes.ts';
import { limits } from '../../shared/limits.ts';
import type { Knowledge, Node } from '../vfs/node-table.ts';

export class LeaseCache {
  readonly #isUsable: () => boolean;
  #generation = 0;
  #clock = 0;
  #unknownRecallAt = 0;
  /** Own changes under way of inodes that this client cannot name. */
  #unknownChanges = 0;
  hits = 0;
  misses = 0;
  recalls = 0;

  /** `isUsable`: the server answered recently enough to know that it would have recalled. */
  constructor(isUsable: () => boolean) {
    this.#isUsable = isUsable;
  }

  /** To be taken before a request is sent whose reply may be learned from. */
  get clock(): number {
    return this.#clock;
  }

  attributes(node: Node): Attributes | undefined {
    const known = this.#unknownChanges > 0 ? undefined : this.#valid(node)?.attributes;
    if (known) this.hits++;
    else this.misses++;
    return known;
  }

  /** The node behind a name, null when the name is known to be absent, undefined when the server must be asked. */
  name(directory: Node, key: string): Node | null | undefined {
    const names = this.#valid(directory)?.names;
    const node = names?.get(key);
    if (node?.isForgotten) {
      names?.delete(key);
      return undefined;
    }
    return node;
  }

  learnAttributes(node: Node, attributes: Attributes, leased: boolean, asOf: number): void {
    if (leased && this.#isCurrent(node, asOf) && node.known?.changing === 0) node.known.attributes = attributes;
  }

  learnName(directory: Node, key: string, node: Node | null, leased: boolean, asOf: number): void {
    if (!leased || !this.#isCurrent(directory, asOf)) return;
    const known = this.#knowledge(directory);
    known.names ??= new Map();
    known.names.set(key, node);
  }

  /**
   * This client changes the inode from now on, until `endChange`. Its request may be on the other lane: a reply to what
   * was asked later can be of before the change, and the change known to others before its reply is here. Undefined: it
   * changes an inode by a name that is not known, so it may be any; null: there is none.
   */
  beginChange(node: Node | null | undefined): void {
    if (node === undefined) this.#unknownChanges++;
    if (!node) return;
    this.changed(node);
    this.#knowledge(node).changing++;
  }

  endChange(node: Node | null | undefined): void {
    if (node === undefined) this.#unknownChanges--;
    if (!node) return;
    this.changed(node);
    this.#knowledge(node).changing--;
  }

  /** This client has changed the inode. */
  changed(node: Node): number {
    const known = this.#knowledge(node);
    known.attributes = undefined;
    known.changedAt = ++this.#clock;
    return known.changedAt;
  }

  /** The same for a name in a directory, whose other names stay known. */
  changingName(directory: Node, key: string): number {
    this.#knowledge(directory).names?.delete(key);
    return this.changed(directory);
  }

  /**
   * This client's own change of a name was done; `mark` is what `changingName` returned. Learned only when nothing else
   * happened in the directory meanwhile.
   */
  changedName(
    directory: Node,
    key: string,
    node: Node | null | undefined,
    mark: number,
    attributes?: Attributes,
  ): void {
    const known = this.#knowledge(directory);
    const isUndisturbed = this.isUndisturbed(directory, mark);
    this.changed(directory);
    known.names?.delete(key);
    if (!isUndisturbed || known.names === undefined) return;
    if (node !== undefined) known.names.set(key, node);
    known.attributes = attributes;
  }

  /** Nothing else happened in the directory since `changingName` returned `mark`. */
  isUndisturbed(directory: Node, mark: number): boolean {
    return directory.known?.changedAt === mark && this.#unknownRecallAt <= mark;
  }

  /** One more name that this client's own change made known, right after `changedName`. */
  addName(directory: Node, key: string, node: Node | null): void {
    this.#valid(directory)?.names?.set(key, node);
  }

  /** A read sets the access time where the server's filesystem mounts with relatime, the default. */
  wasRead(node: Node): void {
    const known = this.#valid(node);
    const attributes = known?.attributes;
    if (attributes === undefined || known === undefined) return;
    const { atime, mtime, ctime } = attributes;
    const isNotedAlready = isLater(atime, mtime) && isLater(atime, ctime);
    if (!isNotedAlready) known.attributes = undefined;
  }

  /**
   * The server wants the lease back; undefined: on an inode that this client does not know (yet). With a directory's
   * names the attributes of what they name are of little use: returns the nodes whose leases are given back as well,
   * so that a change of many names costs one recall.
   */
  recall(node: Node | undefined): readonly Node[] {
    this.recalls++;
    if (node === undefined) {
      this.#unknownRecallAt = ++this.#clock;
      return [];
    }
    const children: Node[] = [];
    for (const child of this.#knowledge(node).names?.values() ?? []) {
      if (child === null || child.isForgotten || this.#knowledge(child).attributes === undefined) continue;
      if (this.#knowledge(child).names !== undefined) continue; // a directory keeps its own
      this.changed(child);
      children.push(child);
      if (children.length === limits.maxLeasesGivenBack) break;
    }
    this.changed(node);
    this.#knowledge(node).names = undefined;
    return children;
  }

  /** The connection was lost, or the server took everything back. */
  clear(): void {
    this.#generation++;
    this.#unknownRecallAt = ++this.#clock;
  }

  #isCurrent(node: Node, asOf: number): boolean {
    return this.#knowledge(node).changedAt <= asOf && this.#unknownRecallAt <= asOf;
  }

  #valid(node: Node): Knowledge | undefined {
    const { known } = node;
    return known !== undefined && known.generation === this.#generation && this.#isUsable() ? known : undefined;
  }

  #knowledge(node: Node): Knowledge {
    if (node.known === undefined) {
      node.known = { generation: this.#generation, attributes: undefined, names: undefined, changedAt: 0, changing: 0 };
    } else if (node.known.generation !== this.#generation) {
      node.known.generation = this.#generation;
      node.known.attributes = undefined;
      node.known.names = undefined;
    }
    return node.known;
  }
}

function isLater(a: { sec: number; nsec: number }, b: { sec: number; nsec: number }): boolean {
  return a.sec > b.sec || (a.sec === b.sec && a.nsec > b.nsec);
}
