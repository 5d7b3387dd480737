/**
 * What the operations of a mount share: the session, the nodes and handles, what is known under leases and what the kernel
 * was given of it; and how an answer to the kernel is put together. Owned by RemoteFilesystem.
 */
import { type Attributes, isDirectory, isRegular, mode as modeBits } from '../../shared/attributes.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { limits } from '../../shared/limits.ts';
import type { OperationName, ReplyOf, RequestOf } from '../../shared/protocol/messages.ts';
import { KernelCaches } from '../leases/kernel-caches.ts';
import { LeaseCache } from '../leases/lease-cache.ts';
import type { CallerIdentity, ServerSession } from '../transport/server-session.ts';
import { AloneSharing } from './alone-sharing.ts';
import { BlockBudget } from './block-cache.ts';
import type { AbsentName, AttributesReply, Caller, Entry, NodeId } from './filesystem.ts';
import { ForgetQueue } from './forget-queue.ts';
import { MappedPages } from './mapped-pages.ts';
import type { Node, OpenHandle } from './node.ts';
import { NodeTable } from './node-table.ts';
import { ensureOpen, HandleTable } from './open-handle.ts';
import { RecentDirectories } from './recent-directories.ts';
import { SharedBlocks } from './shared-blocks.ts';
import { UnmadeFiles } from './unmade-files.ts';
import { Unsynced } from './unsynced.ts';

/** How attributes are shown on this mount, whatever the server says (`-o uid=,gid=,umask=`). */
export interface Presentation {
  readonly uid?: number | undefined;
  readonly gid?: number | undefined;
  /** Permission bits that are taken away. */
  readonly umask?: number | undefined;
}

export class RemoteContext {
  readonly session: ServerSession;
  readonly nodes: NodeTable;
  readonly handles = new HandleTable();
  /** Nodes that have, or had, handles which are not open at the server yet. */
  readonly withUnopened = new Set<Node>();
  readonly leases: LeaseCache;
  readonly kernel: KernelCaches;
  readonly mapped: MappedPages;
  readonly blockBudget = new BlockBudget(limits.maxCachedBlocks);
  readonly blocks: SharedBlocks;
  readonly unsynced = new Unsynced();
  readonly recentDirectories = new RecentDirectories();
  readonly unmade = new UnmadeFiles();
  readonly sharing: AloneSharing;
  readonly #presentation: Presentation;
  readonly #forgotten: ForgetQueue | undefined;

  constructor(session: ServerSession, presentation: Presentation, maxIdleNodes: number) {
    this.session = session;
    this.#presentation = presentation;
    this.nodes = new NodeTable(session.hello.root.inode, maxIdleNodes);
    this.leases = new LeaseCache(() => session.mayUseLeases);
    this.sharing = new AloneSharing(session, this.leases, this.unmade);
    this.kernel = new KernelCaches(() => {
      session.leaseUsed();
      return session.leasesUsableMs - limits.kernelTakesInMs;
    });
    this.blocks = new SharedBlocks(this.blockBudget, () => {
      session.leaseUsed();
      return session.mayUseLeases;
    });
    this.mapped = new MappedPages(this.kernel);
    if (session.hello.wantsForget) this.#forgotten = new ForgetQueue(session);
  }

  // --- asking

  call<N extends OperationName>(operation: N, caller: Caller, request: RequestOf<N>): Promise<ReplyOf<N>> {
    return this.session.call(operation, this.identity(caller), request);
  }

  /** Groups are read from the caller's process, so only where they matter. */
  identity(caller: Caller): CallerIdentity {
    if (caller.uid === 0 || this.session.hello.identity === 'server') return [caller.uid, caller.gid];
    return [caller.uid, caller.gid, ...caller.groups.slice(0, limits.maxGroups)];
  }

  inode(id: NodeId): Uint8Array {
    return this.inodeOf(this.nodes.get(id));
  }

  inodeOf(node: Node): Uint8Array {
    // Whoever asks for it waits until it is made.
    if (node.inode.length === 0) throw new FsError(errno.ESTALE, 'a file that is not made');
    // A restarted server may name its root anew.
    return node === this.nodes.root ? this.session.hello.root.inode : node.inode;
  }

  nodeOf(inode: Uint8Array): Node | undefined {
    const isRoot = Buffer.compare(inode, this.session.hello.root.inode) === 0;
    return isRoot ? this.nodes.root : this.nodes.byInode(inode);
  }

  /** The kernel gave up `count` references. */
  forget(id: NodeId, count: number): void {
    const node = this.nodes.forget(id, count);
    if (node) this.#forgotten?.add(node.inode, node.entries);
  }

  /** Nodes that the kernel does not know were added: one may have to go. */
  dropIdle(): void {
    const node = this.nodes.dropIdle();
    if (node) this.#forgotten?.add(node.inode, node.entries);
  }

