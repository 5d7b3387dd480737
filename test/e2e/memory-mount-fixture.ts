/**
 * What the end-to-end tests of the kernel driver share: the compiled programs, a mount that always goes away again, and
 * commands with deadlines. A mount that wedges is aborted by fusectl or MNT_FORCE, so no test leaves a stuck process.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { chmodSync, existsSync, mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { type CommandResult, runCommand } from '../../client-fuse/mount/command.ts';
import { mountAt } from '../../client-fuse/mount/mount-table.ts';
import { detach } from '../../client-fuse/mount/unmount.ts';
import type { Control, ControlState } from './memory-mount.ts';

const root = resolve(import.meta.dirname, '../..');
const program = join(root, 'dist/test/e2e/memory-mount.js');

/** Node 20 runs no TypeScript: the processes of a mount are compiled ones. WEFT_BUILT says that `dist` is fresh. */
export function buildPrograms(): void {
  if (process.env.WEFT_BUILT) return;
  try {
    execFileSync(join(root, 'node_modules/.bin/tsc'), ['-p', join(root, 'tsconfig.json')], { timeout: 120_000 });
  } catch (error) {
    // Type errors are another check's business, as long as there is something to run.
    if (!existsSync(program)) throw error;
  }
  execFileSync(process.execPath, [join(root, 'scripts/bundle.mjs')], { cwd: root, timeout: 120_000 });
}

export interface MountFixtureOptions {
  readonly environment?: Readonly<Record<string, string>>;
  readonly options?: string;
  readonly background?: boolean;
  readonly mountpoint?: string;
  readonly detached?: boolean;
}

/** Waits until `condition` holds, looking every 20 ms, at most `timeoutMs`. */
export async function until(what: string, condition: () => Promise<boolean>, timeoutMs = 10_000): Promise<void> {
  const end = Date.now() + timeoutMs;
  while (!(await condition())) {
    if (Date.now() > end) throw new Error(`gave up waiting until ${what}`);
    await new Promise((done) => setTimeout(done, 20));
  }
}

export class MountFixture implements AsyncDisposable {
  readonly directory = mkdtempSync(join(tmpdir(), 'weft-kernel-'));
  readonly mountpoint: string;
  readonly control = join(this.directory, 'control');
  readonly supervisor: ChildProcess;
  readonly exited: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
  output = '';
  readonly #background: boolean;

  constructor(options: MountFixtureOptions = {}) {
    this.mountpoint = options.mountpoint ?? mkdtempSync(join(this.directory, 'mnt-'));
    // Other users reach the mount point.
    chmodSync(this.directory, 0o755);
    const args = [program, 'supervise', this.mountpoint, '-o', options.options ?? 'allow_other'];
    this.#background = options.background ?? false;
    if (this.#background) args.push('--background');
    this.supervisor = spawn(process.execPath, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: options.detached ?? false,
      env: { ...process.env, WEFT_TEST_CONTROL: this.control, ...options.environment },
    });
    this.supervisor.stdout?.on('data', (chunk) => (this.output += chunk));
    this.supervisor.stderr?.on('data', (chunk) => (this.output += chunk));
    this.exited = new Promise((done) => this.supervisor.on('exit', (code, signal) => done({ code, signal })));
  }

  /** Mounted and answering. */
  static async mount(options: MountFixtureOptions = {}): Promise<MountFixture> {
    const fixture = new MountFixture(options);
    try {
      if (options.background) await fixture.exited;
      else
        await until(
          'mounted',
          async () => fixture.output.includes('mounted\n') || fixture.supervisor.exitCode !== null,
        );
      if (!(await fixture.isMounted())) throw new Error(`no mount: ${fixture.output}`);
      return fixture;
    } catch (error) {
      await fixture[Symbol.asyncDispose]();
      throw error;
    }
  }

  async isMounted(): Promise<boolean> {
    return (await mountAt(this.mountpoint)) !== undefined;
  }

  path(name: string): string {
    return join(this.mountpoint, name);
  }

  tell(control: Control): Promise<ControlState> {
    return new Promise((done, fail) => {
      let answer = '';
      const socket = connect(this.control, () => socket.write(JSON.stringify(control)));
      socket.on('data', (chunk) => (answer += chunk));
      socket.on('end', () => done(JSON.parse(answer) as ControlState));
      socket.on('error', fail);
    });
  }

  state(): Promise<ControlState> {
    return this.tell({ state: true });
  }

  /** A shell command with the mount point as $M, killed after 20 s. */
  shell(command: string): Promise<CommandResult> {
    return runCommand('sh', ['-c', command], { timeoutMs: 20_000, environment: { M: this.mountpoint } });
  }

  /** A child that uses the mount and is expected to wait. */
  start(command: string, args: readonly string[]): ChildProcess {
    return spawn(command, args, { stdio: ['ignore', 'ignore', 'ignore'], cwd: '/' });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.supervisor.exitCode === null && this.supervisor.signalCode === null) {
      this.supervisor.kill('SIGTERM');
      const late = new Promise((done) => setTimeout(done, 8000, 'late').unref());
      if ((await Promise.race([this.exited, late])) === 'late') this.supervisor.kill('SIGKILL');
    }
    // A mount at the same place that is not this one's stays.
    const mounted = this.#background || this.output.includes('mounted\n');
    if (mounted && (await this.isMounted())) await detach(this.mountpoint);
    rmSync(this.directory, { recursive: true, force: true });
  }
}

/** Resolves to what ended a child; rejects when it does not end in time. */
export function ends(child: ChildProcess, timeoutMs = 10_000): Promise<{ code: number | null; signal: string | null }> {
  return new Promise((done, fail) => {
    if (child.exitCode !== null || child.signalCode !== null) done({ code: child.exitCode, signal: child.signalCode });
    const deadline = setTimeout(() => fail(new Error(`process ${child.pid} does not end`)), timeoutMs);
    child.on('exit', (code, signal) => {
      clearTimeout(deadline);
      done({ code, signal });
    });
  });
}

/** The process is gone (a zombie counts as gone). */
export function isGone(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return false;
  } catch {
    return true;
  }
}
