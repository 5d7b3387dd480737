/**
 * The filesystem as a kernel driver sees it: one method for each operation, node ids instead of paths. The kernel
 * driver and the fuse-native driver call it; `RemoteFilesystem` answers from the server, a test may answer from memory.
 *
 * Every method throws an FsError for an expected failure; the driver turns it into an errno in one place. Whatever
 * else is thrown is a bug and becomes EIO, logged with its stack. Offsets and sizes are bytes, exact, below 2^53.
 */
import type { Attributes, FilesystemStatistics, Timespec, U64 } from '../../shared/attributes.ts';

/** Names an inode between driver and filesystem. Allocated by the filesystem, never used again; 1 is the root. */
export type NodeId = number;

export const ROOT_NODE: NodeId = 1;

/** Who asks: the identity of the calling task, and how it takes its request back. */
export interface Caller {
  readonly uid: number;
  readonly gid: number;
  /** Thread id of the caller, 0 when the kernel itself asks. */
  readonly pid: number;
  /** Supplementary groups, read when first asked for. */
  readonly groups: readonly number[];
  /** Aborted when the caller is being killed, or gave up a wait that may be interrupted. Made when first asked for. */
  readonly signal: AbortSignal;
  /**
   * The data of a write stay as they are until the result is called, once, also after the answer. To be called before that.
   * Absent: they are the filesystem's to use only until it has answered.
   */
  keepData?(): () => void;
}

/** How long the kernel may answer by itself, in milliseconds. 0: ask every time. */
export interface Validity {
  readonly entryMs: number;
  readonly attributesMs: number;
}

/** A name that was found. The driver owns one lookup count on `node` for each Entry it received. */
export interface Entry extends Validity {
  readonly node: NodeId;
  readonly attributes: Attributes;
}

/** A name that is absent, and for how long the kernel may say so by itself. Where it may not, ENOENT is thrown. */
export interface AbsentName {
  readonly node: 0;
  readonly entryMs: number;
}

export interface AttributesReply {
  readonly attributes: Attributes;
  readonly attributesMs: number;
}

/** Bytes `[start, end)`; an end of 2^63 is beyond every file. */
export interface LockRange {
  readonly start: bigint;
  readonly end: bigint;
}

/** Whose lock: `posix` (fcntl) and `flock` do not see each other. `owner` is the kernel's number for it. */
export interface LockOwner {
  readonly kind: 'posix' | 'flock';
  readonly owner: U64;
  /** The process. */
  readonly pid: number;
}

export interface Lock extends LockOwner, LockRange {
  readonly mode: 'shared' | 'exclusive';
}

/** A lock that is in the way. `pid` is 0 for another client's. */
export interface FoundLock extends LockRange {
  readonly mode: 'shared' | 'exclusive';
  readonly pid: number;
}

export interface OpenedFile {
  readonly handle: number;
  /** True: reads and writes go to the filesystem one call at a time, past the page cache. */
  readonly directIo: boolean;
  /** True: pages cached under an earlier handle stay valid. */
  readonly keepCache: boolean;
}

export interface DirectoryEntry {
  readonly name: Uint8Array;
  readonly ino: U64;
  /** DT_* of dirent.h. */
  readonly type: number;
  /** Position after this entry: what telldir(3) shows and the next readdir continues from. */
  readonly cookie: U64;
  /** With readdirplus: the entry looked up. Absent when it could not be (it is gone, or is `.` or `..`). */
  readonly entry?: Entry;
}

/** What setattr changes; absent fields stay. */
export interface AttributeChanges {
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly size?: number;
  readonly atime?: Timespec | 'now';
  readonly mtime?: Timespec | 'now';
  /** The kernel asks that set-user-ID and set-group-ID go (FATTR_KILL_SUIDGID). */
  readonly killSuidgid?: boolean;
}

/** A request's result now, or later. */
export type Eventually<T> = T | Promise<T>;

export interface Filesystem {
  lookup(caller: Caller, parent: NodeId, name: Uint8Array): Eventually<Entry | AbsentName>;
  /** The kernel gave up `count` references to `node`. Never fails, never answers. */
  forget(node: NodeId, count: number): void;
  getattr(caller: Caller, node: NodeId, handle?: number): Eventually<AttributesReply>;
  setattr(caller: Caller, node: NodeId, changes: AttributeChanges, handle?: number): Eventually<AttributesReply>;
  readlink(caller: Caller, node: NodeId): Eventually<Uint8Array>;
  /** `umask` is the caller's; it is applied by the server, unless a default ACL takes its place. */
  mknod(caller: Caller, parent: NodeId, name: Uint8Array, mode: number, rdev: number, umask: number): Eventually<Entry>;
  mkdir(caller: Caller, parent: NodeId, name: Uint8Array, mode: number, umask: number): Eventually<Entry>;
  symlink(caller: Caller, parent: NodeId, name: Uint8Array, target: Uint8Array): Eventually<Entry>;
  link(caller: Caller, node: NodeId, parent: NodeId, name: Uint8Array): Eventually<Entry>;
  unlink(caller: Caller, parent: NodeId, name: Uint8Array): Eventually<void>;
  rmdir(caller: Caller, parent: NodeId, name: Uint8Array): Eventually<void>;
  /** `flags` as renameat2(2): RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT. */
  rename(
    caller: Caller,
    parent: NodeId,
    name: Uint8Array,
    newParent: NodeId,
    newName: Uint8Array,
    flags: number,
  ): Eventually<void>;

