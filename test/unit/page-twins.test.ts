/** Twins of pages: which of them there are, and what becomes of them. What they are for: test/model/page-twins.test.ts. */
import { afterEach, expect, test } from 'vitest';
import { BlockBudget } from '../../client-fuse/vfs/block-cache.ts';
import { PAGE_BYTES, PageTwins } from '../../client-fuse/vfs/page-twins.ts';
import { limits } from '../../shared/limits.ts';

const { maxTwinsOfFile } = limits;
afterEach(() => Object.assign(limits, { maxTwinsOfFile }));

const filled = (byte: number, length = PAGE_BYTES) => Buffer.alloc(length, byte);
const whole = (index: number) => [{ start: index * PAGE_BYTES, end: (index + 1) * PAGE_BYTES }];
const at = (index: number) => index * PAGE_BYTES;

/** The page has a twin, filled with `byte`. */
function isTwin(twins: PageTwins, index: number, byte: number): boolean {
  return twins.differences(at(index), filled(byte)).length === 0;
}

test('a page without a twin is written back whole, with its neighbours joined', () => {
  const twins = new PageTwins(new BlockBudget(9));
  expect(twins.differences(at(1), filled(1))).toEqual(whole(1));
  expect(twins.differences(at(1), filled(1, 2 * PAGE_BYTES))).toEqual([{ start: at(1), end: at(3) }]);
  twins.remember(1, at(1), PAGE_BYTES, filled(1));
  const data = filled(1, 3 * PAGE_BYTES);
  data[PAGE_BYTES - 1] = 2;
  // The last byte of the page with a twin, and all of the two behind it.
  expect(twins.differences(at(1), data)).toEqual([{ start: at(2) - 1, end: at(4) }]);
});

test('a page at the end of the file is zeros beyond it', () => {
  const twins = new PageTwins(new BlockBudget(9));
  twins.remember(1, 0, 2 * PAGE_BYTES, filled(7, 10));
  expect(twins.differences(0, Buffer.concat([filled(7, 10), filled(0, 20)]))).toEqual([]);
  expect(isTwin(twins, 1, 0)).toBe(true);
});

test('of a page that was read in part nothing is known', () => {
  const twins = new PageTwins(new BlockBudget(9));
  twins.remember(1, 0, 3 * PAGE_BYTES, filled(1, 3 * PAGE_BYTES));
  twins.remember(2, 512, 2 * PAGE_BYTES, filled(2, 2 * PAGE_BYTES));
  expect(twins.differences(0, filled(1))).toEqual(whole(0));
  expect(isTwin(twins, 1, 2)).toBe(true);
  expect(twins.differences(at(2), filled(1))).toEqual(whole(2));
});

test('the result of an earlier read that comes later is not what the kernel has', () => {
  const twins = new PageTwins(new BlockBudget(9));
  twins.remember(2, 0, PAGE_BYTES, filled(2));
  twins.remember(1, 0, PAGE_BYTES, filled(1));
  expect(isTwin(twins, 0, 2)).toBe(true);
});

test('what was written back, cut off or made zeros is so in the twin', () => {
  const twins = new PageTwins(new BlockBudget(9));
  twins.remember(1, 0, 2 * PAGE_BYTES, filled(1, 2 * PAGE_BYTES));
  twins.wrote(PAGE_BYTES - 2, filled(2, 4));
  twins.zeroed(4, 8);
  twins.zeroed(at(2) - 3, Number.POSITIVE_INFINITY);
  const is = filled(1, 2 * PAGE_BYTES);
  is.fill(2, PAGE_BYTES - 2, PAGE_BYTES + 2)
    .fill(0, 4, 8)
    .fill(0, 2 * PAGE_BYTES - 3);
  expect(twins.differences(0, is)).toEqual([]);
});

test("zeros beyond the end of what was written back are the kernel's, and nobody's stores", () => {
  const twins = new PageTwins(new BlockBudget(9));
  twins.remember(1, 0, PAGE_BYTES, filled(1));
  const is = filled(1).fill(0, 10);
  twins.seen(0, is.subarray(0, 10));
  is[9] = 0;
  is[20] = 3;
  const stored = [
    { start: 9, end: 10 },
    { start: 20, end: 21 },
  ];
  expect(twins.differences(0, is)).toEqual(stored);
  // From now on it is known what the kernel has there, and a zero is as good as any other byte.
  twins.seen(0, is);
  twins.wrote(9, is.subarray(9, 10));
  twins.wrote(20, is.subarray(20, 21));
  is[20] = 0;
  expect(twins.differences(0, is)).toEqual([{ start: 20, end: 21 }]);
});

test('what came in before a drop goes with it, and what came in during it stays', () => {
  const budget = new BlockBudget(2);
  const twins = new PageTwins(budget);
  twins.remember(1, 0, PAGE_BYTES, filled(1));
  twins.remember(3, at(1), PAGE_BYTES, filled(3));
  twins.dropped(2);
  expect(twins.size).toBe(1);
  expect(isTwin(twins, 1, 3)).toBe(true);
  expect(budget.take()).toBe(true);
});

test('of a file the oldest go when there are too many, also when the mount has no more', () => {
  Object.assign(limits, { maxTwinsOfFile: 3 });
  const budget = new BlockBudget(4);
  const twins = new PageTwins(budget);
  for (const index of [0, 1, 2]) twins.remember(index, at(index), PAGE_BYTES, filled(index));
  twins.remember(3, 0, PAGE_BYTES, filled(9)); // in use
  twins.remember(4, at(3), PAGE_BYTES, filled(3));
  expect([9, 1, 2, 3].map((byte, index) => isTwin(twins, index, byte))).toEqual([true, false, true, true]);
  const others = new PageTwins(budget);
  others.remember(1, 0, PAGE_BYTES, filled(1));
  others.remember(2, at(1), PAGE_BYTES, filled(2));
  expect([isTwin(others, 0, 1), isTwin(others, 1, 2)]).toEqual([false, true]);
  const last = new PageTwins(budget);
  last.remember(1, 0, PAGE_BYTES, filled(1));
  expect(last.size).toBe(0);
  twins.clear();
  last.remember(2, 0, PAGE_BYTES, filled(1));
  expect(isTwin(last, 0, 1)).toBe(true);
});
