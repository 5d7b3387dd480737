/** Twins against a file that several kernels have pages of: what each stores in bytes of its own is never lost, nor seen old. */
import fc from 'fast-check';
import { afterEach, expect, test } from 'vitest';
import { BlockBudget } from '../../client-fuse/vfs/block-cache.ts';
import { PAGE_BYTES, PageTwins } from '../../client-fuse/vfs/page-twins.ts';
import { limits } from '../../shared/limits.ts';

const PAGES = 3;
const SIZE = PAGES * PAGE_BYTES - 100;
const KERNELS = 3;

const { maxTwinsOfFile } = limits;
afterEach(() => Object.assign(limits, { maxTwinsOfFile }));

/** One machine's page cache over the file, and the client that sends what it writes back. */
class Kernel {
  readonly #file: Buffer;
  readonly #pages = new Map<number, Buffer>();
  readonly #dirty = new Set<number>();
  readonly twins = new PageTwins(new BlockBudget(limits.maxTwins));
  #reads = 0;

  constructor(file: Buffer) {
    this.#file = file;
  }

  load(index: number): number {
    const at = this.#pages.get(Math.floor(index / PAGE_BYTES))?.[index % PAGE_BYTES];
    if (at !== undefined) return at;
    this.#fault(Math.floor(index / PAGE_BYTES));
    return this.load(index);
  }

  store(index: number, value: number): void {
    this.load(index);
    const page = Math.floor(index / PAGE_BYTES);
    (this.#pages.get(page) as Buffer)[index % PAGE_BYTES] = value;
    this.#dirty.add(page);
  }

  /** With the next page, as reading ahead does, if the kernel has not got that one. */
  #fault(page: number): void {
    const count = page + 1 < PAGES && !this.#pages.has(page + 1) ? 2 : 1;
    const offset = page * PAGE_BYTES;
    const data = this.#file.subarray(offset, offset + count * PAGE_BYTES);
    this.twins.remember(++this.#reads, offset, count * PAGE_BYTES, data);
    for (let one = 0; one < count; one++) {
      const bytes = Buffer.alloc(PAGE_BYTES);
      data.copy(bytes, 0, one * PAGE_BYTES, (one + 1) * PAGE_BYTES);
      this.#pages.set(page + one, bytes);
    }
  }

  /** The program is told of an error, and stores again. */
  tryAgain(): void {
    for (const page of this.#pages.keys()) this.#dirty.add(page);
  }

  /** Neighbours in one request. The server refuses part `refused`; the kernel holds the pages for clean all the same. */
  writeBack(refused = -1): void {
    for (let page = 0; page < PAGES; page++) {
      if (!this.#dirty.has(page)) continue;
      const run: Buffer[] = [];
      const first = page;
      for (; this.#dirty.delete(page); page++) run.push(this.#pages.get(page) as Buffer);
      const offset = first * PAGE_BYTES;
      const data = Buffer.concat(run).subarray(0, SIZE - offset);
      for (const [number, { start, end }] of this.twins.differences(offset, data).entries()) {
        if (number === refused) continue;
        const part = data.subarray(start - offset, end - offset);
        part.copy(this.#file, start);
        this.twins.wrote(start, part);
      }
    }
  }

  /** All of it is written back before. */
  drop(): void {
    this.writeBack();
    this.#pages.clear();
    this.twins.dropped(++this.#reads);
  }
}

const step = fc.record({
  kernel: fc.nat(KERNELS - 1),
  kind: fc.constantFrom('store' as const, 'store' as const, 'lock' as const, 'write back' as const, 'fail' as const),
  // Few bytes, many of them side by side.
  index: fc.oneof(fc.nat(11), fc.integer({ min: PAGE_BYTES - 6, max: PAGE_BYTES + 6 }), fc.nat(SIZE - 1)),
  value: fc.nat(255),
});

test('each kernel stores in bytes of its own, between locks: all of it is there, and seen under the next lock', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200, size: 'max' }), (steps) => {
      const file = Buffer.alloc(SIZE);
      const meant = Buffer.alloc(SIZE);
      const kernels = Array.from({ length: KERNELS }, () => new Kernel(file));
      for (const { kernel: number, kind, index, value } of steps) {
        const kernel = kernels[number] as Kernel;
        // Byte n is the business of the kernel n % KERNELS.
        const own = index - (index % KERNELS) + number;
        if (kind === 'lock') {
          kernel.drop();
          for (let at = number; at < SIZE; at += KERNELS) if (file[at] !== meant[at]) expect.fail(`lost at ${at}`);
          expect(kernel.load(index)).toBe(file[index]);
        } else if (kind === 'write back') kernel.writeBack();
        else if (kind === 'fail') {
          kernel.writeBack(index % 3);
          kernel.tryAgain();
        } else if (own < SIZE) {
          kernel.store(own, value);
          meant[own] = value;
        }
      }
      for (const kernel of kernels) kernel.drop();
      expect(file.equals(meant)).toBe(true);
      expect(kernels.map(({ twins }) => twins.size)).toEqual([0, 0, 0]);
    }),
    { numRuns: Number(process.env.TWIN_RUNS ?? 200) },
  );
});

test('ranges are what differs, no more and no less', () => {
  // Few runs: mostly one byte.
  const bits = fc.array(fc.record({ at: fc.nat(PAGE_BYTES - 1), length: fc.nat(9), byte: fc.nat(1) }), {
    maxLength: 60,
  });
  const page = bits.map((all) =>
    all.reduce(
      (data, { at, length, byte }) => data.fill(byte, at, Math.min(PAGE_BYTES, at + length)),
      Buffer.alloc(PAGE_BYTES),
    ),
  );
  fc.assert(
    fc.property(page, page, fc.nat(PAGE_BYTES), (before, after, cut) => {
      const twins = new PageTwins(new BlockBudget(1));
      twins.remember(1, PAGE_BYTES, PAGE_BYTES, before);
      const written = after.subarray(0, cut);
      const ranges = twins.differences(PAGE_BYTES, written);
      const inside = (at: number) => ranges.some(({ start, end }) => start - PAGE_BYTES <= at && at < end - PAGE_BYTES);
      const isRight = (at: number) => inside(at) === (at < cut && before[at] !== after[at]);
      expect(Array.from({ length: PAGE_BYTES }, (_, at) => isRight(at))).not.toContain(false);
      for (const [number, { start }] of ranges.entries()) expect(start).not.toBe(ranges[number - 1]?.end);
    }),
    { numRuns: 50 },
  );
});
