/** fcntl and flock locks over two real mounts: taken by programs of their own, which can be signalled and killed. */
import { statSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { runCommand } from '../../client-fuse/mount/command.ts';
import { exitOf, LeaseExport, send, waitFor, weft } from './lease-mounts.ts';
import { LockProgram } from './lock-program.ts';
import { buildPrograms } from './memory-mount-fixture.ts';

let exported: LeaseExport;
/** The test has ended a mount of it: the next one makes it anew. */
let isWhole = false;
/** Of the file that the test locks; each has its own. */
let fileName: string;
let fileCount = 0;
let programs: LockProgram[];
/** Programs on the first and the second mount, each with the file open as `f`. */
let a: LockProgram;
let b: LockProgram;

const pathOn = (mount: number) => join(exported.mounts[mount]?.path as string, fileName);

async function start(mount: number): Promise<LockProgram> {
  const one = new LockProgram();
  programs.push(one);
  expect(await one.do(`open f ${pathOn(mount)}`)).toBe('ok');
  return one;
}

/** As the server sees it. */
async function locks(): Promise<{ held: number; waiting: number }> {
  const { locks: all } = await exported.status();
  return { held: all.held, waiting: all.waiting };
}

function unmount(): Promise<void> {
  isWhole = false;
  return exported.mounts[0]?.close() as Promise<void>;
}

const isWaiting = (count: number) => waitFor('it waits', async () => (await locks()).waiting === count);

beforeAll(buildPrograms, 120_000);
beforeEach(async () => {
  programs = [];
  fileName = `file${++fileCount}`;
  if (!isWhole) exported = await LeaseExport.open(2);
  isWhole = true;
  a = await start(0);
  b = await start(1);
}, 60_000);
afterEach(async () => {
  for (const one of programs) one.kill();
  if (isWhole)
    await waitFor('nothing is locked', async () => Object.values(await locks()).every((count) => count === 0));
  else await exported[Symbol.asyncDispose]();
}, 60_000);
afterAll(() => (isWhole ? exported[Symbol.asyncDispose]() : undefined), 60_000);

describe('locks hold across mounts', { timeout: 60_000 }, () => {
  it.each(['posix', 'flock'])(
    '%s: exclusive excludes, shared does not, and what was written before the unlock is read',
    async (kind) => {
      expect(await a.do(`lock f ${kind} ex`)).toBe('ok');
      expect(await b.do(`lock f ${kind} ex nb`)).toBe('EAGAIN');
      expect(await b.do(`lock f ${kind} sh nb`)).toBe('EAGAIN');
      expect(await a.do('write f one')).toBe('ok');
      expect(await a.do(`lock f ${kind} sh`)).toBe('ok');
      expect(await b.do(`lock f ${kind} sh nb`)).toBe('ok');
      expect(await b.do('read f')).toBe('one');
      expect(await b.do(`lock f ${kind} ex nb`)).toBe('EAGAIN');
      expect(await a.do(`lock f ${kind} un`)).toBe('ok');
      expect(await b.do(`lock f ${kind} ex nb`)).toBe('ok');
    },
  );

  it.each(['posix', 'flock'])('%s: who waits is granted it when it is free, in turn', async (kind) => {
    expect(await a.do(`lock f ${kind} ex`)).toBe('ok');
    const taken = b.do(`lock f ${kind} ex`);
    await isWaiting(1);
    const third = await start(0);
    const after = third.do(`lock f ${kind} ex`);
    await isWaiting(2);
    await a.do('write f handed');
    expect(await a.do(`lock f ${kind} un`)).toBe('ok');
    expect(await taken).toBe('ok');
    expect(await b.do('read f')).toBe('handed');
    expect(await locks()).toEqual({ held: 1, waiting: 1 });
    await b.do(`lock f ${kind} un`);
    expect(await after).toBe('ok');
  });

  it('ranges: those that do not touch are free, and the one in the way is named', async () => {
    expect(await a.do('lock f posix ex 10 10')).toBe('ok');
    expect(await b.do('lock f posix ex nb 0 10')).toBe('ok');
    expect(await b.do('lock f posix ex nb 20 0')).toBe('ok');
    expect(await b.do('lock f posix ex nb 19 1')).toBe('EAGAIN');
    expect(await b.do('get f 0 0')).toBe('ex 10 10 0');
    const c = await start(0);
    // The kernel shows a process of this mount with its number, another machine's with 0.
    expect(await c.do('get f 10 1')).toBe(`ex 10 10 ${a.pid}`);
    expect(await a.do('get f 12 1')).toBe('free');
    expect(await a.do('get f 25 1')).toBe('ex 20 0 0');
  });

  it('fcntl and flock do not see each other', async () => {
    expect(await a.do('lock f posix ex')).toBe('ok');
    expect(await b.do('lock f flock ex nb')).toBe('ok');
    expect(await a.do('lock f flock sh nb')).toBe('EAGAIN');
  });

  it('a circle of those who wait is EDEADLK for the last', async () => {
    expect(await a.do('lock f posix ex 0 1')).toBe('ok');
    expect(await b.do('lock f posix ex 1 1')).toBe('ok');
    const waits = a.do('lock f posix ex 1 1');
    await isWaiting(1);
    expect(await b.do('lock f posix ex 0 1')).toBe('EDEADLOCK'); // Python's name of it
    await b.do('lock f posix un 1 1');
    expect(await waits).toBe('ok');
  });
});

it('`weft status --locks` says who holds what, and who waits', async () => {
  await a.do('lock f posix ex 10 10');
  await a.do('lock f flock sh');
  void b.do('lock f flock ex');
  await isWaiting(1);
  const { stdout } = await runCommand(process.execPath, [weft, 'status', exported.url, '--locks'], {
    timeoutMs: 20_000,
  });
  expect(stdout).toContain('locks: 2 held, 1 waited for');
  const ino = statSync(join(exported.local, fileName)).ino;
  const [clientA, clientB] = exported.mounts.map(({ clientPid }) => `${hostname()}:${clientPid}`);
  const rows = stdout.split('\n').map((line) =>
    line
      .split('│')
      .map((cell) => cell.trim())
      .slice(1, -1),
  );
  expect(rows).toContainEqual([`${ino}`, 'posix', 'exclusive', '10..20', clientA, `${a.pid}`, 'held']);
  expect(rows).toContainEqual([`${ino}`, 'flock', 'shared', '0..', clientA, `${a.pid}`, 'held']);
  expect(rows).toContainEqual([`${ino}`, 'flock', 'exclusive', '0..', clientB, `${b.pid}`, 'waits']);
}, 60_000);

describe('who waits', { timeout: 60_000 }, () => {
  it('is interrupted by a signal, and nothing is left of it', async () => {
    expect(await a.do('lock f posix ex')).toBe('ok');
    const waits = b.do('lock f posix ex');
    await isWaiting(1);
    b.signal('SIGUSR1');
    expect(await waits).toBe('interrupted');
    expect(await locks()).toEqual({ held: 1, waiting: 0 });
    await a.do('lock f posix un');
    expect(await locks()).toEqual({ held: 0, waiting: 0 });
  });

  it('can be killed, and nothing is left of it', async () => {
    expect(await a.do('lock f flock ex')).toBe('ok');
    void b.do('lock f flock ex');
    await isWaiting(1);
    await b.end('SIGKILL');
    await isWaiting(0);
    await a.do('lock f flock un');
    await waitFor('nothing is held', async () => (await locks()).held === 0);
  });
});

describe('locks go', { timeout: 60_000 }, () => {
  const goes: [what: string, kind: string, how: () => Promise<unknown>][] = [
    ['when the file is closed', 'posix', () => a.do('close f')],
    ['when the file is closed', 'flock', () => a.do('close f')],
    ['when the process exits', 'posix', () => a.end()],
    ['when the process exits', 'flock', () => a.end()],
    ['when the process is killed', 'posix', () => a.end('SIGKILL')],
    ['when the process is killed', 'flock', () => a.end('SIGKILL')],
    ['with the mount', 'posix', () => unmount()],
  ];
  it.each(goes)('%s: %s', async (_what, kind, how) => {
    expect(await a.do(`lock f ${kind} ex`)).toBe('ok');
    const taken = b.do(`lock f ${kind} ex`);
    await isWaiting(1);
    await how();
    expect(await taken).toBe('ok');
  });

  it('by any close of the file, as POSIX has it for fcntl; not for flock', async () => {
    await a.do(`open again ${pathOn(0)}`);
    await a.do('lock f posix ex');
    await a.do('lock f flock ex');
    await a.do('close again');
    expect(await b.do('lock f posix ex nb')).toBe('ok');
    expect(await b.do('lock f flock ex nb')).toBe('EAGAIN');
  });

  it('with the last descriptor, if they are of the open file', async () => {
    await a.do(`open again ${pathOn(0)}`);
    expect(await a.do('lock f ofd ex')).toBe('ok');
    expect(await a.do('lock again ofd ex nb')).toBe('EAGAIN');
    await a.do('close again');
    expect(await b.do('lock f posix ex nb')).toBe('EAGAIN');
    const taken = b.do('lock f posix ex');
    await a.do('close f');
    expect(await taken).toBe('ok');
  });

  it('and what never locked makes no request at close', async () => {
    const before = await exported.requests();
    await a.do('close f');
    expect((await exported.requests()).unlock).toBe(before.unlock);
  });
});

describe('a restart of the server', { timeout: 60_000 }, () => {
  it('keeps what was held, and who waits goes on waiting', async () => {
    await a.do('lock f posix ex 0 10');
    await a.do('lock f flock ex');
    const waits = b.do('lock f flock ex');
    await isWaiting(1);
    send(exported.server.pid as number, 'SIGKILL');
    expect(await exitOf(exported.server, 5000)).toBe(true);
    await exported.startServer();
    await waitFor('locks are there again', async () => (await locks()).held === 2 && (await locks()).waiting === 1);
    await a.do('lock f flock un');
    expect(await waits).toBe('ok');
    expect(await b.do('lock f posix ex nb 9 1')).toBe('EAGAIN');
    await a.do('lock f posix un');
    expect(await b.do('lock f posix ex nb 9 1')).toBe('ok');
  });
});

describe('sqlite in rollback mode', { timeout: 120_000 }, () => {
  const SECONDS = 5;
  const insert = `
import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
end, count = time.time() + ${SECONDS}, 0
while time.time() < end:
    db.execute('begin immediate')
    last = db.execute('select value from counter').fetchone()[0]
    db.execute('update counter set value = ?', (last + 1,))
    db.execute('insert into entries values (?, ?)', (last + 1, 'x' * 500))
    db.execute('commit')
    count += 1
print(count)`;

  const script = `
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
for one in sys.argv[2].split(';'):
    for row in db.execute(one): print(row[0])`;

  it('two mounts write one database: no transaction is lost, and it is whole', async () => {
    const make = 'create table counter(value); insert into counter values (0); create table entries(n, text)';
    await exported.shell(`python3 -c "${script}" $A/db "pragma journal_mode=delete; ${make}"`);
    const runs = await Promise.all(
      ['A', 'A', 'B', 'B'].map((mount) => exported.shell(`python3 -c "${insert}" $${mount}/db`, 90_000)),
    );
    expect(runs.map(({ stderr }) => stderr)).toEqual(['', '', '', '']);
    const written = runs.map(({ stdout }) => Number(stdout));
    for (const mount of [0, 2]) expect((written[mount] ?? 0) + (written[mount + 1] ?? 0)).toBeGreaterThan(0);
    const total = written.reduce((sum, one) => sum + one, 0);
    const look = 'pragma integrity_check; select value from counter; select count(distinct n) from entries';
    for (const root of ['$A', '$B', '$X']) {
      expect((await exported.shell(`python3 -c "${script}" ${root}/db "${look}"`)).stdout.split('\n')).toEqual([
        'ok',
        `${total}`,
        `${total}`,
        '',
      ]);
    }
  });
});
