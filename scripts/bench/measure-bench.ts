/**
 * `weft bench io` and `weft bench meta` from their options to their report: runs the measuring process, and removes its
 * scratch directory whatever happens.
 */
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { UsageError } from './bench-arguments.ts';
import { formatCount, formatNumber, formatTable } from './bench-text.ts';
import { withCleanUp } from './interruption.ts';
import type { MeasureMessage, MeasureTask } from './measure-child.ts';
import type { Measurement } from './measurement.ts';
import { WatchedChild } from './watched-child.ts';

const THREADS = 32;
const CLEAN_UP_MS = 20_000;

/** What `--json` prints for io and meta: stable like the report of overlap. */
export interface MeasureReport {
  readonly schema: 'weft-bench-io/1' | 'weft-bench-meta/1';
  readonly passed: boolean;
  readonly verdict: string;
  readonly directories: readonly string[];
  readonly measurements: readonly Measurement[];
  /** Why it ended before the last measurement. */
  readonly failure: string | null;
}

/** A task as the command line gives it: the scratch directory's name is chosen here. */
export type MeasureOrder = MeasureTask extends infer T
  ? T extends MeasureTask
    ? Omit<T, 'scratchName'>
    : never
  : never;

export async function benchMeasure(
  order: MeasureOrder,
  stallMs: number,
  progress: (done: number, text: string) => void,
): Promise<MeasureReport> {
  for (const directory of order.directories) {
    if (!fs.statSync(directory, { throwIfNoEntry: false })?.isDirectory())
      throw new UsageError(`${directory} is not a directory`);
  }
  const scratchName = `.weft-bench-${order.kind}-${randomBytes(4).toString('hex')}`;
  const measurements: Measurement[] = [];
  let child: WatchedChild<MeasureTask, MeasureMessage> | undefined;
  const failure = await withCleanUp(
    () => {
      child = new WatchedChild<MeasureTask, MeasureMessage>(
        { ...order, scratchName },
        {
          module: '../bench/measure-child.js',
          stallMs,
          threads: THREADS,
          message: (message) => {
            if (message.kind === 'measurement') measurements.push(message.measurement);
            else progress(measurements.length, message.text);
          },
        },
      );
      return child.ended;
    },
    async () => {
      child?.kill('ended by the benchmark');
      await removeScratch(path.join(order.directories[0] as string, scratchName));
    },
  );
  return reportOf(order, measurements, failure);
}

async function removeScratch(scratch: string): Promise<void> {
  const tooLong = new Promise<boolean>((resolve) => setTimeout(resolve, CLEAN_UP_MS, false).unref());
  const removal = fs.promises.rm(scratch, { recursive: true, force: true, maxRetries: 3 }).then(
    () => true,
    () => false,
  );
  if (!(await Promise.race([removal, tooLong])))
    process.stderr.write(`weft bench: ${scratch} could not be removed: remove it by hand\n`);
}

function reportOf(order: MeasureOrder, measurements: readonly Measurement[], failure: string | null): MeasureReport {
  const errors = measurements.reduce((sum, each) => sum + each.errors, 0);
  const calls = measurements.reduce((sum, each) => sum + each.calls, 0);
  const wrong = [...(errors > 0 ? [`${formatCount(errors)} failed`] : []), ...(failure ? [failure] : [])];
  return {
    schema: `weft-bench-${order.kind}/1`,
    passed: wrong.length === 0,
    verdict: `${formatCount(calls)} calls of ${measurements.length} kinds in ${order.directories.join(' and ')}: ${wrong.join('; ') || 'no errors'}`,
    directories: order.directories,
    measurements,
    failure,
  };
}

/** Head and rows of the table, for the terminal and for HTML. */
export function measureTable(report: MeasureReport): {
  readonly head: readonly string[];
  readonly rows: readonly (readonly string[])[];
} {
  return {
    head: ['', 'calls', 'per s', 'MiB/s', 'p50 ms', 'p95 ms', 'p99 ms', 'max ms'],
    rows: report.measurements.map(({ name, calls, callsPerSecond, mibPerSecond, latency }) => {
      const times = [latency.p50Ms, latency.p95Ms, latency.p99Ms, latency.maxMs].map(formatNumber);
      return [
        name,
        formatCount(calls),
        formatNumber(callsPerSecond),
        mibPerSecond > 0 ? formatNumber(mibPerSecond) : '',
        ...times,
      ];
    }),
  };
}

export function measureText(report: MeasureReport): string {
  const { head, rows } = measureTable(report);
  const errors = report.measurements.filter((each) => each.errors > 0);
  const lines = errors.map(
    ({ name, errors: count, firstError }) => `  ${name}: ${formatCount(count)} failed, the first: ${firstError}`,
  );
  return [report.verdict, '', formatTable(head, rows).replace(/^/gm, '  '), ...lines].join('\n');
}
