/**
 * A server and mounts of its export for the tests of leases: compiled programs as a person starts them, every process
 * known by its id, and mounts that always go away again (by fusectl when nothing else helps).
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import pino from 'pino';
import { type CommandResult, runCommand } from '../../client-fuse/mount/command.ts';
import { askMount } from '../../client-fuse/mount/mount-status.ts';
import { type Mount, mountAt } from '../../client-fuse/mount/mount-table.ts';
import { detach, tryUnmount } from '../../client-fuse/mount/unmount.ts';
import { parseServerAddress } from '../../client-fuse/transport/server-address.ts';
import { ServerSession } from '../../client-fuse/transport/server-session.ts';
import type { ServerStatus } from '../../server/admin/status.ts';

/** Where the compiled programs are; another build's for a stress run. */
export const programs = process.env.WEFT_DIST ?? resolve(import.meta.dirname, '../../dist');
export const weft = join(programs, 'scripts/weft.cjs');
const STARTED_WITHIN_MS = 20_000;

export class LeaseMount {
  readonly path: string;
  readonly supervisor: ChildProcess;
  output = '';

  constructor(path: string, url: string) {
    this.path = path;
    mkdirSync(path, { recursive: true });
    const args = [weft, 'mount', '--foreground', '-o', 'allow_other,dev,suid', url, path];
    this.supervisor = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'], cwd: '/' });
    this.supervisor.stdout?.on('data', (chunk) => (this.output += chunk));
    this.supervisor.stderr?.on('data', (chunk) => (this.output += chunk));
  }

