/**
 * Leases on data on real mounts: what the kernel's page cache answers is never old, what a client gathers is seen as soon
 * as anybody looks, and neither is lost or wrong when a client is stopped, killed or has its files removed.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { runCommand } from '../../../client-fuse/mount/command.ts';
import { limits } from '../../../shared/limits.ts';
import { exitOf, LeaseExport, programs } from '../lease-mounts.ts';
import { buildPrograms } from '../memory-mount-fixture.ts';

interface Report {
  readonly rounds: number;
  readonly stale: number;
  readonly examples: readonly string[];
  readonly maxMs: number;
  readonly gathered?: number;
}

const ROUNDS = Number(process.env.WEFT_LEASE_ROUNDS ?? 8);
/** What a busy machine adds. */
const SLACK_MS = 1500;

const CHANGES = [
  'write+close',
  'write+fsync',
  'write without close',
  'rewrite',
  'truncate',
  'ftruncate to more',
  'append',
  'rename-over',
];

beforeAll(buildPrograms, 120_000);

/** Runs data-rounds in a process of its own, which can be killed, and returns what it prints last. */
async function rounds<T>(exported: LeaseExport, what: string, count: number, argument = ''): Promise<T> {
  const roots = [exported.local, ...exported.mounts.map(({ path }) => path)].join(',');
  const args = [join(programs, 'test/e2e/data/data-rounds.js'), what, String(count), roots, argument];
  const timeoutMs = 30_000 + 100 * ROUNDS;
  const result = await runCommand(process.execPath, args, { timeoutMs });
  if (result.status !== 0) {
    const why = result.timedOut ? `not done after ${timeoutMs} ms` : result.stderr;
    throw new Error(`${what}: ${why}\n${result.stdout}\n${exported.serverOutput}`);
  }
  return JSON.parse(result.stdout.trim().split('\n').at(-1) ?? '') as T;
}

type Reports = Record<string, Report>;

describe('cached data', { timeout: 120_000 }, () => {
  let exported: LeaseExport;
  beforeAll(async () => {
    exported = await LeaseExport.open(2);
  }, 60_000);
  afterAll(() => exported[Symbol.asyncDispose]());

  it('is never old on another mount: the next read of an open file, of a new handle and of a mapping', async () => {
    const reports = await rounds<Reports>(exported, 'stale', ROUNDS, JSON.stringify(CHANGES));
    for (const kind of CHANGES) expect(reports[kind], kind).toMatchObject({ rounds: ROUNDS, stale: 0, examples: [] });
  });

  it('is never old after a local program on the server has written to the file', async () => {
    // Names are seen after the fact.
    const kinds = CHANGES.filter((kind) => kind !== 'rename-over');
    const reports = await rounds<Reports>(exported, 'local', ROUNDS, JSON.stringify(kinds));
    for (const kind of kinds) expect(reports[kind], kind).toMatchObject({ rounds: ROUNDS, stale: 0, examples: [] });
  });

  it('is never old while more of it is on its way to the kernel than was asked for', async () => {
    const reports = await rounds<Reports>(exported, 'scattered', ROUNDS, JSON.stringify(CHANGES));
    for (const kind of CHANGES) expect(reports[kind], kind).toMatchObject({ rounds: ROUNDS, stale: 0, examples: [] });
  });

  it('comes by itself where a file is read here and there', async () => {
    const before = (await exported.requests()).read ?? 0;
    expect(await rounds(exported, 'everyPage', 1)).toEqual({ pages: 2048, wrong: 0 });
    const after = (await exported.requests()).read ?? 0;
    // Eight of each of the eight MiB, and what was asked for while they were under way.
    expect(after - before).toBeLessThan(1024);
  });

  it('is never old on the mount that changes it', async () => {
    await using alone = await LeaseExport.open(1);
    const count = Math.ceil(ROUNDS / 3);
    const reports = await rounds<Reports>(alone, 'own', count, JSON.stringify(CHANGES));
    for (const kind of CHANGES) expect(reports[kind], kind).toMatchObject({ rounds: count, stale: 0, examples: [] });
  });

  it('is never old while other processes keep reading it on both mounts', async () => {
    await exported.shell('mkdir $X/mixed');
    const reading = [1, 2].map(() => rounds<Report>(exported, 'reread', 4000));
    expect(await rounds<Report>(exported, 'mixed', 2 * ROUNDS)).toMatchObject({ stale: 0, examples: [] });
    await Promise.all(reading);
    expect(await exported.differences()).toEqual([]);
  });
});

