import { expect, test } from 'vitest';
import { IdleMemory } from '../../shared/idle-memory.ts';

/** What is done between two looks, and at which looks memory is given back. */
test.each([
  ['nothing', [0, 0, 0], []],
  ['little', [1000, 0, 1000, 0], []],
  ['much', [5000, 0, 0], [1]],
  ['much, and then renewals', [5000, 40, 40], [1]],
  ['much, then less and less', [5000, 800, 60, 10, 0], [3]],
  ['much, time and again', [5000, 5000, 0, 5000, 0, 0], [2, 4]],
] as const)('%s', (_what, counts, givenBack) => {
  const memory = new IdleMemory();
  let activities = 0;
  const looks = counts.map((count) => {
    activities += count;
    return memory.look(activities);
  });
  expect(looks.flatMap((isTime, index) => (isTime ? [index] : []))).toEqual(givenBack);
});