  /** The process that serves the mount; it is the supervisor's only child. */
  get clientPid(): number {
    const { pid } = this.supervisor;
    return Number(readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1').trim().split(' ')[0]);
  }

  /** That the client was asked so far. */
  async kernelRequests(): Promise<number> {
    const { device } = (await mountAt(this.path)) as Mount;
    return (await askMount(device)).kernelRequests;
  }

  /** Both processes at once, as when the machine goes: what it held is not given back, the mount point stays. */
  async kill(): Promise<void> {
    const client = this.clientPid;
    this.supervisor.kill('SIGKILL');
    send(client, 'SIGKILL');
    await exitOf(this.supervisor, 5000);
  }

  async unmount(): Promise<void> {
    if ((await tryUnmount(this.path, { lazy: false })) !== 'unmounted' && (await mountAt(this.path))) {
      await detach(this.path);
    }
    await exitOf(this.supervisor, 5000);
  }

  /** However it was left: stopped, killed, unmounted. */
  async close(): Promise<void> {
    if (hasExited(this.supervisor) && !(await mountAt(this.path))) return;
    for (const pid of [this.#clientIfAny(), this.supervisor.pid]) if (pid) send(pid, 'SIGCONT');
    await this.unmount();
    if (!hasExited(this.supervisor)) this.supervisor.kill('SIGKILL');
  }

  #clientIfAny(): number | undefined {
    try {
      return this.clientPid;
    } catch {
      return undefined;
    }
  }
}

export class LeaseExport implements AsyncDisposable {
  readonly directory = mkdtempSync(join(tmpdir(), 'weft-leases-'));
  readonly local: string;
  readonly mounts: LeaseMount[] = [];
  server!: ChildProcess;
  port = 0;
  serverOutput = '';

  readonly #serveOptions: readonly string[];

  /** `local`: what is exported, if it is to be more than an empty directory. */
  constructor(local?: string, serveOptions: readonly string[] = []) {
    this.local = local ?? join(this.directory, 'export');
    this.#serveOptions = serveOptions;
  }

  static async open(mountCount: number, local?: string, serveOptions?: readonly string[]): Promise<LeaseExport> {
    const exported = new LeaseExport(local, serveOptions);
    try {
      chmodSync(exported.directory, 0o755);
      mkdirSync(exported.local, { recursive: true });
      exported.port = await freePort();
      await exported.startServer();
      for (let index = 0; index < mountCount; index++) await exported.mount();
      return exported;
    } catch (error) {
      await exported[Symbol.asyncDispose]();
      throw error;
    }
  }

  async startServer(): Promise<void> {
    const at = `127.0.0.1:${this.port}`;
    const state = join(this.directory, 'state');
    const args = [
      weft,
      'serve',
      this.local,
      '--listen',
      at,
      '--squash',
      'none',
      '--state',
      state,
      ...this.#serveOptions,
    ];
    this.server = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'], cwd: '/' });
    const said = this.serverOutput.length;
    this.server.stdout?.on('data', (chunk) => (this.serverOutput += chunk));
    this.server.stderr?.on('data', (chunk) => (this.serverOutput += chunk));
    await waitFor('the server listens', async () => {
      if (hasExited(this.server)) throw new Error(`no server: ${this.serverOutput}`);
      return this.serverOutput.slice(said).includes('serving ');
    });
  }

  get url(): string {
    return `ws://127.0.0.1:${this.port}/`;
  }

  async mount(port = this.port, path = join(this.directory, `m${this.mounts.length}`)): Promise<LeaseMount> {
    const mount = new LeaseMount(path, `ws://127.0.0.1:${port}/`);
    this.mounts.push(mount);
    await waitFor('mounted', async () => {
      if (hasExited(mount.supervisor)) throw new Error(`no mount: ${mount.output}`);
      return (await mountAt(path)) !== undefined;
    });
    await this.shell(`stat ${path}`);
    return mount;
  }

  /** What `weft status` shows of the server. Asked from here: a process for each question would take most of the time. */
  async status(): Promise<ServerStatus> {
    const session = await ServerSession.connect(parseServerAddress(this.url), pino({ level: 'silent' }));
    try {
      return JSON.parse((await session.call('status', [], {})).json) as ServerStatus;
    } finally {
      session.close();
    }
  }

  /** Requests that the server has answered, by operation. */
  async requests(): Promise<Readonly<Record<string, number>>> {
    return (await this.status()).requests;
  }

  /** A shell command with the export as $X and the mounts as $A, $B and $C; killed after `timeoutMs`. */
  async shell(command: string, timeoutMs = 30_000): Promise<CommandResult & { tookMs: number }> {
    const [A, B, C] = this.mounts.map(({ path }) => path);
    const environment = { X: this.local, ...(A && { A }), ...(B && { B }), ...(C && { C }) };
    const startedMs = performance.now();
    const result = await runCommand('sh', ['-c', command], { timeoutMs, environment });
    return { ...result, tookMs: performance.now() - startedMs };
  }

  /** Runs lease-rounds. */
  rounds<T>(what: string, count: number, timeoutMs: number, ...more: string[]): Promise<T> {
    return this.program<T>('lease-rounds', [what, String(count), this.#roots, ...more], timeoutMs);
  }

  newFileRounds<T>(count: number, timeoutMs: number): Promise<T> {
    return this.program<T>('new-file-rounds', [String(count), this.#roots], timeoutMs);
  }

  get #roots(): string {
    return [this.local, ...this.mounts.map(({ path }) => path)].join(',');
  }

  /** Runs it in a process of its own, which can be killed, and returns what it prints last. */
  async program<T>(name: string, args: readonly string[], timeoutMs: number): Promise<T> {
    const program = join(programs, `test/e2e/${name}.js`);
    const result = await runCommand(process.execPath, [program, ...args], { timeoutMs });
    if (result.status !== 0) {
      const why = result.timedOut ? `not done after ${timeoutMs} ms` : result.stderr;
      throw new Error(`${name} ${args[0]}: ${why}\n${result.stdout}\n${this.serverOutput}`);
    }
    return JSON.parse(result.stdout.trim().split('\n').at(-1) ?? '') as T;
  }

  /** Everything but access times, through each mount, against the exported directory: lines that differ. */
  async differences(under = '.'): Promise<string[]> {
    const list = (root: string) =>
      this.shell(
        `cd ${root}/${under} && find . -mindepth 1 -printf '%p|%y %m %s %T@ %C@ %n %U %G %i %l\\n' | sort`,
        60_000,
      );
    const truth = (await list(this.local)).stdout.split('\n');
    const differences: string[] = [];
    for (const { path } of this.mounts) {
      const listed = await list(path);
      const seen = listed.stdout.split('\n');
      for (const line of seen.filter((one) => !truth.includes(one))) differences.push(`${path} has ${line}`);
      for (const line of truth.filter((one) => !seen.includes(one))) differences.push(`${path} has not ${line}`);
      if (listed.stderr) differences.push(listed.stderr);
    }
    return differences;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.server?.pid) send(this.server.pid, 'SIGCONT');
    for (const mount of this.mounts) await mount.close();
    if (this.server && !hasExited(this.server)) {
      this.server.kill('SIGTERM');
      if (!(await exitOf(this.server, 5000))) this.server.kill('SIGKILL');
    }
    // A mount that could not be taken away keeps its directory: nothing is removed through it.
    for (const { path } of this.mounts) if (await mountAt(path)) return;
    rmSync(this.directory, { recursive: true, force: true });
  }
}

export function send(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // it has gone
  }
}

/** Looks every 20 ms. */
export async function waitFor(what: string, condition: () => Promise<boolean>, timeoutMs = STARTED_WITHIN_MS) {
  const end = Date.now() + timeoutMs;
  while (!(await condition())) {
    if (Date.now() > end) throw new Error(`gave up waiting until ${what}`);
    await new Promise((done) => setTimeout(done, 20));
  }
}

function hasExited({ exitCode, signalCode }: ChildProcess): boolean {
  return exitCode !== null || signalCode !== null;
}

/** True when it ended in time. */
export async function exitOf(child: ChildProcess, timeoutMs: number): Promise<boolean> {
  if (hasExited(child)) return true;
  return new Promise((done) => {
    const timer = setTimeout(() => done(false), timeoutMs);
    child.once('exit', () => {
      clearTimeout(timer);
      done(true);
    });
  });
}

function freePort(): Promise<number> {
  return new Promise((done) => {
    const server = createServer();
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => done(typeof address === 'object' && address ? address.port : 0));
    });
  });
}
