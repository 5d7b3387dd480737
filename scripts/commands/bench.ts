/**
 * `weft bench overlap|io|meta`: options and help. The work is done in scripts/bench/. Exit status: 0 all well, 1 the
 * benchmark found a fault or could not be carried out, 2 wrong usage.
 */
import fs from 'node:fs';
import { type Command, Option } from 'commander';
import { parseMountOptions } from '../../client-fuse/mount/mount-options.ts';
import { type ServerAddress, serverAddressWith } from '../../client-fuse/transport/server-address.ts';
import { parseCount, parseDuration, parseSize, parseSizes, UsageError } from '../bench/bench-arguments.ts';
import { formatCount } from '../bench/bench-text.ts';
import { measureHtml, overlapHtml } from '../bench/html-report.ts';
import { benchMeasure, type MeasureOrder, measureText } from '../bench/measure-bench.ts';
import { benchDirectories, benchServer } from '../bench/overlap-bench.ts';
import type { OverlapProgress } from '../bench/overlap-run.ts';
import { overlapText } from '../bench/overlap-text.ts';
import { ProgressLine } from '../bench/progress-line.ts';
import {
  type CredentialOptions,
  credentialLists,
  warnOfTokenFile,
  withCredentialOptions,
} from './credential-options.ts';

interface OverlapFlags extends OutputFlags, CredentialOptions {
  readonly writers?: number;
  readonly readers?: number;
  readonly sizes: number[];
  readonly span?: number;
  readonly duration: number;
  readonly seed?: number;
  readonly disjoint?: boolean;
  readonly direct?: boolean;
  readonly url?: string;
  readonly clients: number;
  readonly stallTimeout: number;
}

export function addBenchCommand(program: Command): void {
  const bench = program.command('bench').description('measure a mount, and prove that overlapping writes stay whole');
  // Commander's own complaints end with 1, which here means "a fault was found".
  bench.addHelpText('after', '\nExample:\n  weft bench overlap /mnt/a /mnt/b');
  bench.exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : 2));
  addOverlapCommand(bench);
  addIoCommand(bench);
  addMetaCommand(bench);
}

/** The help shows it as it would be typed. */
function withDefault<T>(flags: string, description: string, parse: (text: string) => T, text: string): Option {
  return new Option(flags, description).argParser(parse).default(parse(text), text);
}

const stallOption = (text: string) =>
  withDefault('--stall-timeout <time>', 'a process silent for so long is hung', parseDuration, text);

function addOverlapCommand(bench: Command): void {
  withCredentialOptions(bench.command('overlap'))
    .description('write overlapping ranges of one file from several processes, and prove that no read is torn')
    .argument('[dir...]', 'directories that show the same files: mounts of one export, or the same directory twice')
    .option('--writers <n>', 'writing processes (default: 2, or one a directory if that is more)', parseCount(1))
    .option('--readers <n>', 'reading processes (default: as many; with --disjoint: none)', parseCount(0))
    .addOption(withDefault('--sizes <list>', 'sizes of the ranges', parseSizes, '64K,256K,1M'))
    .option('--span <size>', 'bytes of the file that they share (default: twice the largest size)', parseSize)
    .addOption(withDefault('--duration <time>', 'how long', parseDuration, '5s'))
    .option('--seed <n>', 'repeat a workload (default: random)', parseCount(0))
    .option('--disjoint', 'each writer its own range; compare one writer with all of them')
    .option('--direct', 'O_DIRECT, page-aligned ranges only')
    .option('--url <url>', 'instead of directories: straight against a server, without a mount')
    .option('--clients <n>', 'with --url: sessions, half of them writers', parseCount(1), 4)
    .addOption(stallOption('30s'))
    .option('--json', 'print the report as JSON')
    .option('--html <file>', 'also write the report as one HTML file with plots')
    .addHelpText(
      'after',
      '\nExamples:\n  weft bench overlap /mnt/a /mnt/b --duration 10 --sizes 64K,1M\n  weft bench overlap --url ws://127.0.0.1:7333/ --clients 200',
    )
    .action((directories: string[], flags: OverlapFlags) => exitWith(overlap(directories, flags)));
}

async function overlap(directories: string[], flags: OverlapFlags): Promise<boolean> {
  if ((directories.length === 0) === (flags.url === undefined))
    throw new UsageError('name directories, or a server with --url');
  const address = flags.url === undefined ? undefined : addressOf(flags.url, flags);
  checkHtml(flags);
  const byDefault = flags.url === undefined ? Math.max(2, directories.length) : Math.ceil(flags.clients / 2);
  const writers = flags.writers ?? byDefault;
  const options = {
    writers,
    readers:
      flags.readers ?? (flags.disjoint ? 0 : flags.url === undefined ? writers : Math.max(0, flags.clients - writers)),
    sizesBytes: flags.sizes,
    spanBytes: flags.span ?? 2 * Math.max(...flags.sizes),
    durationMs: flags.duration,
    seed: flags.seed ?? randomSeed(),
    disjoint: flags.disjoint ?? false,
    direct: flags.direct ?? false,
  };
  const line = new ProgressLine('overlap', options.durationMs);
  const showProgress = ({ elapsedMs, writes, reads, torn }: OverlapProgress) =>
    line.update(elapsedMs, `${formatCount(writes)} writes, ${formatCount(reads)} reads, ${formatCount(torn)} torn`);
  const running =
    address === undefined
      ? benchDirectories(directories, options, flags.stallTimeout, showProgress)
      : benchServer(address, options, flags.stallTimeout, showProgress);
  const result = await running.finally(() => line.stop());
  const { report } = result;
  print(
    flags,
    report,
    () => overlapText(report),
    () => overlapHtml(result),
  );
  return report.passed;
}