  /**
   * Uses an open handle. A request that was under way while the server was restarted went to the new one with a handle
   * that it does not know (EBADF): then the file is opened again, and the request made again.
   */
  withOpen<T>(handle: number, use: (open: OpenHandle) => Promise<T>): Promise<T> {
    return this.withHandle(this.handles.get(handle), use);
  }

  /** The same for a handle that the kernel may have released already: what it wrote is still on its way. */
  async withHandle<T>(open: OpenHandle, use: (open: OpenHandle) => Promise<T>): Promise<T> {
    for (;;) {
      if (open.epoch !== this.session.epoch || open.hasLostLocks) await ensureOpen(open, this.session);
      const { epoch } = open;
      try {
        return await use(open);
      } catch (error) {
        const wasForgotten = error instanceof FsError && error.code === errno.EBADF && epoch !== this.session.epoch;
        if (!wasForgotten) throw error;
      }
    }
  }

  /**
   * Does `work`, which changes the inode: what was known of it is void, before and after. Unless `after` finds in the
   * result what is so now.
   */
  async changing<T>(
    node: Node,
    work: () => Promise<T>,
    after?: (result: T) => { attributes: Attributes; leased: boolean },
  ): Promise<T> {
    // Others see the change before its reply is here: nor may programs of this mount see what was before.
    const taken = this.kernel.takeBackAttributes(node);
    const mark = this.leases.beginChange(node);
    if (taken) await taken;
    // The kernel would have them afterwards, as of before the change.
    const stored = this.kernel.stored(node);
    if (stored) await stored;
    let now: { attributes: Attributes; leased: boolean } | undefined;
    try {
      const result = await work();
      now = after?.(result);
      return result;
    } finally {
      this.leases.endChange(node, mark, now?.attributes, now?.leased);
    }
  }

  /**
   * Resolves when the server has all that was written to the file, or made in the directory; an error is told to whoever did. Rejects with
   * FsError when the file could not be made.
   */
  written(node: Node): Promise<void> | undefined {
    if (this.unmade.size > 0 || node.unmade) {
      const made = node.unmade?.made() ?? this.unmade.inside(node);
      if (made) return made.then(() => this.written(node));
    }
    const behind = node.gatherer?.behind;
    return behind === undefined || behind.isClean ? undefined : behind.drain();
  }

  // --- answering

  entry(directory: Node, key: string, node: Node, attributes: Attributes): Entry {
    const isKnown = this.leases.name(directory, key) === node;
    const entryMs = isKnown ? this.kernel.giveName(directory, key, isDirectory(attributes)) : 0;
    return { ...this.nodeEntry(node, attributes), entryMs };
  }

  /** An inode without a name that could be kept. */
  nodeEntry(node: Node, attributes: Attributes): Entry {
    return { node: node.id, entryMs: 0, ...this.attributesReply(node, attributes) };
  }

  /** A name that the server, or a lease, says is absent. */
  absent(directory: Node, key: string): AbsentName {
    const isKnown = this.leases.name(directory, key) === null;
    const entryMs = isKnown ? this.kernel.giveName(directory, key, false) : 0;
    if (entryMs === 0) throw new FsError(errno.ENOENT, 'lookup');
    return { node: 0, entryMs };
  }

  attributesReply(node: Node, attributes: Attributes): AttributesReply {
    const isKnown = this.leases.knownAttributes(node) === attributes && !node.known?.isAccessTimeOld;
    // While files in it are not made yet, a directory's are of before.
    const mayKeep = isKnown && !losesModeBits(attributes) && !this.unmade.has(node);
    return { attributes: this.#present(attributes), attributesMs: mayKeep ? this.kernel.giveAttributes(node) : 0 };
  }

  /** Of a file that is gathered: its times are the server's to say, so the kernel keeps nothing of it. */
  expectedReply(attributes: Attributes): AttributesReply {
    return { attributes: this.#present(attributes), attributesMs: 0 };
  }

  #present(attributes: Attributes): Attributes {
    const { uid, gid, umask } = this.#presentation;
    if (uid === undefined && gid === undefined && umask === undefined) return attributes;
    return {
      ...attributes,
      uid: uid ?? attributes.uid,
      gid: gid ?? attributes.gid,
      mode: attributes.mode & ~((umask ?? 0) & 0o777),
    };
  }
}

/** A write clears these bits at the server, and the kernel would keep its idea of them. */
function losesModeBits({ mode }: Attributes): boolean {
  return isRegular({ mode }) && (mode & (modeBits.S_ISUID | modeBits.S_ISGID)) !== 0;
}

export function checkName(name: Uint8Array): void {
  if (name.length > limits.maxNameBytes) throw new FsError(errno.ENAMETOOLONG, 'name');
  if (name.length === 0) throw new FsError(errno.ENOENT, 'name');
}
