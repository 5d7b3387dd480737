import { closeSync, openSync, readFileSync } from 'node:fs';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { writeFully } from '../../server/store/whole-transfers.ts';
import { errno } from '../../shared/errno.ts';
import { KiB } from '../../shared/limits.ts';
import { TemporaryDirectory } from '../support/fixture.ts';

/** Too large to be written at once. */
const PART_BYTES = 64 * KiB;

let directory: TemporaryDirectory;
let path: string;

beforeEach(() => {
  directory = new TemporaryDirectory();
  path = directory.join('file');
});

afterEach(() => directory[Symbol.dispose]());

test('writes through one descriptor are done in the order in which they were asked for', async () => {
  const fd = openSync(path, 'a');
  const parts = Array.from({ length: 40 }, (_, index) => Buffer.alloc(PART_BYTES, index));
  const written = await Promise.all(parts.map((part) => writeFully(fd, part, null)));
  closeSync(fd);
  expect(written).toEqual(parts.map(() => PART_BYTES));
  expect(readFileSync(path).equals(Buffer.concat(parts))).toBe(true);
});

test('one that fails holds up none that waits for it', async () => {
  const unwritable = openSync('/dev/zero', 'r');
  const results = await Promise.allSettled([0, 1, 2].map(() => writeFully(unwritable, Buffer.alloc(PART_BYTES), 0)));
  closeSync(unwritable);
  for (const result of results) expect(result).toMatchObject({ status: 'rejected', reason: { code: errno.EBADF } });
  // The descriptor's number is used again.
  const fd = openSync(path, 'w');
  expect(fd).toBe(unwritable);
  expect(await writeFully(fd, Buffer.alloc(PART_BYTES, 7), 0)).toBe(PART_BYTES);
  closeSync(fd);
});
