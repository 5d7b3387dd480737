/**
 * SupervisedClient: process B as the supervisor sees it. Owned by the supervisor, which spawns it and outlives it; knows what B has
 * said so far, and when it has ended. A B that was killed but cannot die (a thread waits in the kernel for the very
 * mount that B serves) is noticed by `isWedged`.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { close, sendDescriptor, socketpair } from '../../shared/linux/libc.ts';
import { procTasks } from '../kernel/task.ts';
import { environmentWithToken } from '../transport/environment-token.ts';
import { MountError } from './mount-error.ts';
import { messageType, type ToClient, type ToSupervisor } from './supervision.ts';

export interface ClientExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** Notifications and everything else that blocks in the kernel take threads of libuv's pool. */
const LEAST_POOL_THREADS = 32;

type Milestone = 'ready' | 'serving' | 'unmounted';

export class SupervisedClient {
  readonly exited: Promise<ClientExit>;
  readonly #child: ChildProcess;
  readonly #socket: number;
  readonly #reached = new Set<string>();
  readonly #waiting: { milestone: Milestone; resolve: () => void; reject: (error: Error) => void }[] = [];
  #failure: string | undefined;
  #exit: ClientExit | undefined;

  /** `onStop`: B was told to end, by a signal of its own. */
  constructor(command: readonly string[], onStop: () => void) {
    const [program, ...args] = command;
    if (program === undefined) throw new Error('no client command');
    const [ours, theirs] = socketpair();
    this.#socket = ours;
    const poolThreads = Math.max(LEAST_POOL_THREADS, Number(process.env.UV_THREADPOOL_SIZE ?? 0));
    this.#child = spawn(program, args, {
      cwd: '/',
      stdio: ['ignore', 'inherit', 'inherit', theirs, 'ipc'],
      env: { ...environmentWithToken(), UV_THREADPOOL_SIZE: String(poolThreads) },
    });
    close(theirs);
    this.#child.on('message', (message) => {
      if (messageType(message) === 'stop') onStop();
      else this.#hear(message as ToSupervisor);
    });
    this.exited = new Promise((resolve) => {
      const finish = (exit: ClientExit) => {
        if (this.#exit) return;
        this.#exit = exit;
        close(this.#socket);
        for (const { reject } of this.#waiting.splice(0)) reject(this.#whyEnded());
        resolve(exit);
      };
      this.#child.on('exit', (code, signal) => finish({ code, signal }));
      this.#child.on('error', (error) => {
        // `error` also tells of a message that could not be sent; only a process that never started has no pid.
        if (this.#child.pid !== undefined) return;
        this.#failure = `cannot start the client (${program}): ${error.message}`;
        finish({ code: 1, signal: null });
      });
    });
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  #hear(message: ToSupervisor): void {
    const type = messageType(message);
    if (type === undefined) return;
    if (message.type === 'failed') {
      this.#failure = message.line;
      for (const { reject } of this.#waiting.splice(0)) reject(this.#whyEnded());
      return;
    }
    this.#reached.add(type);
    for (const waiter of this.#waiting) if (waiter.milestone === type) waiter.resolve();
  }

  #whyEnded(): Error {
    if (this.#failure !== undefined) return new MountError(this.#failure);
    const how = this.#exit?.signal ? `was killed by ${this.#exit.signal}` : `ended with status ${this.#exit?.code}`;
    return new MountError(`the client process ${how} before the mount was ready`);
  }

  /** Resolves when B has said so; rejects with a MountError when it failed or ended first. */
  reaches(milestone: Milestone): Promise<void> {
    if (this.#reached.has(milestone)) return Promise.resolve();
    if (this.#failure !== undefined || this.#exit) return Promise.reject(this.#whyEnded());
    return new Promise((resolve, reject) => this.#waiting.push({ milestone, resolve, reject }));
  }

  /** Gives B its copy of the mounted descriptor. The caller closes its own: then the connection ends with B. */
  giveDescriptor(fuseFd: number): void {
    sendDescriptor(this.#socket, fuseFd);
  }

  send(message: ToClient): void {
    // A B that has just ended is noticed by `exited`.
    if (this.#child.connected) this.#child.send(message, () => {});
  }

  kill(signal: NodeJS.Signals): void {
    if (!this.#exit) this.#child.kill(signal);
  }

  /** Killed, or its main thread ended, yet still there. */
  async isWedged(): Promise<boolean> {
    if (this.#exit || this.#child.pid === undefined) return false;
    if (procTasks.isBeingKilled(this.#child.pid)) return true;
    const stat = await readFile(`/proc/${this.#child.pid}/stat`, 'latin1').catch(() => '');
    return stat.charAt(stat.lastIndexOf(')') + 2) === 'Z';
  }
}
