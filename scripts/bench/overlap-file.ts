/**
 * What is done to the benchmark's file while no caller works on it: filled before the run with the initial content
 * (tagged as the one write of writer 0, which comes before all others), read whole after it.
 */
import { createHash } from 'node:crypto';
import { alignedBuffer } from './aligned-buffer.ts';
import type { MonotonicClock } from './monotonic-clock.ts';
import type { OverlapFile } from './overlap-target.ts';
import type { ReadRecord } from './serial-order.ts';
import { scanUnits, stampWrite, UNIT_BYTES, type UnitRun, type WriteTag } from './tagged-unit.ts';

const CHUNK_UNITS = (1 << 20) / UNIT_BYTES;

export function initialWrite(unitCount: number): WriteTag {
  return { writer: 0, sequence: 1, startUnit: 0, unitCount };
}

/** Writes the initial content. Returns when all of it was acknowledged. */
export async function fillFile(file: OverlapFile, fileUnits: number, runNonce: number): Promise<void> {
  const buffer = alignedBuffer(CHUNK_UNITS * UNIT_BYTES);
  const words = new Uint32Array(buffer.buffer, 0, buffer.length / 4);
  for (let startUnit = 0; startUnit < fileUnits; startUnit += CHUNK_UNITS) {
    const unitCount = Math.min(CHUNK_UNITS, fileUnits - startUnit);
    stampWrite(words, runNonce, initialWrite(fileUnits), { startUnit, unitCount });
    let done = 0;
    while (done < unitCount * UNIT_BYTES) {
      const written = await file.write(startUnit * UNIT_BYTES + done, buffer.subarray(done, unitCount * UNIT_BYTES));
      if (written === 0) throw new Error('the initial content could not be written: write returned 0');
      done += written;
    }
  }
}

export interface FileInspection {
  /** The whole content as one read, to be judged like any other. */
  readonly read: ReadRecord;
  readonly sizeBytes: number;
  readonly sha256: string;
}

export async function inspectFile(
  file: OverlapFile,
  fileUnits: number,
  runNonce: number,
  clock: MonotonicClock,
): Promise<FileInspection> {
  const buffer = alignedBuffer(CHUNK_UNITS * UNIT_BYTES);
  const words = new Uint32Array(buffer.buffer, 0, buffer.length / 4);
  const hash = createHash('sha256');
  const runs: UnitRun[] = [];
  const issuedNs = clock();
  let sizeBytes = 0;
  for (let startUnit = 0; startUnit < fileUnits; startUnit += CHUNK_UNITS) {
    const wanted = Math.min(CHUNK_UNITS, fileUnits - startUnit) * UNIT_BYTES;
    let done = 0;
    while (done < wanted) {
      const got = await file.read(startUnit * UNIT_BYTES + done, buffer.subarray(done, wanted));
      if (got === 0) break;
      done += got;
    }
    hash.update(buffer.subarray(0, done));
    runs.push(...scanUnits(words, startUnit, Math.floor(done / UNIT_BYTES), runNonce));
    sizeBytes += done;
    if (done < wanted) break;
  }
  const read = { reader: 0, startUnit: 0, unitCount: fileUnits, issuedNs, returnedNs: clock(), runs };
  return { read, sizeBytes, sha256: hash.digest('hex') };
}
