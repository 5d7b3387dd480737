/**
 * One live line on stderr while a benchmark runs: redrawn in place on a terminal, a plain line every few seconds
 * otherwise (a log, a pipe). stdout stays free for the result.
 */
import { SingleBar } from 'cli-progress';

const PLAIN_EVERY_MS = 2000;

export class ProgressLine {
  readonly #title: string;
  readonly #total: number;
  readonly #bar: SingleBar | null;
  #nextPlainMs = Date.now() + PLAIN_EVERY_MS;
  #text = '';

  /** `total` is in any unit; `update` counts towards it. */
  constructor(title: string, total: number) {
    this.#title = title;
    this.#total = total;
    this.#bar = process.stderr.isTTY
      ? new SingleBar({
          format: `${title} {bar} {percentage}%  {text}`,
          stream: process.stderr,
          hideCursor: true,
          clearOnComplete: true,
          barsize: 20,
          linewrap: false,
        })
      : null;
    this.#bar?.start(total, 0, { text: '' });
  }

  update(done: number, text: string): void {
    this.#text = text;
    this.#bar?.update(Math.min(done, this.#total), { text });
    if (this.#bar || Date.now() < this.#nextPlainMs) return;
    this.#nextPlainMs = Date.now() + PLAIN_EVERY_MS;
    const percent = Math.floor((100 * Math.min(done, this.#total)) / this.#total);
    process.stderr.write(`${this.#title} ${percent}%  ${this.#text}\n`);
  }

  stop(): void {
    this.#bar?.stop();
  }
}
