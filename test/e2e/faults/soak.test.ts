/** `scripts/soak` as a person runs it, small: it finds nothing, and leaves nothing behind, also after Ctrl-C. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeAll, beforeEach, expect, it } from 'vitest';
import { exitOf, programs, waitFor } from '../lease-mounts.ts';
import { buildPrograms } from '../memory-mount-fixture.ts';

/** On a machine that is busy with something else. */
const WITHIN_MS = 60_000;

let directory: string;
beforeAll(buildPrograms, 120_000);
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'weft-soak-test-'));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

function start(...args: string[]): { child: ChildProcess; output: () => string } {
  const child = spawn(process.execPath, [join(programs, 'scripts/soak.js'), '--mounts', '1', ...args], {
    env: { ...process.env, TMPDIR: directory },
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream?.on('data', (text) => (output += text));
  return { child, output: () => output };
}

function expectNothingLeft(): void {
  expect(readdirSync(directory)).toEqual([]);
  expect(readFileSync('/proc/mounts', 'latin1')).not.toContain(directory);
}

it('finds no fault, and cleans up', async () => {
  const { child, output } = start('--minutes', '0.05');
  expect(await exitOf(child, WITHIN_MS), output()).toBe(true);
  expect(output()).toMatch(
    /^1 mount with 3 callers each .* [1-9][\d,]* operations .*\n {2}server: .*\n {2}clients: .*\nno fault$/m,
  );
  expect(child.exitCode).toBe(0);
  expectNothingLeft();
});

it('cleans up after Ctrl-C', async () => {
  const { child, output } = start('--minutes', '60');
  await waitFor('calls are made', async () => /[1-9]\d* operations/.test(output()), WITHIN_MS);
  child.kill('SIGINT');
  expect(await exitOf(child, WITHIN_MS), output()).toBe(true);
  expect(child.exitCode).toBe(130);
  expectNothingLeft();
});
