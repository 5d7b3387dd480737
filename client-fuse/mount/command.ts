/**
 * Running another program with a deadline. What may wait for a mount of ours, or for anybody's dead network, is asked of
 * a child process: a child can be killed, while a thread of ours would keep this process from ever exiting.
 */
import { spawn } from 'node:child_process';

export interface CommandResult {
  /** Exit status; null when it was killed (by its deadline, too). */
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly timedOut: boolean;
  /** There is no such program. */
  readonly missing: boolean;
}

export interface CommandOptions {
  readonly timeoutMs: number;
  /** Becomes the child's descriptor 3. */
  readonly fd?: number;
  readonly environment?: Readonly<Record<string, string>>;
}

/** Runs a program in the C locale and in `/`. Never rejects; the child does not outlive its deadline by much. */
export function runCommand(command: string, args: readonly string[], options: CommandOptions): Promise<CommandResult> {
  return new Promise((resolve) => {
    const child = spawn(command, args, {
      cwd: '/',
      env: { ...process.env, LC_ALL: 'C', ...options.environment },
      stdio: options.fd === undefined ? ['ignore', 'pipe', 'pipe'] : ['ignore', 'pipe', 'pipe', options.fd],
    });
    let stdout = '';
    let stderr = '';
    let timedOut = false;
    child.stdout?.on('data', (chunk) => (stdout += chunk));
    child.stderr?.on('data', (chunk) => (stderr += chunk));
    const finish = (status: number | null, missing = false) => {
      clearTimeout(deadline);
      resolve({ status, stdout, stderr: stderr.trim(), timedOut, missing });
    };
    const deadline = setTimeout(() => {
      timedOut = true;
      child.kill('SIGKILL');
      // A child in an uninterruptible wait does not die: it is left to itself.
      child.unref();
      finish(null);
    }, options.timeoutMs);
    child.on('error', (error) => {
      stderr = stderr || error.message;
      finish(null, (error as NodeJS.ErrnoException).code === 'ENOENT');
    });
    child.on('close', (status) => finish(status));
  });
}
