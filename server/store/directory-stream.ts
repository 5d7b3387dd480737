/**
 * Reads entries from an open directory. The position is the server filesystem's own cookie (d_off), as NFS passes it
 * on: seekdir works, and what is created or removed meanwhile neither repeats nor hides other entries.
 *
 * struct linux_dirent64:  0 ino u64   8 off s64   16 reclen u16   18 type u8   19 name, ended by NUL
 */
import type { U64 } from '../../shared/attributes.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { getdents, readU64, seekDirectory } from '../../shared/linux/libc.ts';

export interface StreamEntry {
  readonly name: Buffer;
  readonly ino: U64;
  readonly type: number;
  readonly cookie: U64;
}

/** `end`: it is known that there are no more. */
export interface Listed {
  readonly entries: StreamEntry[];
  readonly end: boolean;
}

const NAME_OFFSET = 19;
/** Of a name of 255 bytes. */
const MAX_RECORD_BYTES = 280;
const MIN_BUFFER_BYTES = 4096;
const records = Buffer.alloc(256 * 1024);

/** About `sizeBytes` worth of entries after `cookie`. */
export function readEntries(fd: number, cookie: U64, sizeBytes: number): Listed {
  seekDirectory(fd, cookie);
  const room = Math.min(records.length, Math.max(MIN_BUFFER_BYTES, sizeBytes));
  const entries: StreamEntry[] = [];
  let used = 0;
  // What has room for one more name and brings none is the end, which otherwise would be asked about once more.
  for (let left = room; left >= MAX_RECORD_BYTES; left -= used) {
    const target = records.subarray(0, left);
    used = readRecords(fd, target);
    if (used === 0) return { entries, end: true };
    addEntries(entries, target, used);
  }
  return { entries, end: false };
}

/** In a directory that was removed there is nothing, which the kernel says so; readdir(3) takes it for the end. */
function readRecords(fd: number, target: Buffer): number {
  try {
    return getdents(fd, target);
  } catch (error) {
    if (error instanceof FsError && error.code === errno.ENOENT) return 0;
    throw error;
  }
}

function addEntries(entries: StreamEntry[], records: Buffer, used: number): void {
  for (let at = 0; at < used; ) {
    const next = at + records.readUInt16LE(at + 16);
    const nameEnd = records.indexOf(0, at + NAME_OFFSET);
    entries.push({
      name: Buffer.from(records.subarray(at + NAME_OFFSET, nameEnd)),
      ino: readU64(records, at),
      type: records[at + 18] as number,
      cookie: readU64(records, at + 8),
    });
    at = next;
  }
}
