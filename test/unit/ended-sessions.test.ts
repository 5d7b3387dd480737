/** Requests that wait when their session ends: they change nothing any more, and nothing is noted of them. */
import { chmodSync, existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { Export } from '../../server/export.ts';
import { O } from '../../shared/linux/constants.ts';
import {
  frameKind,
  GOODBYE,
  type OperationName,
  operations,
  type ReplyOf,
  type RequestOf,
} from '../../shared/protocol/messages.ts';
import { RawClient, ROOT, TemporaryDirectory, TestServer } from '../support/fixture.ts';
import { KeptJournal } from '../support/kept-state.ts';
import { PLAIN_WRITE } from '../support/requests.ts';

const b = (text: string) => Buffer.from(text);
let directory: TemporaryDirectory;
let server: TestServer;
let journal: KeptJournal;

beforeEach(async () => {
  directory = new TemporaryDirectory();
  for (const name of ['f', 'g', 'h']) writeFileSync(directory.join(name), 'hello');
  chmodSync(directory.join('f'), 0o644);
  journal = new KeptJournal();
  server = await TestServer.start(directory.path, { journal });
});
afterEach(async () => {
  await server[Symbol.asyncDispose]();
  directory[Symbol.dispose]();
});

/** The server is ended in good order. */
async function nextServer(): Promise<void> {
  await server[Symbol.asyncDispose]();
  // What a request that waited does then, it does now.
  await setImmediate();
  journal = journal.ofNextProcess();
  server = await TestServer.start(directory.path, { journal });
}

function start<N extends OperationName>(
  raw: RawClient,
  seq: number,
  slot: number,
  operation: N,
  request: RequestOf<N>,
  bulk?: Buffer,
) {
  const { code, request: asked } = operations[operation];
  raw.send(
    [frameKind.REQUEST, seq, slot, code, ROOT, (asked as { encode(value: unknown): unknown }).encode(request)],
    bulk,
  );
}

/** The reply of the request `seq`; recalls that come before it are not answered. */
async function replyTo<N extends OperationName>(
  raw: RawClient,
  seq: number,
  operation: N,
): Promise<{ code: unknown; reply: ReplyOf<N> }> {
  for (;;) {
    const [kind, of, code, result] = await raw.next();
    if (kind !== frameKind.REPLY || of !== seq) continue;
    return { code, reply: (code === 0 ? operations[operation].reply.decode(result) : undefined) as ReplyOf<N> };
  }
}

async function call<N extends OperationName>(
  raw: RawClient,
  seq: number,
  operation: N,
  request: RequestOf<N>,
  bulk?: Buffer,
) {
  start(raw, seq, seq, operation, request, bulk);
  return replyTo(raw, seq, operation);
}

/** Its handle; the client holds a lease on the file from now on. */
async function lookUp(raw: RawClient, seq: number, parent: Uint8Array, name: string): Promise<Uint8Array> {
  const { reply } = await call(raw, seq, 'lookup', { parent, name: b(name) });
  return reply.found?.inode as Uint8Array;
}

const NOTHING = {
  mode: undefined,
  uid: undefined,
  gid: undefined,
  size: undefined,
  atime: undefined,
  mtime: undefined,
};
const chmod = (inode: Uint8Array) => ({ ...NOTHING, inode, handle: 0, mode: 0o600, killSuidgid: false }) as const;
const truncate = (inode: Uint8Array) => ({ ...NOTHING, inode, handle: 0, size: 2, killSuidgid: false }) as const;
const append = (handle: number) => ({ handle, offset: 0, ...PLAIN_WRITE, append: true }) as const;
const modeOf = (name: string) => statSync(directory.join(name)).mode & 0o777;

async function recallOf(holder: RawClient): Promise<unknown> {
  for (;;) {
    const [kind, id] = await holder.next();
    if (kind === frameKind.RECALL) return id;
  }
}

test('changes that wait for a lease when the server is ended in good order are carried out by the next one', async () => {
  const { client: holder, hello } = await RawClient.greeted(server.server.port);
  const { client, hello: mine } = await RawClient.greeted(server.server.port);
  const root = hello.root.inode;
  const [f, g] = [await lookUp(holder, 1, root, 'f'), await lookUp(holder, 2, root, 'g')];
  const requests = (raw: RawClient) => {
    start(raw, 1, 1, 'setattr', chmod(f));
    start(raw, 2, 2, 'setattr', truncate(g));
    start(raw, 3, 3, 'mkdir', { parent: root, name: b('new'), mode: 0o755, umask: 0, wantsAlone: false });
    start(raw, 4, 4, 'unlink', { parent: root, name: b('h') });
  };
  requests(client);
  await recallOf(holder);
  await expect.poll(() => [...server.server.sessions.all].map(({ inFlight }) => inFlight)).toContain(4);
  await nextServer();
  expect([modeOf('f'), statSync(directory.join('g')).size, existsSync(directory.join('new'))]).toEqual([
    0o644,
    5,
    false,
  ]);
  const { client: again, hello: next } = await RawClient.greeted(server.server.port, mine.session);
  expect(next.remembers).toBe(true);
  requests(again);
  const codes = new Map<unknown, unknown>();
  for (let count = 0; count < 4; count++) {
    const [, seq, code] = await again.next();
    codes.set(seq, code);
  }
  expect([1, 2, 3, 4].map((seq) => codes.get(seq))).toEqual([0, 0, 0, 0]);
  expect(readFileSync(directory.join('g'), 'utf8')).toBe('he');
  expect([modeOf('f'), existsSync(directory.join('h')), existsSync(directory.join('new'))]).toEqual([
    0o600,
    false,
    true,
  ]);
  for (const raw of [holder, client, again]) raw[Symbol.dispose]();
});

test('changes that wait for pages when the server is ended in good order are carried out by the next one', async () => {
  const { client, hello } = await RawClient.greeted(server.server.port);
  const f = await lookUp(client, 1, hello.root.inode, 'f');
  const { store } = server.server.exports.get('/') as Export;
  using _held = await store.resolve(f).rangeLocks.acquire('exclusive', { start: 0, end: Number.POSITIVE_INFINITY });
  start(client, 2, 2, 'setattr', truncate(f));
  await expect.poll(() => [...server.server.sessions.all].map(({ inFlight }) => inFlight)).toEqual([1]);
  await nextServer();
  const { client: again } = await RawClient.greeted(server.server.port, hello.session);
  start(again, 2, 2, 'setattr', truncate(f));
  expect((await replyTo(again, 2, 'setattr')).code).toBe(0);
  expect(readFileSync(directory.join('f'), 'utf8')).toBe('he');
  for (const raw of [client, again]) raw[Symbol.dispose]();
});

test('a change of a client that said goodbye is not carried out, and is not noted as another session’s', async () => {
  const { client: holder, hello } = await RawClient.greeted(server.server.port);
  const root = hello.root.inode;
  const f = await lookUp(holder, 1, root, 'f');
  const { client: one } = await RawClient.greeted(server.server.port);
  start(one, 1, 1, 'setattr', chmod(f));
  const recall = await recallOf(holder);
  one.socket.close(1000, GOODBYE);
  await one.closed;
  await expect.poll(() => server.server.sessions.size).toBe(1);
  // Its place in the journal is this one's.
  const { client: two, hello: its } = await RawClient.greeted(server.server.port);
  const { handle } = (
    await call(two, 2, 'open', {
      inode: await lookUp(two, 3, root, 'g'),
      flags: O.WRONLY,
      killSuidgid: false,
      wants: 'none',
      firstBytes: 0,
    })
  ).reply;
  start(two, 10, 1, 'write', append(handle), b(' line'));
  expect((await replyTo(two, 10, 'write')).code).toBe(0);
  holder.send([frameKind.RECALLED, recall, []]);
  // What waited is over.
  await call(holder, 2, 'renew', {});
  expect(modeOf('f')).toBe(0o644);
  const { port } = server.server;
  journal = journal.ofNextProcess(); // as if it were killed
  await server[Symbol.asyncDispose]();
  server = await TestServer.start(directory.path, { journal, port });
  const { client: again, hello: next } = await RawClient.greeted(port, its.session);
  expect(next.remembers).toBe(true);
  start(again, 10, 1, 'write', append(handle), b(' line'));
  expect(await replyTo(again, 10, 'write')).toMatchObject({ code: 0, reply: { written: 5 } });
  expect(readFileSync(directory.join('g'), 'utf8')).toBe('hello line');
  for (const raw of [holder, two, again]) raw[Symbol.dispose]();
});
