/**
 * What a process of the server leaves to the next one about data that it let clients change, lest others, who were away, write
 * over it late what they had gathered before: see SinceStart. Appended without synchronization: a process that is killed loses
 * nothing of it; after a start of the machine it may be missing, with the changes themselves.
 */
import { appendFileSync, existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Logger } from 'pino';

/** What was changed, and by whom. */
export type KeptChange = readonly [about: string, by: string];

export interface KeptChanges {
  read(): readonly KeptChange[];
  add(change: KeptChange): void;
  /** These, and nothing else any more. */
  replace(changes: readonly KeptChange[]): void;
}

/** A line each in the state directory, which is this server's: see ClientListFile. */
export class KeptChangesFile implements KeptChanges {
  readonly #path: string;
  readonly #log: Logger;
  #hasFailed = false;

  constructor(directory: string, log: Logger) {
    this.#path = join(directory, 'changes.journal');
    this.#log = log;
  }

  /** A line that was not written whole says nothing: its process ended before anybody was told of that change. */
  read(): readonly KeptChange[] {
    let text = '';
    this.#attempt(() => {
      if (existsSync(this.#path)) text = readFileSync(this.#path, 'utf8');
    });
    const lines = text.split('\n');
    if (lines.at(-1) !== '') this.#append('\n'); // what is added next begins a line
    return lines.flatMap((line) => {
      try {
        const change: unknown = JSON.parse(line);
        return Array.isArray(change) ? [[String(change[0]), String(change[1])] as const] : [];
      } catch {
        return [];
      }
    });
  }

  add(change: KeptChange): void {
    this.#append(lineOf(change));
  }

  replace(changes: readonly KeptChange[]): void {
    const changed = `${this.#path}.new`;
    this.#attempt(() => {
      writeFileSync(changed, changes.map(lineOf).join(''), { mode: 0o600 });
      renameSync(changed, this.#path);
    });
  }

  /** By nobody else to be read: who knows a session's id may go on with it. */
  #append(text: string): void {
    this.#attempt(() => appendFileSync(this.#path, text, { mode: 0o600 }));
  }

  /** A full disk does not stop the server. */
  #attempt(work: () => void): void {
    try {
      work();
    } catch (error) {
      const what = 'changes cannot be kept for the next start: then a client that was away may write over them';
      if (!this.#hasFailed) this.#log.error({ err: error, file: this.#path }, what);
      this.#hasFailed = true;
    }
  }
}

function lineOf(change: KeptChange): string {
  return `${JSON.stringify(change)}\n`;
}
