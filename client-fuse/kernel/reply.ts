/**
 * Reply: the one scratch buffer in which every answer is put together, fuse_out_header first. Owned by the dispatcher and
 * used again for the next answer: it is filled and written out without anything running in between.
 */
import type { Attributes, Timespec } from '../../shared/attributes.ts';
import { errno, FsError } from '../../shared/errno.ts';
import type { AbsentName, AttributesReply, Entry, OpenedFile } from '../vfs/filesystem.ts';
import { FOPEN } from './constants.ts';
import { attr, attrOut, entryOut, openOut, outHeader } from './structures.ts';

const INITIAL_BYTES = 16 * 1024;
const header = outHeader.fields;
const a = attr.fields;
const e = entryOut.fields;
const ao = attrOut.fields;

export class Reply {
  bytes = Buffer.alloc(INITIAL_BYTES);
  view = new DataView(this.bytes.buffer, this.bytes.byteOffset, this.bytes.length);
  /** Bytes put together so far, the header included. */
  length = 0;
  /** Written out after `bytes`, without a copy. */
  payload: Uint8Array | undefined;

  begin(): void {
    this.length = outHeader.bytes;
    this.payload = undefined;
  }

  /** Room for `size` more bytes, which the caller fills completely; its offset in `view`. */
  claim(size: number): number {
    const base = this.length;
    this.length += size;
    if (this.length > this.bytes.length) this.#grow();
    return base;
  }

  /** As `claim`, filled with zeros. */
  claimZeroed(size: number): number {
    const base = this.claim(size);
    this.bytes.fill(0, base, base + size);
    return base;
  }

  /** Writes the header. `code` is 0 or a positive errno. */
  seal(unique: number, code: number): void {
    header.len.set(this.view, 0, this.length + (this.payload?.length ?? 0));
    header.error.set(this.view, 0, -code);
    header.unique.set(this.view, 0, unique);
  }

  #grow(): void {
    const bytes = Buffer.alloc(Math.max(this.length, this.bytes.length * 2));
    this.bytes.copy(bytes);
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }
}

/** What the kernel can take: nanoseconds below one second, and a time it need not ask again. */
const LONGEST_VALIDITY_SECONDS = 365 * 24 * 3600;

export function validitySeconds(ms: number): number {
  return ms >= LONGEST_VALIDITY_SECONDS * 1000 ? LONGEST_VALIDITY_SECONDS : Math.floor(ms / 1000);
}

export function validityNanoseconds(ms: number): number {
  return ms >= LONGEST_VALIDITY_SECONDS * 1000 ? 0 : Math.floor((ms % 1000) * 1e6);
}

/** Sizes come from the server: what no kernel could hold is refused before it is written. */
function exact(value: number): number {
  if (!Number.isSafeInteger(value) || value < 0) throw new FsError(errno.EOVERFLOW, 'attributes');
  return value;
}

function seconds(time: Timespec): number {
  if (!Number.isSafeInteger(time.sec)) throw new FsError(errno.EOVERFLOW, 'attributes');
  return time.sec;
}

/** fuse_attr at `base`. */
export function putAttributes(view: DataView, base: number, attributes: Attributes): void {
  a.ino.set(view, base, attributes.ino);
  a.size.set(view, base, exact(attributes.size));
  a.blocks.set(view, base, exact(attributes.blocks));
  a.atime.set(view, base, seconds(attributes.atime));
  a.mtime.set(view, base, seconds(attributes.mtime));
  a.ctime.set(view, base, seconds(attributes.ctime));
  a.atimensec.set(view, base, attributes.atime.nsec);
  a.mtimensec.set(view, base, attributes.mtime.nsec);
  a.ctimensec.set(view, base, attributes.ctime.nsec);
  a.mode.set(view, base, attributes.mode);
  a.nlink.set(view, base, attributes.nlink);
  a.uid.set(view, base, attributes.uid);
  a.gid.set(view, base, attributes.gid);
  a.rdev.set(view, base, attributes.rdev);
  a.blksize.set(view, base, attributes.blksize);
  a.flags.set(view, base, 0);
}

/** fuse_entry_out at `base`. Node ids are never used again, so one generation is enough. */
export function putEntryAt(view: DataView, base: number, entry: Entry): void {
  e.nodeid.set(view, base, entry.node);
  e.generation.set(view, base, 0);
  e.entryValid.set(view, base, validitySeconds(entry.entryMs));
  e.attrValid.set(view, base, validitySeconds(entry.attributesMs));
  e.entryValidNsec.set(view, base, validityNanoseconds(entry.entryMs));
  e.attrValidNsec.set(view, base, validityNanoseconds(entry.attributesMs));
  putAttributes(view, base + e.attr.offset, entry.attributes);
}

export function putEntry(reply: Reply, entry: Entry): void {
  const base = reply.claim(entryOut.bytes);
  putEntryAt(reply.view, base, entry);
}

/** fuse_entry_out with node id 0: the kernel keeps the name as absent. */
export function putAbsentName(reply: Reply, { entryMs }: AbsentName): void {
  const base = reply.claimZeroed(entryOut.bytes);
  e.entryValid.set(reply.view, base, validitySeconds(entryMs));
  e.entryValidNsec.set(reply.view, base, validityNanoseconds(entryMs));
}

/** fuse_attr_out. */
export function putAttributesReply(reply: Reply, result: AttributesReply): void {
  const base = reply.claim(attrOut.bytes);
  ao.attrValid.set(reply.view, base, validitySeconds(result.attributesMs));
  ao.attrValidNsec.set(reply.view, base, validityNanoseconds(result.attributesMs));
  ao.dummy.set(reply.view, base, 0);
  putAttributes(reply.view, base + ao.attr.offset, result.attributes);
}

/*
 * PARALLEL_DIRECT_WRITES lets writes of one client to one file run side by side; the server orders those that overlap.
 * Extending writes stay safe: fuse_dio_wr_exclusive_lock() of the kernel still takes the inode lock exclusively for
 * O_APPEND, for a write that ends beyond the size it knows (fuse_io_past_eof), and while the file is also used through
 * the page cache (FUSE_I_CACHE_IO_MODE: cached handles, shared mappings). The size it knows may be too large when
 * another client truncated: then the write is merely not serialized here, and the server's page lock to the end of the
 * file serializes it. Kernels before 6.2 ignore the bit.
 */
const DIRECT = FOPEN.DIRECT_IO | FOPEN.PARALLEL_DIRECT_WRITES;

/** fuse_open_out for a file. */
export function putOpened(reply: Reply, opened: OpenedFile): void {
  putOpen(reply, opened.handle, (opened.directIo ? DIRECT : 0) | (opened.keepCache ? FOPEN.KEEP_CACHE : 0));
}

export function putOpen(reply: Reply, handle: number, flags: number): void {
  const base = reply.claim(openOut.bytes);
  openOut.fields.fh.set(reply.view, base, handle);
  openOut.fields.openFlags.set(reply.view, base, flags);
  openOut.fields.backingId.set(reply.view, base, 0);
}
