/**
 * The unit of the overlap benchmark: 32 bytes that say which write they belong to, and where. Every write is a whole
 * number of units at a multiple of 32 bytes, so writes may begin and end anywhere in a page, and a page, or a single
 * unit, that mixes two writes is recognised.
 *
 *   byte  0        4        8         12         16            20             24       28
 *        +--------+--------+---------+----------+-------------+--------------+--------+--------+
 *        | place  | run    | writer  | sequence | first unit  | unit count   | check  | ~check |
 *        +--------+--------+---------+----------+-------------+--------------+--------+--------+
 *          offset   nonce                         of the write  of the write   hash of words 1-5
 *          / 32                                                                 (all u32, host order)
 */
export const UNIT_BYTES = 32;
export const UNITS_PER_PAGE = 4096 / UNIT_BYTES;
const WORDS = UNIT_BYTES / 4;

/** The writer of a unit that no write can have left like this: of an earlier run, misplaced, zero, or mixed inside. */
export const GARBLED = -1;

/** One whole write, as its units name it. Writers count from 1, each its own sequence from 1; writer 0 is the initial content. */
export interface WriteTag {
  readonly writer: number;
  readonly sequence: number;
  readonly startUnit: number;
  readonly unitCount: number;
}

/** Consecutive units of a read that show the same write. */
export interface UnitRun {
  readonly startUnit: number;
  readonly unitCount: number;
  /** What the units say; its writer is GARBLED when they say nothing that can be. */
  readonly tag: WriteTag;
}

const garbledTag: WriteTag = { writer: GARBLED, sequence: 0, startUnit: 0, unitCount: 0 };

function checkOf(run: number, writer: number, sequence: number, startUnit: number, unitCount: number): number {
  let hash = 0x811c9dc5;
  hash = Math.imul(hash ^ run, 0x01000193);
  hash = Math.imul((hash >>> 15) ^ hash ^ writer, 0x85ebca6b);
  hash = Math.imul((hash >>> 13) ^ hash ^ sequence, 0xc2b2ae35);
  hash = Math.imul((hash >>> 16) ^ hash ^ startUnit, 0x21f0aaad);
  hash = Math.imul((hash >>> 15) ^ hash ^ unitCount, 0x735a2d97);
  return (hash ^ (hash >>> 15)) >>> 0;
}

/** Fills `words` with the units of one write, or with `unitCount` of them from `startUnit` on. */
export function stampWrite(
  words: Uint32Array,
  runNonce: number,
  tag: WriteTag,
  { startUnit, unitCount }: { readonly startUnit: number; readonly unitCount: number } = tag,
): void {
  const check = checkOf(runNonce, tag.writer, tag.sequence, tag.startUnit, tag.unitCount);
  const end = unitCount * WORDS;
  let place = startUnit;
  for (let base = 0; base < end; base += WORDS) {
    words[base] = place++;
    words[base + 1] = runNonce;
    words[base + 2] = tag.writer;
    words[base + 3] = tag.sequence;
    words[base + 4] = tag.startUnit;
    words[base + 5] = tag.unitCount;
    words[base + 6] = check;
    words[base + 7] = ~check;
  }
}

function tagAt(words: Uint32Array, base: number, place: number, runNonce: number): WriteTag {
  const word = (index: number) => words[base + index] as number;
  const tag = { writer: word(2), sequence: word(3), startUnit: word(4), unitCount: word(5) };
  const check = checkOf(runNonce, tag.writer, tag.sequence, tag.startUnit, tag.unitCount);
  const valid =
    word(0) === place &&
    word(1) === runNonce &&
    word(6) === check &&
    word(7) === ~check >>> 0 &&
    place >= tag.startUnit &&
    place < tag.startUnit + tag.unitCount;
  return valid ? tag : garbledTag;
}

/** Reads the units of one read, which began at `startUnit`, back into runs of the same write. */
export function scanUnits(words: Uint32Array, startUnit: number, unitCount: number, runNonce: number): UnitRun[] {
  const runs: UnitRun[] = [];
  let index = 0;
  while (index < unitCount) {
    const place = startUnit + index;
    const tag = tagAt(words, index * WORDS, place, runNonce);
    const count = tag === garbledTag ? 1 : sameFrom(words, index, unitCount, place, tag.startUnit + tag.unitCount);
    const previous = runs[runs.length - 1];
    if (tag === garbledTag && previous?.tag === garbledTag) {
      runs[runs.length - 1] = { ...previous, unitCount: previous.unitCount + 1 };
    } else {
      runs.push({ startUnit: place, unitCount: count, tag });
    }
    index += count;
  }
  return runs;
}

/**
 * How many units from `index` on repeat its tag, each in its place. The hot loop of a reader, hence unrolled and on signed
 * words, which stay machine integers: 7 GB/s, where a loop over unsigned ones makes 3.
 */
function sameFrom(words: Uint32Array, index: number, unitCount: number, place: number, writeEnd: number): number {
  const most = Math.min(unitCount - index, writeEnd - place);
  const ints = new Int32Array(words.buffer, words.byteOffset + index * UNIT_BYTES, most * WORDS);
  const [, run, writer, sequence, startUnit, length, check, inverted] = ints;
  let count = 1;
  for (let base = WORDS; count < most; base += WORDS, count++) {
    const same =
      ints[base] === ((place + count) | 0) &&
      ints[base + 1] === run &&
      ints[base + 2] === writer &&
      ints[base + 3] === sequence &&
      ints[base + 4] === startUnit &&
      ints[base + 5] === length &&
      ints[base + 6] === check &&
      ints[base + 7] === inverted;
    if (!same) break;
  }
  return count;
}
