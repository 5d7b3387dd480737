/**
 * Going to the background: Node cannot fork, so the command starts itself again as `... -f` in a session of its own, waits until
 * the mount answers, and exits. The child says what the user should read over Node's channel; it keeps neither the terminal
 * nor the directory of its parent.
 */
import { spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { environmentWithToken } from '../transport/environment-token.ts';
import { MountError } from './mount-error.ts';
import { messageType, STOP_SIGNALS } from './supervision.ts';

const ENVIRONMENT_MARK = 'WEFT_BACKGROUND';

type ToParent = { readonly type: 'line'; readonly line: string } | { readonly type: 'mounted' };

export interface BackgroundOptions {
  readonly report: (line: string) => void;
  /** Where supervisor and client write; default: nowhere. */
  readonly logFile?: string;
}

/** Runs `command` (the foreground form of this one). Resolves to the exit status: 0 once the mount answers. */
export function mountInBackground(command: readonly string[], options: BackgroundOptions): Promise<number> {
  const [program, ...args] = command;
  if (program === undefined) throw new Error('no command');
  const output = options.logFile === undefined ? 'ignore' : openLogFile(options.logFile);
  const child = spawn(program, args, {
    detached: true,
    stdio: ['ignore', output, output, 'ipc'],
    env: { ...environmentWithToken(), [ENVIRONMENT_MARK]: '1' },
  });
  if (typeof output === 'number') closeSync(output);
  // It is in another session and does not hear Ctrl-C.
  const onSignal = () => child.kill('SIGTERM');
  for (const signal of STOP_SIGNALS) process.on(signal, onSignal);
  return new Promise<number>((resolve) => {
    child.on('message', (message) => {
      const said = message as ToParent;
      if (messageType(said) === 'line') options.report((said as Extract<ToParent, { type: 'line' }>).line);
      if (messageType(said) !== 'mounted') return;
      child.disconnect();
      child.unref();
      resolve(0);
    });
    child.on('error', (error) => {
      if (child.pid !== undefined) return;
      options.report(`cannot start ${program}: ${error.message}`);
      resolve(1);
    });
    child.on('exit', (code) => resolve(code === null || code === 0 ? 1 : code));
  }).finally(() => {
    for (const signal of STOP_SIGNALS) process.off(signal, onSignal);
  });
}

function openLogFile(path: string): number {
  try {
    return openSync(path, 'a', 0o600);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new MountError(`the log file ${path} cannot be written (${code}): name another with --log-file`);
  }
}

export interface BackgroundParent {
  /** A line for the user, as long as the parent listens. Resolves when it has been taken. */
  report(line: string): Promise<void>;
  /** The mount answers: the parent exits. */
  mounted(): Promise<void>;
}

/** The parent that waits for this process, if `mountInBackground` started it. */
export function backgroundParent(): BackgroundParent | undefined {
  if (process.env[ENVIRONMENT_MARK] === undefined || process.send === undefined) return undefined;
  // Not for the children of this process.
  delete process.env[ENVIRONMENT_MARK];
  const send = (message: ToParent) =>
    new Promise<void>((resolve) => {
      if (process.send === undefined || !process.connected) resolve();
      else process.send(message, () => resolve());
    });
  return { report: (line) => send({ type: 'line', line }), mounted: () => send({ type: 'mounted' }) };
}
