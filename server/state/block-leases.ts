/**
 * Which clients keep which blocks (64 KiB) of a file's data that somebody has open to write. A change of data recalls the
 * blocks in its way first, and nothing else. A block that was read short has shown where the file ends, so it is held as far
 * as there is no end: whatever grows the file or cuts it is in its way, without anybody knowing the size. Pure: no clock, no
 * messages; owned by the inode. `Holder` is a session to the server, and anything to a test.
 *
 * Invariants: a block is held only while no change is under way that is in its way, but for those whose holders are being asked.
 * Under contention nothing is granted for a while (back-off), so that it costs its writers next to nothing.
 */
import { limits } from '../../shared/limits.ts';

/** Blocks [start, end); `end` may be Infinity. */
export interface BlockRange {
  readonly start: number;
  readonly end: number;
}

/** What an append changes: what is seen by blocks that end with the file. */
export const END_OF_FILE: BlockRange = { start: Number.MAX_SAFE_INTEGER, end: Number.POSITIVE_INFINITY };
export const ALL_BLOCKS: BlockRange = { start: 0, end: Number.POSITIVE_INFINITY };

const FIRST_BACKOFF_MS = 150;
const LONGEST_BACKOFF_MS = 2_400;
const FORGIVEN_AFTER_MS = 10_000;
/** So many recalls of one file in a second cost its writers a few hundredths of it; then nothing more is granted in that second. */
const MOST_RECALLS = 32;
const WINDOW_MS = 1_000;
/** Blocks whose back-off is remembered. */
const MOST_CONTENDED = 1_024;

interface BackOff {
  ms: number;
  untilMs: number;
}

/** Blocks of one holder, in the order in which they were granted, and those of them that end with the file. */
interface Held {
  readonly blocks: Set<number>;
  readonly ends: Set<number>;
}

/** `blocks` null: all that it has. */
export interface BlockConflict<Holder> {
  readonly holder: Holder;
  readonly blocks: readonly number[] | null;
}

export class BlockLeases<Holder> {
  readonly #held = new Map<Holder, Held>();
  readonly #changes = new Set<BlockRange>();
  readonly #contended = new Map<number, BackOff>();
  readonly #all: BackOff = { ms: 0, untilMs: Number.NEGATIVE_INFINITY };
  #windowEndMs = Number.NEGATIVE_INFINITY;
  #recalls = 0;

  get isHeld(): boolean {
    return this.#held.size > 0;
  }

  get isIdle(): boolean {
    return this.#held.size === 0 && this.#changes.size === 0;
  }

  get holders(): Iterable<Holder> {
    return this.#held.keys();
  }

  count(holder: Holder): number {
    return this.#held.get(holder)?.blocks.size ?? 0;
  }

  holds(holder: Holder, block: number): boolean {
    return this.#held.get(holder)?.blocks.has(block) === true;
  }

  /** The blocks that it was granted first. */
  oldest(holder: Holder, count: number): number[] {
    const oldest: number[] = [];
    for (const block of this.#held.get(holder)?.blocks ?? []) {
      if (oldest.length >= count) break;
      oldest.push(block);
    }
    return oldest;
  }

  /** True when `holder` may keep the block as it was just read; `isEnd`: it was read short. */
  grant(holder: Holder, block: number, isEnd: boolean, nowMs: number): boolean {
    for (const change of this.#changes) if (isInTheWay(block, isEnd, change)) return false;
    const held = this.#held.get(holder);
    if (held === undefined && this.#held.size >= limits.maxHolders) return false;
    if (this.#isBackingOff(block, nowMs)) return false;
    const { blocks, ends } = held ?? { blocks: new Set<number>(), ends: new Set<number>() };
    if (held === undefined) this.#held.set(holder, { blocks, ends });
    blocks.add(block);
    // Never less than was granted before: that reply may be the one that is kept.
    if (isEnd) ends.add(block);
    return true;
  }

  #isBackingOff(block: number, nowMs: number): boolean {
    if (nowMs < this.#all.untilMs || (nowMs < this.#windowEndMs && this.#recalls >= MOST_RECALLS)) return true;
    const contended = this.#contended.get(block);
    return contended !== undefined && nowMs < contended.untilMs;
  }

  /**
   * `author` (nobody of ours: undefined) is about to change these blocks: who must give up what before. It keeps its own,
   * unless all are changed. Nothing in the way of `range` is granted until it is given to `endChange`, the same object.
   */
  beginChange(author: Holder | undefined, range: BlockRange, nowMs: number): BlockConflict<Holder>[] {
    this.#changes.add(range);
    const conflicts: BlockConflict<Holder>[] = [];
    const isAll = range.start === 0 && range.end === Number.POSITIVE_INFINITY;
    for (const [holder, held] of this.#held) {
      if (isAll) conflicts.push({ holder, blocks: null });
      else if (holder !== author) {
        const blocks = inTheWay(held, range);
        if (blocks.length > 0) conflicts.push({ holder, blocks });
      }
    }
    if (conflicts.length > 0) this.#backOff(conflicts, isAll, nowMs);
    return conflicts;
  }

  /** Some blocks are being taken back, and nothing changes: nothing is granted until `endChange`, lest the two cross. */
  beginTakingBack(range: BlockRange): void {
    this.#changes.add(range);
  }

  endChange(range: BlockRange): void {
    this.#changes.delete(range);
  }

  /** It gave them up, or they were taken from it; null: all. */
  drop(holder: Holder, blocks: readonly number[] | null): void {
    const held = this.#held.get(holder);
    if (held === undefined) return;
    for (const block of blocks ?? []) {
      held.blocks.delete(block);
      held.ends.delete(block);
    }
    if (blocks === null || held.blocks.size === 0) this.#held.delete(holder);
  }

  #backOff(conflicts: readonly BlockConflict<Holder>[], isAll: boolean, nowMs: number): void {
    if (nowMs >= this.#windowEndMs) {
      this.#windowEndMs = nowMs + WINDOW_MS;
      this.#recalls = 0;
    }
    this.#recalls += conflicts.length;
    if (isAll) return longer(this.#all, nowMs);
    for (const block of new Set(conflicts.flatMap(({ blocks }) => blocks ?? []))) {
      const contended = this.#contended.get(block) ?? { ms: 0, untilMs: Number.NEGATIVE_INFINITY };
      this.#contended.delete(block);
      this.#contended.set(block, contended);
      longer(contended, nowMs);
    }
    for (const block of this.#contended.keys()) {
      if (this.#contended.size <= MOST_CONTENDED) break;
      this.#contended.delete(block);
    }
  }
}

function longer(backOff: BackOff, nowMs: number): void {
  const isForgiven = nowMs > backOff.untilMs + FORGIVEN_AFTER_MS;
  backOff.ms = isForgiven ? FIRST_BACKOFF_MS : Math.min(LONGEST_BACKOFF_MS, Math.max(FIRST_BACKOFF_MS, backOff.ms * 2));
  backOff.untilMs = nowMs + backOff.ms;
}

function isInTheWay(block: number, isEnd: boolean, { start, end }: BlockRange): boolean {
  return block < end && (isEnd || start <= block);
}

/** A small write asks about a block or two of thousands. */
function inTheWay({ blocks, ends }: Held, range: BlockRange): number[] {
  if (range.end - range.start > blocks.size) {
    return [...blocks].filter((block) => isInTheWay(block, ends.has(block), range));
  }
  const found: number[] = [];
  for (let block = range.start; block < range.end; block++) if (blocks.has(block)) found.push(block);
  for (const block of ends) if (block < range.start) found.push(block);
  return found;
}
