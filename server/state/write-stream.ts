/**
 * Follows the writes of one handle, and tells which part of a long stream the disk may be given already. Without it the
 * system begins after seconds, and the fsync(2) at the end waits for everything: a third of the whole time where the disk
 * takes 500 MiB/s. Only what lies well behind the end, for writes arrive a little out of order; and what is written here
 * and there, or again and again, is left to the system. Pure.
 */
import { MiB } from '../../shared/limits.ts';

/** Bytes behind the end of the stream that are left alone, and the least that is worth a call. */
const LAG_BYTES = 8 * MiB;
const STEP_BYTES = 8 * MiB;

export class WriteStream {
  /** What was written one after the other and not taken yet, in bytes of the file. */
  #from = 0;
  #end = 0;

  wrote(offset: number, length: number): void {
    const goesOn = offset >= this.#from && offset <= this.#end + LAG_BYTES;
    if (!goesOn) this.#from = offset;
    this.#end = goesOn ? Math.max(this.#end, offset + length) : offset + length;
  }

  /** The part that is due, once. */
  take(): { readonly offset: number; readonly length: number } | undefined {
    const offset = this.#from;
    const length = this.#end - LAG_BYTES - offset;
    if (length < STEP_BYTES) return undefined;
    this.#from += length;
    return { offset, length };
  }
}
