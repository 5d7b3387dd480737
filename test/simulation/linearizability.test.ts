import { expect, test } from 'vitest';
import { type Call, isLinearizable, violations } from './linearizability.ts';
import { type DataCall, type DataResult, directoryObject, type NameCall, rangeObject } from './objects.ts';

const NEVER = Number.POSITIVE_INFINITY;
type Row = [began: number, ended: number, tag: number | undefined, result: DataResult | undefined];
const calls = (rows: Row[]): Call<DataCall, DataResult>[] =>
  rows.map(([began, ended, tag, result], process) => ({
    process,
    argument: tag === undefined ? { file: 'x' } : { file: 'x', tag },
    began,
    ended,
    result,
  }));
const read = undefined;

test.each<[string, Row[]]>([
  ['nothing', []],
  ['a read of what was there', [[1, 2, read, 0]]],
  [
    'reads that overlap a write see the old or the new',
    [
      [1, 6, 7, 'written'],
      [2, 3, read, 0],
      [4, 5, read, 7],
    ],
  ],
  [
    'two writes at once, in the order that the read tells',
    [
      [1, 4, 1, 'written'],
      [2, 3, 2, 'written'],
      [5, 6, read, 1],
    ],
  ],
  [
    'a write without an answer that was carried out late',
    [
      [1, NEVER, 1, undefined],
      [2, 3, read, 0],
      [4, 5, read, 1],
    ],
  ],
  [
    'a write without an answer that was not carried out',
    [
      [1, NEVER, 1, undefined],
      [2, 3, read, 0],
    ],
  ],
])('accepted: %s', (_name, rows) => {
  expect(isLinearizable(rangeObject, calls(rows))).toBe(true);
});

test.each<[string, Row[]]>([
  ['a value that nobody wrote', [[1, 2, read, 5]]],
  [
    'an old value after the write was answered',
    [
      [1, 2, 7, 'written'],
      [3, 4, read, 0],
    ],
  ],
  [
    'new, then old again',
    [
      [1, 6, 7, 'written'],
      [2, 3, read, 7],
      [4, 5, read, 0],
    ],
  ],
  [
    'a mixture of two writes',
    [
      [1, 4, 1, 'written'],
      [2, 3, 2, 'written'],
      [5, 6, read, 'torn'],
    ],
  ],
  [
    'two readers who saw two writes in different orders',
    [
      [1, 9, 1, 'written'],
      [1, 9, 2, 'written'],
      [2, 3, read, 1],
      [4, 5, read, 2],
      [6, 7, read, 1],
    ],
  ],
  [
    'a value of a write that had not begun',
    [
      [1, 2, read, 1],
      [3, 4, 1, 'written'],
    ],
  ],
])('rejected: %s', (_name, rows) => {
  expect(isLinearizable(rangeObject, calls(rows))).toBe(false);
});

/** A write that was answered, and of which nobody knows whether it lasted: until its answer, or never. */
test.each<[boolean, string, Row[]]>([
  [true, 'lasted', [[5, 6, read, 1]]],
  [true, 'did not last', [[5, 6, read, 0]]],
  [
    false,
    'came late',
    [
      [5, 6, read, 0],
      [7, 8, read, 1],
    ],
  ],
])('%s: an uncertain write %s', (isPossible, _name, rows) => {
  const [write, ...reads] = calls([[1, 4, 1, undefined], ...rows]) as [Call<DataCall, DataResult>];
  expect(isLinearizable(rangeObject, [{ ...write, isUncertain: true }, ...reads])).toBe(isPossible);
});

const names = (rows: [NameCall, number][]): Call<NameCall, number>[] =>
  rows.map(([argument, result], at) => ({ process: 0, argument, began: 2 * at, ended: 2 * at + 1, result }));

test('a directory: what was renamed is the same inode under the new name', () => {
  const history = names([
    [{ kind: 'make', name: 'a' }, 3],
    [{ kind: 'make', name: 'a' }, 0],
    [{ kind: 'rename', name: 'a', newName: 'b' }, 1],
    [{ kind: 'lookup', name: 'b' }, 3],
    [{ kind: 'lookup', name: 'a' }, 0],
    [{ kind: 'remove', name: 'b' }, 1],
  ]);
  expect(isLinearizable(directoryObject, history)).toBe(true);
});

test('a directory: a removal that was applied twice is told by its answer', () => {
  const history = names([
    [{ kind: 'make', name: 'a' }, 3],
    [{ kind: 'remove', name: 'a' }, 0],
  ]);
  expect(isLinearizable(directoryObject, history)).toBe(false);
});

test('each file is checked alone, and the guilty one is named', () => {
  const good = calls([
    [1, 2, 7, 'written'],
    [3, 4, read, 7],
  ]);
  const bad = calls([
    [1, 2, 7, 'written'],
    [3, 4, read, 0],
  ]).map((call) => ({
    ...call,
    argument: { ...call.argument, file: 'y' },
  }));
  expect(violations(rangeObject, [...good, ...bad], ({ file }) => file)).toEqual(['y']);
});

test('reads without an answer, however many, do not make the search longer', () => {
  const unanswered = Array.from({ length: 40 }, (): Row => [3, NEVER, read, undefined]);
  const row: Row[] = [[1, 2, 1, 'written'], ...unanswered, [4, 5, read, 2]];
  expect(isLinearizable(rangeObject, calls(row))).toBe(false);
});
