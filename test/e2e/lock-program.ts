/** A process that takes locks on a mount (lock-holder.py), and can be signalled and killed. */
import { type ChildProcess, spawn } from 'node:child_process';
import { resolve } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import { expect } from 'vitest';
import { exitOf, send } from './lease-mounts.ts';

const program = resolve(import.meta.dirname, 'lock-holder.py');

/** Does what it is told, one command after the other. */
export class LockProgram {
  readonly #child: ChildProcess;
  readonly #lines: Interface;
  readonly #waiting: ((line: string) => void)[] = [];

  constructor() {
    this.#child = spawn('python3', [program], { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#lines = createInterface({ input: this.#child.stdout as NodeJS.ReadableStream });
    this.#lines.on('line', (line) => this.#waiting.shift()?.(line));
  }

  get pid(): number {
    return this.#child.pid as number;
  }

  do(command: string): Promise<string> {
    return new Promise((done) => {
      this.#waiting.push(done);
      this.#child.stdin?.write(`${command}\n`);
    });
  }

  signal(signal: NodeJS.Signals): void {
    send(this.pid, signal);
  }

  async end(signal?: NodeJS.Signals): Promise<void> {
    if (signal) this.signal(signal);
    else this.#child.stdin?.end();
    expect(await exitOf(this.#child, 5000)).toBe(true);
  }

  kill(): void {
    this.#child.kill('SIGKILL');
  }
}
