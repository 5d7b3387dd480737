/**
 * `weft bench` as a person runs it, compiled, on plain directories of this machine. A local buffered ext4 is the control
 * of the checker: it tears reads of several pages, and must be found out.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';

const root = path.resolve(import.meta.dirname, '../..');
const command = `
  const { Command } = await import('commander');
  const { addBenchCommand } = await import(${JSON.stringify(path.join(root, 'dist/scripts/commands/bench.js'))});
  const program = new Command('weft');
  addBenchCommand(program);
  await program.parseAsync(process.argv);`;

let directory: string;
beforeEach(() => {
  directory = fs.mkdtempSync(path.join(os.tmpdir(), 'weft-bench-test-'));
});
afterEach(() => fs.rmSync(directory, { recursive: true }));

interface Ended {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function start(...args: string[]): { child: ChildProcess; ended: Promise<Ended> } {
  const child = spawn(process.execPath, ['--input-type=module', '-e', command, 'weft', 'bench', ...args], {
    cwd: root,
  });
  let [stdout, stderr] = ['', ''];
  child.stdout.on('data', (text) => {
    stdout += text;
  });
  child.stderr.on('data', (text) => {
    stderr += text;
  });
  const ended = new Promise<Ended>((resolve) => child.on('close', (status) => resolve({ status, stdout, stderr })));
  return { child, ended };
}

const bench = (...args: string[]) => start(...args).ended;

describe('bench overlap', () => {
  test('finds torn reads on a local directory, says which, and exits 1', async () => {
    const html = path.join(directory, 'report.html');
    const { status, stdout } = await bench('overlap', directory, directory, '--duration', '4', '--html', html);
    expect(stdout.split('\n')[0]).toMatch(/^[\d,]+ torn in [\d,]+ reads, [\d,]+ writes through 2 places in [\d.]+ s/);
    expect(stdout).toContain('which no order of whole writes gives');
    expect(stdout.match(/final content in .*: whole, sha256/g)?.length).toBe(2);
    expect(status).toBe(1);
    expect(fs.readFileSync(html, 'utf8')).toContain('<svg');
    fs.rmSync(html);
    expect(fs.readdirSync(directory)).toEqual([]);
  });

  test('finds nothing where nobody else writes, and exits 0', async () => {
    const { status, stdout } = await bench(
      'overlap',
      directory,
      '--writers',
      '1',
      '--readers',
      '0',
      '--duration',
      '0.5',
      '--json',
    );
    const report = JSON.parse(stdout);
    expect(report).toMatchObject({ schema: 'weft-bench-overlap/1', passed: true, torn: 0, stale: 0, mixedPages: 0 });
    expect(report.writes.calls).toBeGreaterThan(100);
    expect(status).toBe(0);
  });

  test('finds that two directories do not show the same files', async () => {
    const [a, b] = [path.join(directory, 'a'), path.join(directory, 'b')];
    for (const each of [a, b]) fs.mkdirSync(each);
    const { status, stdout } = await bench('overlap', a, b, '--duration', '0.5');
    expect(stdout).toContain('not the same files');
    expect(status).toBe(1);
  });

  test('O_DIRECT and disjoint ranges', async () => {
    const { status, stdout } = await bench(
      'overlap',
      directory,
      '--disjoint',
      '--direct',
      '--writers',
      '2',
      '--duration',
      '1',
      '--json',
    );
    expect(JSON.parse(stdout)).toMatchObject({
      passed: true,
      mode: 'disjoint',
      direct: true,
      scaling: { ratio: expect.any(Number) },
    });
    expect(status).toBe(0);
  });

  test('Ctrl-C cleans up', async () => {
    const { child, ended } = start('overlap', directory, '--duration', '60');
    while (fs.readdirSync(directory).length === 0) await new Promise((resolve) => setTimeout(resolve, 20));
    child.kill('SIGINT');
    expect((await ended).status).toBe(130);
    expect(fs.readdirSync(directory)).toEqual([]);
  });

  test('a caller that hangs is reported and ended', async () => {
    const { child, ended } = start(
      'overlap',
      directory,
      '--duration',
      '60',
      '--stall-timeout',
      '4', // on a busy machine a process needs more than a second to begin
      '--writers',
      '2',
      '--readers',
      '0',
    );
    let isOver = false;
    void ended.then(() => {
      isOver = true;
    });
    const children = `/proc/${child.pid}/task/${child.pid}/children`;
    // One that is stopped before it has begun its program holds its parent up in fork(2).
    const hasBegun = (pid: number) => {
      try {
        return fs.readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes('overlap-child');
      } catch {
        return false; // it has ended
      }
    };
    const writers = () =>
      fs.readFileSync(children, 'utf8').trim().split(' ').filter(Boolean).map(Number).filter(hasBegun);
    while (!isOver && (writers().length < 2 || fs.readdirSync(directory).length === 0))
      await new Promise((resolve) => setTimeout(resolve, 20));
    expect(isOver).toBe(false);
    // Stopped, they make no sign of life, as in an endless system call.
    for (const pid of writers()) process.kill(pid, 'SIGSTOP');
    const { status, stdout } = await ended;
    expect(stdout).toMatch(/2 callers hung/);
    expect(stdout).toMatch(/caller 1 in .*: hung: no sign of life for [45] s/);
    expect(status).toBe(1);
    expect(fs.readdirSync(directory)).toEqual([]);
  });

  test.each([
    [['overlap']],
    [['overlap', '/does/not/exist']],
    [['overlap', '.', '--sizes', 'many']],
    [['overlap', '.', '--sizes', '5']],
    [['overlap', '.', '--bogus']],
    [['overlap', '.', '--url', 'ws://127.0.0.1:1/']],
    [['io']],
    [['meta', '.', '--files', '0']],
  ])('wrong usage exits 2 with one line: %j', async (args) => {
    const { status, stderr } = await bench(...args);
    expect(stderr.trim().split('\n').length).toBe(1);
    expect(stderr).not.toMatch(/\n +at /);
    expect(status).toBe(2);
  });

  test('a server that is not there exits 1 with one line', async () => {
    const { status, stderr } = await bench('overlap', '--url', 'ws://127.0.0.1:1/');
    expect(stderr).toMatch(/^weft bench: 127\.0\.0\.1:1: nothing listens there/);
    expect(status).toBe(1);
  });
});

describe('bench io and meta', () => {
  test('io measures five kinds of calls', async () => {
    const { status, stdout } = await bench('io', directory, directory, '--size', '8M', '--duration', '0.3', '--json');
    const report = JSON.parse(stdout);
    expect(report.measurements.map((each: { name: string }) => each.name.split(',')[0])).toEqual([
      'sequential write',
      'sequential read',
      'random read',
      'random read',
      'random write',
    ]);
    for (const each of report.measurements)
      expect([each.errors, each.calls > 0, each.mibPerSecond > 0]).toEqual([0, true, true]);
    expect(status).toBe(0);
    expect(fs.readdirSync(directory)).toEqual([]);
  });

  test('meta measures ten kinds of calls', async () => {
    const { status, stdout } = await bench('meta', directory, directory, '--files', '50', '--json');
    const report = JSON.parse(stdout);
    expect(report.measurements.map((each: { calls: number; errors: number }) => [each.calls, each.errors])).toEqual(
      Array(10).fill([50, 0]),
    );
    expect(status).toBe(0);
    expect(fs.readdirSync(directory)).toEqual([]);
  });

  test('Ctrl-C cleans up', async () => {
    const { child, ended } = start('io', directory, '--size', '8M', '--duration', '60');
    const file = () => fs.readdirSync(directory, { recursive: true }).some((name) => String(name).endsWith('/io'));
    while (!file()) await new Promise((resolve) => setTimeout(resolve, 20));
    child.kill('SIGINT');
    expect((await ended).status).toBe(130);
    expect(fs.readdirSync(directory)).toEqual([]);
  });

  test.each(['overlap', 'io', 'meta'])('the help of %s ends with an example', async (verb) => {
    const { status, stdout } = await bench(verb, '--help');
    expect(stdout.trim().split('\n').at(-1)).toMatch(new RegExp(`^ {2}weft bench ${verb} `));
    expect(status).toBe(0);
  });
});
