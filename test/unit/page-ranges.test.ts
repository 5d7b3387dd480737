import { expect, test } from 'vitest';
import { pagesFrom, pagesOf } from '../../server/state/page-range-lock-queue.ts';

const rows = [
  { offset: 0, length: 1, pages: { start: 0, end: 1 } },
  { offset: 0, length: 4096, pages: { start: 0, end: 1 } },
  { offset: 0, length: 4097, pages: { start: 0, end: 2 } },
  { offset: 4095, length: 1, pages: { start: 0, end: 1 } },
  { offset: 4095, length: 2, pages: { start: 0, end: 2 } },
  { offset: 4096, length: 0, pages: { start: 1, end: 2 } },
  { offset: 0, length: 0, pages: { start: 0, end: 1 } },
  { offset: 2 ** 52, length: 4096, pages: { start: 2 ** 40, end: 2 ** 40 + 1 } },
  { offset: Number.MAX_SAFE_INTEGER, length: 1, pages: { start: 2 ** 41 - 1, end: 2 ** 41 } },
];

test.each(rows)('$length bytes at $offset', ({ offset, length, pages }) => {
  expect(pagesOf(offset, length)).toEqual(pages);
});

test('from a byte on, its page included', () => {
  expect(pagesFrom(8191)).toEqual({ start: 1, end: Number.POSITIVE_INFINITY });
  expect(pagesFrom(8192)).toEqual({ start: 2, end: Number.POSITIVE_INFINITY });
});
