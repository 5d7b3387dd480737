/**
 * What the one handle that holds the exclusive lease on its file has read and written lately, in blocks, so that a database's
 * small reads need no request each. Owned by the handle, and dropped with the lease; all blocks of a mount share a
 * budget. Nobody else changes the file, so only the handle's own writes have to be kept up with.
 *
 * Invariant: a block holds what the server will hold of it when everything written is there.
 */
import { BLOCK_BYTES } from '../../shared/limits.ts';

export interface BlockSource {
  /** Bytes from the server, as of all that was written before the call; fewer only at the end of the file. */
  read(offset: number, size: number): Promise<Uint8Array>;
  /** The same of what was written there; what was written elsewhere may be on its way, so the file may end earlier at the server. */
  readThere(offset: number, size: number): Promise<Uint8Array>;
  /** As of all that was written. */
  size(): Promise<number>;
}

/** How many blocks the handles of a mount may keep. */
export class BlockBudget {
  #left: number;

  constructor(blocks: number) {
    this.#left = blocks;
  }

  take(): boolean {
    if (this.#left === 0) return false;
    this.#left--;
    return true;
  }

  giveBack(count: number): void {
    this.#left += count;
  }
}

export class BlockCache {
  readonly #source: BlockSource;
  readonly #budget: BlockBudget;
  /** Whole blocks, zeros beyond the end of the file, in the order of their arrival. */
  readonly #blocks = new Map<number, Buffer>();
  /** Undefined: to be asked for. */
  #fileSize: number | undefined;
  /** Counts writes and `clear`: what was fetched meanwhile may be of before. */
  #changes = 0;

  constructor(source: BlockSource, budget: BlockBudget) {
    this.#source = source;
    this.#budget = budget;
  }

  /** At most BLOCK_BYTES. The result is good until the next turn of the event loop. */
  async read(offset: number, size: number): Promise<Uint8Array> {
    while (this.#fileSize === undefined) {
      const changes = this.#changes;
      const fileSize = await this.#source.size();
      if (changes === this.#changes) this.#fileSize = fileSize;
    }
    const first = Math.floor(offset / BLOCK_BYTES);
    const last = Math.floor((offset + size - 1) / BLOCK_BYTES);
    const before = this.#blocks.get(first) ?? (await this.#bring(first));
    const after = last === first ? before : (this.#blocks.get(last) ?? (await this.#bring(last)));
    // Written to while they were brought: the server has it now.
    if (before === undefined || after === undefined || this.#fileSize === undefined)
      return this.#source.read(offset, size);
    const end = Math.min(offset + size, this.#fileSize);
    if (end <= offset) return before.subarray(0, 0);
    const from = offset - first * BLOCK_BYTES;
    if (end <= (first + 1) * BLOCK_BYTES) return before.subarray(from, from + end - offset);
    return Buffer.concat([before.subarray(from), after.subarray(0, end - last * BLOCK_BYTES)]);
  }

  /** Undefined: the file was written to meanwhile. */
  async #bring(index: number): Promise<Buffer | undefined> {
    const changes = this.#changes;
    const bytes = await this.#source.readThere(index * BLOCK_BYTES, BLOCK_BYTES);
    if (changes !== this.#changes) return undefined;
    const block = Buffer.alloc(BLOCK_BYTES);
    block.set(bytes);
    this.#keep(index, block);
    return block;
  }

  #keep(index: number, block: Buffer): void {
    // Two readers may have brought it.
    if (!this.#blocks.has(index) && !this.#budget.take()) {
      const [oldest] = this.#blocks.keys();
      if (oldest === undefined) return;
      this.#blocks.delete(oldest);
    }
    this.#blocks.set(index, block);
  }

  /** The handle writes, after what it wrote before. */
  write(offset: number, data: Uint8Array): void {
    this.#changes++;
    const end = offset + data.length;
    if (this.#fileSize !== undefined) this.#fileSize = Math.max(this.#fileSize, end);
    for (let index = Math.floor(offset / BLOCK_BYTES); index * BLOCK_BYTES < end; index++) {
      const block = this.#blocks.get(index);
      if (block === undefined) continue;
      const start = index * BLOCK_BYTES;
      const from = Math.max(offset, start);
      block.set(data.subarray(from - offset, Math.min(end, start + BLOCK_BYTES) - offset), from - start);
    }
  }

  /** The file was cut, or changed otherwise than by `write`; or the lease is gone. */
  clear(): void {
    this.#changes++;
    this.#fileSize = undefined;
    this.#budget.giveBack(this.#blocks.size);
    this.#blocks.clear();
  }
}
