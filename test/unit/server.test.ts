/** A server on a real socket and sessions of the real client: the way of a request from end to end, without a mount. */
import { readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { networkInterfaces } from 'node:os';
import { expect, test } from 'vitest';
import { WebSocket } from 'ws';
import { parseServerAddress } from '../../client-fuse/transport/server-address.ts';
import { ServerSession } from '../../client-fuse/transport/server-session.ts';
import { errno } from '../../shared/errno.ts';
import { lookUp, ROOT, silent, TemporaryDirectory, TestServer } from '../support/fixture.ts';
import { PLAIN_WRITE } from '../support/requests.ts';

const RDWR = 2;

test('what one session writes, the disk and another session have', async () => {
  using directory = new TemporaryDirectory();
  await using server = await TestServer.start(directory.path);
  const writer = await server.connect();
  const reader = await server.connect();
  const where = { parent: writer.hello.root.inode, name: Buffer.from('hello') };

  const created = await writer.call('create', ROOT, { ...where, mode: 0o640, umask: 0o22, flags: RDWR, wants: 'none' });
  const data = Buffer.alloc(1 << 20, 'weft');
  await writer.call('write', ROOT, { handle: created.handle, offset: 0, ...PLAIN_WRITE }, { bulk: data });
  expect(readFileSync(directory.join('hello')).equals(data)).toBe(true);
  expect(statSync(directory.join('hello')).mode & 0o7777).toBe(0o640);

  const found = await lookUp(reader, ROOT, where);
  expect(found.inode).toEqual(created.entry.inode);
  expect(found.attributes.size).toBe(data.length);
  const { handle } = await reader.call('open', ROOT, {
    inode: found.inode,
    flags: 0,
    killSuidgid: false,
    wants: 'none' as const,
    firstBytes: 0,
  });
  const read = (offset: number, size: number) =>
    reader.callForBulk('read', ROOT, {
      handle,
      offset,
      size,
      knownVersion: undefined,
      wantsLease: false,
      wantsBlock: false,
    });
  expect(Buffer.from((await read(4, 1 << 20)).bulk).equals(data.subarray(4))).toBe(true);
  expect((await read(1 << 20, 4096)).bulk.length).toBe(0);
  expect((await read(0, 0)).bulk.length).toBe(0);

  await writer.call('unlink', ROOT, where);
  expect((await reader.call('lookup', ROOT, where)).found).toBeUndefined();
  expect((await read(0, 4)).bulk).toEqual(data.subarray(0, 4)); // open, though it has no name any more
  await reader.call('release', ROOT, { handles: [handle] });
  await expect(read(0, 4)).rejects.toMatchObject({ code: errno.EBADF });
  writer.close();
  reader.close();
});

test('replies come in any order: a small request is answered while a large one waits for its lock', async () => {
  using directory = new TemporaryDirectory();
  await using server = await TestServer.start(directory.path);
  const session = await server.connect();
  const parent = session.hello.root.inode;
  const created = { parent, name: Buffer.from('f'), mode: 0o644, umask: 0, flags: RDWR, wants: 'none' } as const;
  const { handle, entry } = await session.call('create', ROOT, created);
  const { store } = server.server.exports.get('/') as NonNullable<ReturnType<typeof server.server.exports.get>>;
  const held = await store.resolve(entry.inode).rangeLocks.acquire('exclusive', { start: 0, end: 1 });

  const abort = new AbortController();
  const write = { handle, offset: 0, ...PLAIN_WRITE };
  const waits = session.call('write', ROOT, write, { bulk: Buffer.from('x') });
  const interrupted = session.call('write', ROOT, write, { bulk: Buffer.from('y'), signal: abort.signal });
  expect((await session.call('getattr', ROOT, { inode: parent, handle: 0 })).attributes.mode & 0o40000).toBe(0o40000);
  abort.abort();
  await expect(interrupted).rejects.toMatchObject({ code: errno.EINTR });
  held[Symbol.dispose]();
  expect(await waits).toEqual({ written: 1 });
  expect(readFileSync(directory.join('f'), 'utf8')).toBe('x');
  session.close();
});

test('a request whose caller gave up before it was sent is not sent', async () => {
  using directory = new TemporaryDirectory();
  await using server = await TestServer.start(directory.path);
  const session = await server.connect();
  const request = {
    parent: session.hello.root.inode,
    name: Buffer.from('d'),
    mode: 0o755,
    umask: 0,
    wantsAlone: false,
  };
  const call = session.call('mkdir', ROOT, request, { signal: AbortSignal.abort() });
  await expect(call).rejects.toMatchObject({ code: errno.EINTR });
  expect((await session.call('lookup', ROOT, request)).found).toBeUndefined();
  session.close();
});

test('more requests than may be in flight are answered all the same, in their order', async () => {
  using directory = new TemporaryDirectory();
  await using server = await TestServer.start(directory.path);
  const session = await server.connect();
  const parent = session.hello.root.inode;
  const names = Array.from({ length: 3000 }, (_, index) => Buffer.from(`d${index}`));
  await Promise.all(
    names.map((name) => session.call('mkdir', ROOT, { parent, name, mode: 0o755, umask: 0, wantsAlone: false })),
  );
  expect(session.inFlight).toBe(0);
  const answers = await Promise.all(names.map((name) => session.call('rmdir', ROOT, { parent, name })));
  expect(answers).toHaveLength(3000);
  session.close();
});

const refused = [
  {
    what: 'nothing listens',
    url: 'ws://127.0.0.1:1/',
    says: /127\.0\.0\.1:1: nothing listens there; start the server/,
  },
  { what: 'an unknown host', url: 'ws://no-such-host.invalid/', says: /no-such-host\.invalid:7333: cannot connect/ },
];

test.each(refused)('connecting fails with one clear line: $what', async ({ url, says }) => {
  const error = await ServerSession.connect(parseServerAddress(url), silent).catch((reason: Error) => reason);
  expect(error).toBeInstanceOf(Error);
  expect((error as Error).message).toMatch(says);
  expect((error as Error).message).not.toContain('\n');
});

test.each(['127.0.0.1', '[::1]'])('a server of every address is reached by %s', async (host) => {
  const hasIpv6 = Object.values(networkInterfaces()).some((all) => all?.some(({ address }) => address === '::1'));
  if (!hasIpv6) return console.warn('left out: this machine has no IPv6');
  using directory = new TemporaryDirectory();
  await using server = await TestServer.start(directory.path, { host: '::' });
  const session = await ServerSession.connect(parseServerAddress(`ws://${host}:${server.server.port}/`), silent);
  await session.call('renew', ROOT, {});
  session.close();
});

test('an unknown export is refused with the names of those that are there', async () => {
  using directory = new TemporaryDirectory();
  await using server = await TestServer.start(directory.path);
  const address = parseServerAddress(`ws://127.0.0.1:${server.server.port}/music`);
  await expect(ServerSession.connect(address, silent)).rejects.toThrow(/no export "music" here.*exports "\/"/);
});

test('who speaks plain HTTP is told what this is', async () => {
  using directory = new TemporaryDirectory();
  await using server = await TestServer.start(directory.path);
  const [status, text] = await new Promise<[number | undefined, string]>((resolve, reject) => {
    const call = request({ host: '127.0.0.1', port: server.server.port, path: '/' }, (response) => {
      let body = '';
      response.on('data', (chunk: Buffer) => {
        body += chunk.toString();
      });
      response.on('end', () => resolve([response.statusCode, body]));
    });
    call.on('error', reject);
    call.end();
  });
  expect(status).toBe(426);
  expect(text).toContain('weft mount ws://');
});

test('a web page is refused, whatever site it is of', async () => {
  using directory = new TemporaryDirectory();
  await using server = await TestServer.start(directory.path);
  const socket = new WebSocket(server.address.url, { origin: 'http://localhost' });
  const refusal = await new Promise<Error>((resolve) => socket.once('error', resolve));
  expect(refusal.message).toMatch(/403/);
});

test('a read-only export refuses every change and serves every read', async () => {
  using directory = new TemporaryDirectory();
  writeFileSync(directory.join('file'), 'content');
  symlinkSync('file', directory.join('link'));
  await using server = await TestServer.start(directory.path, { readOnly: true });
  const session = await server.connect();
  expect(session.hello.readOnly).toBe(true);
  const parent = session.hello.root.inode;
  const name = Buffer.from('new');
  const { inode } = await lookUp(session, ROOT, { parent, name: Buffer.from('file') });
  const changes = [
    session.call('mkdir', ROOT, { parent, name, mode: 0o755, umask: 0, wantsAlone: false }),
    session.call('create', ROOT, { parent, name, mode: 0o644, umask: 0, flags: 0, wants: 'none' }),
    session.call('tmpfile', ROOT, { parent, mode: 0o644, umask: 0, flags: RDWR }),
    session.call('symlink', ROOT, { parent, name, target: Buffer.from('x') }),
    session.call('link', ROOT, { inode, parent, name }),
    session.call('unlink', ROOT, { parent, name: Buffer.from('file') }),
    session.call('open', ROOT, { inode, flags: 1, killSuidgid: false, wants: 'none', firstBytes: 0 }),
    session.call('open', ROOT, { inode, flags: 0o1000, killSuidgid: false, wants: 'none', firstBytes: 0 }),
    session.call('setxattr', ROOT, { inode, name: Buffer.from('user.a'), value: name, flags: 0, killSgid: false }),
  ];
  for (const change of changes) await expect(change).rejects.toMatchObject({ code: errno.EROFS });
  const { handle } = await session.call('open', ROOT, {
    inode,
    flags: 0,
    killSuidgid: false,
    wants: 'none' as const,
    firstBytes: 0,
  });
  const { bulk } = await session.callForBulk('read', ROOT, {
    handle,
    offset: 0,
    size: 99,
    knownVersion: undefined,
    wantsLease: false,
    wantsBlock: false,
  });
  expect(Buffer.from(bulk).toString()).toBe('content');
  session.close();
});

test('status lists sessions, requests and guarantees', async () => {
  using directory = new TemporaryDirectory();
  await using server = await TestServer.start(directory.path);
  const session = await server.connect();
  const status = JSON.parse((await session.call('status', ROOT, {})).json);
  expect(status.exports).toMatchObject([{ name: '/', directory: directory.path, readOnly: false }]);
  expect(status.sessions).toMatchObject([{ export: '/', connections: 2, absentSeconds: null, openFiles: 0 }]);
  expect(status.unexpectedErrors).toBe(0);
  session.close();
});

test('a server that shuts down says so, and whoever waits is told when the session is closed', async () => {
  using directory = new TemporaryDirectory();
  const server = await TestServer.start(directory.path);
  const session = await server.connect();
  await server[Symbol.asyncDispose]();
  const waits = session.call('statfs', ROOT, { inode: session.hello.root.inode });
  session.close();
  await expect(waits).rejects.toMatchObject({ code: errno.ESHUTDOWN });
  await expect(session.call('syncfs', ROOT, {})).rejects.toMatchObject({ code: errno.ESHUTDOWN });
});
