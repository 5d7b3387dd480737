import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { WriteStream } from '../../server/state/write-stream.ts';
import { MiB } from '../../shared/limits.ts';

describe('WriteStream', () => {
  it('gives nothing of a short stream', () => {
    const stream = new WriteStream();
    for (let offset = 0; offset < 15 * MiB; offset += MiB) stream.wrote(offset, MiB);
    expect(stream.take()).toBeUndefined();
  });

  it('gives what lies 8 MiB behind the end, 8 MiB at least, each part once', () => {
    const stream = new WriteStream();
    const taken = [];
    for (let offset = 100 * MiB; offset < 140 * MiB; offset += MiB) {
      stream.wrote(offset, MiB);
      const part = stream.take();
      if (part) taken.push([part.offset / MiB, part.length / MiB]);
    }
    expect(taken).toEqual([
      [100, 8],
      [108, 8],
      [116, 8],
      [124, 8],
    ]);
  });

  it('follows writes that arrive a little out of order', () => {
    const stream = new WriteStream();
    for (const at of [1, 0, 3, 2, 5, 4, 9, 8, 7, 6, 12, 11, 10, 13, 15, 14]) stream.wrote(at * MiB, MiB);
    expect(stream.take()).toEqual({ offset: 0, length: 8 * MiB });
  });

  it('gives nothing of a file that is written again and again, or here and there', () => {
    const again = new WriteStream();
    for (let round = 0; round < 100; round++) {
      for (let offset = 0; offset < 8 * MiB; offset += MiB) again.wrote(offset, MiB);
      expect(again.take()).toBeUndefined();
    }
    const scattered = new WriteStream();
    for (let at = 0; at < 1000; at++) scattered.wrote(((at * 7919) % 1000) * 100 * MiB, MiB);
    expect(scattered.take()).toBeUndefined();
  });

  it('never gives what was not given room behind the end', () => {
    const write = fc.record({ offset: fc.nat(64), length: fc.integer({ min: 1, max: 4 }) });
    fc.assert(
      fc.property(fc.array(write, { maxLength: 60 }), (writes) => {
        const stream = new WriteStream();
        let end = 0;
        for (const { offset, length } of writes) {
          stream.wrote(offset * MiB, length * MiB);
          end = Math.max(end, (offset + length) * MiB);
          const part = stream.take();
          if (part) expect(part.offset + part.length).toBeLessThanOrEqual(end - 8 * MiB);
        }
      }),
    );
  });
});
