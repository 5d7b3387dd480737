import { expect, test } from 'vitest';
import { RoundTrip } from '../../client-fuse/transport/round-trip.ts';

function after(...answersMs: number[]): number {
  const line = new RoundTrip();
  for (const ms of answersMs) line.answered(ms);
  return line.ms;
}

const times = (count: number, ms: number): number[] => Array.from({ length: count }, () => ms);

test('a line is as quick as its quickest answer, whatever others waited for', () => {
  expect(after(0.2, ...times(20, 8))).toBeLessThan(2);
  expect(after(...times(500, 8), 0.2)).toBe(0.2);
});

test('a slow line is known by its first answer', () => {
  expect(after()).toBe(0);
  expect(after(10)).toBe(10);
  expect(after(10, 500)).toBeLessThan(15);
});

test('a line that has become slow is known to be after some hundred answers', () => {
  expect(after(0.2, ...times(300, 10))).toBeGreaterThan(9);
});
