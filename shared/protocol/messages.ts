/**
 * Every message of the protocol: the one place where an operation's arguments and results are declared, with their
 * units. Encoders, validators, metrics labels and docs/PROTOCOL.md (scripts/generate-protocol-doc) come from here.
 *
 * Frames (each a msgpack array, one binary WebSocket message; bulk data is the last element):
 *
 *   client -> server   [REQUEST, seq, slot, op, caller, arguments, bulk?]    the reply to the slot's last was taken
 *                      [CANCEL, seq]                                         the caller gave up; the reply still comes
 *   server -> client   [REPLY, seq, errno, result, bulk?]                    errno 0: result; else text or nil
 *                      [BYE, reason]                                         before the server closes a connection
 *                      [RECALL, id, inodes | nil]                            give back the leases on these (nil: all)
 *   client -> server   [RECALLED, id, inodes]                                they are not used any more, nor are these others
 *   client -> server   [GIVEN_BACK, inodes]                                  nor are these, unasked
 *   client -> server   [DOWNGRADED, inodes]                                  exclusive leases on these directories are shared ones now
 *   server -> client   [RECALL_BLOCKS, id, inode, blocks | nil]              give back these blocks of its data (nil: all); answered by RECALLED
 *   server -> client   [SHARE, id, inode]                                    others look into this directory: its lease is a shared one when RECALLED answers
 *   server -> client   [GRANTED, ticket, errno]                              how a lock that was waited for was decided
 *   client -> server   [GRANT_TAKEN, ticket]                                 it is known, and need not be said again
 *   server -> client   [GRACE_OVER, late]                                    new locks may be asked for; so many have lost theirs
 */
import type { Attributes, FilesystemStatistics } from '../attributes.ts';
import { limits } from '../limits.ts';
import {
  bool,
  bytes,
  counter,
  either,
  type Fields,
  inodeHandle,
  linkTarget,
  list,
  name,
  offset,
  optional,
  type RecordOf,
  type RecordType,
  record,
  text,
  timespec,
  u32,
  u64,
  type WireType,
  word,
  xattrName,
} from './schema.ts';

/** Counts up with every change that an older peer would not understand. */
export const PROTOCOL_VERSION = 12;

export const frameKind = {
  REQUEST: 1,
  CANCEL: 2,
  REPLY: 3,
  BYE: 4,
  RECALL: 5,
  RECALLED: 6,
  GRANTED: 7,
  GRANT_TAKEN: 8,
  GRACE_OVER: 9,
  RECALL_BLOCKS: 10,
  GIVEN_BACK: 11,
  DOWNGRADED: 12,
  SHARE: 13,
} as const;

/** The reason with which a client closes its connections when it will not come back. */
export const GOODBYE = 'unmounted';

/** Who asks, as the client's kernel says: uid, gid, then the supplementary groups. */
export const callerIdentity = list(u32, limits.maxGroups + 2);

export const attributes: WireType<Attributes> = record({
  ino: u64,
  mode: u32,
  nlink: u32,
  uid: u32,
  gid: u32,
  rdev: u32,
  size: offset,
  blocks: offset,
  blksize: u32,
  atime: timespec,
  mtime: timespec,
  ctime: timespec,
  btime: timespec,
});

/** A range of a file's bytes. */
const extent = record({ offset, length: u32 });
export type Extent = RecordOf<(typeof extent)['fields']>;

/** An inode as it was found by name. `leased`: the attributes may be kept until they are recalled. */
export const entry = record({ inode: inodeHandle, attributes, leased: bool });
export type WireEntry = RecordOf<(typeof entry)['fields']>;

const directoryEntry = record({
  name: bytes(limits.maxNameBytes),
  ino: u64,
  /** DT_* of dirent.h. */
  type: u32,
  /** Position after this entry. */
  cookie: u64,
  /** With `plus`: the entry looked up, unless it is `.` or `..` or has gone meanwhile. */
  entry: optional(entry),
  /** False: it is known that `entry` has no extended attributes. */
  mayHaveXattrs: bool,
});

