/**
 * `weft bench overlap` over two mounts of one export: no read is torn, and it ends when the mounts are gone. That the checker
 * finds torn reads where there are some is shown in bench.test.ts, on a local directory.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import { runCommand } from '../../../client-fuse/mount/command.ts';
import type { OverlapReport } from '../../../scripts/bench/overlap-report.ts';
import { LeaseExport, waitFor, weft } from '../lease-mounts.ts';
import { buildPrograms } from '../memory-mount-fixture.ts';

beforeAll(buildPrograms, 120_000);

/** On a machine that is busy with something else. */
const WITHIN_MS = 45_000;

const NO_FAULT = { passed: true, torn: 0, stale: 0, backward: 0, mixedPages: 0, examples: [], failures: [] };

/** Buffered, not O_DIRECT: what programs do. */
async function overlap(exported: LeaseExport, ...more: string[]): Promise<OverlapReport> {
  const places = exported.mounts.map(({ path }) => path);
  const args = [weft, 'bench', 'overlap', ...places, '--sizes', '64K,1M', '--json', ...more];
  const { status, stdout, stderr } = await runCommand(process.execPath, args, { timeoutMs: 60_000 });
  expect(status, `${stdout}\n${stderr}`).toBe(0);
  return JSON.parse(stdout) as OverlapReport;
}

it('bench overlap over two mounts finds no torn read, and writers of disjoint ranges', {
  timeout: 90_000,
}, async () => {
  await using exported = await LeaseExport.open(2);
  const report = await overlap(exported, '--duration', '3');
  expect(report).toMatchObject({ ...NO_FAULT, mode: 'overlap', direct: false, sizesBytes: [65_536, 1_048_576] });
  for (const { calls, errors } of [report.reads, report.writes]) {
    expect(calls).toBeGreaterThan(50);
    expect(errors).toBe(0);
  }
  expect(report.finalStates.map(({ fault }) => fault)).toEqual([null, null]);
  expect(new Set(report.finalStates.map(({ sha256 }) => sha256)).size).toBe(1);

  const disjoint = await overlap(exported, '--disjoint', '--duration', '1.5');
  expect(disjoint).toMatchObject({ ...NO_FAULT, mode: 'disjoint', writers: 2, readers: 0 });
  const { oneWriterCallsPerSecond = 0, allWritersCallsPerSecond = 0 } = disjoint.scaling ?? {};
  expect(oneWriterCallsPerSecond).toBeGreaterThan(0);
  // Not a measurement, which a machine that is busy with something else could not pass: none of them was starved.
  expect(allWritersCallsPerSecond).toBeGreaterThan(oneWriterCallsPerSecond / 4);
  expect((await exported.shell('ls -A $X')).stdout).toBe('');
});

it('bench overlap ends when its mounts are gone, also without the shell that started it', async () => {
  await using exported = await LeaseExport.open(2);
  const [result, error] = ['result', 'error'].map((name) => join(exported.directory, name));
  const bench = `${process.execPath} ${weft} bench overlap $A $B --duration 1h`;
  const { stdout } = await exported.shell(`${bench} > ${result} 2> ${error} & echo $!`);
  const pid = Number(stdout);
  await waitFor('calls are made', async () => /[1-9]\d* reads/.test(readFileSync(error as string, 'utf8')), WITHIN_MS);
  for (const mount of exported.mounts) await mount.kill();
  await waitFor('it has ended', async () => !isRunning(pid), WITHIN_MS);
  const text = readFileSync(result as string, 'utf8');
  expect(text).toMatch(/^0 torn .* 4 callers failed$/m);
  expect(
    text.match(/^ {2}caller \d in .*: gave up: every call failed for \d+ s, the last with E[A-Z]+: /gm)?.length,
  ).toBe(4);
});

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
