/**
 * What the client may answer without asking: attributes of inodes, names and listings of directories, and whether data
 * that were read are still good, as the server granted with a reply, until it recalls them, the connection is lost, or the
 * server has not answered for a while. Pure: owned by the filesystem, which hands in replies, own changes and recalls in
 * the order in which they happen. What the kernel was told of it is KernelCaches' business.
 *
 * Replies overtake each other (two lanes, promises), so each is taken in only if nothing has happened to its inode since its
 * request was sent: `asOf` is the clock at that time, `changedAt` of the node the clock of the last change or recall.
 */
import { type Attributes, isLater, type Timespec } from '../../shared/attributes.ts';
import { limits } from '../../shared/limits.ts';
import type { ListedName } from '../vfs/listing-parts.ts';
import type { Knowledge, Node } from '../vfs/node.ts';
import { AloneDirectories } from './alone-directories.ts';
import { clearKnowledge, isInUse, newKnowledge } from './knowledge.ts';
import { KnownXattrs } from './known-xattrs.ts';
import { LeftFiles } from './left-files.ts';
import { RemovalWalks } from './removal-walks.ts';

export class LeaseCache {
  readonly #isUsable: () => boolean;
  #generation = 0;
  #clock = 0;
  #unknownRecallAt = 0;
  /** Own changes under way of inodes that this client cannot name. */
  #unknownChanges = 0;
  readonly #xattrs = new KnownXattrs();
  readonly #left = new LeftFiles();
  readonly #walks: RemovalWalks;
  readonly alone = new AloneDirectories();
  /** Questions that were answered from memory, and others; recalls that came. */
  hits = 0;
  misses = 0;
  recalls = 0;

  /** `isUsable`: the server answered recently enough to know that it would have recalled. */
  constructor(isUsable: () => boolean, walks = new RemovalWalks()) {
    this.#isUsable = isUsable;
    this.#walks = walks;
  }

  /** To be taken before a request is sent whose reply may be learned from. */
  get clock(): number {
    return this.#clock;
  }

  // --- answering

  /** What stat(2) shows. */
  attributes(node: Node): Attributes | undefined {
    const known = node.known?.isAccessTimeOld ? undefined : this.knownAttributes(node);
    this.count(known !== undefined);
    return known;
  }

  /** A question was answered from memory, or the server was asked. */
  count(isKnown: boolean): void {
    if (isKnown) this.hits++;
    else this.misses++;
  }

  /** The access time may be old, which is good enough to go on with. Does not count as an answer. */
  knownAttributes(node: Node): Attributes | undefined {
    return this.#unknownChanges > 0 ? undefined : this.#valid(node)?.attributes;
  }

  /** The node behind a name, null when the name is known to be absent, undefined when the server must be asked. */
  name(directory: Node, key: string): Node | null | undefined {
    const known = this.#valid(directory);
    if (known?.names === undefined) return undefined;
    if (!known.names.has(key)) return known.hasAllNames ? null : undefined;
    const node = known.names.get(key);
    if (node?.isForgotten) {
      known.names.set(key, undefined);
      return undefined;
    }
    return node;
  }

  listing(directory: Node): readonly ListedName[] | undefined {
    return this.#valid(directory)?.listing;
  }

  target(node: Node): Uint8Array | undefined {
    return this.#valid(node)?.target;
  }

  /** A value, or the errno that the server answered with. */
  xattr(node: Node, key: string): Uint8Array | number | undefined {
    return this.#xattrs.value(this.#valid(node), key);
  }

  hasNoXattrs(node: Node): boolean {
    return this.#valid(node)?.hasNoXattrs === true;
  }

  hasNoCapability(node: Node): boolean {
    return this.#valid(node)?.hasNoCapability === true;
  }

  /** Where SEEK_DATA or SEEK_HOLE leads to. */
  seek(node: Node, key: string): number | undefined {
    return this.#valid(node)?.seeks?.get(key);
  }

  /** What was read since is what the server has. */
  isHeld(node: Node): boolean {
    return this.#valid(node)?.isHeld === true;
  }

  /** What is read of the file may be kept until the lease is recalled. */
  coversData(node: Node): boolean {
    const known = this.#valid(node);
    return known?.isHeld === true && known.coversData;
  }

  /** What was read since `asOf` may be kept, and the file was not changed since. */
  hasCovered(node: Node, asOf: number): boolean {
    const { changing, changedAt, uncoveredAt } = this.#knowledge(node);
    const isSame = changing === 0 && changedAt <= asOf && uncoveredAt <= asOf;
    return isSame && this.coversData(node) && !this.wasRecalled(node, asOf);
  }

