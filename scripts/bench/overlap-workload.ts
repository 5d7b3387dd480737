/**
 * Which ranges the callers of an overlap run write and read: a half of them whole slots (ranges that coincide exactly),
 * a quarter page aligned anywhere (overlaps in part), a quarter at any unit with an odd length (begins and ends in the
 * middle of a page). All inside one region of the file; `--disjoint` gives each writer its own.
 */
import { Random } from './random.ts';
import { UNITS_PER_PAGE } from './tagged-unit.ts';

export interface UnitRange {
  readonly startUnit: number;
  readonly unitCount: number;
}

export interface OverlapWorkload {
  readonly region: UnitRange;
  /** Sizes to choose from, each a whole number of pages and no larger than the region. */
  readonly sizesUnits: readonly number[];
  /** Page-aligned ranges only: O_DIRECT takes no others. */
  readonly wholePages: boolean;
}

export class RangeSource {
  readonly #random: Random;
  readonly #workload: OverlapWorkload;

  constructor(workload: OverlapWorkload, seed: number, caller: number) {
    this.#workload = workload;
    this.#random = new Random(seed, caller);
  }

  next(): UnitRange {
    const { region, sizesUnits, wholePages } = this.#workload;
    const size = this.#random.pick(sizesUnits);
    const kind = this.#random.below(4);
    if (kind < 2) return this.#range(region, this.#random.below(Math.floor(region.unitCount / size)) * size, size);
    if (kind === 2 || wholePages) {
      const pages = (region.unitCount - size) / UNITS_PER_PAGE;
      return this.#range(region, this.#random.below(Math.floor(pages) + 1) * UNITS_PER_PAGE, size);
    }
    const unitCount = size - this.#random.below(UNITS_PER_PAGE);
    return this.#range(region, this.#random.below(region.unitCount - unitCount + 1), unitCount);
  }

  #range(region: UnitRange, startUnit: number, unitCount: number): UnitRange {
    return { startUnit: region.startUnit + startUnit, unitCount };
  }
}
