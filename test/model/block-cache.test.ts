/**
 * The blocks that the holder of an exclusive lease keeps: whatever it reads and writes, and however long the server takes,
 * a read shows what all writes before it left, and nothing beyond the end of the file.
 */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { BlockBudget, BlockCache, type BlockSource } from '../../client-fuse/vfs/block-cache.ts';
import { BLOCK_BYTES } from '../../shared/limits.ts';

const FILE_BLOCKS = 3;
const offset = fc.oneof(
  fc.nat(FILE_BLOCKS * BLOCK_BYTES),
  fc.constantFrom(0, BLOCK_BYTES - 3, BLOCK_BYTES, 2 * BLOCK_BYTES - 1),
);
const size = fc.oneof(fc.integer({ min: 1, max: 9 }), fc.constant(4096), fc.constant(BLOCK_BYTES));
const step = fc.oneof(
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('read' as const), offset, size }) },
  {
    weight: 4,
    arbitrary: fc.record({ kind: fc.constant('write' as const), offset, size, byte: fc.integer({ min: 1, max: 255 }) }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('truncate' as const), offset }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('answer' as const) }) },
);

test.each([0, 1, 2, 8])('with room for %i blocks', async (room) => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
      let file = Buffer.alloc(100, 1);
      /** What the server says of a part: it may end earlier there, where nothing but zeros are behind it. */
      const there = (from: number, count: number) => {
        const part = Buffer.from(file.subarray(from, from + count));
        return part.subarray(0, part.findLastIndex((byte) => byte !== 0) + 1);
      };
      const waiting: (() => void)[] = [];
      const later = <T>(look: () => T) => new Promise<T>((resolve) => waiting.push(() => resolve(look())));
      const budget = new BlockBudget(room);
      const source: BlockSource = {
        read: (from, count) => later(() => Buffer.from(file.subarray(from, from + count))),
        readThere: (from, count) => later(() => there(from, count)),
        size: () => later(() => file.length),
      };
      const cache = new BlockCache(source, budget);
      const reads: Promise<void>[] = [];
      let writes = 0;
      for (const one of steps) {
        if (one.kind === 'answer') {
          waiting.shift()?.();
          await new Promise(setImmediate);
        } else if (one.kind === 'read') {
          const expected = Buffer.from(file.subarray(one.offset, one.offset + one.size));
          const asOf = writes;
          // The bytes are good for this turn only, so they are compared at once. A write since may show, or not.
          reads.push(
            cache.read(one.offset, one.size).then((data) => {
              if (asOf === writes) expect(Buffer.compare(data, expected)).toBe(0);
            }),
          );
        } else if (one.kind === 'write') {
          writes++;
          const end = one.offset + one.size;
          if (end > file.length) file = Buffer.concat([file, Buffer.alloc(end - file.length)]);
          const data = Buffer.alloc(one.size, one.byte);
          data.copy(file, one.offset);
          cache.write(one.offset, data);
        } else {
          writes++;
          file = Buffer.concat([file.subarray(0, one.offset), Buffer.alloc(Math.max(0, one.offset - file.length))]);
          cache.clear();
        }
      }
      while (waiting.length > 0) {
        waiting.shift()?.();
        await new Promise(setImmediate);
      }
      await Promise.all(reads);
      cache.clear();
      for (let block = 0; block < room; block++) expect(budget.take()).toBe(true);
      expect(budget.take()).toBe(false);
    }),
    { numRuns: 150 },
  );
});
