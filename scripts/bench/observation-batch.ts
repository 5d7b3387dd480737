/**
 * What one caller has done since it last reported, packed into one array of numbers: cheap to send between processes
 * (structured clone of objects costs ten times as much) and cheap to keep.
 *
 *   write   WRITE, issued ns, acknowledged ns, whole 0|1, writer, sequence, start unit, unit count
 *   read    READ, issued ns, returned ns, reader, start unit, unit count, run count,
 *           then per run: start unit, unit count, writer, sequence, first unit of the write, unit count of the write
 */

import type { ReadRecord } from './serial-order.ts';
import type { UnitRun } from './tagged-unit.ts';
import type { WriteRecord } from './write-history.ts';

const WRITE = 1;
const READ = 2;

export class ObservationBatch {
  #numbers: number[] = [];

  addWrite(write: WriteRecord): void {
    const { issuedNs, acknowledgedNs, whole, writer, sequence, startUnit, unitCount } = write;
    this.#numbers.push(WRITE, issuedNs, acknowledgedNs, whole ? 1 : 0, writer, sequence, startUnit, unitCount);
  }

  addRead(read: ReadRecord): void {
    const numbers = this.#numbers;
    numbers.push(READ, read.issuedNs, read.returnedNs, read.reader, read.startUnit, read.unitCount, read.runs.length);
    for (const { startUnit, unitCount, tag } of read.runs) {
      numbers.push(startUnit, unitCount, tag.writer, tag.sequence, tag.startUnit, tag.unitCount);
    }
  }

  /** All that was added since the last call. */
  take(): Float64Array {
    const taken = Float64Array.from(this.#numbers);
    this.#numbers = [];
    return taken;
  }
}

export interface ObservationVisitor {
  write(record: WriteRecord): void;
  read(record: ReadRecord): void;
}

/** Hands each record of a batch to the visitor, in the order in which they were added. */
export function visitObservations(packed: Float64Array, visitor: ObservationVisitor): void {
  let at = 0;
  const next = () => packed[at++] as number;
  while (at < packed.length) {
    if (next() === WRITE) {
      const [issuedNs, acknowledgedNs, whole] = [next(), next(), next() === 1];
      visitor.write({
        issuedNs,
        acknowledgedNs,
        whole,
        writer: next(),
        sequence: next(),
        startUnit: next(),
        unitCount: next(),
      });
      continue;
    }
    const head = { issuedNs: next(), returnedNs: next(), reader: next(), startUnit: next(), unitCount: next() };
    const runs = Array.from({ length: next() }, (): UnitRun => {
      const [startUnit, unitCount] = [next(), next()];
      return { startUnit, unitCount, tag: { writer: next(), sequence: next(), startUnit: next(), unitCount: next() } };
    });
    visitor.read({ ...head, runs });
  }
}
