/** kill -9 of the server while locks are held and waited for: who held one has it again before anybody else can. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { exitOf, LeaseExport, type LeaseMount, send, waitFor } from './lease-mounts.ts';
import { LockProgram } from './lock-program.ts';
import { buildPrograms } from './memory-mount-fixture.ts';

/** The shortest grace period that there is. */
const GRACE_SECONDS = 5;

let exported: LeaseExport;
let programs: LockProgram[];

beforeAll(buildPrograms, 120_000);
beforeEach(() => {
  programs = [];
});
afterEach(async () => {
  for (const one of programs) one.kill();
  await exported[Symbol.asyncDispose]();
}, 60_000);

async function start(mount: LeaseMount | undefined): Promise<LockProgram> {
  const one = new LockProgram();
  programs.push(one);
  expect(await one.do(`open f ${join(mount?.path as string, 'f')}`)).toBe('ok');
  return one;
}

async function killServer(): Promise<void> {
  send(exported.server.pid as number, 'SIGKILL');
  expect(await exitOf(exported.server, 5000)).toBe(true);
}

const locks = async () => {
  const { held, waiting } = (await exported.status()).locks;
  return { held, waiting };
};

/** Settled, after what is under way had its time to be wrong. */
async function isAnsweredWithin(answer: Promise<string>, ms: number): Promise<boolean> {
  return Promise.race([answer.then(() => true), new Promise<false>((done) => setTimeout(() => done(false), ms))]);
}

describe('kill -9 of the server in a lock hand-over', { timeout: 90_000 }, () => {
  it.each(['posix', 'flock'])(
    '%s: nobody is granted what another mount holds, however late that comes back',
    async (kind) => {
      exported = await LeaseExport.open(2);
      const [late, other] = exported.mounts;
      const [a, b] = [await start(late), await start(other)];
      expect(await a.do(`lock f ${kind} ex`)).toBe('ok');
      const waits = b.do(`lock f ${kind} ex`);
      await waitFor('it waits', async () => (await locks()).waiting === 1);
      const lateClient = late?.clientPid as number;
      send(lateClient, 'SIGSTOP');
      await killServer();
      await exported.startServer();
      // A mount that the server has never heard of, and a request that does not wait.
      const c = await start(await exported.mount());
      const asks = c.do(`lock f ${kind} ex nb`);
      expect(await isAnsweredWithin(Promise.race([waits, asks]), 3_000)).toBe(false);
      send(lateClient, 'SIGCONT');
      expect(await asks).toBe('EAGAIN');
      await waitFor('all is as it was', async () => (await locks()).held === 1 && (await locks()).waiting === 1);
      expect(await isAnsweredWithin(waits, 500)).toBe(false);
      await a.do('write f handed');
      expect(await a.do(`lock f ${kind} un`)).toBe('ok');
      expect(await waits).toBe('ok');
      expect(await b.do('read f')).toBe('handed');
      expect(exported.serverOutput).toContain('grace period over');
    },
  );

  it('a mount that never comes back holds others up for the grace period, and no longer', async () => {
    exported = await LeaseExport.open(2, undefined, ['--lease-time', `${GRACE_SECONDS}`]);
    const [killed, other] = exported.mounts;
    const [a, b] = [await start(killed), await start(other)];
    expect(await a.do('lock f posix ex')).toBe('ok');
    await killed?.kill();
    await killServer();
    const startMs = performance.now();
    await exported.startServer();
    expect(await b.do('lock f posix ex nb')).toBe('ok');
    expect(performance.now() - startMs).toBeGreaterThan(GRACE_SECONDS * 1000 - 100);
    expect(performance.now() - startMs).toBeLessThan(GRACE_SECONDS * 1000 + 5_000);
    await killServer();
    const againMs = performance.now();
    await exported.startServer();
    // Only `b` is waited for now.
    expect(await b.do('lock f posix sh nb')).toBe('ok');
    expect(performance.now() - againMs).toBeLessThan(GRACE_SECONDS * 1000);
  });

  it('who waits for the end of the grace period can be interrupted', async () => {
    exported = await LeaseExport.open(2);
    const [killed, other] = exported.mounts;
    const [a, b] = [await start(killed), await start(other)];
    expect(await a.do('lock f posix ex')).toBe('ok');
    await killed?.kill();
    await killServer();
    await exported.startServer();
    const waits = b.do('lock f posix ex');
    expect(await isAnsweredWithin(waits, 1_000)).toBe(false);
    b.signal('SIGUSR1');
    expect(await waits).toBe('interrupted');
    expect(await locks()).toEqual({ held: 0, waiting: 0 });
  });
});

interface Told {
  readonly done: string[];
  readonly uncertain: string[];
  readonly errors: string[];
  readonly changes: number;
  readonly uncertainChanges: number;
}

describe('kill -9 of the server under changes that must not be made twice', { timeout: 120_000 }, () => {
  const KILLS = 8;
  const onceOnly = resolve(import.meta.dirname, 'once-only.py');

  it('appends, mkdir, rename and rmdir from two mounts: each is made once, or its caller is told that nobody knows', async () => {
    exported = await LeaseExport.open(2);
    const { local, directory } = exported;
    writeFileSync(join(local, 'log'), '');
    const stop = join(directory, 'stop');
    const workers = ['a', 'b', 'c', 'd'].map((name, index) =>
      exported.shell(`python3 ${onceOnly} $${index % 2 ? 'A' : 'B'} ${name} ${stop}`, 100_000),
    );
    for (let kill = 0; kill < KILLS; kill++) {
      await new Promise((done) => setTimeout(done, 300 + Math.random() * 700));
      await killServer();
      await exported.startServer();
    }
    writeFileSync(stop, '');
    const told = (await Promise.all(workers)).map(({ stdout, stderr }) => {
      expect(stderr).toBe('');
      return JSON.parse(stdout) as Told;
    });
    expect(told.flatMap(({ errors }) => errors)).toEqual([]);
    const records = readFileSync(join(local, 'log'), 'latin1').trim().split('\n');
    expect(new Set(records).size, 'a record is there twice').toBe(records.length);
    const known = new Set(told.flatMap(({ uncertain }) => uncertain));
    expect(records.filter((one) => !known.has(one)).sort()).toEqual(told.flatMap(({ done }) => done).sort());
    const changes = told.reduce((sum, one) => sum + one.changes, 0);
    const uncertain = told.reduce((sum, one) => sum + one.uncertainChanges + one.uncertain.length, 0);
    expect(changes).toBeGreaterThan(KILLS);
    // Each kill meets four callers, mostly not between the two notes of the journal.
    expect(uncertain, `${uncertain} of ${changes} rounds`).toBeLessThan(KILLS * 2);
  });
});
