/**
 * Blocks of files that somebody has open to write, as the server granted them one by one: what the plain handles of this
 * mount read again from them needs no request, and is whole, since a read is answered in one turn of the event loop.
 * A block is kept when it is likely to pay: at the second read in it, or when the one before it is here. One a mount.
 *
 * Invariant: a block that is here is what the server has. It goes before its recall is answered, and while this mount's own
 * write to it is under way (which the server does not recall); after that it comes back, with what was written. What was
 * asked for before any of these is not kept (`changedAt`, on a clock of the whole mount).
 */
import { BLOCK_BYTES, limits } from '../../shared/limits.ts';
import { UnansweredError } from '../transport/unanswered-error.ts';
import type { BlockBudget } from './block-cache.ts';
import type { Node, OpenHandle } from './node.ts';
import type { Block, Bytes, NodeBlocks, OwnWrite } from './node-blocks.ts';

/** Reads in a block before all of it is asked for, when the server has refused it. */
const READS_AFTER_REFUSAL = 16;

export class SharedBlocks {
  readonly #budget: BlockBudget;
  readonly #isUsable: () => boolean;
  /** All that are here, in the order in which they are looked at whether they are to go. */
  readonly #all = new Set<Block>();
  #clock = 0;
  #clearedAt = 0;

  /** `isUsable`: the server answered recently enough to know that it would have recalled. */
  constructor(budget: BlockBudget, isUsable: () => boolean) {
    this.#budget = budget;
    this.#isUsable = isUsable;
  }

  get size(): number {
    return this.#all.size;
  }

  /** It reads past the page cache. */
  opened(open: OpenHandle): void {
    blocksOf(open.node).handles.add(open);
  }

  /** The server takes it that nothing is kept without one that is open there, in this session. */
  closed(open: OpenHandle, epoch: number): void {
    const { handles } = blocksOf(open.node);
    handles.delete(open);
    for (const other of handles) if (other.epoch === epoch) return;
    this.clear(open.node);
  }

  // --- reading

  /** What is here of it, whole; undefined: the server must be asked. */
  read({ blocks }: Node, offset: number, size: number): Uint8Array | undefined {
    if (blocks === undefined || blocks.known.size === 0) return undefined;
    const first = Math.floor(offset / BLOCK_BYTES);
    const last = Math.floor((offset + size - 1) / BLOCK_BYTES);
    const before = this.#known(blocks, first);
    if (before === undefined || last > first + 1 || !this.#isUsable()) return undefined;
    before.isUsed = true;
    const from = offset - first * BLOCK_BYTES;
    if (last === first || before.data.length < BLOCK_BYTES) return before.data.subarray(from, from + size);
    const after = this.#known(blocks, last);
    if (after === undefined) return undefined;
    after.isUsed = true;
    return Buffer.concat([before.data.subarray(from), after.data.subarray(0, offset + size - last * BLOCK_BYTES)]);
  }

  #known(blocks: NodeBlocks, index: number): Block | undefined {
    const block = blocks.known.get(index);
    if (block === undefined || performance.now() < block.goodUntilMs) return block;
    this.#drop(block);
    // It is to be brought again at once.
    blocks.touched.set(index, 1);
    return undefined;
  }

  /** Read it is, and not all of it is here: the blocks to ask for whole, if it is likely to pay. */
  wanted(node: Node, offset: number, size: number): number[] | undefined {
    const blocks = blocksOf(node);
    const missing: number[] = [];
    let isWorth = true;
    for (let index = Math.floor(offset / BLOCK_BYTES); index * BLOCK_BYTES < offset + size; index++) {
      if (blocks.known.has(index)) continue;
      missing.push(index);
      const times = this.#touch(blocks, index);
      if (times < 2 && !(times === 1 && blocks.known.has(index - 1))) isWorth = false;
      if (isWritten(blocks, index, BLOCK_BYTES)) isWorth = false;
    }
    return isWorth && missing.length > 0 ? missing : undefined;
  }

