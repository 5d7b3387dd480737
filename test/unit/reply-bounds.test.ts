/** Clients that ask for more with one reply than they may. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Session } from '../../server/session/session.ts';
import { limits } from '../../shared/limits.ts';
import {
  frameKind,
  type OperationName,
  operations,
  type ReplyOf,
  type RequestOf,
} from '../../shared/protocol/messages.ts';
import { RawClient, ROOT, TemporaryDirectory, TestServer } from '../support/fixture.ts';

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

test('an open that wants more with its reply than there may be gets a handle', async () => {
  writeFileSync(directory.join('f'), Buffer.alloc(limits.maxFirstBytes));
  writeFileSync(directory.join('g'), Buffer.alloc(limits.maxFirstBytes + 1));
  const open = async (seq: number, name: string) => {
    const { reply } = await call(client, seq, 'lookup', { parent: root, name: Buffer.from(name) });
    const inode = reply.found?.inode as Uint8Array;
    const wanted = { inode, flags: 0, killSuidgid: false, wants: 'shared', firstBytes: 2 ** 31 } as const;
    const opened = await call(client, seq + 1, 'open', wanted);
    return [opened.reply.handle !== 0, opened.bulk?.length];
  };
  expect(await open(1, 'f')).toEqual([false, limits.maxFirstBytes]);
  expect(await open(3, 'g')).toEqual([true, undefined]);
});

describe('a listing that comes with the opening of a directory', () => {
  test('is of a short one only, whatever is asked for', async () => {
    mkdirSync(directory.join('d'));
    for (let index = 0; index < 4 * limits.maxListedAtOpen; index++) writeFileSync(directory.join('d', `${index}`), '');
    const { reply } = await call(client, 1, 'lookup', { parent: root, name: Buffer.from('d') });
    const inode = reply.found?.inode as Uint8Array;
    const opened = await call(client, 2, 'opendir', { inode, maxEntries: 2 ** 32 - 1 });
    expect(opened.reply).toMatchObject({ listing: undefined });
    expect(opened.reply.handle).not.toBe(0);
  });

  test('is not kept, and made again for who asks again; a handle is the same', async () => {
    mkdirSync(directory.join('d'));
    const opendir = { inode: root, maxEntries: limits.maxListedAtOpen };
    const names = (reply: ReplyOf<'opendir'>) => reply.listing?.map(({ name }) => name.toString()).sort();
    expect(names((await call(client, 7, 'opendir', opendir)).reply)).toEqual(['.', '..', 'd']);
    expect(session.keptReply(7, 7)).toBeUndefined();
    mkdirSync(directory.join('e'));
    expect(names((await call(client, 7, 'opendir', opendir)).reply)).toEqual(['.', '..', 'd', 'e']);
    const first = await call(client, 8, 'opendir', { ...opendir, maxEntries: 0 });
    expect(await call(client, 8, 'opendir', { ...opendir, maxEntries: 0 })).toEqual(first);
    expect(session.openFiles).toBe(1);
  });
});
