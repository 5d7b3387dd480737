/**
 * A server and its mounts for a soak: programs as a person starts them, all of one temporary directory, and all of it goes
 * away again, also when a mount hangs. `SIGUSR2` has each of them say how much memory it needs (heap-reporter.cts).
 */
import { type ChildProcess, spawn } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { mountAt } from '../../client-fuse/mount/mount-table.ts';
import { detach, tryUnmount } from '../../client-fuse/mount/unmount.ts';

const weft = fileURLToPath(new URL('../weft.cjs', import.meta.url));
const heapReporter = fileURLToPath(new URL('./heap-reporter.cjs', import.meta.url));
const START_WITHIN_MS = 60_000;
const END_WITHIN_MS = 10_000;
const REPORT_WITHIN_MS = 20_000;
const LOOK_EVERY_MS = 50;
const SAID_AT_LAST = 500;

interface Program {
  readonly child: ChildProcess;
  readonly logFile: string;
}

export class SoakSite {
  readonly #base = fs.mkdtempSync(path.join(os.tmpdir(), 'weft-soak-'));
  readonly exported = path.join(this.#base, 'export');
  readonly mounts: string[] = [];
  port = 0;
  readonly #programs: Program[] = [];
  #server: Program | undefined;
  #cleaned: Promise<void> | undefined;

  readonly #logs: string;

  /** `logs`: a directory in which the programs' logs stay; absent: they go with everything else. */
  constructor(logs: string | undefined) {
    this.#logs = logs ?? path.join(this.#base, 'log');
    for (const name of [this.exported, path.join(this.#base, 'heap'), this.#logs])
      fs.mkdirSync(name, { recursive: true });
  }

  async serve(): Promise<void> {
    const state = path.join(this.#base, 'state');
    const options = ['--listen', '127.0.0.1:0', '--squash', 'none', '--state', state, '--log-level', 'warn'];
    this.#server = this.#start('server', 'serve', this.exported, ...options);
    const { logFile } = this.#server;
    await this.#until(this.#server, 'the server listens', async () => {
      this.port = Number(/ at ws:\/\/127\.0\.0\.1:(\d+)/.exec(fs.readFileSync(logFile, 'utf8'))?.[1] ?? 0);
      return this.port > 0;
    });
  }

  /** Through `port`, which may be a proxy's. */
  async mount(name: string, port: number): Promise<void> {
    const at = path.join(this.#base, name);
    fs.mkdirSync(at);
    const url = `ws://127.0.0.1:${port}/`;
    const program = this.#start(name, 'mount', '--foreground', '--log-level', 'info', url, at);
    this.mounts.push(at);
    const isMounted = async () => fs.readFileSync(program.logFile, 'utf8').includes('"msg":"mounted"');
    await this.#until(program, `${name} is mounted`, isMounted);
  }

  /** Errors in the logs. Warnings tell of connections that were lost, or could not be opened in time, and are no faults. */
  get complaints(): string[] {
    return this.#programs.flatMap(({ logFile }) =>
      fs
        .readFileSync(logFile, 'utf8')
        .split('\n')
        .filter((line) => line.startsWith('{') && !/"level":[1-4]0,/.test(line))
        .map((line) => `${path.basename(logFile)}: ${line}`),
    );
  }

  /** Programs that have ended, which none should, and what they said. */
  get ended(): string[] {
    return this.#programs
      .filter(({ child }) => hasEnded(child))
      .map(
        ({ logFile }) =>
          `${path.basename(logFile)} has ended: ${fs.readFileSync(logFile, 'utf8').slice(-SAID_AT_LAST)}`,
      );
  }

  get serverPid(): number {
    return this.#server?.child.pid as number;
  }

  /** Of the processes that serve the mounts; each is its supervisor's only child. */
  get clientPids(): number[] {
    return this.#programs.flatMap((program) => {
      const { pid } = program.child;
      if (program === this.#server) return [];
      const children = fs.readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1').trim();
      return children === '' ? [] : [Number(children.split(' ')[0])];
    });
  }

  /** Bytes in use after a collection (heap and buffers), one process after the other. */
  async heapBytes(pids: readonly number[]): Promise<number[]> {
    const sizes: number[] = [];
    for (const pid of pids) {
      const report = path.join(this.#base, 'heap', String(pid));
      fs.rmSync(report, { force: true });
      process.kill(pid, 'SIGUSR2');
      await until(`process ${pid} reports its heap`, REPORT_WITHIN_MS, async () => fs.existsSync(report));
      sizes.push(Number(fs.readFileSync(report, 'latin1')));
    }
    return sizes;
  }

  /** Once, whoever asks. Never fails. */
  cleanUp(): Promise<void> {
    this.#cleaned ??= this.#cleanUp();
    return this.#cleaned;
  }

  async #cleanUp(): Promise<void> {
    await Promise.all(
      this.mounts.map(async (at) => {
        const outcome = await tryUnmount(at, { lazy: false }).catch(() => 'stuck');
        if (outcome !== 'unmounted') await detach(at).catch(() => {});
      }),
    );
    for (const { child } of this.#programs.toReversed()) {
      child.kill('SIGTERM');
      await until('it has ended', END_WITHIN_MS, async () => hasEnded(child)).catch(() => child.kill('SIGKILL'));
    }
    // Nothing is removed through a mount that could not be taken away.
    for (const at of this.mounts) {
      if (await mountAt(at)) return void process.stderr.write(`${at} is mounted still: \`umount -l ${at}\`\n`);
    }
    fs.rmSync(this.#base, { recursive: true, force: true });
  }

  /** In a process group of its own: Ctrl-C is for the soak, which ends them in their order. */
  #start(name: string, ...args: string[]): Program {
    const logFile = path.join(this.#logs, name);
    const log = fs.openSync(logFile, 'a');
    const env = {
      ...process.env,
      HEAP_REPORTS: path.join(this.#base, 'heap'),
      NODE_OPTIONS: `--require ${heapReporter}`,
    };
    const child = spawn(process.execPath, [weft, ...args], {
      stdio: ['ignore', log, log],
      cwd: '/',
      env,
      detached: true,
    });
    fs.closeSync(log);
    const program = { child, logFile };
    this.#programs.push(program);
    return program;
  }

  async #until({ child, logFile }: Program, what: string, fact: () => Promise<boolean>): Promise<void> {
    await until(what, START_WITHIN_MS, async () => {
      if (hasEnded(child)) throw new Error(`not so: ${what}: ${fs.readFileSync(logFile, 'utf8')}`);
      return fact();
    });
  }
}

function hasEnded({ exitCode, signalCode }: ChildProcess): boolean {
  return exitCode !== null || signalCode !== null;
}

async function until(what: string, withinMs: number, fact: () => Promise<boolean>): Promise<void> {
  const end = Date.now() + withinMs;
  while (!(await fact())) {
    if (Date.now() > end) throw new Error(`${what}: not in ${withinMs / 1000} s`);
    await new Promise((done) => setTimeout(done, LOOK_EVERY_MS));
  }
}
