/** Operations on names: answered from what is known under a directory's lease, or asked, and what they change learned. */
import type { Attributes } from '../../shared/attributes.ts';
import { isDirectory } from '../../shared/attributes.ts';
import { errno, FsError } from '../../shared/errno.ts';
import type { Eventually } from '../../shared/eventually.ts';
import { limits } from '../../shared/limits.ts';
import type { ReplyOf, WireEntry } from '../../shared/protocol/messages.ts';
import { keyOfName } from '../leases/lease-cache.ts';
import type { AbsentName, Caller, Entry, NodeId } from './filesystem.ts';
import type { ListedName } from './listing-parts.ts';
import type { Node } from './node.ts';
import { ensureOpen } from './open-handle.ts';
import { checkName, type RemoteContext } from './remote-context.ts';

export class RemoteNames {
  readonly #context: RemoteContext;

  constructor(context: RemoteContext) {
    this.#context = context;
  }

  lookup(caller: Caller, parent: NodeId, name: Uint8Array): Eventually<Entry | AbsentName> {
    checkName(name);
    const { nodes, leases } = this.#context;
    const directory = nodes.get(parent);
    const key = keyOfName(name);
    const known = leases.name(directory, key);
    if (known === null) {
      leases.count(true);
      return this.#context.absent(directory, key);
    }
    const attributes = known && leases.knownAttributes(known);
    if (known && attributes && !this.#context.written(known)) {
      leases.count(true);
      return this.#context.entry(directory, key, nodes.foundAgain(known), attributes);
    }
    leases.count(false);
    return this.#lookUp(caller, directory, key, name);
  }

