/**
 * What the tests of the server share: temporary directories, a server on a free port, in-process sessions, and a raw
 * client that may say anything. Everything is released by `using` / `await using`.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pino, { type Logger } from 'pino';
import { WebSocket } from 'ws';
import type { KernelAccess } from '../../client-fuse/leases/kernel-caches.ts';
import { parseServerAddress, type ServerAddress } from '../../client-fuse/transport/server-address.ts';
import { type CallerIdentity, ServerSession } from '../../client-fuse/transport/server-session.ts';
import { openExports } from '../../server/open-exports.ts';
import { Server } from '../../server/server.ts';
import { ClientList, type DurableClients } from '../../server/session/client-list.ts';
import type { KeptChanges } from '../../server/session/kept-changes.ts';
import { type JournalFile, RequestJournal } from '../../server/session/request-journal.ts';
import type { Squash } from '../../server/store/identity.ts';
import { decodeFrame, encodeFrame } from '../../shared/protocol/frame.ts';
import { frameKind, operations, PROTOCOL_VERSION, type WireEntry } from '../../shared/protocol/messages.ts';
import { webSocketOptions } from '../../shared/transport/websocket-transport.ts';

export const silent = pino({ level: 'silent' });
export const KEY = Buffer.alloc(32, 7);
export const ROOT = [0, 0];
/** The machine is not started anew. */
export const BOOT = Buffer.alloc(16, 1);

/** It keeps nothing, so there is nothing to take back. */
export const FORGETFUL_KERNEL: KernelAccess = {
  notifier: {
    invalidateInode: () => Promise.resolve(true),
    invalidateListing: () => Promise.resolve(),
    invalidateEntry: () => Promise.resolve(),
    incrementEpoch: () => Promise.resolve(),
    storePages: () => Promise.resolve(),
  },
  epochs: true,
  hasMountsInside: () => Promise.resolve(false),
};

export class TemporaryDirectory implements Disposable {
  readonly path: string;

  constructor(parent = tmpdir()) {
    this.path = mkdtempSync(join(parent, 'weft-test-'));
  }

  join(...names: string[]): string {
    return join(this.path, ...names);
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}

export class TestServer implements AsyncDisposable {
  readonly server: Server;

  private constructor(server: Server) {
    this.server = server;
  }

  static async start(
    directory: string,
    options: {
      squash?: Squash;
      host?: string;
      port?: number;
      readOnly?: boolean;
      key?: Buffer;
      grantFile?: string;
      log?: Logger;
      clients?: DurableClients;
      journal?: JournalFile;
      changes?: KeptChanges;
      boot?: Buffer;
    } = {},
  ): Promise<TestServer> {
    const requests = [{ name: '/', directory, readOnly: options.readOnly ?? false }];
    const exports = openExports(requests, options.squash ?? 'none', options.key ?? KEY, silent);
    const listen = { host: options.host ?? '127.0.0.1', port: options.port ?? 0 };
    const { grantFile, log = silent, boot = BOOT, changes } = options;
    const more = { ...(grantFile === undefined ? {} : { grantFile }), ...(changes ? { changes } : {}) };
    const clients = new ClientList(options.clients);
    const journal = options.journal && new RequestJournal(options.journal, boot, Date.now());
    return new TestServer(await Server.start({ exports, listen, log, pollUs: 0, clients, journal, boot, ...more }));
  }

  get address(): ServerAddress {
    return parseServerAddress(`ws://127.0.0.1:${this.server.port}/`);
  }

  connect(): Promise<ServerSession> {
    return ServerSession.connect(this.address, silent);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.server.close();
  }
}

/** A connection that sends whatever a test wants, and keeps what arrives. */
export class RawClient implements Disposable {
  readonly socket: WebSocket;
  readonly #frames: unknown[][] = [];
  #waiting: (() => void) | undefined;
  /** The reason with which the connection ended. */
  readonly closed: Promise<string>;
  bye: string | undefined;

  private constructor(socket: WebSocket) {
    this.socket = socket;
    socket.binaryType = 'fragments';
    socket.on('error', () => {});
    socket.on('message', (data: Buffer[]) => {
      const frame = decodeFrame(data);
      if (frame[0] === frameKind.BYE) this.bye = String(frame[1]);
      else this.#frames.push(frame);
      this.#waiting?.();
    });
    this.closed = new Promise((resolve) => {
      socket.on('close', (_code, reason) => resolve(this.bye ?? reason.toString()));
    });
  }

  static open(port: number): Promise<RawClient> {
    const socket = new WebSocket(`ws://127.0.0.1:${port}/`, { ...webSocketOptions, maxPayload: 64 * 1024 * 1024 });
    const client = new RawClient(socket);
    return new Promise((resolve, reject) => {
      socket.once('open', () => resolve(client));
      socket.once('error', reject);
    });
  }

  /** Open, and greeted: the reply of hello. */
  static async greeted(port: number, session?: Uint8Array, lane: 'small' | 'bulk' = 'small') {
    const client = await RawClient.open(port);
    client.hello(session, lane);
    const [, , code, result] = await client.next();
    if (code !== 0) throw new Error(`hello refused: ${String(result)}`);
    return { client, hello: operations.hello.reply.decode(result) };
  }

  hello(session?: Uint8Array, lane: 'small' | 'bulk' = 'small'): void {
    const body = { protocol: PROTOCOL_VERSION, export: '/', session, client: 'raw', lane };
    this.send([frameKind.REQUEST, 0, 0, operations.hello.code, [], operations.hello.request.encode(body)]);
  }

  send(elements: unknown[], bulk?: Uint8Array): void {
    const frame = encodeFrame(elements, bulk);
    this.socket.send(frame.head, { fin: frame.bulk === undefined });
    if (frame.bulk) this.socket.send(frame.bulk);
  }

  sendBytes(bytes: Uint8Array): void {
    this.socket.send(bytes);
  }

  /** The next frame other than BYE. Rejects when the connection ends before. */
  async next(): Promise<unknown[]> {
    for (;;) {
      const frame = this.#frames.shift();
      if (frame) return frame;
      const arrived = new Promise<undefined>((resolve) => {
        this.#waiting = () => resolve(undefined);
      });
      const reason = await Promise.race([arrived, this.closed]);
      if (reason !== undefined && this.#frames.length === 0) throw new Error(`connection ended: ${reason}`);
    }
  }

  [Symbol.dispose](): void {
    this.socket.terminate();
  }
}

/** The entry of a name that is there. */
export async function lookUp(
  session: ServerSession,
  caller: CallerIdentity,
  where: { parent: Uint8Array; name: Uint8Array },
): Promise<WireEntry> {
  const { found } = await session.call('lookup', caller, where);
  if (found === undefined) throw new Error(`${Buffer.from(where.name).toString()} is absent`);
  return found;
}

/** A promise that a test settles itself. */
export function deferred<T = void>(): {
  promise: Promise<T>;
  resolve: (value: T) => void;
  reject: (e: unknown) => void;
} {
  let resolve!: (value: T) => void;
  let reject!: (error: unknown) => void;
  const promise = new Promise<T>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  return { promise, resolve, reject };
}