  /** A lease that a reply to a request of `asOf` grants was recalled already: the recall was handled first. */
  wasRecalled(node: Node, asOf: number): boolean {
    return this.#knowledge(node).recalledAt > asOf || this.#unknownRecallAt > asOf;
  }

  /** `opener` need not ask the server for the right to open it: it had it, and nothing has changed since. */
  mayOpen(node: Node, opener: string): boolean {
    return this.#unknownChanges === 0 && this.#valid(node)?.openers?.has(opener) === true;
  }

  // --- learning

  learnAttributes(node: Node, attributes: Attributes, leased: boolean, asOf: number): void {
    const known = this.#toLearn(node, leased, asOf);
    if (known?.changing !== 0) return;
    known.attributes = attributes;
    known.isAccessTimeOld = false;
  }

  learnName(directory: Node, key: string, node: Node | null, leased: boolean, asOf: number): void {
    if (node) node.foundAs = key;
    const known = this.#toLearn(directory, leased, asOf);
    if (known === undefined) return;
    known.names ??= new Map();
    known.names.set(key, node);
    if (node) node.foundIn = directory;
  }

  learnHeld(node: Node, leased: boolean, asOf: number): void {
    this.#toLearn(node, leased, asOf);
  }

  learnTarget(node: Node, target: Buffer, asOf: number): void {
    const known = this.#toLearn(node, this.isHeld(node), asOf);
    if (known) known.target = target;
  }

  learnXattr(node: Node, key: string, value: Uint8Array | number, asOf: number): void {
    const isSmall = typeof value === 'number' || value.length <= limits.maxKnownXattrBytes;
    if (!isSmall || !this.isHeld(node)) return;
    const known = this.#toLearn(node, true, asOf);
    if (known?.changing === 0) this.#xattrs.learn(known, key, value);
  }

  learnNoXattrs(node: Node, asOf: number): void {
    const known = this.#toLearn(node, this.isHeld(node), asOf);
    if (known?.changing === 0) known.hasNoXattrs = known.hasNoCapability = true;
  }

  /** A new file of our own making: whatever else is set at its birth, no capability is. */
  learnNew(node: Node, leased: boolean, asOf: number): void {
    const known = this.#toLearn(node, leased, asOf);
    if (known) known.hasNoCapability = true;
  }

  /** This client sets an attribute. Nothing else that it does brings a capability. */
  mayHaveCapability(node: Node): void {
    this.#knowledge(node).hasNoCapability = false;
  }

  learnSeek(node: Node, key: string, position: number, asOf: number): void {
    const known = this.#toLearn(node, this.isHeld(node), asOf);
    if (known?.changing !== 0) return;
    known.seeks ??= new Map();
    if (known.seeks.size < limits.maxKnownSeeks) known.seeks.set(key, position);
  }

  /** A new directory of our own making: every name is absent. */
  learnEmpty(directory: Node, leased: boolean, asOf: number): void {
    const known = this.#toLearn(directory, leased, asOf);
    if (known === undefined) return;
    known.names = new Map();
    known.hasAllNames = true;
  }

