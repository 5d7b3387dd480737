/**
 * Where the kernel missed pages of one file, by regions: which of them are worth bringing whole. Pure, but for its memory; owned by the
 * node.
 *
 * Nobody can know whether what lies around a page will be read. So a region is brought when as much was spent on single reads of it as
 * it costs itself: whatever comes, that is at most twice the best that could have been done (the ski rental problem). Where it
 * is missed again the kernel has not kept it, and twice as many reads are waited for.
 */
import { MiB, PAGE_SIZE } from '../../shared/limits.ts';

export const REGION_BYTES = 1 * MiB;
/** Never for fewer reads, however fast the line: programs that read a little here and there are not to move whole files. */
const LEAST_MISSES = 8;
/** That is each page of it, once. */
const MOST_MISSES = REGION_BYTES / PAGE_SIZE;
/** Some 100 bytes each; beyond, those that were missed first are forgotten. */
const MOST_REGIONS = 4_096;

interface Region {
  misses: number;
  /** How often it was brought. */
  brought: number;
}

export class MissedRegions {
  readonly #regions = new Map<number, Region>();

  /** A read in the region asked the server. True: it is worth bringing, which costs as much as `price` reads. */
  missed(index: number, price: number): boolean {
    let region = this.#regions.get(index);
    if (region === undefined) {
      if (this.#regions.size >= MOST_REGIONS) this.#regions.delete(this.#regions.keys().next().value as number);
      region = { misses: 0, brought: 0 };
      this.#regions.set(index, region);
    }
    const wanted = Math.max(price, LEAST_MISSES) * 2 ** region.brought;
    return ++region.misses >= Math.min(wanted, MOST_MISSES);
  }

  brings(index: number): void {
    this.#regions.set(index, { misses: 0, brought: (this.#regions.get(index)?.brought ?? 0) + 1 });
  }
}
