/**
 * Caller: a program that uses a mount and may have to wait there. Owned by the test that starts it, which ends it: whatever it
 * waits for, a caller must die by SIGKILL. What it waits for is read from /proc/PID/wchan, see proc(5).
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { waitFor } from './lease-mounts.ts';
import { ends } from './memory-mount-fixture.ts';

const WAITS: ReadonlySet<string> = new Set(['request_wait_answer', 'folio_wait_bit_common']);

export class Caller implements AsyncDisposable {
  readonly child: ChildProcess;
  stdout = '';
  stderr = '';

  constructor(command: string, ...args: string[]) {
    this.child = spawn(command, args, {
      stdio: ['pipe', 'pipe', 'pipe'],
      cwd: '/',
      env: { ...process.env, LC_ALL: 'C' },
    });
    this.child.stdin?.on('error', () => {});
    this.child.stdout?.on('data', (chunk) => (this.stdout += chunk));
    this.child.stderr?.on('data', (chunk) => (this.stderr += chunk));
  }

  /** A shell that has done `preparation` already, while that needs no waiting; `go` lets it become `command`. */
  static async prepared(preparation: string, command: string): Promise<Caller> {
    const caller = new Caller('sh', '-c', `${preparation} && echo ready && read line && exec ${command}`);
    await waitFor(`${preparation}: ready`, async () => caller.hasEnded || caller.stdout === 'ready\n');
    if (caller.hasEnded) throw new Error(caller.stderr);
    caller.stdout = '';
    return caller;
  }

  go(): void {
    this.child.stdin?.end('\n');
  }

  get hasEnded(): boolean {
    return this.child.exitCode !== null || this.child.signalCode !== null;
  }

  /** Waits in the kernel until the client answers a request, its own or one that reads ahead. */
  get isWaiting(): boolean {
    try {
      return WAITS.has(readFileSync(`/proc/${this.child.pid}/wchan`, 'latin1'));
    } catch {
      return false;
    }
  }

  /** A caller that did not have to wait has failed, or was told something that nobody can know. */
  async waits(): Promise<void> {
    const what = () => `${this.child.spawnargs.join(' ')} waits: ${this.stdout} ${this.stderr}`;
    await waitFor(what(), async () => {
      if (this.hasEnded) throw new Error(`ended, instead of: ${what()}`);
      return this.isWaiting;
    });
  }

  ends(timeoutMs: number): Promise<{ code: number | null; signal: string | null }> {
    return ends(this.child, timeoutMs);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.child.kill('SIGKILL');
    await this.ends(5000);
  }
}
