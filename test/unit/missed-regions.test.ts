/** When a region of a file is worth bringing whole. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { MissedRegions, REGION_BYTES } from '../../client-fuse/vfs/missed-regions.ts';
import { PAGE_SIZE } from '../../shared/limits.ts';

/** How many reads of region `index` are missed until it is worth it. */
function missesUntilBrought(regions: MissedRegions, index: number, price: number): number {
  for (let misses = 1; ; misses++) {
    if (!regions.missed(index, price)) continue;
    regions.brings(index);
    return misses;
  }
}

describe('a region is brought', () => {
  test.each([
    ['on a fast line, of which nothing is known yet', 0, 8],
    ['where it costs as much as three reads', 3, 8],
    ['where it costs as much as twenty', 20, 20],
    ['where it costs more than all its pages', 10_000, REGION_BYTES / PAGE_SIZE],
  ])('%s', (_where, price, misses) => {
    expect(missesUntilBrought(new MissedRegions(), 5, price)).toBe(misses);
  });

  test('again after twice as many reads each time, at most when all its pages could have been', () => {
    const regions = new MissedRegions();
    const times = Array.from({ length: 8 }, () => missesUntilBrought(regions, 0, 0));
    expect(times).toEqual([8, 16, 32, 64, 128, 256, 256, 256]);
  });

  test('for its own reads only', () => {
    const regions = new MissedRegions();
    for (let index = 0; index < 4_000; index++) expect(regions.missed(index, 0)).toBe(false);
    expect(missesUntilBrought(regions, 17, 0)).toBe(7);
  });

  test('at the next read, where it could not be brought at once', () => {
    const regions = new MissedRegions();
    for (let misses = 1; misses < 8; misses++) regions.missed(0, 0);
    expect([regions.missed(0, 0), regions.missed(0, 0)]).toEqual([true, true]);
  });
});

test('of a large file the regions that were missed first are forgotten', () => {
  const regions = new MissedRegions();
  for (let misses = 1; misses < 8; misses++) regions.missed(0, 0);
  for (let index = 1; index <= 4_096; index++) regions.missed(index, 0);
  expect(missesUntilBrought(regions, 0, 0)).toBe(8);
});

test('whatever is read, bringing costs at most as much as was spent on single reads', () => {
  const reads = fc.array(fc.nat(6), { maxLength: 4_000 });
  fc.assert(
    fc.property(reads, fc.integer({ min: 8, max: 256 }), (indices, price) => {
      const regions = new MissedRegions();
      let brought = 0;
      for (const index of indices) {
        if (!regions.missed(index, price)) continue;
        regions.brings(index);
        brought++;
      }
      expect(brought * price).toBeLessThanOrEqual(indices.length);
    }),
  );
});