  /** `learnEmpty`, under an exclusive lease. False: that was recalled meanwhile. */
  learnAlone(directory: Node, asOf: number): boolean {
    if (this.#toLearn(directory, true, asOf)) this.alone.used(directory);
    return this.alone.has(directory);
  }

  /** This client made a file in the directory that it is alone in; the server has not, yet. */
  learnUnmade(directory: Node, key: string, node: Node): void {
    this.learnName(directory, key, node, true, this.#clock);
    this.#knowledge(directory).listing = undefined;
    this.alone.used(directory);
  }

  /** All that the directory lists, read since `asOf`. */
  learnListing(directory: Node, listing: readonly ListedName[], asOf: number): void {
    const known = this.#toLearn(directory, this.isHeld(directory), asOf);
    if (known === undefined || listing.length > limits.maxKnownListing) return;
    known.listing = listing;
    const names = known.names ?? new Map<string, Node | null | undefined>();
    known.names = names;
    for (const { name } of listing) {
      const key = keyOfName(name);
      if (!names.has(key)) names.set(key, undefined);
    }
    known.hasAllNames = true;
  }

  /**
   * One more name of the directory had to be asked about, of which nothing but that it is listed was known. True, once: more may
   * follow, and all are worth reading now.
   */
  askedName(directory: Node): boolean {
    const known = this.#valid(directory);
    if (!known?.isHeld || known.lookups < 0) return false;
    if (known.listing && known.listing.length > limits.maxNamesAhead) return false;
    known.lookups++;
    if (known.lookups < limits.lookupsBeforeNamesAhead) return false;
    known.lookups = -1;
    return true;
  }

  /** The server said, when it let it be opened or read, that what is read may be kept. */
  learnCoversData(node: Node, asOf: number): void {
    const known = this.#valid(node);
    if (known?.isHeld && known.uncoveredAt <= asOf && !this.wasRecalled(node, asOf)) known.coversData = true;
  }

  /** The server let `opener` open it. Not while this client may be taking the right away. */
  learnOpener(node: Node, opener: string, asOf: number): void {
    const known = this.#valid(node);
    if (!known?.isHeld || known.changing > 0 || known.changedAt > asOf) return;
    known.openers ??= new Set();
    if (known.openers.size < limits.maxKnownOpeners) known.openers.add(opener);
  }

  // --- own changes

  /**
   * This client changes the inode from now on, until `endChange`. Its request may be on the other lane: a reply to what
   * was asked later can be of before the change, and the change known to others before its reply is here. Undefined: it
   * changes an inode by a name that is not known, so it may be any; null: there is none. Returns a mark for `endChange`.
   */
  beginChange(node: Node | null | undefined): number {
    if (node === undefined) this.#unknownChanges++;
    if (!node) return this.#clock;
    this.#knowledge(node).changing++;
    return this.changed(node);
  }

  /** `attributes` are those after the change, when it is done; they are learned if nothing else happened since `mark`. */
  endChange(node: Node | null | undefined, mark = -1, attributes?: Attributes, leased = false): void {
    if (node === undefined) this.#unknownChanges--;
    if (!node) return;
    const isUndisturbed = this.isUndisturbed(node, mark);
    const now = this.changed(node);
    this.#knowledge(node).changing--;
    if (isUndisturbed && attributes) this.learnAttributes(node, attributes, leased, now);
  }

  /** This client opens the file to write, or truncates it: the server lets local programs do so too from then on. */
  opensToWrite(node: Node): void {
    const known = this.#knowledge(node);
    known.coversData = false;
    known.uncoveredAt = ++this.#clock;
    known.openers = undefined;
  }

  /** This client has changed the inode. */
  changed(node: Node): number {
    const known = this.#knowledge(node);
    known.attributes = undefined;
    known.openers = undefined;
    known.xattrs = undefined;
    known.hasNoXattrs = false;
    known.seeks = undefined;
    known.changedAt = ++this.#clock;
    return known.changedAt;
  }

  /** The same of one that this client cannot name yet: the reply that names it is on its way, and of before the change. */
  changedUnknown(): void {
    this.#unknownRecallAt = ++this.#clock;
  }

  /** The same for a name in a directory, whose other names stay known. */
  changingName(directory: Node, key: string): number {
    this.#unknowName(this.#knowledge(directory), key);
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
    this.changedNames(directory, [[key, node]], mark, attributes);
  }

  /** The same of several names; `mark` is of the last. What a lookup brought of any of them meanwhile may be of before. */
  changedNames(
    directory: Node,
    names: readonly (readonly [key: string, node: Node | null | undefined])[],
    mark: number,
    attributes?: Attributes,
  ): void {
    const known = this.#knowledge(directory);
    const isUndisturbed = this.isUndisturbed(directory, mark);
    this.changed(directory);
    for (const [key, node] of names) {
      if (node) node.foundAs = key;
      this.#unknowName(known, key);
      if (!isUndisturbed || known.names === undefined || node === undefined) continue;
      known.names.set(key, node);
      if (node) node.foundIn = directory;
    }
    if (!isUndisturbed || known.names === undefined) return;
    known.attributes = attributes;
    known.isAccessTimeOld = false;
  }

  /** Nothing else happened to the inode since `changingName` or `beginChange` returned `mark`. */
  isUndisturbed(node: Node, mark: number): boolean {
    return node.known?.changedAt === mark && this.#unknownRecallAt <= mark;
  }

  lastChange(node: Node): number {
    return this.#knowledge(node).changedAt;
  }

  /**
   * A request of `asOf` read it, which sets the access time where the server's filesystem mounts with relatime, the
   * default; the reply may say to what.
   */
  wasRead(node: Node, accessTime: Timespec | undefined, asOf: number): void {
    const known = this.#valid(node);
    const attributes = known?.attributes;
    if (attributes === undefined || known === undefined) return;
    const { atime, mtime, ctime } = attributes;
    const isNotedAlready = isLater(atime, mtime) && isLater(atime, ctime);
    if (isNotedAlready) return;
    const isSaid = accessTime !== undefined && this.#toLearn(node, known.isHeld, asOf) !== undefined;
    if (isSaid) known.attributes = { ...attributes, atime: accessTime };
    known.isAccessTimeOld = !isSaid;
  }

  // --- giving back

  /**
   * The server wants these leases back; undefined: on an inode that this client does not know (yet). Returns the nodes
   * whose leases go back: these and `others`, which with a directory's names are those that they name and that hold nothing
   * but attributes, so that a change of many names costs one recall. Nothing is learned of them until `gaveBack`.
   */
  recall(asked: readonly (Node | undefined)[]): { readonly nodes: readonly Node[]; readonly others: readonly Node[] } {
    this.recalls++;
    const others = new Set<Node>();
    for (const node of asked) {
      if (node === undefined) this.#unknownRecallAt = ++this.#clock;
      else this.#addOthers(node, others);
    }
    for (const node of asked) if (node) others.delete(node);
    const nodes = [...asked.filter((node) => node !== undefined), ...others];
    this.#recallAll(nodes);
    return { nodes, others: [...others] };
  }

  /**
   * What another client is about to remove, where what it removes is recalled: to be given back before it asks for it, by `giveUp`.
   * Called before `recall`. `isGivingUp`: not yet, some of it is under way.
   */
  removedNext(asked: readonly (Node | undefined)[], isGivingUp = false): readonly (readonly Node[])[] {
    return this.#walks.recalled(asked, (node) => this.#mayGo(node) && !asked.includes(node), isGivingUp);
  }

  /** These leases go back unasked, those that still may. Nothing is learned of them until `gaveBack`. */
  giveUp(nodes: readonly Node[]): readonly Node[] {
    const going = nodes.filter((node) => this.#mayGo(node));
    this.#recallAll(going);
    return going;
  }

  #recallAll(nodes: readonly Node[]): void {
    for (const node of nodes) {
      this.#walks.forgets(node);
      this.alone.end(node);
      this.#forget(node);
      this.#knowledge(node).recalledAt = this.#clock;
      this.#knowledge(node).recalling++;
    }
  }

  /** What goes back with `node`. */
  #addOthers(node: Node, others: Set<Node>): void {
    const gone = this.#left.with(node).filter((one) => this.#canGiveBack(one));
    for (const file of gone.slice(0, limits.maxLeasesGivenBack)) others.add(file);
    const known = this.#knowledge(node);
    if (known.names === undefined) return;
    const mayFilesStay = this.#left.mayStay();
    const staying: Node[] = [];
    for (const child of known.names.values()) {
      if (others.size >= limits.maxLeasesGivenBack) break;
      if (!child || !this.#canGiveBack(child)) continue;
      if (child.given?.hasPages && mayFilesStay) staying.push(child);
      else others.add(child);
    }
    this.#left.stay(known, staying);
  }

  /** The server thinks that it is held, whether or not it may be used now, and nothing would have to be done first. */
  #canGiveBack(node: Node): boolean {
    return node.known?.names === undefined && this.#mayGo(node);
  }

  /** The same, with the names of a directory. */
  #mayGo(node: Node): boolean {
    const isHeld = node.known?.generation === this.#generation && node.known.isHeld;
    return isHeld && !node.isForgotten && !isInUse(node);
  }

