/**
 * Making files. A new file in a directory of which nobody else knows is here alone at first (UnmadeFile): what programs do to most new
 * files, until they have closed them, is one request then. Every other file is made at the server before open(2) returns. Owned by
 * RemoteFiles.
 */
import { type Attributes, mode as modeBits } from '../../shared/attributes.ts';
import { errno, errnoOf, FsError } from '../../shared/errno.ts';
import { limits } from '../../shared/limits.ts';
import { O } from '../../shared/linux/constants.ts';
import type { ReplyOf } from '../../shared/protocol/messages.ts';
import { keyOfName } from '../leases/lease-cache.ts';
import { WRITTEN_THROUGH } from './file-data.ts';
import { type FileOpening, SENT_FLAGS } from './file-opening.ts';
import type { Caller, Entry, NodeId, OpenedFile } from './filesystem.ts';
import { expectedOf } from './gathering.ts';
import type { Node, OpenHandle } from './node.ts';
import { canWrite, dropAhead, ensureOpen, NOT_OPENED } from './open-handle.ts';
import { checkName, type RemoteContext } from './remote-context.ts';
import type { RemoteNames } from './remote-names.ts';
import { type Made, UnmadeFile } from './unmade-file.ts';
import type { GatheredWrite } from './write-behind.ts';

interface Created {
  readonly entry: Entry;
  readonly opened: OpenedFile;
}

/** How a file is made. */
interface Birth {
  readonly name: Uint8Array;
  readonly mode: number;
  readonly umask: number;
  readonly flags: number;
}

const OWNER_MAY_WRITE = 0o200;
const OWNER_MAY_READ = 0o400;
const SPECIAL = 0o7000;

export class FileCreation {
  readonly #context: RemoteContext;
  readonly #names: RemoteNames;
  readonly #opening: FileOpening;
  /** The lease goes: what was gathered is sent. */
  readonly #endGathering: (open: OpenHandle) => Promise<void>;

  constructor(
    context: RemoteContext,
    names: RemoteNames,
    opening: FileOpening,
    endGathering: (open: OpenHandle) => Promise<void>,
  ) {
    this.#context = context;
    this.#names = names;
    this.#opening = opening;
    this.#endGathering = endGathering;
  }

  async create(
    caller: Caller,
    parent: NodeId,
    name: Uint8Array,
    mode: number,
    umask: number,
    flags: number,
  ): Promise<Created> {
    checkName(name);
    const directory = this.#context.nodes.get(parent);
    const birth = { name, mode, umask, flags };
    const attributes = this.#expected(caller, directory, birth);
    return attributes ? this.#begin(caller, directory, birth, attributes) : this.#create(caller, directory, birth);
  }

  async #create(caller: Caller, directory: Node, { name, mode, umask, flags }: Birth): Promise<Created> {
    const { session, leases } = this.#context;
    const { epoch } = session;
    const asOf = leases.clock;
    const wants = this.#opening.wantedToWrite(flags);
    const request = { parent: this.#context.inodeOf(directory), name, mode, umask, flags: flags & SENT_FLAGS, wants };
    const made = await this.#names.adding(directory, name, () => this.#context.call('create', caller, request));
    const opened = this.#created(caller, made.node, made.reply, flags, epoch, asOf);
    // O_CREAT may have found a file that is being read by another name.
    const stored = this.#context.kernel.stored(made.node);
    if (stored) await stored;
    return { entry: made.entry, opened };
  }