const listing = list(directoryEntry, 1 << 16);

const statistics: WireType<FilesystemStatistics> = record({
  blocks: offset,
  bfree: offset,
  bavail: offset,
  files: offset,
  ffree: offset,
  bsize: u32,
  frsize: u32,
  namelen: u32,
});

const timeChange = optional(either(word('now'), (wire) => typeof wire === 'string', timespec));

const nothing = record({});

const attributesReply = record({ attributes, leased: bool });

/** A new name. `directory`: the attributes of its directory now, if the client holds a lease on it. */
const newEntry = record({ entry, directory: optional(attributes) });

/** Inodes other than the directory that a change of names changed too, as they are now; one that is gone is not among them. */
const alsoChanged = list(entry, 2);
const nameChange = record({ directory: optional(attributes), changed: alsoChanged });

interface Operation<Q extends Fields, R extends Fields> {
  readonly code: number;
  /** Applied again without harm when its reply was lost: no reply needs to be kept for it. */
  readonly idempotent: boolean;
  /** Which side sends bulk data as the frame's last element. */
  readonly bulk: 'none' | 'request' | 'reply';
  readonly request: RecordType<Q>;
  readonly reply: RecordType<R>;
}

function operation<const Q extends Fields, const R extends Fields>(
  code: number,
  request: RecordType<Q>,
  reply: RecordType<R>,
  traits: { idempotent?: boolean; bulk?: 'request' | 'reply' } = {},
): Operation<Q, R> {
  return { code, request, reply, idempotent: traits.idempotent ?? false, bulk: traits.bulk ?? 'none' };
}

const idempotent = { idempotent: true };
/** What a client asks for with an open: nothing; to keep what it reads; to gather what it writes, as the only one. */
const wantedLease = word('none', 'shared', 'exclusive');
const grantedLease = word('none', 'shared', 'exclusive');
const created = { entry, handle: counter, lease: grantedLease, directory: optional(attributes) } as const;
const wantedSync = word('none', 'data', 'all');
const gatheredAttributes = record({
  mode: optional(record({ from: u32, to: u32 })),
  atime: optional(timespec),
  mtime: optional(timespec),
});
/** What stands in the way of one change: at most two directories, and what two of their names mean. */
export const recalled = list(inodeHandle, 4);
/** Blocks of one file's data: numbers of aligned 64 KiB. */
export const recalledBlocks = list(counter, limits.maxHeldBlocks);
/** What a client gives back with that. */
export const givenBack = list(inodeHandle, limits.maxLeasesGivenBack);

const where = { parent: inodeHandle, name } as const;

/** Locks of one kind do not see those of the other. `owner` is a number that means something to the client alone. */
const lockOwner = { kind: word('posix', 'flock'), owner: u64 } as const;
/** Bytes `[start, end)`; an end of 2^63 is beyond every file. */
const lockRange = { start: u64, end: u64 } as const;
const lockMode = word('shared', 'exclusive');