  /** `flags` as open(2), O_TRUNC included. */
  open(caller: Caller, node: NodeId, flags: number, killSuidgid: boolean): Eventually<OpenedFile>;
  create(
    caller: Caller,
    parent: NodeId,
    name: Uint8Array,
    mode: number,
    umask: number,
    flags: number,
  ): Eventually<{ entry: Entry; opened: OpenedFile }>;
  tmpfile(
    caller: Caller,
    parent: NodeId,
    mode: number,
    umask: number,
    flags: number,
  ): Eventually<{ entry: Entry; opened: OpenedFile }>;
  /**
   * At most `size` bytes; fewer only at the end of the file. The driver writes the result out before it returns to the event
   * loop, or copies it. `forPages`: the kernel keeps them in its page cache.
   */
  read(caller: Caller, handle: number, offset: number, size: number, forPages?: boolean): Eventually<Uint8Array>;
  /**
   * `data` stays untouched by the driver until the result is there. `flags` are the handle's open(2) flags as of now.
   * `isWriteback`: the kernel writes its dirty pages back, which stay locked until then.
   */
  write(
    caller: Caller,
    handle: number,
    offset: number,
    data: Uint8Array,
    flags: number,
    killSuidgid: boolean,
    isWriteback?: boolean,
  ): Eventually<number>;
  /** Called at each close(2): reports a delayed write error. The `owner` gives up its POSIX locks on the file. */
  flush(caller: Caller, handle: number, owner: U64): Eventually<void>;
  /** The last reference to the handle is gone. */
  release(handle: number): void;
  fsync(caller: Caller, handle: number, dataOnly: boolean): Eventually<void>;
  /** The first POSIX lock in the way of `lock`. */
  findLock(caller: Caller, handle: number, lock: Lock): Eventually<FoundLock | undefined>;
  /**
   * Takes a lock. `waits`: until it is granted, or the caller gives up (EINTR); else EAGAIN. Resolves to what gives it
   * back, for a caller that does not learn of it any more.
   */
  lock(caller: Caller, handle: number, lock: Lock, waits: boolean): Eventually<() => void>;
  unlock(caller: Caller, handle: number, owner: LockOwner, range: LockRange): Eventually<void>;
  fallocate(caller: Caller, handle: number, mode: number, offset: number, length: number): Eventually<void>;
  /** SEEK_DATA and SEEK_HOLE. */
  lseek(caller: Caller, handle: number, offset: number, whence: number): Eventually<number>;
  copyFileRange(
    caller: Caller,
    handleIn: number,
    offsetIn: number,
    handleOut: number,
    offsetOut: number,
    length: number,
  ): Eventually<number>;

  opendir(caller: Caller, node: NodeId): Eventually<{ handle: number; keepCache: boolean; cacheDirectory: boolean }>;
  /** Entries after `cookie` (0: from the start), about `sizeBytes` worth of them; none at the end. */
  readdir(
    caller: Caller,
    handle: number,
    cookie: U64,
    sizeBytes: number,
    plus: boolean,
  ): Eventually<readonly DirectoryEntry[]>;
  releasedir(handle: number): void;
  fsyncdir(caller: Caller, handle: number, dataOnly: boolean): Eventually<void>;

  statfs(caller: Caller, node: NodeId): Eventually<FilesystemStatistics>;
  /** `mask` as access(2). */
  access(caller: Caller, node: NodeId, mask: number): Eventually<void>;
  getxattr(caller: Caller, node: NodeId, name: Uint8Array): Eventually<Uint8Array>;
  /** Names, each ended by a NUL byte. */
  listxattr(caller: Caller, node: NodeId): Eventually<Uint8Array>;
  /** `flags` as setxattr(2); `killSgid`: clear set-group-ID as an ACL change asks. */
  setxattr(
    caller: Caller,
    node: NodeId,
    name: Uint8Array,
    value: Uint8Array,
    flags: number,
    killSgid: boolean,
  ): Eventually<void>;
  removexattr(caller: Caller, node: NodeId, name: Uint8Array): Eventually<void>;
  syncfs(caller: Caller): Eventually<void>;
}
