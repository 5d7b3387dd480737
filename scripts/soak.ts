/**
 * A soak: one server, many mounts of it through a proxy that cuts, stalls and delays, and callers on each that know what every
 * call must give. Ends with 0 if no call gave anything else, none hung, all contents are right, and memory did not grow.
 */
import { Command } from 'commander';
import { parseCount, parseDuration } from './bench/bench-arguments.ts';
import { formatCount, plural } from './bench/bench-text.ts';
import { withCleanUp } from './bench/interruption.ts';
import { ProgressLine } from './bench/progress-line.ts';
import { Random } from './bench/random.ts';
import { SoakRun } from './faults/soak-run.ts';

interface Flags {
  readonly mounts: number;
  readonly callers: number;
  readonly minutes: number;
  readonly seed: number;
  readonly logs?: string;
}

async function soak({ mounts, callers, minutes, seed, logs }: Flags): Promise<boolean> {
  const run = new SoakRun(mounts, callers, seed, logs);
  const line = new ProgressLine('soak', minutes * 60_000);
  const outcome = await withCleanUp(
    () => run.run(minutes * 60_000, (elapsedMs, text) => line.update(elapsedMs, text)).finally(() => line.stop()),
    () => run.cleanUp(),
  );
  const { operations, cuts, stalls, elapsedMs, faults, memory, longestMs } = outcome;
  const perSecond = Math.round(operations / (elapsedMs / 1000));
  console.log(
    `${plural(mounts, 'mount')} with ${plural(callers, 'caller')} each for ${(elapsedMs / 60_000).toFixed(1)} min (seed ${seed}): ${formatCount(operations)} operations (${perSecond}/s), ${formatCount(cuts)} cuts, ${formatCount(stalls)} stalls; longest call ${(longestMs / 1000).toFixed(1)} s`,
  );
  for (const text of memory) console.log(`  ${text}`);
  for (const text of faults) console.log(`  FAULT ${text}`);
  console.log(faults.length === 0 ? 'no fault' : plural(faults.length, 'fault'));
  return faults.length === 0;
}

const program = new Command('soak')
  .description('many mounts of one server under mixed load, while their connections are cut, stalled and delayed')
  .option('--mounts <n>', 'each needs about 200 MB', parseCount(1), 24)
  .option('--minutes <n>', 'how long', (text) => parseDuration(`${text}m`) / 60_000, 10)
  .option('--callers <n>', 'of each mount', parseCount(1), 3)
  .option('--seed <n>', 'of what callers do and the proxy plans (default: random)', parseCount(0))
  .option('--logs <directory>', 'where the logs of server and mounts stay')
  .addHelpText('after', '\nExample:\n  scripts/soak --mounts 6 --minutes 1');
const flags = program.parse().opts<Omit<Flags, 'seed'> & { seed?: number }>();
try {
  const seed = flags.seed ?? new Random(Date.now()).next();
  process.exitCode = (await soak({ ...flags, seed })) ? 0 : 1;
} catch (error) {
  console.error(`soak: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
}