export const operations = {
  /** First on every connection. Names both versions when they do not fit. */
  hello: operation(
    1,
    record({
      protocol: u32,
      /** Name of the export, `/` for the only one. */
      export: text(255),
      /** The session to go on with, from an earlier hello, of whichever instance; nil for a new one. */
      session: optional(bytes(16)),
      /** Shown by status: host name and process id. */
      client: text(255),
      /** What this connection is for; recalls come on the small one. */
      lane: word('small', 'bulk'),
    }),
    record({
      protocol: u32,
      /** Changes with every start of the server: handles of an earlier one are gone. */
      instance: bytes(16),
      /** Changes with every start of the server's machine: what was written and not synchronized on an earlier one may be lost. */
      boot: bytes(16),
      session: bytes(16),
      /** False when the session that was asked for had ended: its open handles and locks are gone. True says so of this instance only. */
      resumed: bool,
      /** Of a session that an earlier instance had: it is known which of its requests were applied. All may be sent again. */
      remembers: bool,
      /** The server has started lately: until GRACE_OVER locks may only be reclaimed. */
      grace: bool,
      root: entry,
      readOnly: bool,
      /** `caller`: operations run as the calling user; `server`: all run as one user of the server. */
      identity: word('caller', 'server'),
      /** True: the server remembers what it named to this session, and wants `forget`. */
      wantsForget: bool,
      maxDataBytes: u32,
    }),
    idempotent,
  ),

  /** Says nothing: its reply lets the client use its leases for longer. */
  renew: operation(2, nothing, nothing, idempotent),

  // names
  /** `found` is nil for a name that is absent. `leased`: what is said of the name may be kept until it is recalled. */
  lookup: operation(10, record(where), record({ found: optional(entry), leased: bool }), idempotent),
  readlink: operation(
    11,
    record({ inode: inodeHandle }),
    record({ target: bytes(limits.maxLinkTargetBytes + 1) }),
    idempotent,
  ),
  mknod: operation(12, record({ ...where, mode: u32, rdev: u32, umask: u32 }), newEntry),
  /**
   * `wantsAlone`: the client will make files in it behind, before the server has them. `alone`: it may, under an exclusive lease on the new
   * directory, until that is recalled.
   */
  mkdir: operation(
    13,
    record({ ...where, mode: u32, umask: u32, wantsAlone: bool }),
    record({ entry, directory: optional(attributes), alone: bool }),
  ),
  symlink: operation(14, record({ ...where, target: linkTarget }), newEntry),
  link: operation(15, record({ inode: inodeHandle, ...where }), newEntry),
  unlink: operation(16, record(where), nameChange),
  rmdir: operation(17, record(where), nameChange),
  /** flags: renameat2(2). */
  rename: operation(
    18,
    record({ ...where, newParent: inodeHandle, newName: name, flags: u32 }),
    record({ directory: optional(attributes), newDirectory: optional(attributes), changed: alsoChanged }),
  ),
  /** The client dropped these inodes; `entries`: how many entries that named the inode it had received. */
  forget: operation(19, record({ inodes: list(record({ inode: inodeHandle, entries: u32 }), 1024) }), nothing),

  // attributes
  /** handle: 0 for none, else the open file whose inode is meant. */
  getattr: operation(30, record({ inode: inodeHandle, handle: counter }), attributesReply, idempotent),
  setattr: operation(
    31,
    record({
      inode: inodeHandle,
      handle: counter,
      mode: optional(u32),
      uid: optional(u32),
      gid: optional(u32),
      size: optional(offset),
      atime: timeChange,
      mtime: timeChange,
      /** Clear set-user-ID and set-group-ID, as a write by an unprivileged user would. */
      killSuidgid: bool,
    }),
    attributesReply,
  ),
  access: operation(32, record({ inode: inodeHandle, mask: u32 }), nothing, idempotent),
  getxattr: operation(
    33,
    record({ inode: inodeHandle, name: xattrName }),
    record({ value: bytes(limits.maxXattrValueBytes) }),
    idempotent,
  ),
  listxattr: operation(
    34,
    record({ inode: inodeHandle }),
    record({ names: bytes(limits.maxXattrValueBytes) }),
    idempotent,
  ),
  setxattr: operation(
    35,
    record({
      inode: inodeHandle,
      name: xattrName,
      value: bytes(limits.maxXattrValueBytes),
      flags: u32,
      /** An access ACL is set by someone outside of the file's group: clear set-group-ID. */
      killSgid: bool,
    }),
    nothing,
  ),
  removexattr: operation(36, record({ inode: inodeHandle, name: xattrName }), nothing),
  statfs: operation(37, record({ inode: inodeHandle }), record({ statistics }), idempotent),

  // open files
  /** flags: open(2), O_TRUNC included. */
  /**
   * Reply: the attributes with a shared lease, and the whole file as bulk data when it is not larger than `firstBytes`; then
   * the handle is 0: the file does not stay open, and is opened again when its handle is needed after all. A reply that
   * is sent again has no bulk data.
   */
  open: operation(
    50,
    record({ inode: inodeHandle, flags: u32, killSuidgid: bool, wants: wantedLease, firstBytes: u32 }),
    record({ handle: counter, lease: grantedLease, attributes: optional(attributes) }),
    { bulk: 'reply' },
  ),
  create: operation(51, record({ ...where, mode: u32, umask: u32, flags: u32, wants: wantedLease }), record(created)),
  tmpfile: operation(52, record({ parent: inodeHandle, mode: u32, umask: u32, flags: u32 }), record(created)),
  release: operation(53, record({ handles: list(counter, limits.maxReleasedAtOnce) }), nothing),
  /**
   * Reply: bulk holds the bytes, fewer than `size` only at the end of the file. With `knownVersion` the reply says the
   * version of the file's data, which changes with every change of them; when it equals `knownVersion`, `unchanged` is
   * true and no bytes are sent. 0 is never a version; without `knownVersion` the reply says 0. `wantsLease`: the bytes
   * will be kept, so a change that is under way is waited for, unless this client holds a lease that it gives back.
   * `wantsBlock`: this is one whole block of 64 KiB, to be kept until RECALL_BLOCKS. `leased`: what was wanted may be kept.
   * `atime`: the access time after the first read through a handle, for a client that holds the file's lease.
   */
  read: operation(
    54,
    record({ handle: counter, offset, size: u32, knownVersion: optional(counter), wantsLease: bool, wantsBlock: bool }),
    record({ version: counter, unchanged: bool, leased: bool, atime: optional(timespec) }),
    { idempotent: true, bulk: 'reply' },
  ),
  /**
   * append: at the end of the file as it is when the lock is held; `offset` then means nothing. behind: gathered under
   * an exclusive lease; refused with ESTALE when it was revoked meanwhile. extents: the data belong there, one after the
   * other, instead of at `offset`; only of what was gathered. attributes: gathered too, applied when all
   * the data are written (there may be none), for the caller; `mode` not when somebody has changed `from` meanwhile.
   */
  write: operation(
    55,
    record({
      handle: counter,
      offset,
      append: bool,
      sync: wantedSync,
      killSuidgid: bool,
      behind: bool,
      extents: optional(list(extent, limits.maxExtents)),
      attributes: optional(gatheredAttributes),
    }),
    /** attributes: after a write behind, to be kept under its lease. */
    record({ written: u32, attributes: optional(attributes) }),
    { bulk: 'request' },
  ),
  fsync: operation(56, record({ handle: counter, dataOnly: bool }), nothing, idempotent),
  fallocate: operation(57, record({ handle: counter, mode: u32, offset, length: offset }), nothing),
  lseek: operation(58, record({ handle: counter, offset, whence: u32 }), record({ offset }), idempotent),
  copyFileRange: operation(
    59,
    record({ handleIn: counter, offsetIn: offset, handleOut: counter, offsetOut: offset, length: offset }),
    record({ copied: offset }),
  ),
  syncfs: operation(60, nothing, nothing, idempotent),

  /**
   * A new file (flags: O_EXCL is implied), and what was gathered of it before it was made: as in `write`, of `behind`; the bulk data are 64 KiB at most. Reply: how many
   * bytes of them were written, and whether nothing is left to be done. If nothing is, and its attributes are leased, `closes`
   * leaves it closed: then the handle is 0, as in `open`. Else an exclusive lease is granted, if it can be.
   */
  createWith: operation(
    61,
    record({
      ...where,
      mode: u32,
      umask: u32,
      flags: u32,
      offset,
      extents: optional(list(extent, limits.maxExtents)),
      attributes: optional(gatheredAttributes),
      sync: wantedSync,
      closes: bool,
    }),
    record({ ...created, written: u32, isComplete: bool }),
    { bulk: 'request' },
  ),

  // directories
  /**
   * Reply: all that a directory of at most `maxEntries` lists, under a lease; then the handle is 0: it does not stay open.
   * `directory`: its attributes after that.
   */
  opendir: operation(
    70,
    record({ inode: inodeHandle, maxEntries: u32 }),
    record({ handle: counter, listing: optional(listing), directory: optional(attributes) }),
  ),
  readdir: operation(
    71,
    record({ handle: counter, cookie: u64, sizeBytes: u32, plus: bool }),
    /** leased: the entries' names may be kept until they are recalled. atime: as in `read`. */
    record({ entries: listing, end: bool, leased: bool, atime: optional(timespec) }),
    idempotent,
  ),

  /**
   * The first entries of a directory that are looked up, for a client that looks up one name of it after the other.
   * `complete`: these are all names; none when the directory has more than `maxEntries`.
   */
  readNames: operation(
    72,
    record({ inode: inodeHandle, maxEntries: u32 }),
    record({ entries: listing, complete: bool, leased: bool }),
    idempotent,
  ),

  // locks of programs
  /**
   * A lock through an open handle. With a `ticket`, chosen by the client and not used before: if it is not granted now,
   * it waits, and GRANTED says later how it was decided. Without: EAGAIN. EDEADLK; ENOLCK beyond the limits. In the grace
   * period EAGAIN, unless it is a `reclaim` of what this session's client held under the earlier instance; ESTALE when it
   * is too late for that.
   */
  lock: operation(
    80,
    record({
      handle: counter,
      ...lockOwner,
      pid: u32,
      mode: lockMode,
      ...lockRange,
      ticket: optional(counter),
      reclaim: bool,
    }),
    record({ granted: bool }),
  ),
  /** By inode: what was locked may be unlocked after its handle was released. */
  unlock: operation(81, record({ inode: inodeHandle, ...lockOwner, ...lockRange }), nothing),
  /** `errno`: how it had been decided already (0 for granted; it counts as taken), or nil when it waits no more. */
  cancelLock: operation(82, record({ ticket: counter }), record({ errno: optional(u32) })),
  /** A POSIX lock that is in the way. `pid`: 0 when it is another client's. */
  getlk: operation(
    83,
    record({ handle: counter, owner: u64, mode: lockMode, ...lockRange }),
    record({ lock: optional(record({ mode: lockMode, ...lockRange, pid: u32 })) }),
    idempotent,
  ),

  /** To `instance`, and no later one: the client has reclaimed all the locks that it held. */
  reclaimComplete: operation(84, record({ instance: bytes(16) }), nothing, idempotent),

  // administration
  /** What `weft status` shows, as JSON text. */
  status: operation(90, nothing, record({ json: text(16 * 1024 * 1024) }), idempotent),
  /** The same of the inodes with this number. */
  inodeStatus: operation(91, record({ ino: u64 }), record({ json: text(16 * 1024 * 1024) }), idempotent),
} as const;

export type OperationName = keyof typeof operations;
export type RequestOf<N extends OperationName> =
  (typeof operations)[N] extends Operation<infer Q, Fields> ? RecordOf<Q> : never;
export type ReplyOf<N extends OperationName> =
  (typeof operations)[N] extends Operation<Fields, infer R> ? RecordOf<R> : never;

export const operationNames = Object.keys(operations) as OperationName[];

const byCode = new Map<number, OperationName>(operationNames.map((one) => [operations[one].code, one]));

export function operationByCode(code: unknown): OperationName | undefined {
  return typeof code === 'number' ? byCode.get(code) : undefined;
}