  async #lookUp(caller: Caller, directory: Node, key: string, name: Uint8Array): Promise<Entry | AbsentName> {
    const { leases } = this.#context;
    const known = leases.name(directory, key);
    // It may be the name of one that is not made. Why it could not be is its maker's to hear.
    const isMade = known && !known.unmade;
    const waits = isMade ? this.#context.written(known) : this.#context.unmade.inside(directory);
    if (waits) await waits;
    const asOf = leases.clock;
    const request = { parent: this.#context.inodeOf(directory), name };
    const { found, leased } = await this.#context.call('lookup', caller, request);
    if (found === undefined) {
      leases.learnName(directory, key, null, leased, asOf);
      return this.#context.absent(directory, key);
    }
    const node = this.found(found, asOf);
    leases.learnName(directory, key, node, leased, asOf);
    if (known === undefined && leases.askedName(directory)) void this.#readAhead(caller, directory);
    const behind = this.#context.written(node);
    if (behind === undefined) return this.#context.entry(directory, key, node, found.attributes);
    // Reached by a name under which it was not known: what was gathered is not in these attributes.
    try {
      await behind;
      const ask = { inode: this.#context.inodeOf(node), handle: 0 };
      const { attributes } = await this.#context.call('getattr', caller, ask);
      return this.#context.nodeEntry(node, attributes);
    } catch (error) {
      this.#context.forget(node.id, 1); // the kernel is told of no node
      throw error;
    }
  }

  /** One name of the directory is looked up after the other: the others are brought along. Nobody waits for it. */
  async #readAhead(caller: Caller, directory: Node): Promise<void> {
    const asOf = this.#context.leases.clock;
    const request = { inode: this.#context.inodeOf(directory), maxEntries: limits.maxNamesAhead };
    const reply = await this.#context.call('readNames', caller, request).catch(() => undefined);
    if (reply?.complete && reply.leased) this.learnAll(directory, reply.entries, asOf);
  }

  /** All that the directory lists, looked up, under its lease. */
  learnAll(directory: Node, entries: ReplyOf<'readNames'>['entries'], asOf: number): readonly ListedName[] {
    const listing = this.learnEntries(directory, entries, true, asOf);
    this.#context.leases.learnListing(directory, listing, asOf);
    return listing;
  }

  /** A part of what it lists. `leased`: the directory's lease came with it. */
  learnEntries(
    directory: Node,
    entries: ReplyOf<'readNames'>['entries'],
    leased: boolean,
    asOf: number,
  ): readonly ListedName[] {
    const { leases, nodes } = this.#context;
    return entries.map(({ name, ino, type, cookie, entry, mayHaveXattrs }) => {
      if (entry) {
        const node = nodes.named(entry.inode);
        leases.learnAttributes(node, entry.attributes, entry.leased, asOf);
        if (!mayHaveXattrs) leases.learnNoXattrs(node, asOf);
        leases.learnName(directory, keyOfName(name), node, leased, asOf);
        this.#context.dropIdle();
      }
      return { name: Buffer.from(name), ino, type, cookie };
    });
  }

  /** The server named an inode: the kernel gets a reference to its node. */
  found({ inode, attributes, leased }: WireEntry, asOf: number): Node {
    const node = this.#context.nodes.found(inode);
    this.#context.leases.learnAttributes(node, attributes, leased, asOf);
    return node;
  }

  mknod(caller: Caller, parent: NodeId, name: Uint8Array, mode: number, rdev: number, umask: number): Promise<Entry> {
    const request = { parent: this.#context.inode(parent), name, mode, rdev, umask };
    return this.#addName(parent, name, () => this.#context.call('mknod', caller, request));
  }

  async mkdir(caller: Caller, parent: NodeId, name: Uint8Array, mode: number, umask: number): Promise<Entry> {
    checkName(name);
    const { nodes, leases, session, kernel } = this.#context;
    const directory = nodes.get(parent);
    const wantsAlone = kernel.isAttached;
    const request = { parent: this.#context.inodeOf(directory), name, mode, umask, wantsAlone };
    const asOf = leases.clock;
    const made = await this.adding(directory, name, () => this.#context.call('mkdir', caller, request));
    const { alone, entry } = made.reply;
    // The server takes this caller for the one that it says it is, so it is known whose a file in there will be.
    const isOwn = entry.attributes.uid === caller.uid && entry.attributes.gid === caller.gid;
    if (alone && isOwn && leases.learnAlone(made.node, asOf)) this.#context.sharing.begins();
    else if (alone) session.downgraded([made.node.inode]);
    return made.entry;
  }

  async symlink(caller: Caller, parent: NodeId, name: Uint8Array, target: Uint8Array): Promise<Entry> {
    if (target.length === 0) throw new FsError(errno.ENOENT, 'symlink');
    if (target.length > limits.maxLinkTargetBytes) throw new FsError(errno.ENAMETOOLONG, 'symlink');
    const request = { parent: this.#context.inode(parent), name, target };
    return this.#addName(parent, name, () => this.#context.call('symlink', caller, request));
  }

  async link(caller: Caller, id: NodeId, parent: NodeId, name: Uint8Array): Promise<Entry> {
    const node = this.#context.nodes.get(id);
    await this.#context.written(node);
    const request = { inode: this.#context.inodeOf(node), parent: this.#context.inode(parent), name };
    return this.#context.changing(node, () =>
      this.#addName(parent, name, () => this.#context.call('link', caller, request)),
    );
  }

  async #addName(parent: NodeId, name: Uint8Array, request: () => Promise<ReplyOf<'mknod'>>): Promise<Entry> {
    checkName(name);
    const directory = this.#context.nodes.get(parent);
    const { entry } = await this.adding(directory, name, request);
    return entry;
  }

  /** Carries out a request that makes a name, and learns from its reply. `unmade`: the node of what it makes, which the kernel knows. */
  async adding<R extends { readonly entry: WireEntry; readonly directory: Attributes | undefined }>(
    directory: Node,
    name: Uint8Array,
    request: () => Promise<R>,
    unmade?: Node,
  ): Promise<{ reply: R; node: Node; entry: Entry }> {
    const { leases, kernel } = this.#context;
    const key = keyOfName(name);
    const asOf = leases.clock;
    const mark = leases.changingName(directory, key);
    const ended = kernel.beginChange(directory);
    let reply: R | undefined;
    let node: Node | undefined;
    try {
      reply = await request();
      node = unmade ? this.#made(unmade, reply.entry, asOf) : this.found(reply.entry, asOf);
      if (isDirectory(reply.entry.attributes)) leases.learnEmpty(node, reply.entry.leased, asOf);
    } finally {
      ended();
      leases.changedName(directory, key, node, mark, reply?.directory);
    }
    return { reply, node, entry: this.#context.entry(directory, key, node, reply.entry.attributes) };
  }

  #made(node: Node, { inode, attributes, leased }: WireEntry, asOf: number): Node {
    this.#context.nodes.made(node, inode);
    this.#context.leases.learnAttributes(node, attributes, leased, asOf);
    return node;
  }

  async unlink(caller: Caller, parent: NodeId, name: Uint8Array): Promise<void> {
    const request = { parent: this.#context.inode(parent), name };
    await this.#removeName(parent, name, () => this.#context.call('unlink', caller, request));
  }

  async rmdir(caller: Caller, parent: NodeId, name: Uint8Array): Promise<void> {
    const request = { parent: this.#context.inode(parent), name };
    await this.#removeName(parent, name, () => this.#context.call('rmdir', caller, request));
  }

  async #removeName(parent: NodeId, name: Uint8Array, request: () => Promise<ReplyOf<'unlink'>>): Promise<void> {
    checkName(name);
    const { nodes, leases, kernel } = this.#context;
    const directory = nodes.get(parent);
    const key = keyOfName(name);
    const unmade = this.#settled(leases.name(directory, key));
    if (unmade) await unmade;
    const victim = leases.name(directory, key);
    const ended = kernel.beginChange(directory);
    // Before: nothing is opened on the credit of the lease meanwhile.
    const victimMark = leases.beginChange(victim);
    await this.openForGood(victim);
    const mark = leases.changingName(directory, key);
    let reply: ReplyOf<'unlink'> | undefined;
    try {
      reply = await request();
    } finally {
      ended();
      this.#endChanges([[victim, victimMark]], reply?.changed);
      leases.changedName(directory, key, reply && null, mark, reply?.directory);
      if (reply && victim) leases.alone.end(victim);
    }
  }

  async rename(
    caller: Caller,
    parent: NodeId,
    name: Uint8Array,
    newParent: NodeId,
    newName: Uint8Array,
    flags: number,
  ): Promise<void> {
    checkName(name);
    checkName(newName);
    const { nodes, leases, kernel } = this.#context;
    const from = nodes.get(parent);
    const to = nodes.get(newParent);
    const [key, newKey] = [keyOfName(name), keyOfName(newName)];
    const unmade = this.#settled(leases.name(from, key), leases.name(to, newKey));
    if (unmade) await unmade;
    const moved = leases.name(from, key);
    const replaced = leases.name(to, newKey);
    const ended = [kernel.beginChange(from), kernel.beginChange(to)];
    // A local program that opens it by its new name waits for data, and is refused for want of permissions.
    if (moved) await this.#context.written(moved);
    const changing = [moved, replaced].map((node) => [node, leases.beginChange(node)] as const);
    await this.openForGood(replaced);
    const markFrom = leases.changingName(from, key);
    const mark = leases.changingName(to, newKey);
    const request = {
      parent: this.#context.inodeOf(from),
      name,
      newParent: this.#context.inodeOf(to),
      newName,
      flags,
    };
    let reply: ReplyOf<'rename'> | undefined;
    try {
      reply = await this.#context.call('rename', caller, request);
    } finally {
      for (const end of ended) end();
      this.#endChanges(changing, reply?.changed);
      // Of two names of one inode, rename(2) leaves both.
      const isPlain = reply !== undefined && flags === 0 && !nameOneInode(reply.changed);
      const gone = isPlain ? null : undefined;
      const made = isPlain ? (moved ?? undefined) : undefined;
      if (from === to) {
        const names = [[key, gone] as const, [newKey, made] as const];
        leases.changedNames(from, names, mark, reply?.directory);
      } else {
        // The old name meant `moved` only if nothing happened there until it was renamed.
        const isKnown = leases.isUndisturbed(from, markFrom);
        leases.changedName(from, key, gone, markFrom, reply?.directory);
        leases.changedName(to, newKey, isKnown ? made : undefined, mark, reply?.newDirectory);
      }
    }
    await kernel.movedName(from, key, to, newKey, (directory) => leases.isHeld(directory));
  }

  /** Resolves when these (null: nothing; undefined: it may be anything), and what is in them, are at the server. Undefined: all is. */
  #settled(...nodes: readonly (Node | null | undefined)[]): Promise<unknown> | undefined {
    const { unmade } = this.#context;
    if (unmade.size === 0) return undefined;
    return Promise.all(nodes.map((node) => (node === null ? undefined : unmade.settled(node))));
  }

  /** An own change of names is done, and changed these inodes' attributes too; or failed, then there is no reply. */
  #endChanges(
    changing: readonly (readonly [Node | null | undefined, number])[],
    reply: readonly WireEntry[] | undefined,
  ): void {
    const { leases } = this.#context;
    const changed = new Map(reply?.map((entry) => [this.#context.nodeOf(entry.inode), entry]));
    for (const [node, mark] of changing) {
      const entry = node ? changed.get(node) : undefined;
      leases.endChange(node, mark, entry?.attributes, entry?.leased);
      if (node) changed.delete(node);
    }
    for (const node of changed.keys()) {
      if (node) leases.changed(node);
      else leases.changedUnknown();
    }
  }

  /**
   * Its last name may go now, or the right to open it: handles that are not open at the server yet could not be opened
   * any more. Undefined: the name is not known, so it may be any.
   */
  async openForGood(node: Node | null | undefined): Promise<void> {
    const { withUnopened, session } = this.#context;
    if (node === null || withUnopened.size === 0) return;
    const nodes = node === undefined ? [...withUnopened] : [node];
    const opening: Promise<void>[] = [];
    for (const { unopened } of nodes) for (const open of unopened ?? []) opening.push(ensureOpen(open, session));
    if (node === undefined) withUnopened.clear();
    else withUnopened.delete(node);
    // One that cannot be opened is told so at its next use.
    if (opening.length > 0) await Promise.allSettled(opening);
  }
}

function nameOneInode([moved, replaced]: readonly WireEntry[]): boolean {
  return moved !== undefined && replaced !== undefined && Buffer.compare(moved.inode, replaced.inode) === 0;
}
