/**
 * Operations on what an inode is: its attributes, the target of a symbolic link, the right to use it, and the statistics of the
 * whole filesystem.
 */
import type { FilesystemStatistics, Timespec } from '../../../shared/attributes.ts';
import { errno } from '../../../shared/errno.ts';
import type { AttributeChanges, AttributesReply } from '../../vfs/filesystem.ts';
import { FATTR, GETATTR_FH, STATX_BASIC_STATS, STATX_BTIME } from '../constants.ts';
import type { I64Field, U32Field } from '../field.ts';
import { operation } from '../operation.ts';
import { putAttributesReply, type Reply, validityNanoseconds, validitySeconds } from '../reply.ts';
import { BODY, type Request } from '../request.ts';
import {
  accessIn,
  getattrIn,
  kstatfs,
  setattrIn,
  statxIn,
  statxOut,
  statx as statxStruct,
  sxTime,
} from '../structures.ts';
import { PERMISSIONS } from './names.ts';

const getattrFields = getattrIn.fields;

export const getattr = operation<AttributesReply>({
  encode: putAttributesReply,
  call(request, { filesystem }) {
    request.expect(getattrIn.bytes);
    const byHandle = (getattrFields.getattrFlags.get(request.view, BODY) & GETATTR_FH) !== 0;
    const handle = byHandle ? getattrFields.fh.get(request.view, BODY, errno.EBADF) : undefined;
    return filesystem.getattr(request, request.node, handle);
  },
});

export const setattr = operation<AttributesReply>({
  encode: putAttributesReply,
  call(request, { filesystem }) {
    request.expect(setattrIn.bytes);
    const { valid, fh } = setattrIn.fields;
    const byHandle = (valid.get(request.view, BODY) & FATTR.FH) !== 0;
    const handle = byHandle ? fh.get(request.view, BODY, errno.EBADF) : undefined;
    return filesystem.setattr(request, request.node, changesOf(request), handle);
  },
});

/** FATTR_CTIME comes only with the writeback cache, FATTR_LOCKOWNER only with mandatory locks: neither is asked for. */
function changesOf(request: Request): AttributeChanges {
  const { view } = request;
  const { valid, size, mode, uid, gid, atime, atimensec, mtime, mtimensec } = setattrIn.fields;
  const which = valid.get(view, BODY);
  const changes: { -readonly [K in keyof AttributeChanges]: AttributeChanges[K] } = {};
  if (which & FATTR.MODE) changes.mode = mode.get(view, BODY) & PERMISSIONS;
  if (which & FATTR.UID) changes.uid = uid.get(view, BODY);
  if (which & FATTR.GID) changes.gid = gid.get(view, BODY);
  if (which & FATTR.SIZE) changes.size = size.get(view, BODY, errno.EFBIG);
  if (which & FATTR.ATIME_NOW) changes.atime = 'now';
  else if (which & FATTR.ATIME) changes.atime = timeOf(view, atime, atimensec);
  if (which & FATTR.MTIME_NOW) changes.mtime = 'now';
  else if (which & FATTR.MTIME) changes.mtime = timeOf(view, mtime, mtimensec);
  if (which & FATTR.KILL_SUIDGID) changes.killSuidgid = true;
  return changes;
}

function timeOf(view: DataView, sec: I64Field, nsec: U32Field): Timespec {
  return { sec: sec.get(view, BODY), nsec: nsec.get(view, BODY) };
}

export const statx = operation<AttributesReply>({
  encode: putStatx,
  call(request, { filesystem }) {
    request.expect(statxIn.bytes);
    const { getattrFlags, fh } = statxIn.fields;
    const byHandle = (getattrFlags.get(request.view, BODY) & GETATTR_FH) !== 0;
    const handle = byHandle ? fh.get(request.view, BODY, errno.EBADF) : undefined;
    return filesystem.getattr(request, request.node, handle);
  },
});

function putStatx(reply: Reply, { attributes, attributesMs }: AttributesReply): void {
  const base = reply.claimZeroed(statxOut.bytes);
  const { view } = reply;
  const out = statxOut.fields;
  out.attrValid.set(view, base, validitySeconds(attributesMs));
  out.attrValidNsec.set(view, base, validityNanoseconds(attributesMs));
  const s = statxStruct.fields;
  const at = base + out.stat.offset;
  // A server's filesystem without a time of birth says 0: better not claimed than shown as 1970.
  const hasBirth = attributes.btime.sec !== 0 || attributes.btime.nsec !== 0;
  s.mask.set(view, at, STATX_BASIC_STATS | (hasBirth ? STATX_BTIME : 0));
  s.blksize.set(view, at, attributes.blksize);
  s.nlink.set(view, at, attributes.nlink);
  s.uid.set(view, at, attributes.uid);
  s.gid.set(view, at, attributes.gid);
  s.mode.set(view, at, attributes.mode);
  s.ino.set(view, at, attributes.ino);
  s.size.set(view, at, attributes.size);
  s.blocks.set(view, at, attributes.blocks);
  putTime(view, at + s.atime.offset, attributes.atime);
  putTime(view, at + s.btime.offset, attributes.btime);
  putTime(view, at + s.ctime.offset, attributes.ctime);
  putTime(view, at + s.mtime.offset, attributes.mtime);
  s.rdevMajor.set(view, at, deviceMajor(attributes.rdev));
  s.rdevMinor.set(view, at, deviceMinor(attributes.rdev));
}

function putTime(view: DataView, base: number, time: Timespec): void {
  sxTime.fields.sec.set(view, base, time.sec);
  sxTime.fields.nsec.set(view, base, time.nsec);
}

/** new_decode_dev() of the kernel: minor bits 0-7 and 12-31 of the word, major bits 8-19. */
function deviceMajor(rdev: number): number {
  return (rdev >>> 8) & 0xfff;
}

function deviceMinor(rdev: number): number {
  return ((rdev & 0xff) | ((rdev >>> 12) & 0xfff00)) >>> 0;
}

export const readlink = operation<Uint8Array>({
  call: (request, { filesystem }) => filesystem.readlink(request, request.node),
  encode(reply, target) {
    reply.payload = target;
  },
});

export const access = operation<void>({
  call(request, { filesystem }) {
    request.expect(accessIn.bytes);
    return filesystem.access(request, request.node, accessIn.fields.mask.get(request.view, BODY));
  },
});

export const statfs = operation<FilesystemStatistics>({
  call: (request, { filesystem }) => filesystem.statfs(request, request.node),
  encode(reply, statistics) {
    const base = reply.claimZeroed(kstatfs.bytes);
    const { blocks, bfree, bavail, files, ffree, bsize, namelen, frsize } = kstatfs.fields;
    blocks.set(reply.view, base, statistics.blocks);
    bfree.set(reply.view, base, statistics.bfree);
    bavail.set(reply.view, base, statistics.bavail);
    files.set(reply.view, base, statistics.files);
    ffree.set(reply.view, base, statistics.ffree);
    bsize.set(reply.view, base, statistics.bsize);
    namelen.set(reply.view, base, statistics.namelen);
    frsize.set(reply.view, base, statistics.frsize);
  },
});