  async tmpfile(caller: Caller, parent: NodeId, mode: number, umask: number, flags: number): Promise<Created> {
    const { leases, session } = this.#context;
    const { epoch } = session;
    const request = { parent: this.#context.inode(parent), mode, umask, flags: flags & SENT_FLAGS };
    const asOf = leases.clock;
    const reply = await this.#context.call('tmpfile', caller, request);
    const node = this.#names.found(reply.entry, asOf);
    const opened = this.#created(caller, node, reply, flags, epoch, asOf);
    return { entry: this.#context.nodeEntry(node, reply.entry.attributes), opened };
  }

  #created(
    caller: Caller,
    node: Node,
    reply: ReplyOf<'tmpfile'>,
    flags: number,
    epoch: number,
    asOf: number,
  ): OpenedFile {
    const open = this.#opening.handle(node, flags, this.#context.identity(caller), reply.handle, epoch);
    // O_CREAT may have found the file there, and O_TRUNC have emptied it.
    if (canWrite(open)) this.#context.leases.opensToWrite(node);
    if (flags & O.TRUNC) dropAhead(node);
    const opened = this.#opening.plain(open, reply.lease, asOf);
    // The server takes this caller for the one that it says it is: not so where it maps users to others.
    const isOwn = reply.entry.attributes.uid === caller.uid;
    if (open.behind) {
      // Not one that O_CREAT found there: on that no such lease is granted.
      this.#context.leases.learnNew(node, reply.entry.leased, asOf);
      if (isOwn) open.expected = expectedOf(this.#context.leases, node);
    }
    return opened;
  }

  // --- files that the server makes later

  /** What it will be, but for its number and times. Undefined: the server makes it now. */
  #expected(caller: Caller, directory: Node, { name, mode, umask, flags }: Birth): Attributes | undefined {
    const { leases, unmade } = this.#context;
    const isWritten = (flags & O.ACCMODE) !== O.RDONLY && !(flags & (WRITTEN_THROUGH | O.EXEC));
    if (!isWritten || mode & SPECIAL || unmade.size >= limits.maxUnmade || !leases.alone.has(directory))
      return undefined;
    // Which is also to say that the lease may be used now.
    if (leases.name(directory, keyOfName(name)) !== null) return undefined;
    const { uid, gid } = caller;
    const around = leases.knownAttributes(directory);
    // Whoever made the directory is known to the server by these numbers.
    if (around?.uid !== uid || around.gid !== gid) return undefined;
    const nowMs = Date.now();
    const now = { sec: Math.floor(nowMs / 1000), nsec: (nowMs % 1000) * 1_000_000 };
    return {
      ino: 0,
      mode: modeBits.S_IFREG | (mode & ~umask),
      nlink: 1,
      uid,
      gid,
      rdev: 0,
      size: 0,
      blocks: 0,
      blksize: around.blksize,
      atime: now,
      mtime: now,
      ctime: now,
      btime: now,
    };
  }

  /** Whoever asks for more of it than its name and that it can be written to waits until it is made. */
  #begin(caller: Caller, directory: Node, birth: Birth, attributes: Attributes): Created {
    const { nodes, leases, kernel, unmade } = this.#context;
    const key = keyOfName(birth.name);
    const node = nodes.unmade();
    const open = this.#opening.handle(node, birth.flags, this.#context.identity(caller), 0, NOT_OPENED);
    const file = new UnmadeFile(caller.pid, (write, closes) =>
      this.#make(file, open, directory, birth, write, closes && mayOpenAgain(caller, attributes, birth)),
    );
    node.unmade = file;
    unmade.add(directory, file);
    kernel.beginChange(directory)(); // what it lists
    leases.learnUnmade(directory, key, node);
    const opened = this.#opening.gathering(open);
    leases.changed(node);
    open.expected = expectedOf(leases, node);
    open.expected.begin(attributes);
    const entryMs = kernel.giveName(directory, key, false);
    return { entry: { node: node.id, entryMs, ...this.#context.expectedReply(attributes) }, opened };
  }

  async #make(
    file: UnmadeFile,
    open: OpenHandle,
    directory: Node,
    birth: Birth,
    write: GatheredWrite | undefined,
    closes: boolean,
  ): Promise<Made> {
    const { session, leases, unmade, nodes, kernel } = this.#context;
    const { node } = open;
    const { epoch } = session;
    const asOf = leases.clock;
    try {
      const request = () => this.#request(open, directory, birth, write, closes);
      const { reply } = await this.#names.adding(directory, birth.name, request, node);
      open.server = reply.handle;
      if (reply.handle !== 0) open.epoch = epoch;
      else this.#opening.keepUnopened(open);
      // Its name may be gone already. An error is told at its next use.
      if (reply.handle === 0 && leases.wasRecalled(node, asOf)) await ensureOpen(open, session).catch(() => {});
      const isAlone = reply.lease === 'exclusive' && !leases.wasRecalled(node, asOf);
      if (isAlone) leases.learnNew(node, reply.entry.leased, asOf);
      else {
        open.hasNoLease = true;
        void this.#endGathering(open);
      }
      if (write && write.sync === 'none' && reply.written > 0) this.#context.unsynced.wrote(open);
      return reply;
    } catch (error) {
      nodes.notMade(node);
      // The kernel has its name. Not waited for: somebody may hold the directory, and wait for this.
      void kernel.takeBack([directory])?.then(() => kernel.tookBack([directory]));
      // By an earlier server, for this very request? The program has not asked for a new file.
      const mayBeOwn = epoch !== session.epoch && !(birth.flags & O.EXCL) && errnoOf(error) === errno.EEXIST;
      throw mayBeOwn ? new FsError(errno.EIO, 'nobody knows who has made the file') : error;
    } finally {
      unmade.remove(directory, file);
    }
  }

  async #request(
    { opener }: OpenHandle,
    directory: Node,
    { name, mode, umask, flags }: Birth,
    write: GatheredWrite | undefined,
    closes: boolean,
  ): Promise<ReplyOf<'createWith'>> {
    const { session } = this.#context;
    const how = { parent: this.#context.inodeOf(directory), name, mode, umask, flags: (flags & SENT_FLAGS) | O.EXCL };
    if (write === undefined) {
      const reply = await session.call('create', opener, { ...how, wants: 'exclusive' });
      return { ...reply, written: 0, isComplete: true };
    }
    const { extents: places, data, attributes, sync } = write;
    const offset = places[0]?.offset ?? 0;
    const extents = places.length > 1 ? places : undefined;
    const request = { ...how, offset, extents, attributes, sync, closes };
    return session.call('createWith', opener, request, { ...(data.length > 0 && { bulk: data }), lane: 'small' });
  }
}

/** Nobody is to have it open at the server, and it is opened again by whoever writes to it later. */
function mayOpenAgain(caller: Caller, { mode }: Attributes, { flags }: Birth): boolean {
  const wanted = (flags & O.ACCMODE) === O.RDWR ? OWNER_MAY_WRITE | OWNER_MAY_READ : OWNER_MAY_WRITE;
  return caller.uid === 0 || (mode & wanted) === wanted;
}
