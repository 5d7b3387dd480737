/**
 * A server that asks for tokens over TLS, and mounts of its export: compiled programs at log level trace, as a person
 * starts them. Everything they say is kept, by whom it was said.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type CommandResult, runCommand } from '../../client-fuse/mount/command.ts';
import { mountAt } from '../../client-fuse/mount/mount-table.ts';
import { detach, tryUnmount } from '../../client-fuse/mount/unmount.ts';
import { exitOf, waitFor, weft } from './lease-mounts.ts';

const COMMAND_MS = 30_000;
const clockAhead = join(import.meta.dirname, 'clock-ahead.cjs');

/** Runs `weft` without a token of this process's own environment. */
export function runWeft(args: readonly string[], environment: Record<string, string> = {}): Promise<CommandResult> {
  return runCommand(process.execPath, [weft, ...args], {
    timeoutMs: COMMAND_MS,
    environment: { WEFT_TOKEN: '', ...environment },
  });
}

/** Empty when there is no such process any more. */
export function readProc(file: string): string {
  try {
    return readFileSync(`/proc/${file}`, 'utf8');
  } catch {
    return '';
  }
}

export class SecuredExport implements AsyncDisposable {
  readonly directory = mkdtempSync(join(tmpdir(), 'weft-security-'));
  readonly local = this.at('export');
  readonly state = this.at('state');
  readonly tokens: string[] = [];
  readonly #mounts: string[] = [];
  #server: ChildProcess | undefined;
  #said = '';
  port = 0;
  fingerprint = '';

  constructor() {
    chmodSync(this.directory, 0o755);
    mkdirSync(this.local);
    chmodSync(this.local, 0o777);
  }

  at(name: string): string {
    return join(this.directory, name);
  }

  /** Where the token of `weft token create NAME` is. */
  async grant(name: string, ...options: string[]): Promise<string> {
    const { status, stdout, stderr } = await runWeft(['token', 'create', name, '--state', this.state, ...options]);
    if (status !== 0) throw new Error(stderr);
    if (stdout !== '') this.tokens.push(stdout.trim());
    writeFileSync(this.at(`${name}.token`), stdout, { mode: 0o600 });
    return this.at(`${name}.token`);
  }

  async revoke(name: string): Promise<void> {
    const { status, stderr } = await runWeft(['token', 'revoke', name, '--state', this.state]);
    if (status !== 0) throw new Error(stderr);
  }

  /** Listens on every address, which it may only because it asks, and by TLS. */
  async serve(...options: string[]): Promise<void> {
    const args = ['serve', this.local, '--listen', '0.0.0.0:0', '--state', this.state, '--squash', 'none'];
    const server = spawn(process.execPath, [weft, ...args, '--tls', 'auto', '--log-level', 'trace', ...options], {
      stdio: ['ignore', 'pipe', 'pipe'],
      cwd: '/',
      env: { ...process.env, NODE_OPTIONS: `--require=${clockAhead}` },
    });
    this.#server = server;
    server.stdout.on('data', (chunk) => (this.#said += chunk));
    server.stderr.on('data', (chunk) => (this.#said += chunk));
    await waitFor('the server listens', async () => {
      if (server.exitCode !== null) throw new Error(`no server: ${this.#said}`);
      return /^clients need a token/m.test(this.#said);
    });
    this.port = Number(/at wss:\/\/0\.0\.0\.0:(\d+)\/$/m.exec(this.#said)?.[1]);
    this.fingerprint = /^fingerprint (\S+)$/m.exec(this.#said)?.[1] ?? '';
  }

  /** For the server it is a day later from now on. */
  aDayPasses(): void {
    this.#server?.kill('SIGUSR2');
  }

  get url(): string {
    return `wss://127.0.0.1:${this.port}/`;
  }

  /** In the background, with a log file of its own. Returns where. */
  async mount(name: string, options: readonly string[], environment?: Record<string, string>): Promise<string> {
    const { path, status, stderr } = await this.tryMount(name, this.url, options, environment);
    if (status !== 0) throw new Error(`no mount: ${stderr}\n${this.#said}`);
    return path;
  }

  async tryMount(name: string, url: string, options: readonly string[], environment?: Record<string, string>) {
    const path = this.at(name);
    mkdirSync(path);
    this.#mounts.push(path);
    const log = ['--log-level', 'trace', '--log-file', `${path}.log`];
    const startedMs = performance.now();
    const result = await runWeft(['mount', url, path, '-o', 'allow_other', ...log, ...options], environment);
    this.#said += `${result.stdout}${result.stderr}\n`;
    return { ...result, path, tookMs: performance.now() - startedMs, isMounted: (await mountAt(path)) !== undefined };
  }

  /** The supervisor of the mount at `path`, and its client. */
  processesOf(path: string): number[] {
    const isSupervisor = (pid: string) => readProc(`${pid}/cmdline`).includes(`\0${path}\0-f\0`);
    const supervisor = readdirSync('/proc').find((name) => /^\d+$/.test(name) && isSupervisor(name));
    const children = readProc(`${supervisor}/task/${supervisor}/children`).trim().split(' ');
    return [Number(supervisor), ...children.map(Number)];
  }

  /** A shell command in `path`, with the exported directory as $X; killed when it takes long. */
  shell(path: string, command: string): Promise<CommandResult> {
    const environment = { X: this.local, M: path };
    return runCommand('sh', ['-c', command], { timeoutMs: COMMAND_MS, environment });
  }

  openssl(...args: string[]): Promise<CommandResult> {
    return runCommand('openssl', args, { timeoutMs: COMMAND_MS });
  }

  /** What server and mounts have printed or written to a log. */
  get said(): string {
    return [this.#said, ...this.#mounts.map((path) => readFileSync(`${path}.log`, 'utf8'))].join('\n');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const path of this.#mounts) {
      if ((await mountAt(path)) === undefined) continue;
      if ((await tryUnmount(path, { lazy: false })) !== 'unmounted') await detach(path);
    }
    if (this.#server) {
      this.#server.kill('SIGTERM');
      if (!(await exitOf(this.#server, 5000))) this.#server.kill('SIGKILL');
    }
    // A mount that could not be taken away keeps its directory: nothing is removed through it.
    for (const path of this.#mounts) if (await mountAt(path)) return;
    rmSync(this.directory, { recursive: true, force: true });
  }
}
