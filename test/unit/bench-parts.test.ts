import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { alignedBuffer } from '../../scripts/bench/aligned-buffer.ts';
import { parseCount, parseDuration, parseSize, parseSizes } from '../../scripts/bench/bench-arguments.ts';
import { formatNumber, formatSize, formatTable } from '../../scripts/bench/bench-text.ts';
import { measureHtml } from '../../scripts/bench/html-report.ts';
import { LatencyHistogram } from '../../scripts/bench/latency-histogram.ts';
import { Meter } from '../../scripts/bench/measurement.ts';
import { ObservationBatch, visitObservations } from '../../scripts/bench/observation-batch.ts';
import { RangeSource } from '../../scripts/bench/overlap-workload.ts';
import type { ReadRecord } from '../../scripts/bench/serial-order.ts';
import {
  GARBLED,
  scanUnits,
  stampWrite,
  UNIT_BYTES,
  UNITS_PER_PAGE,
  type WriteTag,
} from '../../scripts/bench/tagged-unit.ts';
import type { WriteRecord } from '../../scripts/bench/write-history.ts';

const RUN = 0xcafe;

function stamped(tag: WriteTag): Uint32Array {
  const words = new Uint32Array((tag.unitCount * UNIT_BYTES) / 4);
  stampWrite(words, RUN, tag);
  return words;
}

describe('tagged units', () => {
  const a: WriteTag = { writer: 1, sequence: 5, startUnit: 10, unitCount: 6 };
  const b: WriteTag = { writer: 2, sequence: 9, startUnit: 12, unitCount: 2 };

  test('a write reads back as one run', () => {
    expect(scanUnits(stamped(a), 10, 6, RUN)).toEqual([{ startUnit: 10, unitCount: 6, tag: a }]);
  });

  test('a write over the middle of another reads back as three runs', () => {
    const words = stamped(a);
    words.set(stamped(b), 2 * 8);
    const runs = scanUnits(words, 10, 6, RUN).map((run) => [run.startUnit, run.unitCount, run.tag.writer]);
    expect(runs).toEqual([
      [10, 2, 1],
      [12, 2, 2],
      [14, 2, 1],
    ]);
  });

  test('any change of any word makes exactly that unit garbled', () => {
    fc.assert(
      fc.property(fc.nat(47), fc.integer({ min: 1, max: 0xffffffff }), (word, flip) => {
        const words = stamped(a);
        words[word] = ((words[word] as number) ^ flip) >>> 0;
        const garbled = scanUnits(words, 10, 6, RUN).filter((run) => run.tag.writer === GARBLED);
        expect(garbled).toMatchObject([{ startUnit: 10 + Math.floor(word / 8), unitCount: 1 }]);
      }),
    );
  });

  test('a unit whose halves are of two writes is garbled, wherever the border is', () => {
    for (let border = 1; border < 8; border++) {
      const words = stamped(a);
      const other = stamped({ ...a, writer: 3, sequence: 77 });
      words.set(other.subarray(8 + border, 16), 8 + border);
      // The first two words, place and run, are the same in every write.
      expect(scanUnits(words, 10, 6, RUN)[1]).toMatchObject({
        startUnit: 11,
        tag: { writer: border <= 2 ? 3 : GARBLED },
      });
    }
  });

  test('zeros, another run, another place, outside of the own range: garbled', () => {
    expect(scanUnits(new Uint32Array(16), 0, 2, RUN)).toMatchObject([
      { startUnit: 0, unitCount: 2, tag: { writer: GARBLED } },
    ]);
    expect(scanUnits(stamped(a), 10, 6, RUN + 1)).toMatchObject([{ unitCount: 6, tag: { writer: GARBLED } }]);
    expect(scanUnits(stamped(a), 11, 6, RUN)).toMatchObject([{ unitCount: 6, tag: { writer: GARBLED } }]);
    const shifted = new Uint32Array(6 * 8);
    stampWrite(shifted, RUN, { ...a, unitCount: 3 }, { startUnit: 10, unitCount: 6 });
    expect(scanUnits(shifted, 10, 6, RUN)).toMatchObject([
      { unitCount: 3, tag: { writer: 1 } },
      { unitCount: 3, tag: { writer: GARBLED } },
    ]);
  });
});

