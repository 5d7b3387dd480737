/**
 * The list of clients in the server's state directory: a small JSON file, replaced atomically and synchronized. It belongs
 * to one server at a time, which holds an flock on a file beside it until it ends.
 */
import { closeSync, fsyncSync, openSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { tryLockFile } from '../../shared/linux/libc.ts';
import type { DurableClients, ListedClient } from './client-list.ts';

const VERSION = 1;

export class ClientListFile implements DurableClients {
  readonly #directory: string;
  readonly #path: string;

  private constructor(directory: string) {
    this.#directory = directory;
    this.#path = join(directory, 'clients.json');
  }

  /** Undefined: another server has it. Throws a Node error when the directory cannot be used. */
  static open(directory: string): ClientListFile | undefined {
    const fd = openSync(join(directory, 'clients.lock'), 'a', 0o600);
    if (tryLockFile(fd)) return new ClientListFile(directory);
    closeSync(fd);
    return undefined;
  }

  /** Throws an Error that names the file when it is not what was written. */
  read(): readonly ListedClient[] {
    let text: string;
    try {
      text = readFileSync(this.#path, 'utf8');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
      throw new Error(`${this.#path} cannot be read: ${(error as Error).message}`, { cause: error });
    }
    let content: { version?: unknown; clients?: unknown };
    try {
      content = JSON.parse(text) as typeof content;
    } catch {
      content = {};
    }
    if (content?.version !== VERSION || !Array.isArray(content.clients)) {
      throw new Error(`${this.#path} is damaged: remove it; locks that clients held until now are lost then`);
    }
    // Earlier releases had no word for it, and listed only those that wrote, or had locks.
    return (content.clients as ListedClient[]).map((one) => ({
      ...one,
      writes: one.writes !== false,
      locks: one.locks !== false,
    }));
  }

  write(clients: readonly ListedClient[]): void {
    const changed = `${this.#path}.new`;
    const fd = openSync(changed, 'w', 0o600);
    try {
      writeFileSync(fd, `${JSON.stringify({ version: VERSION, clients }, null, 2)}\n`);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(changed, this.#path);
    const directory = openSync(this.#directory, 'r');
    try {
      fsyncSync(directory);
    } finally {
      closeSync(directory);
    }
  }
}