function addressOf(url: string, flags: CredentialOptions): ServerAddress {
  try {
    const { credentials } = parseMountOptions(credentialLists(flags));
    warnOfTokenFile(credentials);
    return serverAddressWith(url, credentials);
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

interface OutputFlags {
  readonly json?: boolean;
  readonly html?: string;
}

/** Before the run: what it measured would be lost. */
function checkHtml({ html }: OutputFlags): void {
  if (html === undefined) return;
  try {
    fs.closeSync(fs.openSync(html, 'a'));
  } catch (error) {
    throw new UsageError(`--html ${html} cannot be written (${(error as NodeJS.ErrnoException).code})`);
  }
}

function print(flags: OutputFlags, report: object, text: () => string, html: () => string): void {
  if (flags.html) fs.writeFileSync(flags.html, html());
  process.stdout.write(`${flags.json ? JSON.stringify(report, null, 2) : text()}\n`);
}

interface IoFlags extends OutputFlags {
  readonly size: number;
  readonly duration: number;
  readonly seed?: number;
  readonly direct?: boolean;
  readonly stallTimeout: number;
}

function addIoCommand(bench: Command): void {
  bench
    .command('io')
    .description('throughput and latency of one large file: sequential, random, with fsync')
    .argument('<dir>', 'where the file is written')
    .argument('[dir2]', 'another mount of the same, to read it through (its caches are empty)')
    .addOption(withDefault('--size <size>', 'of the file', parseSize, '256M'))
    .addOption(withDefault('--duration <time>', 'of each random measurement', parseDuration, '3s'))
    .option('--seed <n>', 'repeat the random offsets (default: random)', parseCount(0))
    .option('--direct', 'O_DIRECT: around the page cache')
    .addOption(stallOption('60s'))
    .option('--json', 'print the report as JSON')
    .option('--html <file>', 'also write the report as one HTML file with plots')
    .addHelpText('after', '\nExample:\n  weft bench io /mnt/a --size 1G --duration 10')
    .action((directory: string, second: string | undefined, flags: IoFlags) => {
      const sizeBytes = Math.max(1, Math.round(flags.size / 2 ** 20)) * 2 ** 20;
      const options = {
        sizeBytes,
        durationMs: flags.duration,
        direct: flags.direct ?? false,
        seed: flags.seed ?? randomSeed(),
      };
      return exitWith(measure({ kind: 'io', directories: list(directory, second), options }, IO_STEPS, flags));
    });
}

interface MetaFlags extends OutputFlags {
  readonly files: number;
  readonly stallTimeout: number;
}

function addMetaCommand(bench: Command): void {
  bench
    .command('meta')
    .description('small files: create, stat, read, list, rename, remove')
    .argument('<dir>', 'where the files are made')
    .argument('[dir2]', 'another mount of the same, to look at them through')
    .option('--files <n>', 'how many', parseCount(1), 1000)
    .addOption(stallOption('60s'))
    .option('--json', 'print the report as JSON')
    .option('--html <file>', 'also write the report as one HTML file with plots')
    .addHelpText('after', '\nExample:\n  weft bench meta /mnt/a /mnt/b --files 5000')
    .action((directory: string, second: string | undefined, flags: MetaFlags) =>
      exitWith(measure({ kind: 'meta', directories: list(directory, second), files: flags.files }, META_STEPS, flags)),
    );
}

/** How many measurements each takes, for the progress line. */
const IO_STEPS = 5;
const META_STEPS = 10;

function list(directory: string, second: string | undefined): string[] {
  return second === undefined ? [directory] : [directory, second];
}

function randomSeed(): number {
  return Math.floor(Math.random() * 2 ** 32);
}

async function measure(
  order: MeasureOrder,
  steps: number,
  flags: OutputFlags & { readonly stallTimeout: number },
): Promise<boolean> {
  checkHtml(flags);
  const line = new ProgressLine(order.kind, steps);
  const report = await benchMeasure(order, flags.stallTimeout, (done, text) => line.update(done, text)).finally(() =>
    line.stop(),
  );
  print(
    flags,
    report,
    () => measureText(report),
    () => measureHtml(report, `weft bench ${order.kind}`),
  );
  return report.passed;
}

/** Sets the exit status; an error is one line, without a stack. */
async function exitWith(work: Promise<boolean>): Promise<void> {
  try {
    process.exitCode = (await work) ? 0 : 1;
  } catch (error) {
    process.stderr.write(`weft bench: ${error instanceof Error ? error.message : String(error)}\n`);
    process.exitCode = error instanceof UsageError ? 2 : 1;
  }
}
