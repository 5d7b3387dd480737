/**
 * A forked process that does one task and is watched: when it has not been heard of for `stallMs` it is reported as
 * hung, killed, and not waited for, since a process that hangs in the kernel (state D) survives even that. The parent
 * holds it, and it ends with the parent (its channel closes).
 */
import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const WATCH_EVERY_MS = 250;

/** Any child may say that it failed, and why. */
export type FailedMessage = { readonly kind: 'failed'; readonly reason: string };

export interface WatchedChildOptions<Message> {
  /** Compiled, as seen from this folder or from that of the bundle: from the sources (vitest) there is nothing to fork. */
  readonly module: string;
  readonly stallMs: number;
  readonly threads?: number;
  message?(message: Message): void;
}

export class WatchedChild<Task extends object, Message extends { readonly kind: string }> {
  readonly #process: ChildProcess;
  readonly #watch: NodeJS.Timeout;
  readonly #stallMs: number;
  #lastHeardMs = Date.now();
  #failure: string | null = null;
  #resolve: (reason: string | null) => void = () => {};
  hung = false;
  /** Resolves once: null when the child did what it was asked, else why not. */
  readonly ended: Promise<string | null>;

  constructor(task: Task, options: WatchedChildOptions<Message>) {
    this.#stallMs = options.stallMs;
    this.ended = new Promise((resolve) => {
      this.#resolve = resolve;
    });
    this.#process = fork(fileURLToPath(new URL(options.module, import.meta.url)), [], {
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
      execArgv: [],
      env: options.threads ? { ...process.env, UV_THREADPOOL_SIZE: String(options.threads) } : process.env,
    });
    this.#process.on('message', (message: Message | FailedMessage) => {
      this.#lastHeardMs = Date.now();
      if (isFailure(message)) this.#failure = message.reason;
      else options.message?.(message);
    });
    this.#process.on('error', (error) => this.#end(error.message));
    this.#process.on('close', (code, signal) => {
      this.#end(code === 0 ? null : (this.#failure ?? `the process ended with ${signal ?? `status ${code}`}`));
    });
    this.#watch = setInterval(() => this.#checkAlive(), WATCH_EVERY_MS);
    this.send(task);
  }

  send(message: object): void {
    this.#process.send(message, (error) => error && this.#end(error.message));
  }

  kill(reason: string): void {
    this.#process.kill('SIGKILL');
    this.#end(reason);
    // Its channel and its handle would keep this process alive for as long as it hangs.
    if (this.#process.connected) this.#process.disconnect();
    this.#process.unref();
  }

  #checkAlive(): void {
    const silentMs = Date.now() - this.#lastHeardMs;
    if (silentMs < this.#stallMs) return;
    this.hung = true;
    this.kill(`hung: no sign of life for ${Math.round(silentMs / 1000)} s`);
  }

  #end(reason: string | null): void {
    clearInterval(this.#watch);
    this.#resolve(reason);
  }
}

function isFailure(message: { readonly kind: string }): message is FailedMessage {
  return message.kind === 'failed';
}
