/**
 * NativeRequest: one request of libfuse, read from (and answered into) the record that fuse-native keeps for each thread of
 * libfuse (`fuse_thread_locals_t` in fuse-native.c), and the libfuse structures it points to. All of it stays as it is
 * until the request is answered, because its thread waits; nothing of it may be touched afterwards.
 *
 * fuse-native hands that record to JavaScript as a Buffer. Its arguments carry less: names as UTF-8 text, inode numbers of
 * 32 bits, times in milliseconds, no flags of create and write. Offsets below are those of the x86-64 build of 2.2.6; the
 * driver checks each record's `fuse` field, which follows all others, before it believes them.
 *
 *     0 self*   8 op u32   16 op_fn*   24 path*   32 dest*   40 linkname*   48 info*   56 buf*   64 offset s64   72 len u64
 *    80 mode u32   88 dev u64   96 uid u32   100 gid u32   104 atime s64 (ms)   112 mtime s64 (ms)   120 res s32
 *   128 name*   136 value*   144 list*   152 size u64   160 position u32   164 flags s32   168 stat*   176 statvfs*
 *   184 readdir_filler*   192 fuse*   200 semaphore, uv_async_t
 */
import type { Attributes, FilesystemStatistics, Timespec, U64 } from '../../shared/attributes.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { type Address, callFiller, readMemory, readString, writeMemory } from './native-memory.ts';

const FUSE = 192;

/** Where the record says its mount's record is: the proof that the offsets are right. */
export function mountRecordOf(locals: Buffer): Address {
  return locals.readBigUInt64LE(FUSE);
}

/*
 * struct fuse_file_info (fuse_common.h of libfuse 2.9):
 *   0 flags s32   8 fh_old u64   16 writepage s32   20 bits u32   24 fh u64   32 lock_owner u64
 */
const INFO_BYTES = 40;
const INFO_FH = 24;
const info = Buffer.alloc(INFO_BYTES);
const handleNumber = Buffer.alloc(8);

/*
 * struct stat, x86-64:
 *   0 dev   8 ino   16 nlink u64   24 mode u32   28 uid   32 gid   40 rdev   48 size   56 blksize   64 blocks
 *   72 atime (sec s64, nsec s64)   88 mtime   104 ctime   120 unused
 */
const stat = Buffer.alloc(144);
/* struct statvfs, x86-64: u64 each: bsize frsize blocks bfree bavail files ffree favail fsid flag namemax, then unused */
const statvfs = Buffer.alloc(112);

export class NativeRequest {
  /** Of its thread. */
  readonly locals: Buffer;
  /** What the request brought as libfuse's own memory (data, an attribute's value); empty for most. */
  readonly data: Buffer;

  constructor(locals: Buffer, data: Buffer) {
    this.locals = locals;
    this.data = data;
  }

