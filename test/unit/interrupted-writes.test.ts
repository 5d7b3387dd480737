/** The server is killed in the middle of a write: nobody gets to its pages before its client has it finished, or given up. */
import { readFileSync, unlinkSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { errno } from '../../shared/errno.ts';
import { limits, PAGE_SIZE } from '../../shared/limits.ts';
import { O } from '../../shared/linux/constants.ts';
import { frameKind, GOODBYE, type OperationName, operations, type RequestOf } from '../../shared/protocol/messages.ts';
import { RawClient, ROOT, TemporaryDirectory, TestServer } from '../support/fixture.ts';
import { KeptJournal } from '../support/kept-state.ts';
import { PLAIN_WRITE } from '../support/requests.ts';

const page = (letter: string) => Buffer.alloc(PAGE_SIZE, letter);
const WRITE = 7;

let directory: TemporaryDirectory;
let journal: KeptJournal;
let server: TestServer;
let file: Uint8Array;
/** Of the client whose write was interrupted, and the file's handle in it. */
let owner: { readonly session: Uint8Array; readonly handle: number };
let clients: RawClient[];

/** Four pages; the server ends between the change of the second one and its note, with all its connections. */
beforeEach(async () => {
  directory = new TemporaryDirectory();
  writeFileSync(directory.join('f'), Buffer.concat([page('-'), page('-'), page('-'), page('-')]));
  journal = new KeptJournal();
  server = await TestServer.start(directory.path, { journal });
  clients = [];
  const client = await connected();
  const root = server.server.exports.get('/')?.store.root.handle as Uint8Array;
  const found = await client.ask(1, 'lookup', { parent: root, name: Buffer.from('f') });
  file = (found.reply as { found: { inode: Uint8Array } }).found.inode;
  owner = { session: client.session, handle: await client.open(2) };
  let notes = 0;
  journal.onNote = () => {
    if (++notes === 2) journal.hasEnded = true;
  };
  expect(await client.write(WRITE, 1, 'a', owner.handle)).toMatchObject({ reply: { written: PAGE_SIZE } });
  await nextServer();
});
afterEach(async () => {
  for (const client of clients) client[Symbol.dispose]();
  await server[Symbol.asyncDispose]();
  directory[Symbol.dispose]();
});

async function nextServer(): Promise<void> {
  for (const client of clients.splice(0)) client[Symbol.dispose]();
  journal = journal.ofNextProcess();
  const { port } = server.server;
  await server[Symbol.asyncDispose]();
  server = await TestServer.start(directory.path, { port, journal });
}

/** Requests by number, and their replies whenever they come. */
class Client {
  readonly #raw: RawClient;
  readonly session: Uint8Array;
  readonly #replies = new Map<number, unknown[]>();
  /** Of the replies. */
  readonly order: number[] = [];

  constructor(raw: RawClient, session: Uint8Array) {
    this.#raw = raw;
    this.session = session;
  }

  async ask<N extends OperationName>(seq: number, operation: N, request: RequestOf<N>, bulk?: Buffer) {
    this.send(seq, operation, request, bulk);
    return await this.reply(seq, operation);
  }

  send<N extends OperationName>(seq: number, operation: N, request: RequestOf<N>, bulk?: Buffer, slot = seq): void {
    const { code, request: asked } = operations[operation];
    const body = (asked as { encode(value: unknown): unknown }).encode(request);
    this.#raw.send([frameKind.REQUEST, seq, slot, code, ROOT, body], bulk);
  }

  async reply(seq: number, operation: OperationName): Promise<{ code: unknown; reply: unknown; bulk: string }> {
    while (!this.#replies.has(seq)) {
      const frame = await this.#raw.next();
      this.order.push(Number(frame[1]));
      this.#replies.set(Number(frame[1]), frame);
    }
    const [, , code, result, bulk] = this.#replies.get(seq) as unknown[];
    this.#replies.delete(seq);
    const reply = code === 0 ? operations[operation].reply.decode(result) : undefined;
    return { code, reply, bulk: bulk instanceof Uint8Array ? Buffer.from(bulk).toString() : '' };
  }

  async open(seq: number): Promise<number> {
    const request = { inode: file, flags: O.RDWR, killSuidgid: false, wants: 'none', firstBytes: 0 } as const;
    return ((await this.ask(seq, 'open', request)).reply as { handle: number }).handle;
  }

  sendRead(seq: number, index: number, handle: number): void {
    const range = {
      offset: index * PAGE_SIZE,
      size: PAGE_SIZE,
      knownVersion: undefined,
      wantsLease: false,
      wantsBlock: false,
    };
    this.send(seq, 'read', { handle, ...range });
  }

  write(seq: number, index: number, letter: string, handle: number) {
    this.sendWrite(seq, index, letter, handle);
    return this.reply(seq, 'write');
  }

  sendWrite(seq: number, index: number, letter: string, handle: number): void {
    this.send(seq, 'write', { handle, offset: index * PAGE_SIZE, ...PLAIN_WRITE }, page(letter));
  }

  goodbye(): void {
    this.#raw.socket.close(1000, GOODBYE);
  }
}

async function connected(session?: Uint8Array): Promise<Client> {
  const { client, hello } = await RawClient.greeted(server.server.port, session);
  clients.push(client);
  return new Client(client, hello.session);
}

/** Another client asks for the page (10: reads, 11: writes "b"), and must wait: a later request is answered first. */
async function waiting(): Promise<Client> {
  const other = await connected();
  const handle = await other.open(1);
  other.order.length = 0;
  other.sendRead(10, 1, handle);
  other.sendWrite(11, 1, 'b', handle);
  other.sendRead(12, 2, handle);
  expect((await other.reply(12, 'read')).bulk).toBe(page('-').toString());
  await other.write(13, 3, 'c', handle);
  expect(other.order).toEqual([12, 13]);
  return other;
}

/** What the other client waits for is done, in its order. */
async function goesOn(other: Client): Promise<void> {
  expect((await other.reply(10, 'read')).bulk).toBe(page('a').toString());
  expect(await other.reply(11, 'write')).toMatchObject({ reply: { written: PAGE_SIZE } });
  expect(content()).toBe('-b-c');
}

/** A letter a page. */
function content(): string {
  const data = readFileSync(directory.join('f'), 'latin1');
  const pages = [0, 1, 2, 3].map((index) => data.slice(index * PAGE_SIZE, (index + 1) * PAGE_SIZE));
  expect(pages.every((one) => one === page(one[0] as string).toString('latin1'))).toBe(true);
  return pages.map((one) => one[0]).join('');
}

const wroteIt = { code: 0, reply: { written: PAGE_SIZE, attributes: undefined } };

test('others wait for its pages until its client is back, and for no others; it is finished once', async () => {
  const other = await waiting();
  const { session, handle } = owner;
  const back = await connected(session);
  // As if the kill had come in the middle.
  writeFileSync(directory.join('f'), Buffer.concat([page('-'), page('?')]), { flag: 'r+' });
  expect(await back.write(WRITE, 1, 'a', handle)).toMatchObject(wroteIt);
  await goesOn(other);
  const again = await connected(session);
  expect(await again.write(WRITE, 1, 'a', handle)).toMatchObject(wroteIt);
  await nextServer();
  const later = await connected(session);
  expect(await later.write(WRITE, 1, 'a', handle)).toMatchObject(wroteIt);
  expect(content()).toBe('-b-c');
});

test('over a second end of the server, too', async () => {
  await nextServer();
  const other = await waiting();
  const back = await connected(owner.session);
  expect(await back.write(WRITE, 1, 'a', owner.handle)).toMatchObject(wroteIt);
  await goesOn(other);
});

test('meanwhile nobody is let keep anything of the file', async () => {
  const other = await connected();
  const shared = { inode: file, flags: O.RDONLY, killSuidgid: false, wants: 'shared', firstBytes: 1 << 20 } as const;
  expect(await other.ask(1, 'open', shared)).toMatchObject({ reply: { lease: 'none' }, bulk: '' });
  const exclusive = { ...shared, flags: O.RDWR, wants: 'exclusive' } as const;
  expect(await other.ask(2, 'open', exclusive)).toMatchObject({ reply: { lease: 'none' } });
  const back = await connected(owner.session);
  await back.write(WRITE, 1, 'a', owner.handle);
  const { reply } = await back.ask(8, 'getattr', { inode: file, handle: 0 });
  expect(reply).toMatchObject({ leased: true });
});

test('its client is back, and has something else in its place: it is given up', async () => {
  const other = await waiting();
  const back = await connected(owner.session);
  back.send(WRITE + 1, 'renew', {}, undefined, WRITE);
  await back.reply(WRITE + 1, 'renew');
  await goesOn(other);
});

test('its client is back, and asks for something else under its number: EIO', async () => {
  const other = await waiting();
  const back = await connected(owner.session);
  expect((await back.write(WRITE, 2, 'a', owner.handle)).code).toBe(errno.EIO);
  await goesOn(other);
});

test('its client says goodbye: it is given up', async () => {
  const other = await waiting();
  const back = await connected(owner.session);
  await back.ask(1, 'renew', {});
  back.goodbye();
  await goesOn(other);
});

test('its client stays away: it is given up when the grace time is over, and is EIO from then on', async () => {
  const other = await waiting();
  server.server.sessions.expire(performance.now() + limits.sessionLeaseMs);
  await goesOn(other);
  const late = await connected(owner.session);
  expect((await late.write(WRITE, 1, 'a', owner.handle)).code).toBe(errno.EIO);
  await nextServer();
  const reader = await connected();
  reader.sendRead(2, 1, await reader.open(1));
  expect((await reader.reply(2, 'read')).bulk).toBe(page('b').toString());
  const later = await connected(owner.session);
  expect((await later.write(WRITE, 1, 'a', owner.handle)).code).toBe(errno.EIO);
  expect(content()).toBe('-b-c');
});

test('the file is gone: EIO', async () => {
  unlinkSync(directory.join('f'));
  await nextServer();
  const back = await connected(owner.session);
  expect((await back.write(WRITE, 1, 'a', owner.handle)).code).toBe(errno.EIO);
});

test('a file that was made with what was written to it is finished in the same way', async () => {
  const root = server.server.exports.get('/')?.store.root.handle as Uint8Array;
  const client = await connected();
  const request = {
    ...{
      parent: root,
      name: Buffer.from('new'),
      mode: 0o644,
      umask: 0,
      flags: O.WRONLY,
      offset: 0,
      extents: undefined,
    },
    ...{ attributes: undefined, sync: 'none' as const, closes: true },
  } as const;
  let notes = 0;
  // It begins, it is made, its data begin; not that they have ended.
  journal.onNote = () => {
    if (++notes === 4) journal.hasEnded = true;
  };
  const first = await client.ask(20, 'createWith', request, page('a'));
  expect(first).toMatchObject({ code: 0, reply: { written: PAGE_SIZE, isComplete: true, handle: 0 } });
  const { inode } = (first.reply as { entry: { inode: Uint8Array } }).entry;
  await nextServer();
  writeFileSync(directory.join('new'), page('?'), { flag: 'r+' });
  const other = await connected();
  const open = { inode, flags: O.RDONLY, killSuidgid: false, wants: 'none', firstBytes: 0 } as const;
  const { handle } = (await other.ask(1, 'open', open)).reply as { handle: number };
  other.sendRead(2, 0, handle);
  const back = await connected(client.session);
  const again = await back.ask(20, 'createWith', request, page('a'));
  expect(again).toMatchObject({ code: 0, reply: { written: PAGE_SIZE, isComplete: false, lease: 'none' } });
  expect((await other.reply(2, 'read')).bulk).toBe(page('a').toString());
});
