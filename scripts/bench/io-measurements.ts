/**
 * `bench io`: one file of `sizeBytes`, written and read in order, then at random. Reads go through the second directory
 * when there is one, whose caches have not seen the data; otherwise they may come from this machine's page cache, as any
 * program's would.
 */
import { randomFillSync } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';
import { alignedBuffer } from './aligned-buffer.ts';
import type { Measurement, Meter } from './measurement.ts';
import { Random } from './random.ts';

const BLOCK_BYTES = 1 << 20;
const PAGE_BYTES = 4096;
const MANY_CALLERS = 16;
const { O_CREAT, O_DIRECT, O_EXCL, O_RDONLY, O_WRONLY } = fs.constants;
const readAsync = promisify(fs.read);

export interface IoOptions {
  readonly sizeBytes: number;
  /** Of each random measurement. */
  readonly durationMs: number;
  readonly direct: boolean;
  readonly seed: number;
}

/** `writeDirectory` and `readDirectory` are the same scratch directory, seen through one or two mounts. */
export async function* measureIo(
  meter: Meter,
  writeDirectory: string,
  readDirectory: string,
  options: IoOptions,
): AsyncGenerator<Measurement> {
  const direct = options.direct ? O_DIRECT : 0;
  const written = path.join(writeDirectory, 'io');
  yield await sequentialWrite(meter, written, options.sizeBytes, direct);
  const readFd = fs.openSync(path.join(readDirectory, 'io'), O_RDONLY | direct);
  try {
    yield await sequentialRead(meter, readFd, options.sizeBytes);
    for (const callers of [1, MANY_CALLERS]) yield await randomRead(meter, readFd, callers, options);
  } finally {
    fs.closeSync(readFd);
  }
  yield await randomWrite(meter, written, direct, options);
}

async function sequentialWrite(meter: Meter, file: string, sizeBytes: number, direct: number): Promise<Measurement> {
  const buffer = alignedBuffer(BLOCK_BYTES);
  randomFillSync(buffer);
  const fd = fs.openSync(file, O_WRONLY | O_CREAT | O_EXCL | direct, 0o600);
  try {
    return await meter.measure({
      name: 'sequential write, 1 MiB, fsync at the end',
      calls: Math.ceil(sizeBytes / BLOCK_BYTES),
      call: (index) => fs.writeSync(fd, buffer, 0, BLOCK_BYTES, index * BLOCK_BYTES),
      finish: () => fs.fsyncSync(fd),
    });
  } finally {
    fs.closeSync(fd);
  }
}

async function sequentialRead(meter: Meter, fd: number, sizeBytes: number): Promise<Measurement> {
  const buffer = alignedBuffer(BLOCK_BYTES);
  return meter.measure({
    name: 'sequential read, 1 MiB',
    calls: Math.ceil(sizeBytes / BLOCK_BYTES),
    call: (index) => fullRead(fs.readSync(fd, buffer, 0, BLOCK_BYTES, index * BLOCK_BYTES), BLOCK_BYTES),
  });
}

async function randomRead(meter: Meter, fd: number, callers: number, options: IoOptions): Promise<Measurement> {
  const random = new Random(options.seed, callers);
  const pages = Math.floor(options.sizeBytes / PAGE_BYTES);
  const shared = { durationMs: options.durationMs, callers };
  if (callers === 1) {
    const buffer = alignedBuffer(PAGE_BYTES);
    const call = () => fullRead(fs.readSync(fd, buffer, 0, PAGE_BYTES, random.below(pages) * PAGE_BYTES), PAGE_BYTES);
    return meter.measure({ ...shared, name: 'random read, 4 KiB, 1 caller', call });
  }
  // A buffer belongs to one call at a time; there are never more calls at once than callers.
  const free = Array.from({ length: callers }, () => alignedBuffer(PAGE_BYTES));
  return meter.measure({
    ...shared,
    name: `random read, 4 KiB, ${callers} callers`,
    call: async () => {
      const buffer = free.pop() as Uint8Array<ArrayBuffer>;
      try {
        const { bytesRead } = await readAsync(fd, buffer, 0, PAGE_BYTES, random.below(pages) * PAGE_BYTES);
        return fullRead(bytesRead, PAGE_BYTES);
      } finally {
        free.push(buffer);
      }
    },
  });
}

async function randomWrite(meter: Meter, file: string, direct: number, options: IoOptions): Promise<Measurement> {
  const random = new Random(options.seed, 0);
  const pages = Math.floor(options.sizeBytes / PAGE_BYTES);
  const buffer = alignedBuffer(PAGE_BYTES);
  randomFillSync(buffer);
  const fd = fs.openSync(file, O_WRONLY | direct);
  try {
    return await meter.measure({
      name: 'random write, 4 KiB, fsync each',
      durationMs: options.durationMs,
      call: () => {
        const written = fs.writeSync(fd, buffer, 0, PAGE_BYTES, random.below(pages) * PAGE_BYTES);
        fs.fsyncSync(fd);
        return written;
      },
    });
  } finally {
    fs.closeSync(fd);
  }
}

function fullRead(gotBytes: number, wantedBytes: number): number {
  if (gotBytes !== wantedBytes) throw new Error(`a read of ${wantedBytes} bytes returned ${gotBytes}`);
  return gotBytes;
}
