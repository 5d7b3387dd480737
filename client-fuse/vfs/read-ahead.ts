/**
 * Reads ahead for one handle that is read from front to back. Under a lease a chunk that was read ahead is an answer; the
 * recall drops it. Without one nothing may be answered from memory alone, so the chunk is offered to the server by its
 * version: "unchanged" costs a small round trip, while the bytes are already here. One reader at a time profits; any other
 * pattern goes straight to the server.
 *
 * Owned by the handle; the bytes held are bounded by a budget that all handles of the mount share.
 */
import { MiB } from '../../shared/limits.ts';

/** Bytes at `offset`, as of `version`. `data` is shorter than asked for at the end of the file. */
export interface VersionedData {
  readonly version: number;
  readonly unchanged: boolean;
  readonly data: Uint8Array;
}

/** Asks the server; `knownVersion` 0 when nothing is known. */
export type Fetch = (offset: number, size: number, knownVersion: number) => Promise<VersionedData>;

/** Bytes that all handles of a mount may hold ahead of their readers. */
export class ReadAheadBudget {
  #left: number;

  constructor(bytes: number) {
    this.#left = bytes;
  }

  take(bytes: number): boolean {
    if (bytes > this.#left) return false;
    this.#left -= bytes;
    return true;
  }

  giveBack(bytes: number): void {
    this.#left += bytes;
  }
}

interface Chunk {
  readonly offset: number;
  readonly size: number;
  readonly fetched: Promise<VersionedData>;
  /** It was asked for under a lease; that was not given back since, if nothing was dropped. */
  readonly isLeased: boolean;
  readonly drops: number;
}

/** Sequential reads before the first reading ahead: a file that is read in one go is not worth it. */
const SEQUENTIAL_READS = 2;
const AHEAD_BYTES = 4 * MiB;
const MAX_CHUNK_BYTES = 1 * MiB;

export class ReadAhead {
  readonly #fetch: Fetch;
  readonly #budget: ReadAheadBudget;
  readonly #isLeased: () => boolean;
  readonly #chunks: Chunk[] = [];
  #expectedOffset = 0;
  #sequential = 0;
  #aheadUntil = 0;
  #endSeen = false;
  /** How often all was forgotten: also what somebody waits for. */
  #drops = 0;

  constructor(fetch: Fetch, budget: ReadAheadBudget, isLeased: () => boolean = () => false) {
    this.#fetch = fetch;
    this.#budget = budget;
    this.#isLeased = isLeased;
  }

  /** The bytes for a reader, or undefined: then the caller asks the server itself. */
  read(offset: number, size: number): Promise<Uint8Array> | undefined {
    if (offset !== this.#expectedOffset) {
      this.#expectedOffset = offset + size;
      this.#sequential = 0;
      this.drop();
      return undefined;
    }
    this.#expectedOffset = offset + size;
    this.#sequential++;
    if (this.#sequential < SEQUENTIAL_READS) return undefined;
    const chunk = this.#chunkFor(offset, size);
    this.#fill(offset + size, size);
    return chunk && this.#confirmed(chunk, offset, size);
  }

  /** A read there is the next one from front to back. */
  continues(offset: number): boolean {
    return offset === this.#expectedOffset;
  }

  /** Forgets what was read ahead. */
  drop(): void {
    for (const chunk of this.#chunks.splice(0)) this.#budget.giveBack(chunk.size);
    this.#drops++;
    this.#aheadUntil = 0;
    this.#endSeen = false;
  }

  #chunkFor(offset: number, size: number): Chunk | undefined {
    while (this.#chunks[0] && this.#chunks[0].offset + this.#chunks[0].size <= offset) {
      this.#budget.giveBack(this.#chunks[0].size);
      this.#chunks.shift();
    }
    const chunk = this.#chunks[0];
    if (chunk === undefined || chunk.offset > offset || chunk.offset + chunk.size < offset + size) return undefined;
    return chunk;
  }

  /** Chunks hold whole reads of the size that the reader uses, so no read lies across two. */
  #fill(from: number, readSize: number): void {
    const chunkBytes = Math.max(1, Math.floor(MAX_CHUNK_BYTES / readSize)) * readSize;
    this.#aheadUntil = Math.max(this.#aheadUntil, from);
    while (!this.#endSeen && this.#aheadUntil + chunkBytes <= from + AHEAD_BYTES && this.#budget.take(chunkBytes)) {
      const fetched = this.#fetch(this.#aheadUntil, chunkBytes, 0);
      const isLeased = this.#isLeased();
      this.#chunks.push({ offset: this.#aheadUntil, size: chunkBytes, fetched, isLeased, drops: this.#drops });
      this.#aheadUntil += chunkBytes;
      fetched.then(
        ({ data }) => {
          if (data.length < chunkBytes) this.#endSeen = true;
        },
        () => {}, // the reader that wants it asks again, and is told
      );
    }
  }

  async #confirmed(chunk: Chunk, offset: number, size: number): Promise<Uint8Array> {
    const known = await chunk.fetched.catch(() => undefined);
    const start = offset - chunk.offset;
    // The kernel reads ahead, too: its next read may have come, and passed this chunk, while this one waited.
    if (known && chunk.isLeased && this.#isLeased() && chunk.drops === this.#drops) {
      return known.data.subarray(start, start + size);
    }
    const fresh = await this.#fetch(offset, size, known?.version ?? 0);
    if (!fresh.unchanged || known === undefined) {
      this.drop();
      return fresh.data;
    }
    return known.data.subarray(start, start + size);
  }
}