describe('gathered writes', { timeout: 120_000 }, () => {
  it('are there for whoever looks next, on another mount and on the server, and in the right order', async () => {
    await using exported = await LeaseExport.open(2);
    const kinds = ['read at B', 'stat at B', 'append at B', 'local cat', 'local append', 'local truncate'];
    const reports = await rounds<Reports>(exported, 'gathered', ROUNDS / 2, JSON.stringify(kinds));
    for (const kind of kinds) {
      expect(reports[kind], kind).toMatchObject({ stale: 0, examples: [] });
      // Otherwise nothing was tested: the server had it all before anybody looked.
      expect(reports[kind]?.gathered, kind).toBeGreaterThan(ROUNDS / 4);
      expect(reports[kind]?.maxMs, kind).toBeLessThan(SLACK_MS);
    }
    expect(await exported.differences()).toEqual([]);
  });
});

describe('a second look', { timeout: 120_000 }, () => {
  /**
   * What a mount that answers everything from memory still sends: `renew` keeps its leases valid, `statfs` is never
   * kept (find and grep ask once each), and `status` is this test's own question.
   */
  const ALLOWED = ['hello', 'renew', 'statfs', 'status'];
  /** git makes .git/index.lock and takes it away again, each time. */
  const GIT_LOCK = { create: 1, unlink: 1, release: 1 };
  /** The kernel takes pages back when it wants (DAMON also without pressure), and reads them anew: then it is looked once more. */
  const LOOKS_AT_PAGES = 5;
  async function asked(
    exported: LeaseExport,
    command: string,
    allowed: Readonly<Record<string, number>> = {},
  ): Promise<Record<string, number>> {
    const before = await exported.requests();
    const { stderr, timedOut } = await exported.shell(command);
    expect({ command, stderr, timedOut }).toEqual({ command, stderr: '', timedOut: false });
    const after = await exported.requests();
    const more = Object.entries(after).map(
      ([name, count]) => [name, count - (before[name] ?? 0) - (allowed[name] ?? 0)] as const,
    );
    return Object.fromEntries(more.filter(([name, count]) => count > 0 && !ALLOWED.includes(name)));
  }

  /** The second time; or one of those after it, of so many `looks`. */
  async function asksNothing(
    exported: LeaseExport,
    command: string,
    allowed: Readonly<Record<string, number>> = {},
    looks = 1,
  ): Promise<void> {
    await asked(exported, command);
    for (let look = 1; ; look++) {
      const more = await asked(exported, command, allowed);
      const count = Object.values(more).reduce((sum, one) => sum + one, 0);
      // The first question after three seconds of the kernel's own answers may be a request: it renews all leases.
      if (count <= 1) return;
      if (look === looks) expect.fail(`${command} asks ${JSON.stringify(more)}`);
    }
  }

  /** Made before the server is started: it sees no event of it, and grants leases at once. */
  async function withTree(script: string): Promise<LeaseExport> {
    const exported = await LeaseExport.open(0);
    exported.server.kill('SIGTERM');
    await exitOf(exported.server, 10_000);
    const made = await exported.shell(`cd $X && ${script}`);
    expect(made).toMatchObject({ status: 0, stderr: '' });
    await exported.startServer();
    return exported;
  }

  // What is larger than an open brings along, directories that are not listed in one reply, and links too. Nobody has read
  // any of it since it was written, as after an untar.
  const TREE = `
    mkdir tree && cd tree && git init -q . && for d in 0 1 2 3 4 5 6 7 8 9; do
      mkdir -p dir$d/sub; for f in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14; do
        seq 1 200 > dir$d/$f; echo "a needle in $d $f" > dir$d/sub/$f
      done; seq 1 20000 > dir$d/large; ln -s large dir$d/link
    done; mkdir wide && cd wide && seq -f '%05g' 1 200 | xargs touch && cd .. && : > empty &&
    git add . && git -c user.name=t -c user.email=t@t commit -qm tree`;
  const UNREAD = "find . -mindepth 1 -path ./tree/.git -prune -o -print0 | xargs -0 touch -h -m -d '1 minute'";

  it.each<[what: string, command: string, allowed?: Readonly<Record<string, number>>, looks?: number]>([
    ['ls -lR', 'ls -lR $A/tree > /dev/null'],
    ['find', 'find $A/tree -type f -size +1 > /dev/null'],
    ['grep -r', 'grep -rc needle $A/tree > /dev/null', {}, LOOKS_AT_PAGES],
    ['git status', 'git -C $A/tree status --porcelain > /dev/null', GIT_LOCK],
  ])('of %s at a tree asks the server nothing', async (what, command, allowed = {}, looks = 1) => {
    await using exported = await withTree(what.startsWith('git') ? TREE : `${TREE} && cd .. && ${UNREAD}`);
    await exported.mount();
    await asksNothing(exported, command, allowed, looks);
  });

  it('of a directory whose entries do not fit into whole replies asks the server nothing', async () => {
    await using exported = await withTree('mkdir many; for i in $(seq 1 300); do mkdir many/$(printf %03x $i); done');
    await exported.mount();
    await asksNothing(exported, 'find $A/many -maxdepth 1 > /dev/null');
  });

  it('at what directories list asks not even the client', async () => {
    await using exported = await withTree(
      'mkdir many; for i in $(seq 1 200); do mkdir many/$i; : > many/$i/file; done',
    );
    const mount = await exported.mount();
    const asked = async () => {
      const before = await mount.kernelRequests();
      await exported.shell('find $A/many > /dev/null');
      return (await mount.kernelRequests()) - before;
    };
    // Each directory is opened and closed; names that have run out in the kernel, 3 s later, come with their listing again.
    const opened = 2 * 201;
    const looks = [];
    do looks.push(await asked());
    while ((looks.at(-1) as number) >= opened + 200 && looks.length < 12);
    expect(looks[0]).toBeGreaterThan(opened + 2 * 201);
    expect(looks.at(-1)).toBeLessThan(opened + 200);
  });

  it('for a header in ten directories, absent from nine, asks the server nothing', async () => {
    await using exported = await withTree(`
      for i in 0 1 2 3 4 5 6 7 8 9; do mkdir inc$i; echo "#define UNUSED" > inc$i/other.h; done
      echo "int found;" > inc9/header.h; echo '#include <header.h>' > main.c`);
    for (let count = 0; count < 2; count++) await exported.mount();
    const includes = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9].map((index) => `-I $B/inc${index}`).join(' ');
    const command = `cpp ${includes} $B/main.c > $B/../out && grep -q 'int found' $B/../out`;
    await asksNothing(exported, command);
    await exported.shell('echo "int nearer;" > $A/inc3/header.h');
    expect((await exported.shell(`cpp ${includes} $B/main.c`)).stdout).toContain('int nearer;');
  });
});

