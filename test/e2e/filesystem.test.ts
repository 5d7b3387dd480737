/**
 * The cases of filesystem-cases.ts on a local directory (the control), and on mounts by both drivers: the same functions,
 * the same expectations. Everything in processes of its own, bounded in time.
 */
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { linkSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { cases } from './filesystem-cases.ts';
import { buildPrograms } from './memory-mount-fixture.ts';

const dist = resolve(import.meta.dirname, '../../dist');
const weft = join(dist, 'scripts/weft.cjs');
const TIMEOUT_MS = 60_000;
const MANY = '50,000 entries in a directory';

let directory: string;
let server: ChildProcess;

beforeAll(async () => {
  buildPrograms();
  directory = mkdtempSync(join(tmpdir(), 'weft-cases-'));
  for (const name of ['export', 'state', 'kernel', 'fuse-native']) mkdirSync(join(directory, name));
  const served = join(directory, 'export');
  const args = [
    weft,
    'serve',
    served,
    '--listen',
    '127.0.0.1:0',
    '--squash',
    'none',
    '--state',
    join(directory, 'state'),
  ];
  server = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const [said] = (await once(server.stdout as NodeJS.ReadableStream, 'data')) as [Buffer];
  const url = /ws:\S+/.exec(said.toString())?.[0] ?? '';
  for (const driver of ['kernel', 'fuse-native']) {
    const mount = [weft, 'mount', url, join(directory, driver), '--driver', driver, '-o', 'allow_other,dev,suid'];
    execFileSync(process.execPath, mount, { timeout: TIMEOUT_MS, stdio: ['ignore', 'inherit', 'inherit'] });
  }
}, 120_000);

afterAll(async () => {
  for (const driver of ['kernel', 'fuse-native']) {
    spawnSync(process.execPath, [weft, 'umount', '--lazy', join(directory, driver)], { timeout: TIMEOUT_MS });
  }
  server.kill('SIGTERM');
  await once(server, 'exit');
  rmSync(directory, { recursive: true, force: true });
}, 60_000);

/** Runs a case in a fresh directory; `inExport` is where that directory is on the server's side. */
function runCase(name: string, root: string, inExport: string): void {
  const fresh = `case-${name.replace(/\W+/g, '-')}-${Math.random().toString(36).slice(2, 8)}`;
  mkdirSync(join(inExport, fresh), { recursive: true });
  if (name === MANY) makeEntries(join(inExport, fresh));
  const program = join(dist, 'test/e2e/filesystem-cases.js');
  const result = spawnSync(process.execPath, [program, join(root, fresh), name], {
    timeout: TIMEOUT_MS,
    encoding: 'utf8',
  });
  expect(result.stderr).toBe('');
  expect(result.status).toBe(0);
  rmSync(join(inExport, fresh), { recursive: true });
}

function makeEntries(inside: string): void {
  writeFileSync(join(inside, 'f0'), '');
  for (let index = 1; index < 50_000; index++) linkSync(join(inside, 'f0'), join(inside, `f${index}`));
}

describe.each(['local', 'kernel', 'fuse-native'])('%s', (target) => {
  const names = Object.keys(cases).filter((name) => target !== 'fuse-native' || !cases[name]?.kernelDriverOnly);
  test.each(names)(
    '%s',
    (name) => {
      const served = join(directory, 'export');
      const root = target === 'local' ? served : join(directory, target);
      runCase(name, root, served);
    },
    2 * TIMEOUT_MS,
  );
});
