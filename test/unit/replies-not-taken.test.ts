/** Clients that ask and do not take the replies: the server's memory is bounded. */
import { writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Export } from '../../server/export.ts';
import type { Session } from '../../server/session/session.ts';
import { limits, MiB } from '../../shared/limits.ts';
import {
  frameKind,
  type OperationName,
  operations,
  type ReplyOf,
  type RequestOf,
} from '../../shared/protocol/messages.ts';
import { RawClient, ROOT, TemporaryDirectory, TestServer } from '../support/fixture.ts';

const { maxQueuedReplyBytes } = limits;

let directory: TemporaryDirectory;
let server: TestServer;
let client: RawClient;
let root: Uint8Array;
let session: Session;

beforeEach(async () => {
  directory = new TemporaryDirectory();
  server = await TestServer.start(directory.path);
  const greeted = await RawClient.greeted(server.server.port);
  client = greeted.client;
  root = greeted.hello.root.inode;
  [session] = server.server.sessions.all as Iterable<Session> as [Session];
});
afterEach(async () => {
  Object.assign(limits, { maxQueuedReplyBytes });
  client[Symbol.dispose]();
  await server[Symbol.asyncDispose]();
  directory[Symbol.dispose]();
});

function send<N extends OperationName>(raw: RawClient, seq: number, operation: N, request: RequestOf<N>): void {
  const { code, request: asked } = operations[operation];
  const body = (asked as { encode(value: unknown): unknown }).encode(request);
  raw.send([frameKind.REQUEST, seq, seq % limits.maxRequestsInFlight, code, ROOT, body]);
}

async function call<N extends OperationName>(raw: RawClient, seq: number, operation: N, request: RequestOf<N>) {
  send(raw, seq, operation, request);
  let frame: unknown[];
  do frame = await raw.next();
  while (frame[0] !== frameKind.REPLY);
  const [, , code, result, bulk] = frame;
  const reply = (code === 0 ? operations[operation].reply.decode(result) : undefined) as ReplyOf<N>;
  return { code, reply, bulk: bulk as Uint8Array | undefined };
}

const done = (operation: OperationName) => server.server.dispatcher.counts.get(operation) ?? 0;

describe('a client that takes no replies', () => {
  const ENTRIES = 900;
  const LISTINGS = 200;

  /** Every listing has some 250 KiB. */
  async function asksForListings(): Promise<void> {
    for (let index = 0; index < ENTRIES; index++)
      writeFileSync(directory.join(String(index).padStart(limits.maxNameBytes - 15, 'n')), '');
    const { handle } = (await call(client, 1, 'opendir', { inode: root, maxEntries: 0 })).reply;
    client.socket.pause();
    for (let seq = 2; seq < 2 + LISTINGS; seq++)
      send(client, seq, 'readdir', { handle, cookie: 0, sizeBytes: limits.maxDirectoryBytes, plus: false });
    await expect.poll(() => session.requests).toBeGreaterThan(LISTINGS);
  }

  test('is not answered beyond the limit, until it takes them; its other lane is', async () => {
    await asksForListings();
    // What the sockets' buffers took, and what may be queued.
    expect(done('readdir') * ENTRIES * 240).toBeLessThan(limits.maxQueuedReplyBytes + 30 * MiB);
    expect(session.inFlight).toBe(LISTINGS - done('readdir'));
    const { client: other } = await RawClient.greeted(server.server.port, session.id, 'bulk');
    expect((await call(other, 5000, 'getattr', { inode: root, handle: 0 })).code).toBe(0);
    client.socket.resume();
    const answered = new Set<unknown>();
    for (let count = 0; count < LISTINGS; count++) {
      const [, seq, code, result] = await client.next();
      expect([code, operations.readdir.reply.decode(result).entries.length]).toEqual([0, ENTRIES + 2]);
      answered.add(seq);
    }
    expect(answered.size).toBe(LISTINGS);
    other[Symbol.dispose]();
  });

  test('is asked for a lease all the same; what waits is forgotten with its connection', async () => {
    await call(client, 1000, 'lookup', { parent: root, name: Buffer.from('new') });
    await asksForListings();
    const { client: other } = await RawClient.greeted(server.server.port);
    send(other, 1, 'mkdir', { parent: root, name: Buffer.from('new'), mode: 0o755, umask: 0, wantsAlone: false });
    const { leases } = server.server.exports.get('/') as Export;
    await expect.poll(() => leases.counts.recallsPending).toBe(1);
    expect(session.inFlight).toBeGreaterThan(0);
    client[Symbol.dispose]();
    await expect.poll(() => session.inFlight).toBe(0);
    other[Symbol.dispose]();
  });

  test('and asks for the same reply again and again, loses its connection', async () => {
    Object.assign(limits, { maxQueuedReplyBytes: 64 * 1024 });
    const made = { parent: root, name: Buffer.from('made'), mode: 0o755, umask: 0, wantsAlone: false };
    expect((await call(client, 1, 'mkdir', made)).code).toBe(0);
    client.socket.pause();
    const { code, request } = operations.mkdir;
    const frame = [frameKind.REQUEST, 1, 1, code, ROOT, request.encode(made)];
    for (let count = 0; count < 60_000; count++) client.send(frame);
    // It has to take what was sent before, to hear of it.
    client.socket.resume();
    expect(await client.closed).toMatch(/again and again/);
  });
});