describe('a client that is stopped with gathered writes', { timeout: 60_000 }, () => {
  it('is waited for once and fenced: its late writes are refused, and no cache of its answers any more', async () => {
    await using exported = await LeaseExport.open(2);
    const said = await rounds<Record<string, string | number>>(
      exported,
      'fenced',
      1,
      String(exported.mounts[0]?.clientPid),
    );
    expect(said).toMatchObject({
      before: 'old',
      readAtB: '',
      cachedAtA: 'new',
      fsync: 'ESTALE',
      readAtA: 'of B',
      writeAgain: 'done',
      fsyncAgain: 'done',
      close: 'done',
      unwatchedFsync: 'ESTALE',
      unwatchedWriteAgain: 'done',
      unwatchedClose: 'done',
      dirty: 'Af B',
      dirtyAtB: 'Af B',
      unwatched: 'Af B too',
    });
    expect(said.readMs).toBeGreaterThan(limits.recallMs - 1000);
    expect(said.allMs).toBeLessThan(limits.recallMs + SLACK_MS);
    expect(await exported.differences()).toEqual([]);
  });
});

describe('a directory of the mount that is in use', { timeout: 60_000 }, () => {
  /**
   * On B, every name is known under leases, more than are taken back one by one; A makes and removes names in the
   * directory and in its parent, and then so do both at once `times` times.
   */
  const recalls = (times: number) => `
    ls -lR $B > /dev/null; stat $B/d/absent $B/d/sub/absent > /dev/null 2>&1
    touch $A/d/new; chmod 755 $A/d/sub; mkdir $A/new; rmdir $A/new; touch $A/d/sub/new; chmod 750 $A/d
    ls -l $B/d > /dev/null; rm $A/d/new
    for j in $(seq 1 ${times}); do mkdir $A/d/beside$j; rmdir $A/d/beside$j; done &
    for j in $(seq 1 ${times}); do mkdir $B/d/own$j; rmdir $B/d/own$j; done; wait`;

  it('keeps what is mounted on it', async () => {
    await using exported = await LeaseExport.open(2);
    await exported.shell('mkdir -p $X/d/sub; for i in $(seq 1 300); do : > $X/d/file$i; done');
    try {
      expect((await exported.shell('mount -t tmpfs none $B/d/sub && echo inside > $B/d/sub/f')).stderr).toBe('');
      expect(await exported.shell(recalls(1))).toMatchObject({ status: 0, stderr: '' });
      const seen = await exported.shell('mountpoint -q $B/d/sub && cat $B/d/sub/f; ls $B/d/sub; ls $A/d/sub');
      expect(seen).toMatchObject({ stdout: 'inside\nf\nnew\n', stderr: '' });
    } finally {
      await exported.shell('umount $B/d/sub || umount -l $B/d/sub');
    }
    expect(await exported.differences()).toEqual([]);
  });

  it("keeps being a shell's working directory", async () => {
    await using exported = await LeaseExport.open(2);
    await exported.shell('mkdir -p $X/d/sub; for i in $(seq 1 300); do : > $X/d/file$i; done; echo text > $X/d/sub/f');
    const looking = exported.shell(
      'cd $B/d/sub; while [ ! -e ../../done ]; do pwd -P; cat f; /bin/pwd -P; sleep 0.01; done; ls',
    );
    await exported.shell(recalls(20));
    await exported.shell(': > $A/done');
    const { stdout, stderr } = await looking;
    expect(stderr).toBe('');
    const lines = new Set(stdout.trim().split('\n'));
    expect([...lines]).toEqual([`${exported.mounts[1]?.path}/d/sub`, 'text', 'f', 'new']);
  });
});

