/**
 * `weft bench overlap` from its options to its report: chooses the driver, runs, and sums up.
 */
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import pino from 'pino';
import type { ServerAddress } from '../../client-fuse/transport/server-address.ts';
import { UsageError } from './bench-arguments.ts';
import { describeFault } from './fault-text.ts';
import { withCleanUp } from './interruption.ts';
import { LocalDriver } from './local-driver.ts';
import { monotonicBase } from './monotonic-clock.ts';
import type { OverlapDriver, OverlapFileSetup } from './overlap-driver.ts';
import type { OverlapReport } from './overlap-report.ts';
import {
  fileUnitsOf,
  type OverlapOptions,
  type OverlapOutcome,
  type OverlapProgress,
  runOverlap,
} from './overlap-run.ts';
import { verdictText } from './overlap-text.ts';
import { ProcessDriver } from './process-driver.ts';
import { ServerTarget } from './server-target.ts';

const PAGE_BYTES = 4096;

/** Checks what the options say of each other. */
export function checkOverlapOptions({ sizesBytes, spanBytes, disjoint, writers }: OverlapOptions): void {
  for (const size of sizesBytes) {
    if (size % PAGE_BYTES !== 0) throw new UsageError(`size ${size} is not a multiple of ${PAGE_BYTES}`);
    if (size > spanBytes) throw new UsageError(`size ${size} does not fit in a span of ${spanBytes} bytes`);
  }
  if (spanBytes % PAGE_BYTES !== 0) throw new UsageError(`span ${spanBytes} is not a multiple of ${PAGE_BYTES}`);
  if (disjoint && writers < 2)
    throw new UsageError('--disjoint compares one writer with several: it takes --writers 2 or more');
}

export function overlapSetup(options: OverlapOptions): OverlapFileSetup {
  const random = randomBytes(4);
  return {
    fileName: `.weft-bench-overlap-${random.toString('hex')}`,
    fileUnits: fileUnitsOf(options),
    runNonce: random.readUInt32LE(),
    direct: options.direct,
  };
}

export interface OverlapResult {
  readonly report: OverlapReport;
  readonly outcome: OverlapOutcome;
}

export async function benchDirectories(
  directories: readonly string[],
  options: OverlapOptions,
  stallMs: number,
  progress: (now: OverlapProgress) => void,
): Promise<OverlapResult> {
  checkOverlapOptions(options);
  for (const directory of directories) {
    const stat = fs.statSync(directory, { throwIfNoEntry: false });
    if (!stat?.isDirectory()) throw new UsageError(`${directory} is not a directory`);
  }
  const setup = overlapSetup(options);
  return benchDriver(new ProcessDriver(directories, setup, monotonicBase(), stallMs), setup, options, progress);
}

/** Straight against a server: one session for each caller, all in this process. */
export async function benchServer(
  address: ServerAddress,
  options: OverlapOptions,
  stallMs: number,
  progress: (now: OverlapProgress) => void,
): Promise<OverlapResult> {
  checkOverlapOptions(options);
  const log = pino({ level: 'warn' }, pino.destination({ dest: 2, sync: true }));
  const clients = options.writers + options.readers;
  const targets: ServerTarget[] = [];
  for (let client = 1; client <= clients; client++) targets.push(await ServerTarget.connect(address, client, log));
  const setup = overlapSetup(options);
  return benchDriver(new LocalDriver(targets, setup, monotonicBase(), stallMs), setup, options, progress);
}

export async function benchDriver(
  driver: OverlapDriver,
  setup: OverlapFileSetup,
  options: OverlapOptions,
  progress: (now: OverlapProgress) => void,
): Promise<OverlapResult> {
  const outcome = await withCleanUp(
    () => runOverlap(options, driver, setup, progress),
    () => driver.cleanUp(),
  );
  return { outcome, report: reportOf(options, driver.labels, outcome) };
}

function reportOf(options: OverlapOptions, labels: readonly string[], outcome: OverlapOutcome): OverlapReport {
  const { counts, examples } = outcome.checker;
  const [writes, reads] = [outcome.writes.summary(outcome.elapsedMs), outcome.reads.summary(outcome.elapsedMs)];
  const finalFaults = outcome.finalStates.filter((state) => state.fault !== null).length;
  const unreadable = outcome.finalStates.filter((state) => state.fault === 'unreadable').length;
  const hung = outcome.failures.filter((failure) => failure.hung).length;
  const facts = {
    counts,
    reads,
    writes,
    finalFaults,
    unreadable,
    hung,
    targets: labels.length,
    failed: outcome.failures.length - hung,
  };
  const elapsedSeconds = outcome.elapsedMs / 1000;
  const bad = [counts.torn, counts.stale, counts.backward, counts.mixedPages, finalFaults, outcome.failures.length];
  const broken = [writes.errors, writes.short, reads.errors, reads.short];
  return {
    schema: 'weft-bench-overlap/1',
    passed: [...bad, ...broken].every((count) => count === 0) && writes.calls > 0,
    verdict: verdictText({ ...facts, elapsedSeconds }),
    mode: options.disjoint ? 'disjoint' : 'overlap',
    targets: labels,
    seed: options.seed,
    direct: options.direct,
    writers: options.writers,
    readers: options.readers,
    sizesBytes: options.sizesBytes,
    spanBytes: options.spanBytes,
    elapsedSeconds,
    writes,
    reads,
    torn: counts.torn,
    stale: counts.stale,
    backward: counts.backward,
    mixedPages: counts.mixedPages,
    examples: [...examples.values()].map((example) => ({ fault: example.fault, text: describeFault(example) })),
    finalStates: outcome.finalStates,
    scaling: outcome.scaling,
    failures: outcome.failures.map(({ target, ...failure }) => ({ ...failure, target: labels[target] as string })),
  };
}
