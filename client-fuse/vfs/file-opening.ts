/**
 * Opening files. Three ways to have one open: cached (read-only, pages kept by the kernel under a shared lease, and opened
 * without asking when that was allowed before, or ahead); gathering (the only handle, under an exclusive lease); and plain, each
 * read and write one request past all caches. Owned by RemoteFiles.
 */

import type { Eventually } from '../../shared/eventually.ts';
import { limits } from '../../shared/limits.ts';
import { O } from '../../shared/linux/constants.ts';
import type { ReplyOf, RequestOf } from '../../shared/protocol/messages.ts';
import type { ClosingFiles } from './closing-files.ts';
import { type FileData, WRITTEN_THROUGH } from './file-data.ts';
import { FilesAhead, type Opening } from './files-ahead.ts';
import type { Caller, NodeId, OpenedFile } from './filesystem.ts';
import type { Node, OpenHandle } from './node.ts';
import { canWrite, dropAhead, NOT_OPENED, newHandle } from './open-handle.ts';
import type { RemoteContext } from './remote-context.ts';

/** What opening a file again must not do again. */
const ONCE_FLAGS = O.CREAT | O.EXCL | O.TRUNC;
/** Flags with a meaning to the server; the others (O_DIRECT, O_NONBLOCK, ...) are this machine's business. */
export const SENT_FLAGS = O.ACCMODE | O.TRUNC | O.EXCL | O.NOATIME | O.EXEC;

type Wanted = RequestOf<'open'>['wants'];

export class FileOpening {
  readonly #context: RemoteContext;
  readonly #data: FileData;
  readonly #closing: ClosingFiles;
  readonly ahead: FilesAhead;

  constructor(context: RemoteContext, data: FileData, closing: ClosingFiles) {
    this.#context = context;
    this.#data = data;
    this.#closing = closing;
    this.ahead = new FilesAhead(context, (node, opening) => this.#openAhead(node, opening));
  }

  open(caller: Caller, id: NodeId, flags: number, killSuidgid: boolean): Eventually<OpenedFile> {
    const node = this.#context.nodes.get(id);
    const opener = this.#context.identity(caller);
    const { leases } = this.#context;
    if (this.#isCacheable(flags, killSuidgid)) {
      this.ahead.opens(node, opener, flags & SENT_FLAGS);
      const right = rightOf(opener, flags);
      const known = this.#openedByKnowledge(node, flags, opener, right);
      leases.count(known !== undefined);
      if (known) return known;
      const asked = this.ahead.asked(node);
      if (asked === undefined) return this.#ask(caller, node, flags, killSuidgid, right);
      const answered = () => this.#openedByKnowledge(node, flags, opener, right);
      return asked.then(() => answered() ?? this.#ask(caller, node, flags, killSuidgid, right));
    }
    node.opening++;
    return this.#ask(caller, node, flags, killSuidgid, undefined).finally(() => {
      node.opening--;
    });
  }