test('observations survive packing', () => {
  const number = fc.nat(2 ** 31);
  const tag = fc.record({
    writer: fc.integer({ min: -1, max: 500 }),
    sequence: number,
    startUnit: number,
    unitCount: number,
  });
  const time = fc.oneof(fc.nat(2 ** 40), fc.constant(Infinity));
  const write = fc.record({
    writer: number,
    sequence: number,
    startUnit: number,
    unitCount: number,
    issuedNs: time,
    acknowledgedNs: time,
    whole: fc.boolean(),
  });
  const run = fc.record({ startUnit: number, unitCount: number, tag });
  const read = fc.record({
    reader: number,
    startUnit: number,
    unitCount: number,
    issuedNs: time,
    returnedNs: time,
    runs: fc.array(run),
  });
  fc.assert(
    fc.property(fc.array(fc.oneof(write, read)), (records) => {
      const batch = new ObservationBatch();
      for (const record of records) 'runs' in record ? batch.addRead(record) : batch.addWrite(record);
      const seen: (WriteRecord | ReadRecord)[] = [];
      visitObservations(batch.take(), { write: (record) => seen.push(record), read: (record) => seen.push(record) });
      expect(seen).toEqual(records);
      expect(batch.take().length).toBe(0);
    }),
  );
});

describe('ranges', () => {
  const workload = { region: { startUnit: 1024, unitCount: 4096 }, sizesUnits: [512, 2048], wholePages: false };

  test('stay in their region, coincide, overlap in part, and are aligned and not', () => {
    const source = new RangeSource(workload, 1, 1);
    const ranges = Array.from({ length: 1000 }, () => source.next());
    for (const { startUnit, unitCount } of ranges) {
      expect(startUnit).toBeGreaterThanOrEqual(1024);
      expect(startUnit + unitCount).toBeLessThanOrEqual(1024 + 4096);
      expect(unitCount).toBeGreaterThan(0);
    }
    const slots = ranges.filter((range) => range.startUnit === 1024 && range.unitCount === 2048).length;
    const unaligned = ranges.filter((range) => range.startUnit % UNITS_PER_PAGE !== 0).length;
    expect(slots).toBeGreaterThan(50);
    expect(unaligned).toBeGreaterThan(150);
  });

  test('are whole pages for O_DIRECT', () => {
    const source = new RangeSource({ ...workload, wholePages: true }, 1, 1);
    for (let i = 0; i < 500; i++) {
      const { startUnit, unitCount } = source.next();
      expect([startUnit % UNITS_PER_PAGE, unitCount % UNITS_PER_PAGE]).toEqual([0, 0]);
    }
  });

  test('repeat with their seed, and differ between callers', () => {
    const take = (seed: number, caller: number) => {
      const source = new RangeSource(workload, seed, caller);
      return Array.from({ length: 20 }, () => source.next());
    };
    expect(take(3, 1)).toEqual(take(3, 1));
    expect(take(3, 1)).not.toEqual(take(3, 2));
    expect(take(3, 1)).not.toEqual(take(4, 1));
  });
});

