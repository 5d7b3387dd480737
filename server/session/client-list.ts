/**
 * Which clients hold leases, have files open for writing, or hold locks, or may: what the server must know of them after a
 * crash, to change nothing that they answer for without asking, let nobody read by the page what they write, and give nobody
 * else their locks, before they are back. A client is entered before its first lease, its first such file and its first lock; it
 * is struck out when its session ends, so a lease, an open and a lock cost nothing here. Owned by the SessionTable.
 */
import type { Logger } from 'pino';

export interface ListedClient {
  /** Of its session, hexadecimal. */
  readonly id: string;
  /** Name of the export. */
  readonly export: string;
  /** Host name and process id, for people. */
  readonly client: string;
  /** Id of the credential that opened the session. */
  readonly credential: string;
  /** It has had files open for writing. */
  readonly writes: boolean;
  /** It has had locks. */
  readonly locks: boolean;
}

/** Of one that has locks it is not known. */
export function mayWrite({ writes, locks }: ListedClient): boolean {
  return writes || locks;
}

/** Where the list is kept. */
export interface DurableClients {
  read(): readonly ListedClient[];
  /** Durable when it returns. Throws when it is not. */
  write(clients: readonly ListedClient[]): void;
}

export class ClientList {
  readonly #durable: DurableClients | undefined;
  readonly #log: Logger | undefined;
  readonly #clients: Map<string, ListedClient>;
  #hasFailed = false;

  /** Without a place to keep it nobody is known after a restart. */
  constructor(durable?: DurableClients, log?: Logger) {
    this.#durable = durable;
    this.#log = log;
    this.#clients = new Map(durable?.read().map((one) => [one.id, one]));
  }

  /** Who is in it is known after a restart. */
  get isDurable(): boolean {
    return this.#durable !== undefined;
  }

  get hasWriters(): boolean {
    return [...this.all].some(mayWrite);
  }

  get all(): Iterable<ListedClient> {
    return this.#clients.values();
  }

  get(id: string): ListedClient | undefined {
    return this.#clients.get(id);
  }

  /** True: it is durable. */
  add(client: ListedClient): boolean {
    const before = this.#clients.get(client.id);
    const locks = client.locks || before?.locks === true;
    const writes = client.writes || before?.writes === true;
    if (before && before.locks === locks && before.writes === writes) return true;
    this.#clients.set(client.id, { ...client, locks, writes });
    const isWritten = this.#write();
    if (!isWritten) this.#clients.delete(client.id);
    if (!isWritten && before) this.#clients.set(client.id, before);
    return isWritten;
  }

  /** True: it is durable that none of them is here. */
  remove(ids: readonly string[]): boolean {
    const removed = ids.map((id) => this.#clients.get(id)).filter((client) => client !== undefined);
    if (removed.length === 0) return true;
    for (const { id } of removed) this.#clients.delete(id);
    const isWritten = this.#write();
    if (!isWritten) for (const client of removed) this.#clients.set(client.id, client);
    return isWritten;
  }

  #write(): boolean {
    try {
      this.#durable?.write([...this.#clients.values()]);
      this.#hasFailed = false;
      return true;
    } catch (error) {
      const meanwhile = 'no lock changes its owner meanwhile, and clients that are not in it are granted no lease';
      if (!this.#hasFailed) this.#log?.error({ err: error }, `the list of clients cannot be written: ${meanwhile}`);
      this.#hasFailed = true;
      return false;
    }
  }
}