describe('a file that was opened on the credit of a lease', { timeout: 60_000 }, () => {
  it('outlives its name', async () => {
    await using exported = await LeaseExport.open(2);
    const kinds = [
      'another client unlinks',
      'another client renames over',
      'this client unlinks',
      'this client renames over',
    ];
    for (const what of ['credit', 'credit in a busy directory']) {
      const reports = await rounds<Reports>(exported, what, 4, JSON.stringify(kinds));
      for (const kind of kinds) expect(reports[kind], kind).toMatchObject({ rounds: 4, stale: 0, examples: [] });
    }
  });
});

describe('processes on two mounts', { timeout: 90_000 }, () => {
  const STRESS_MS = 1000 * Number(process.env.WEFT_STRESS_SECONDS ?? 8);

  function worker(exported: LeaseExport): ChildProcess {
    const roots = [exported.local, ...exported.mounts.map(({ path }) => path)].join(',');
    const program = join(programs, 'test/e2e/data/data-rounds.js');
    return spawn(process.execPath, [program, 'stress', String(STRESS_MS), roots], { stdio: 'ignore', cwd: '/' });
  }

  it('that are killed at any moment leave nothing that hangs, and nothing that differs', async () => {
    await using exported = await LeaseExport.open(2);
    await exported.shell('mkdir -p $X/stress/0 $X/stress/1');
    const endMs = Date.now() + STRESS_MS;
    const working = new Set<ChildProcess>();
    const killed: ChildProcess[] = [];
    while (Date.now() < endMs) {
      while (working.size < 4) working.add(worker(exported));
      await new Promise((done) => setTimeout(done, 200 + Math.random() * 1000));
      const [victim] = [...working].sort(() => Math.random() - 0.5);
      victim?.kill('SIGKILL');
      if (victim) killed.push(victim);
      working.delete(victim as ChildProcess);
    }
    for (const one of working) one.kill('SIGKILL');
    // A process that hangs in a request of a mount does not die.
    for (const one of [...killed, ...working]) expect(await exitOf(one, 5000), `process ${one.pid} is gone`).toBe(true);
    const listed = await exported.shell('ls -l $A/stress/* $B/stress/*; cat $A/stress/*/* $B/stress/*/* > /dev/null');
    expect(listed.timedOut).toBe(false);
    // What one client waits for while another waits for it ends with that, after some seconds.
    expect(exported.serverOutput).not.toContain('leases revoked');
    expect(await exported.differences()).toEqual([]);
    const differs = await exported.shell('diff -r $X $A; diff -r $X $B');
    expect(differs).toMatchObject({ stdout: '', stderr: '', timedOut: false });
  });
});