describe('latencies', () => {
  test('percentiles are those of the sorted values, or up to 1.6 % above', () => {
    const values = fc.array(fc.integer({ min: 1, max: 2 ** 40 }), { minLength: 1, maxLength: 300 });
    fc.assert(
      fc.property(values, fc.integer({ min: 1, max: 100 }), (nanoseconds, percent) => {
        const histogram = new LatencyHistogram();
        for (const value of nanoseconds) histogram.add(value);
        const sorted = [...nanoseconds].sort((a, b) => a - b);
        const exact = sorted[Math.ceil((percent / 100) * sorted.length) - 1] as number;
        expect(histogram.percentileNs(percent)).toBeGreaterThanOrEqual(exact);
        expect(histogram.percentileNs(percent)).toBeLessThanOrEqual(exact * 1.016 + 1);
      }),
    );
  });

  test('the summary is in milliseconds', () => {
    const histogram = new LatencyHistogram();
    for (let ms = 1; ms <= 100; ms++) histogram.add(ms * 1e6);
    expect(histogram.summary()).toMatchObject({ count: 100, maxMs: 100, meanMs: 50.5 });
    expect(Math.abs(histogram.summary().p99Ms - 99)).toBeLessThan(1.6);
  });

  test('the bars count every value once', () => {
    const histogram = new LatencyHistogram();
    for (let i = 0; i < 1000; i++) histogram.add(1000 * (i + 1));
    expect(histogram.bars().reduce((sum, bar) => sum + bar.count, 0)).toBe(1000);
    expect(new LatencyHistogram().bars()).toEqual([]);
    expect(new LatencyHistogram().summary()).toMatchObject({ count: 0, p99Ms: 0, maxMs: 0, meanMs: 0 });
  });
});

describe('what is typed', () => {
  test.each([
    ['65536', 65536],
    ['64K', 65536],
    ['64KiB', 65536],
    ['1.5M', 1572864],
    ['2g', 2 ** 31],
  ])('size %s is %d', (text, size) => {
    expect(parseSize(text)).toBe(size);
  });
  test.each(['', 'x', '0', '-1', '1T', '0.3', '1 2'])('size "%s" is refused', (text) => {
    expect(() => parseSize(text)).toThrow('is not a size');
  });
  test('a list of sizes', () => expect(parseSizes('64K,1M')).toEqual([65536, 1048576]));
  test.each([
    ['5', 5000],
    ['2m', 120_000],
    ['250ms', 250],
    ['1.5s', 1500],
  ])('duration %s is %d ms', (text, ms) => {
    expect(parseDuration(text)).toBe(ms);
  });
  test.each(['', '0', '5x', '-1s'])('duration "%s" is refused', (text) => {
    expect(() => parseDuration(text)).toThrow('is not a duration');
  });
  test('counts have a least value', () => {
    expect(parseCount(0)('0')).toBe(0);
    expect(() => parseCount(1)('0')).toThrow('from 1 on');
    expect(() => parseCount(1)('1.5')).toThrow('from 1 on');
  });
});

describe('what is printed', () => {
  test('sizes and numbers', () => {
    expect([4096, 1048576, 1.5 * 2 ** 30, 100].map(formatSize)).toEqual(['4 KiB', '1 MiB', '1.5 GiB', '100 B']);
    expect([12345.6, 99.96, 0.01234, 0].map(formatNumber)).toEqual(['12,346', '100', '0.0123', '0']);
  });
  test('tables align their columns', () => {
    expect(
      formatTable(
        ['', 'n'],
        [
          ['a', '1'],
          ['bcd', '22'],
        ],
      ).split('\n'),
    ).toEqual(['      n', 'a     1', 'bcd  22']);
  });
});

test('a meter counts calls, bytes and errors, with several callers at once', async () => {
  const meter = new Meter(async () => {});
  let [now, most] = [0, 0];
  const call = async (index: number) => {
    most = Math.max(most, ++now);
    await new Promise((resolve) => setImmediate(resolve));
    now--;
    if (index === 3) throw new Error('planted');
    return 10;
  };
  const measurement = await meter.measure({ name: 'test', calls: 100, callers: 4, call });
  expect(measurement).toMatchObject({ calls: 99, errors: 1, firstError: 'planted', callers: 4 });
  expect(most).toBe(4);
  const html = measureHtml(
    {
      schema: 'weft-bench-io/1',
      passed: true,
      verdict: 'a <b> & c',
      directories: ['/x'],
      measurements: [measurement],
      failure: null,
    },
    'weft bench io',
  );
  expect(html).toContain('a &#60;b&#62; &#38; c');
  expect(html).not.toMatch(/https?:|\bsrc=|\bhref=|url\(|<script|NaN/i);
});

test('aligned buffers begin on a page of their memory', () => {
  const buffer = alignedBuffer(100_000);
  expect([buffer.length, buffer.byteOffset]).toEqual([100_000, 0]);
});
