/** Changes that the next process of the server reads: whole, after whatever end of the one before. */
import { appendFileSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { KeptChangesFile } from '../../server/session/kept-changes.ts';
import { silent, TemporaryDirectory } from '../support/fixture.ts';

const INODE = Buffer.from([0, 10, 255, 34, 92]).toString('latin1');

let directory: TemporaryDirectory;
let path: string;
const kept = (where = directory.path) => new KeptChangesFile(where, silent);

beforeEach(() => {
  directory = new TemporaryDirectory();
  path = directory.join('changes.journal');
});
afterEach(() => directory[Symbol.dispose]());

test('what was added is read again, any bytes among it, until others take its place', () => {
  expect(kept().read()).toEqual([]);
  kept().add([`data ${INODE}`, 'one']);
  kept().add(['data b', 'two']);
  expect(kept().read()).toEqual([
    [`data ${INODE}`, 'one'],
    ['data b', 'two'],
  ]);
  kept().replace([['data c', 'three']]);
  expect(kept().read()).toEqual([['data c', 'three']]);
});

test('nobody else may read whose sessions they are', () => {
  kept().read();
  kept().add(['data a', 'one']);
  expect(statSync(path).mode & 0o777).toBe(0o600);
});

test('a line that was cut short is left out, and no other', () => {
  kept().add(['data a', 'one']);
  kept().add(['data b', 'two']);
  truncateSync(path, readFileSync(path).length - 4);
  expect(kept().read()).toEqual([['data a', 'one']]);
  kept().add(['data c', 'three']);
  kept().add(['data d', 'four']);
  expect(
    kept()
      .read()
      .map(([about]) => about),
  ).toEqual(['data a', 'data c', 'data d']);
});

test('what is no change is left out', () => {
  writeFileSync(path, '5\n{}\nnull\n');
  appendFileSync(path, '["data a","one"]\n');
  expect(kept().read()).toEqual([['data a', 'one']]);
});

test('a place that cannot be written is no error of whoever changes something', () => {
  const nowhere = kept(directory.join('missing'));
  nowhere.add(['data a', 'one']);
  nowhere.replace([]);
  expect(nowhere.read()).toEqual([]);
});