  /** To be called right before the server is told. */
  gaveBack(nodes: readonly Node[]): void {
    for (const node of nodes) {
      this.#forget(node);
      this.#knowledge(node).recalling--;
    }
  }

  /** The connection was lost, or the server took everything back. */
  clear(): void {
    this.alone.clear();
    this.#generation++;
    this.#unknownRecallAt = ++this.#clock;
  }

  // --- inside

  #forget(node: Node): void {
    this.changed(node);
    clearKnowledge(this.#knowledge(node));
  }

  /** Asked again the next time: something is done to it. */
  #unknowName(known: Knowledge, key: string): void {
    known.listing = undefined;
    if (known.hasAllNames) known.names?.set(key, undefined);
    else known.names?.delete(key);
  }

  /** What is known of the node, held from now on; undefined when the reply is not to be learned from. */
  #toLearn(node: Node, leased: boolean, asOf: number): Knowledge | undefined {
    const known = this.#knowledge(node);
    if (!leased || known.changedAt > asOf || this.#unknownRecallAt > asOf || known.recalling > 0) return undefined;
    known.isHeld = true;
    return known;
  }

  #valid(node: Node): Knowledge | undefined {
    const { known } = node;
    return known !== undefined && known.generation === this.#generation && this.#isUsable() ? known : undefined;
  }

  #knowledge(node: Node): Knowledge {
    node.known ??= newKnowledge(this.#generation);
    if (node.known.generation !== this.#generation) {
      node.known.generation = this.#generation;
      clearKnowledge(node.known);
    }
    return node.known;
  }
}

/** Bytes as a key of maps. */
export function keyOfName(name: Uint8Array): string {
  return Buffer.from(name.buffer, name.byteOffset, name.length).toString('latin1');
}