  /** Begins with a slash; the mount's root is `/`. */
  get path(): Buffer {
    return readString(this.#address(24));
  }

  /** The second path of rename, link and symlink. */
  get destination(): Buffer {
    return readString(this.#address(32));
  }

  /** Name of an extended attribute. */
  get name(): Buffer {
    return readString(this.#address(128));
  }

  /** Where to read, write or cut. What JavaScript cannot count exactly no file is long enough for. */
  get offset(): number {
    const offset = this.locals.readBigInt64LE(64);
    if (offset < 0n) throw new FsError(errno.EINVAL, 'offset');
    if (offset > BigInt(Number.MAX_SAFE_INTEGER - this.data.length)) throw new FsError(errno.EFBIG, 'offset');
    return Number(offset);
  }

  /** Of mkdir, mknod, create, chmod; also whether fsync is for data only. */
  get mode(): number {
    return this.locals.readUInt32LE(80);
  }

  get device(): number {
    return this.locals.readUInt32LE(88);
  }

  get uid(): number {
    return this.locals.readUInt32LE(96);
  }

  get gid(): number {
    return this.locals.readUInt32LE(100);
  }

  get atime(): Timespec {
    return timeOf(this.locals.readBigInt64LE(104));
  }

  get mtime(): Timespec {
    return timeOf(this.locals.readBigInt64LE(112));
  }

  /** Of setxattr. */
  get flags(): number {
    return this.locals.readInt32LE(164);
  }

  /** Room for the target of a symbolic link, its NUL included; room for an attribute's value, 0: ask for its length. */
  get linkRoom(): number {
    return Number(this.locals.readBigUInt64LE(72));
  }

  get xattrRoom(): number {
    return Number(this.locals.readBigUInt64LE(152));
  }

  /** open(2) flags; of write: as they are now. */
  get openFlags(): number {
    readMemory(this.#address(48), info);
    return info.readInt32LE(0);
  }

  /** The number that `setFile` gave to the open file. */
  get file(): number {
    readMemory(this.#address(48), info);
    return Number(info.readBigUInt64LE(INFO_FH));
  }

  setFile(file: number): void {
    handleNumber.writeBigUInt64LE(BigInt(file));
    writeMemory(this.#address(48) + BigInt(INFO_FH), handleNumber);
  }

  putAttributes(attributes: Attributes): void {
    writeMemory(this.#address(168), encodeStat(attributes));
  }

  putStatistics(statistics: FilesystemStatistics): void {
    const { bsize, frsize, blocks, bfree, bavail, files, ffree, namelen } = statistics;
    const fields = [bsize, frsize, blocks, bfree, bavail, files, ffree, ffree, 0, 0, namelen];
    for (const [index, value] of fields.entries()) statvfs.writeBigUInt64LE(BigInt(value), index * 8);
    writeMemory(this.#address(176), statvfs);
  }

  putLinkTarget(target: Uint8Array): void {
    if (target.length >= this.linkRoom) throw new FsError(errno.ENAMETOOLONG, 'readlink');
    writeMemory(this.#address(40), Buffer.concat([target, Buffer.alloc(1)]));
  }

  /** libfuse keeps the list until the directory is read again from its start. `type`: DT_* of dirent.h. */
  addDirectoryEntry(name: Uint8Array, ino: U64, type: number): void {
    stat.fill(0);
    stat.writeBigUInt64LE(BigInt(ino), 8);
    stat.writeUInt32LE(type << 12, 24);
    const terminated = Buffer.concat([name, Buffer.alloc(1)]);
    const refused = callFiller(this.#address(184), this.#address(56), terminated, stat);
    if (refused !== 0) throw new FsError(errno.ENOMEM, 'readdir');
  }

  #address(offset: number): Address {
    return this.locals.readBigUInt64LE(offset);
  }
}

function encodeStat(attributes: Attributes): Buffer {
  stat.fill(0);
  stat.writeBigUInt64LE(BigInt(attributes.ino), 8);
  stat.writeBigUInt64LE(BigInt(attributes.nlink), 16);
  stat.writeUInt32LE(attributes.mode, 24);
  stat.writeUInt32LE(attributes.uid, 28);
  stat.writeUInt32LE(attributes.gid, 32);
  stat.writeBigUInt64LE(BigInt(attributes.rdev), 40);
  stat.writeBigInt64LE(BigInt(attributes.size), 48);
  stat.writeBigInt64LE(BigInt(attributes.blksize), 56);
  stat.writeBigInt64LE(BigInt(attributes.blocks), 64);
  for (const [index, time] of [attributes.atime, attributes.mtime, attributes.ctime].entries()) {
    stat.writeBigInt64LE(BigInt(time.sec), 72 + index * 16);
    stat.writeBigInt64LE(BigInt(time.nsec), 80 + index * 16);
  }
  return stat;
}

function timeOf(milliseconds: bigint): Timespec {
  const ms = Number(milliseconds);
  if (!Number.isSafeInteger(ms)) throw new FsError(errno.EINVAL, 'utimens');
  const sec = Math.floor(ms / 1000);
  return { sec, nsec: (ms - sec * 1000) * 1_000_000 };
}
