/** A write to several places in a file, as a client gathers them: whole under one lock, and written piece by piece. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { errno, FsError } from '../../shared/errno.ts';
import { KiB } from '../../shared/limits.ts';
import type { Extent, RequestOf } from '../../shared/protocol/messages.ts';
import { pagesOf } from '../state/page-range-lock-queue.ts';
import type { PageRange } from '../state/page-range-locks.ts';
import type { OpenFile } from '../store/open-file.ts';

/** So much is written before other clients have their turn: some hundred microseconds. */
const TURN_BYTES = 128 * KiB;

type Places = Pick<RequestOf<'write'>, 'offset' | 'extents'>;

/** From the first to the last that it writes to. Throws FsError when the extents are not those of `length` bytes. */
export function pagesOfWrite({ offset, extents }: Places, length: number): PageRange {
  if (extents === undefined) return pagesOf(offset, length);
  const total = extents.reduce((sum, extent) => sum + extent.length, 0);
  if (total !== length || total === 0) throw new FsError(errno.EINVAL, 'extents of a write');
  const start = extents.reduce((first, extent) => Math.min(first, extent.offset), Number.POSITIVE_INFINITY);
  return pagesOf(start, endOfWrite({ offset, extents }, length) - start);
}

/** The end of the file is there or behind it, afterwards. */
export function endOfWrite({ offset, extents }: Places, length: number): number {
  return extents?.reduce((end, extent) => Math.max(end, extent.offset + extent.length), 0) ?? offset + length;
}

/** Resolves to the bytes of `data` written from its beginning on, fewer when the disk fills up; an error when nothing was. */
export async function writeExtents(file: OpenFile, extents: readonly Extent[], data: Uint8Array): Promise<number> {
  let done = 0;
  let turnEnds = TURN_BYTES;
  for (const { offset, length } of extents) {
    let count: number;
    try {
      count = await file.calls.write(file.fd, data.subarray(done, done + length), offset);
    } catch (error) {
      if (done > 0) return done;
      throw error;
    }
    done += count;
    if (count < length) break;
    if (done < turnEnds) continue;
    turnEnds = done + TURN_BYTES;
    await nextTurn();
  }
  return done;
}
