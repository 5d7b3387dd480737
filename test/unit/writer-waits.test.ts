/** Writes in the event loop that took long: did they wait for the disk? */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { describe, expect, test, vi } from 'vitest';
import { WriterWaits } from '../../server/state/writer-waits.ts';
import { writeFully } from '../../server/store/whole-transfers.ts';
import { KiB } from '../../shared/limits.ts';
import { threadWaits } from '../../shared/linux/libc.ts';
import { TemporaryDirectory } from '../support/fixture.ts';

const yes = () => true;
const no = () => false;

describe('a write that took', () => {
  test.each<[what: string, tookMs: number, hasWaited: (() => boolean) | undefined, likely: boolean, long: boolean]>([
    ['microseconds is none', 0.05, undefined, false, false],
    ['some milliseconds, of which nobody knows why, is suspected only', 4, undefined, false, false],
    ['some milliseconds, without its processor, too', 4, no, false, false],
    ['some milliseconds, waiting, is believed', 4, yes, true, false],
    ['longer than one is without a processor, mostly, is believed, and long', 11, undefined, true, true],
    ['so long without its processor is not', 11, no, false, false],
    ['so long, waiting, is believed, and long', 11, yes, true, true],
  ])('%s', (_what, tookMs, hasWaited, likely, long) => {
    const waits = new WriterWaits();
    waits.took(1_000, 1_000 + tookMs, hasWaited);
    const nowMs = 1_000 + tookMs;
    expect([waits.areSuspected(nowMs), waits.areLikely(nowMs), waits.areLong(nowMs)]).toEqual([
      tookMs > 2,
      likely,
      long,
    ]);
  });

  test('long ago says nothing', () => {
    const waits = new WriterWaits();
    waits.took(0, 20, yes);
    expect([waits.areSuspected(3_019), waits.areLikely(2_019), waits.areLong(2_019)]).toEqual([true, true, true]);
    expect([waits.areSuspected(3_020), waits.areLikely(2_020), waits.areLong(2_020)]).toEqual([false, false, false]);
  });

  test('some milliseconds, waiting, is believed for longer each time that it comes again', () => {
    const waits = new WriterWaits();
    const believedMs = () => {
      let ms = 0;
      while (waits.areLikely(nowMs + ms)) ms++;
      return ms;
    };
    let nowMs = 0;
    const again = () => {
      waits.took(nowMs, nowMs + 3, yes);
      nowMs += 3;
      const ms = believedMs();
      nowMs += ms;
      return ms;
    };
    expect([again(), again(), again(), again(), again(), again(), again()]).toEqual([
      100, 200, 400, 800, 1_600, 2_000, 2_000,
    ]);
    nowMs += 1_000;
    expect(again()).toBe(100);
    // What was suspected in between says nothing of how long the last one was believed.
    for (let count = 0; count < 5; count++) again();
    nowMs += 5_000;
    waits.took(nowMs, nowMs + 4, no);
    nowMs += 10;
    expect(again()).toBe(100);
  });

  test('no time is not asked why', () => {
    const asked = vi.fn(yes);
    new WriterWaits().took(0, 1, asked);
    expect(asked).not.toHaveBeenCalled();
  });
});

test('a thread that sleeps has waited, one that works has not', () => {
  const waitsDuring = (work: () => void) => {
    const before = threadWaits();
    work();
    return threadWaits() - before;
  };
  const sleep = () => void Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2);
  const work = () => {
    const untilMs = performance.now() + 0.2;
    while (performance.now() < untilMs);
  };
  expect(waitsDuring(sleep)).toBeGreaterThan(0);
  // Now and then it waits for V8's compiler.
  const counts = Array.from({ length: 100 }, () => waitsDuring(work));
  expect(counts.filter((count) => count === 0).length).toBeGreaterThan(50);
});

test('small writes are made at once, until one has waited long: then the pool has them', async () => {
  using directory = new TemporaryDirectory();
  const path = directory.join('fifo');
  execFileSync('mkfifo', [path]);
  const fd = openSync(path, 'r+');
  const part = Buffer.alloc(16 * KiB);
  // As much as the pipe holds.
  for (let count = 0; count < 4; count++) expect(writeFully(fd, part, null)).toBe(part.length);
  const reader = spawn('sh', ['-c', 'sleep 0.1; exec cat "$0" > /dev/null', path]);
  expect(writeFully(fd, part, null)).toBe(part.length);
  const pooled = writeFully(fd, part, null);
  expect(pooled).toBeInstanceOf(Promise);
  expect(await pooled).toBe(part.length);
  closeSync(fd);
  await once(reader, 'exit');
});