  #touch({ touched }: NodeBlocks, index: number): number {
    const times = (touched.get(index) ?? 0) + 1;
    touched.delete(index);
    touched.set(index, times);
    const [oldest] = touched.size > limits.maxTouchedBlocks ? touched.keys() : [];
    if (oldest !== undefined) touched.delete(oldest);
    return times;
  }

  /** To be taken before a block is asked for. */
  asOf(node: Node): number {
    blocksOf(node);
    return this.#clock;
  }

  /** The server granted it, with the reply to a request of `asOf`. */
  keep(node: Node, index: number, bytes: Uint8Array, asOf: number): void {
    const blocks = blocksOf(node);
    const isOld = blocks.changedAt > asOf || this.#clearedAt > asOf;
    if (isOld || blocks.handles.size === 0 || node.gatherer || isWritten(blocks, index, bytes.length)) return;
    blocks.touched.delete(index);
    const goodUntilMs = performance.now() + limits.blockUseMs;
    this.#put({ blocks, index, data: Buffer.from(bytes), goodUntilMs, isUsed: false });
  }

  /** The server would not have it kept now. */
  refused(node: Node, index: number): void {
    blocksOf(node).touched.set(index, -READS_AFTER_REFUSAL);
  }

  #put(block: Block): void {
    const earlier = block.blocks.known.get(block.index);
    if (earlier) this.#drop(earlier);
    while (!this.#budget.take()) {
      const [oldest] = this.#all;
      if (oldest === undefined) return;
      this.#all.delete(oldest);
      if (oldest.isUsed) {
        oldest.isUsed = false;
        this.#all.add(oldest);
      } else this.#drop(oldest);
    }
    block.blocks.known.set(block.index, block);
    this.#all.add(block);
  }

  #drop(block: Block): void {
    if (!block.blocks.known.delete(block.index)) return;
    this.#all.delete(block);
    this.#budget.giveBack(1);
  }

  // --- changes

  /**
   * Does `work`, which writes `data` at `start`, an append at infinity, and resolves with how many bytes were written; other
   * than a number: no one knows which.
   */
  async writing<T>(node: Node, start: number, data: Uint8Array, work: () => Promise<T>): Promise<T> {
    const write = this.beginWrite(node, start, start + data.length);
    try {
      const written = await work();
      this.endWrite(node, write, written === data.length && Number.isFinite(start) ? data : undefined);
      return written;
    } catch (error) {
      if (error instanceof UnansweredError) blocksOf(node).unanswered = hull(blocksOf(node).unanswered, write);
      this.endWrite(node, write);
      throw error;
    }
  }

  /** This mount writes bytes [start, end) from now on, until `endWrite`. */
  beginWrite(node: Node, start: number, end: number): OwnWrite {
    const blocks = blocksOf(node);
    blocks.changedAt = ++this.#clock;
    const taken: Block[] = [];
    for (const block of blocks.known.size > 0 ? blocksIn(blocks, start, end) : []) {
      taken.push(block);
      this.#drop(block);
    }
    const write = { start, end, taken, changedAt: this.#clock };
    blocks.ownWrites.add(write);
    return write;
  }

  /** `written`: all of it is done, and nothing else. */
  endWrite(node: Node, write: OwnWrite, written?: Uint8Array): void {
    const blocks = blocksOf(node);
    blocks.ownWrites.delete(write);
    const isUndisturbed = blocks.changedAt === write.changedAt && this.#clearedAt < write.changedAt;
    blocks.changedAt = ++this.#clock;
    if (!written?.length || !isUndisturbed || blocks.handles.size === 0 || node.gatherer) return;
    for (const { index, data, goodUntilMs } of write.taken) {
      const after = patched(data, write.start - index * BLOCK_BYTES, written);
      this.#put({ blocks, index, data: after, goodUntilMs, isUsed: true });
    }
  }

  /** The server wants them back; null: all. */
  recalled(node: Node, indexes: readonly number[] | null): void {
    const blocks = blocksOf(node);
    blocks.changedAt = ++this.#clock;
    const gone = indexes ?? [...blocks.known.keys()];
    for (const index of gone) {
      const block = blocks.known.get(index);
      if (block) this.#drop(block);
    }
    if (indexes === null) blocks.touched.clear();
    else for (const index of indexes) blocks.touched.delete(index);
  }

  clear(node: Node): void {
    if (node.blocks) this.recalled(node, null);
  }

  /** No lease holds any more. */
  clearAll(): void {
    this.#clearedAt = ++this.#clock;
    for (const block of [...this.#all]) this.#drop(block);
  }
}

function blocksOf(node: Node): NodeBlocks {
  node.blocks ??= {
    known: new Map(),
    touched: new Map(),
    ownWrites: new Set(),
    unanswered: undefined,
    changedAt: 0,
    handles: new Set(),
  };
  return node.blocks;
}

function hull(one: Bytes | undefined, { start, end }: Bytes): Bytes {
  return one ? { start: Math.min(one.start, start), end: Math.max(one.end, end) } : { start, end };
}

/** A block in which the file ends says so of all that lies behind. */
function isIn(index: number, bytes: number, start: number, end: number): boolean {
  const isEnd = bytes < BLOCK_BYTES;
  return index * BLOCK_BYTES < end && (isEnd || start < (index + 1) * BLOCK_BYTES);
}

function blocksIn({ known }: NodeBlocks, start: number, end: number): Block[] {
  return [...known.values()].filter(({ index, data }) => isIn(index, data.length, start, end));
}

function isWritten({ ownWrites, unanswered }: NodeBlocks, index: number, bytes: number): boolean {
  for (const { start, end } of ownWrites) if (isIn(index, bytes, start, end)) return true;
  return unanswered !== undefined && isIn(index, bytes, unanswered.start, unanswered.end);
}

/** `written` begins at `at`, counted from the start of the block, which may lie before or behind it. */
function patched(data: Buffer, at: number, written: Uint8Array): Buffer {
  const end = Math.min(BLOCK_BYTES, Math.max(data.length, at + written.length));
  const block = Buffer.alloc(end);
  block.set(data);
  const from = Math.max(0, at);
  if (from < end) block.set(written.subarray(from - at, from - at + end - from), from);
  return block;
}
