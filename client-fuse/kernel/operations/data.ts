/**
 * Operations on the bytes of a file. Written data reaches the filesystem as a view of the kernel's message, read data the kernel
 * as a view of what the filesystem gave: nothing is copied here. Offsets beyond 2^53 are answered as a file that
 * cannot be that long.
 */
import { errno, FsError } from '../../../shared/errno.ts';
import { READ_LOCKOWNER, WRITE_CACHE, WRITE_KILL_SUIDGID } from '../constants.ts';
import { type Mounted, operation } from '../operation.ts';
import { BODY, type Request } from '../request.ts';
import {
  copyFileRangeIn,
  copyFileRangeOut,
  fallocateIn,
  lseekIn,
  lseekOut,
  readIn,
  writeIn,
  writeOut,
} from '../structures.ts';

const r = readIn.fields;
const w = writeIn.fields;

export const read = operation<Uint8Array>({
  call(request, { filesystem }) {
    request.expect(readIn.bytes);
    const { view } = request;
    const offset = r.offset.get(view, BODY, errno.EINVAL);
    request.room = r.size.get(view, BODY);
    const forPages = (r.readFlags.get(view, BODY) & READ_LOCKOWNER) === 0;
    return filesystem.read(request, r.fh.get(view, BODY, errno.EBADF), offset, request.room, forPages);
  },
  encode(reply, data, request) {
    // More than was asked for would be refused by the kernel as a broken reply, and the caller would wait for ever.
    if (data.length > request.room) throw new FsError(errno.EIO, 'read: too much data');
    reply.payload = data;
  },
});

export const write = operation<number>({
  call(request, { filesystem }) {
    request.expect(writeIn.bytes);
    const { view } = request;
    const data = request.data(BODY + writeIn.bytes, w.size.get(view, BODY));
    const offset = w.offset.get(view, BODY, errno.EFBIG);
    if (offset + data.length > Number.MAX_SAFE_INTEGER) throw new FsError(errno.EFBIG, 'write');
    const writeFlags = w.writeFlags.get(view, BODY);
    const killSuidgid = (writeFlags & WRITE_KILL_SUIDGID) !== 0;
    const isWriteback = (writeFlags & WRITE_CACHE) !== 0;
    const handle = w.fh.get(view, BODY, errno.EBADF);
    return filesystem.write(request, handle, offset, data, w.flags.get(view, BODY), killSuidgid, isWriteback);
  },
  encode(reply, written) {
    const base = reply.claim(writeOut.bytes);
    writeOut.fields.size.set(reply.view, base, written);
    writeOut.fields.padding.set(reply.view, base, 0);
  },
});

export const fallocate = operation<void>({
  call(request, { filesystem }) {
    request.expect(fallocateIn.bytes);
    const { fh, offset, length, mode } = fallocateIn.fields;
    const { view } = request;
    const from = offset.get(view, BODY, errno.EFBIG);
    const bytes = length.get(view, BODY, errno.EFBIG);
    if (from + bytes > Number.MAX_SAFE_INTEGER) throw new FsError(errno.EFBIG, 'fallocate');
    return filesystem.fallocate(request, fh.get(view, BODY, errno.EBADF), mode.get(view, BODY), from, bytes);
  },
});

export const lseek = operation<number>({
  call(request, { filesystem }) {
    request.expect(lseekIn.bytes);
    const { fh, offset, whence } = lseekIn.fields;
    const { view } = request;
    // ENXIO: beyond the end of the file.
    const from = offset.get(view, BODY, errno.ENXIO);
    return filesystem.lseek(request, fh.get(view, BODY, errno.EBADF), from, whence.get(view, BODY));
  },
  encode(reply, offset) {
    const base = reply.claim(lseekOut.bytes);
    lseekOut.fields.offset.set(reply.view, base, offset);
  },
});

/** The 32-bit reply of COPY_FILE_RANGE counts at most this much; whole pages, so that a caller's loop stays aligned. */
const LARGEST_COPY = 0xfffff000;

function copyRange(request: Request, { filesystem }: Mounted, largest: number) {
  request.expect(copyFileRangeIn.bytes);
  const { fhIn, offIn, fhOut, offOut, len } = copyFileRangeIn.fields;
  const { view } = request;
  const from = offIn.get(view, BODY, errno.EOVERFLOW);
  const to = offOut.get(view, BODY, errno.EFBIG);
  const room = Number.MAX_SAFE_INTEGER - Math.max(from, to);
  const length = Math.min(Number(len.get(view, BODY)), largest, room);
  const handleIn = fhIn.get(view, BODY, errno.EBADF);
  return filesystem.copyFileRange(request, handleIn, from, fhOut.get(view, BODY, errno.EBADF), to, length);
}

export const copyFileRange = operation<number>({
  call: (request, mounted) => copyRange(request, mounted, LARGEST_COPY),
  encode(reply, copied) {
    const base = reply.claimZeroed(writeOut.bytes);
    writeOut.fields.size.set(reply.view, base, copied);
  },
});

export const copyFileRange64 = operation<number>({
  call: (request, mounted) => copyRange(request, mounted, Number.MAX_SAFE_INTEGER),
  encode(reply, copied) {
    const base = reply.claim(copyFileRangeOut.bytes);
    copyFileRangeOut.fields.bytesCopied.set(reply.view, base, copied);
  },
});