  /** Undefined: the server must be asked. */
  #openedByKnowledge(node: Node, flags: number, opener: OpenHandle['opener'], right: string): OpenedFile | undefined {
    const { leases } = this.#context;
    if (!isOnlyRead(node) || !leases.isHeld(node) || !leases.mayOpen(node, right)) return undefined;
    const open = this.#unopened(node, flags, opener);
    open.first = this.ahead.take(node);
    return this.#cached(open);
  }

  /** In the place of a program that will open it to read. */
  async #openAhead(node: Node, { opener, flags }: Opening): Promise<Uint8Array | undefined> {
    const { leases, session } = this.#context;
    if (!isOnlyRead(node) || this.#closing.has(node) || node.gatherer) return undefined;
    const asOf = leases.clock;
    const { reply, bulk } = await this.#request(node, opener, flags, false, 'shared', limits.maxFirstBytes);
    // It has grown, or is not leased.
    if (reply.handle !== 0) await session.call('release', [], { handles: [reply.handle] });
    const isGood = reply.handle === 0 && this.#learnOpened(node, reply, asOf) === 'undisturbed' && isOnlyRead(node);
    if (!isGood || bulk.length === 0) return undefined;
    leases.learnCoversData(node, asOf);
    leases.learnOpener(node, rightOf(opener, flags), asOf);
    return bulk;
  }

  /** On the lane of recalls: what the reply grants is not recalled before it is here. */
  #request(
    node: Node,
    opener: OpenHandle['opener'],
    flags: number,
    killSuidgid: boolean,
    wants: Wanted,
    firstBytes: number,
  ) {
    const request = { inode: this.#context.inodeOf(node), flags: flags & SENT_FLAGS, killSuidgid, wants, firstBytes };
    return this.#context.session.callForBulk('open', opener, request, { lane: 'small' });
  }

  /** 'undisturbed': nothing was done to the file since it was asked for. */
  #learnOpened(node: Node, { attributes, lease }: ReplyOf<'open'>, asOf: number): 'none' | 'held' | 'undisturbed' {
    const { leases } = this.#context;
    if (attributes) leases.learnAttributes(node, attributes, lease === 'shared', asOf);
    if (lease !== 'shared' || !leases.isHeld(node)) return 'none';
    return leases.knownAttributes(node) === attributes ? 'undisturbed' : 'held';
  }

  /** Its lease is as good as having it open at the server. */
  #unopened(node: Node, flags: number, opener: OpenHandle['opener']): OpenHandle {
    const open = this.handle(node, flags, opener, 0, NOT_OPENED);
    this.keepUnopened(open);
    return open;
  }

  /** It is opened before that lease goes. */
  keepUnopened(open: OpenHandle): void {
    const { node } = open;
    node.unopened ??= new Set();
    node.unopened.add(open);
    this.#context.withUnopened.add(node);
  }

  #isCacheable(flags: number, killSuidgid: boolean): boolean {
    const isReadOnly = (flags & O.ACCMODE) === O.RDONLY && !(flags & (O.TRUNC | O.DIRECT));
    return isReadOnly && !killSuidgid && this.#context.kernel.isAttached;
  }

  /** `right`: the file is opened to be read through the page cache, and this is to be remembered. */
  async #ask(
    caller: Caller,
    node: Node,
    flags: number,
    killSuidgid: boolean,
    right: string | undefined,
    maxFirstBytes = limits.maxFirstBytes,
  ): Promise<OpenedFile> {
    const { leases, session } = this.#context;
    // The server would recall it, for this handle is one more.
    if (this.#closing.has(node)) this.#closing.releaseNow();
    await this.#context.written(node);
    const { epoch } = session;
    const opener = this.#context.identity(caller);
    const wants = right === undefined ? this.wantedToWrite(flags, node) : 'shared';
    const firstBytes = right === undefined ? 0 : maxFirstBytes;
    const isChange = (flags & O.TRUNC) !== 0 || killSuidgid;
    // With O_RDONLY | O_TRUNC the server does so too.
    if (isChange || (flags & O.ACCMODE) !== O.RDONLY) {
      leases.opensToWrite(node);
      const stored = this.#context.kernel.stored(node);
      if (stored) await stored;
    }
    const send = () => this.#request(node, opener, flags, killSuidgid, wants, firstBytes);
    const asOf = leases.clock;
    const { reply, bulk } = await (isChange ? this.#context.changing(node, send) : send());
    if (isChange) dropAhead(node);
    const lease = this.#learnOpened(node, reply, asOf);
    const isHeld = right !== undefined && lease !== 'none';
    const isUndisturbed = isHeld && lease === 'undisturbed';
    const isOpen = reply.handle !== 0;
    // It may have been removed before there was a handle here to keep it, or another handle may gather what it writes.
    if (!isOpen && !(isUndisturbed && isOnlyRead(node))) return this.#ask(caller, node, flags, killSuidgid, right, 0);
    const open = isOpen ? this.handle(node, flags, opener, reply.handle, epoch) : this.#unopened(node, flags, opener);
    if (isHeld) {
      leases.learnCoversData(node, asOf);
      leases.learnOpener(node, right, asOf);
      if (isUndisturbed && bulk.length > 0) open.first = bulk;
      return this.#cached(open);
    }
    return this.plain(open, reply.lease, asOf);
  }

  wantedToWrite(flags: number, node?: Node): Wanted {
    // The server may not know of handles whose reads the kernel caches: see `unopened`.
    if (node?.cached?.size) return 'none';
    const writes = (flags & O.ACCMODE) !== O.RDONLY && !(flags & O.EXEC);
    // The second driver could not tell a late error at close(2).
    return writes && this.#context.kernel.isAttached && !(flags & WRITTEN_THROUGH) ? 'exclusive' : 'none';
  }

  handle(node: Node, flags: number, opener: OpenHandle['opener'], server: number, epoch: number): OpenHandle {
    const kept = flags & SENT_FLAGS & ~ONCE_FLAGS;
    const open = newHandle({ node, isDirectory: false, flags: kept, opener, server, epoch });
    open.isDirect = (flags & O.DIRECT) !== 0;
    open.readAhead = this.#data.readAheadFor(open);
    if (canWrite(open)) node.writers++;
    return open;
  }

  #cached(open: OpenHandle): OpenedFile {
    const { node } = open;
    open.isCached = true;
    node.cached ??= new Set();
    node.cached.add(open);
    return { handle: this.#context.handles.add(open), directIo: false, keepCache: this.#context.kernel.hasPages(node) };
  }

  plain(open: OpenHandle, lease: ReplyOf<'open'>['lease'], asOf: number): OpenedFile {
    const isAlone = !open.node.cached?.size && !this.#context.leases.wasRecalled(open.node, asOf);
    if (lease === 'exclusive' && isAlone) return this.gathering(open);
    this.#context.blocks.opened(open);
    return { handle: this.#context.handles.add(open), directIo: true, keepCache: false };
  }

  /** It is the only one, and others are kept away. */
  gathering(open: OpenHandle): OpenedFile {
    const { blocks, handles } = this.#context;
    blocks.opened(open);
    open.behind = this.#data.writeBehindFor(open);
    open.blocks = this.#data.blocksFor(open);
    open.node.gatherer = open;
    blocks.clear(open.node);
    return { handle: handles.add(open), directIo: true, keepCache: false };
  }
}

/**
 * Opening it need not be told to the server. Who opens it to write may be granted the exclusive lease as its only handle: the
 * server would recall that when it hears of the other one, which this client opens before it gives any lease back.
 */
function isOnlyRead(node: Node): boolean {
  return node.writers === 0 && node.opening === 0 && !node.unmade;
}

function rightOf(opener: OpenHandle['opener'], flags: number): string {
  return `${opener} ${flags & SENT_FLAGS}`;
}
