/**
 * A live server and clients that misbehave. After each, a client that was connected all the time still works, the
 * server counts no unexpected error, and nothing outside of the export has changed.
 */
import { randomBytes } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import fc from 'fast-check';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { ServerSession } from '../../client-fuse/transport/server-session.ts';
import { errno } from '../../shared/errno.ts';
import { limits } from '../../shared/limits.ts';
import { encodeFrame } from '../../shared/protocol/frame.ts';
import { frameKind, operationNames, operations, PROTOCOL_VERSION } from '../../shared/protocol/messages.ts';
import type { WireType } from '../../shared/protocol/schema.ts';
import { valuesOf } from '../support/arbitraries.ts';
import { lookUp, RawClient, ROOT, TemporaryDirectory, TestServer } from '../support/fixture.ts';
import { PLAIN_WRITE } from '../support/requests.ts';

const { REQUEST, CANCEL, REPLY, BYE, GRANT_TAKEN, GIVEN_BACK, DOWNGRADED } = frameKind;
const code = Object.fromEntries(operationNames.map((name) => [name, operations[name].code]));
const NAMES = operationNames.filter((name) => name !== 'hello');

let outside: TemporaryDirectory;
let server: TestServer;
let bystander: ServerSession;
let port: number;

beforeAll(async () => {
  outside = new TemporaryDirectory();
  mkdirSync(outside.join('export'));
  mkdirSync(outside.join('export', 'sub'));
  writeFileSync(outside.join('secret'), 'secret');
  writeFileSync(outside.join('export', 'file'), 'inside');
  symlinkSync('../secret', outside.join('export', 'link'));
  symlinkSync('..', outside.join('export', 'up'));
  server = await TestServer.start(outside.join('export'));
  port = server.server.port;
  bystander = await server.connect();
});

afterAll(async () => {
  bystander.close();
  await server[Symbol.asyncDispose]();
  outside[Symbol.dispose]();
});

async function expectUnharmed(): Promise<void> {
  const parent = bystander.hello.root.inode;
  const { inode } = await lookUp(bystander, ROOT, { parent, name: Buffer.from('file') });
  const { handle } = await bystander.call('open', ROOT, {
    inode,
    flags: 0,
    killSuidgid: false,
    wants: 'none',
    firstBytes: 0,
  });
  const read = { handle, offset: 0, size: 100, knownVersion: undefined, wantsLease: false, wantsBlock: false };
  expect(Buffer.from((await bystander.callForBulk('read', ROOT, read)).bulk).toString()).toBe('inside');
  await bystander.call('release', ROOT, { handles: [handle] });
  expect(readdirSync(outside.path).sort()).toEqual(['export', 'secret']);
  expect(readFileSync(outside.join('secret'), 'utf8')).toBe('secret');
  expect(server.server.dispatcher.unexpectedErrors).toBe(0);
}

beforeEach(() => expectUnharmed());
afterAll(() => expectUnharmed());

const request = (operation: unknown, body: unknown, seq = 1) => [REQUEST, seq, 0, operation, [0, 0], body];

describe('before hello', () => {
  const rows: [string, unknown[], RegExp][] = [
    ['a request', request(code.syncfs, []), /first request is hello/],
    ['an unknown operation', request(9999, []), /operation 9999 is not known/],
    ['a reply', [REPLY, 1, 0, []], /frame kind 3 is not known/],
    ['a farewell', [BYE, 'bye'], /frame kind 4 is not known/],
    ['an unknown kind', [77, 1], /frame kind 77 is not known/],
    ['a kind that is text', ['1', 1, 0, 10, [], []], /frame kind 1 is not known/],
    ['too few elements', [REQUEST, 1, 0], /six or seven/],
    ['too many elements', [REQUEST, 1, 0, 1, [], [], 1, 2], /six or seven/],
    ['a negative sequence number', [REQUEST, -1, 0, 1, [], []], /expected counter/],
    ['a fractional sequence number', [REQUEST, 0.5, 0, 1, [], []], /expected counter/],
    ['hello of the wrong shape', request(code.hello, [PROTOCOL_VERSION]), /expected \[protocol/],
    ['hello with a long session', request(code.hello, [PROTOCOL_VERSION, '/', randomBytes(17), 'x']), /session/],
  ];
  test.each(rows)('%s', async (_what, frame, says) => {
    using client = await RawClient.open(port);
    client.send(frame);
    expect(await client.closed).toMatch(says);
  });

  const versions: [string, unknown][] = [
    ['another version', [PROTOCOL_VERSION + 1, '/', null, 'x']],
    ['version of the wrong type', [`${PROTOCOL_VERSION}`, '/', null, 'x']],
    ['no version', []],
    ['a body that is no list', 'hello'],
  ];
  test.each(versions)('%s: refused politely, with both versions', async (_what, body) => {
    using client = await RawClient.open(port);
    client.send(request(code.hello, body, 0));
    const [kind, seq, refusal, text] = await client.next();
    expect([kind, seq, refusal]).toEqual([REPLY, 0, errno.EPROTONOSUPPORT]);
    expect(text).toContain(`speaks version ${PROTOCOL_VERSION} of the protocol, the client version`);
    await client.closed;
  });

  test('an unknown session id gets a new session', async () => {
    const { client, hello } = await RawClient.greeted(port, randomBytes(16));
    using _client = client;
    expect(hello.resumed).toBe(false);
  });
});

describe('after hello', () => {
  const rows: [string, unknown[], RegExp][] = [
    ['a second hello', request(code.hello, [PROTOCOL_VERSION, '/', null, 'x']), /hello comes once/],
    ['too many groups', [REQUEST, 1, 0, code.syncfs, new Array(1027).fill(1), []], /list of at most 1026/],
    ['an identity that is text', [REQUEST, 1, 0, code.syncfs, 'root', []], /list of at most/],
    ['an identity of negative numbers', [REQUEST, 1, 0, code.syncfs, [-1], []], /u32/],
    ['bulk data that are text', [...request(code.write, [1, 0, false, 'none', false]), 'text'], /bulk data are bytes/],
    ['a huge list', request(code.forget, [new Array(1025).fill([Buffer.alloc(1), 1])]), /inodes/],
    ['a cancel without a number', [CANCEL, 'x'], /expected counter/],
    ['a grant taken without a number', [GRANT_TAKEN, 'x'], /expected counter/],
    ['leases given back that are no list', [GIVEN_BACK, 5], /list of at most 4096/],
    ['exclusive leases that are shared now and no list', [DOWNGRADED, 'x'], /list of at most 4096/],
  ];
  test.each(rows)('%s', async (_what, frame, says) => {
    using client = (await RawClient.greeted(port)).client;
    client.send(frame);
    expect(await client.closed).toMatch(says);
  });

  test.each(['.', '..', 'a/b', '/', '', '\0', 'a\0b', '../secret', 'x'.repeat(256)])(
    'the name %j ends the connection, in each operation that takes a name',
    async (bad) => {
      const name = Buffer.from(bad);
      const { hello } = await RawClient.greeted(port);
      const root = hello.root.inode;
      const bodies: [string, unknown[]][] = [
        ['lookup', [root, name]],
        ['mknod', [root, name, 0o100644, 0, 0]],
        ['mkdir', [root, name, 0o755, 0, false]],
        ['createWith', [root, name, 0o644, 0, 1, 0, null, null, 'none', false]],
        ['symlink', [root, name, Buffer.from('x')]],
        ['link', [root, root, name]],
        ['unlink', [root, name]],
        ['rmdir', [root, name]],
        ['rename', [root, name, root, Buffer.from('ok'), 0]],
        ['rename', [root, Buffer.from('file'), root, name, 0]],
        ['create', [root, name, 0o644, 0, 2, 'none']],
      ];
      for (const [operation, body] of bodies) {
        using client = (await RawClient.greeted(port)).client;
        client.send(request(code[operation], body));
        expect(await client.closed, operation).toMatch(/[nN]ame: expected name/);
      }
    },
  );

  test('a wrong type in any field of any operation ends the connection with the name of the field', async () => {
    for (const name of NAMES) {
      const type = operations[name].request;
      for (const [index, field] of Object.keys(type.fields).entries()) {
        const [good] = fc.sample(valuesOf(type as WireType<unknown>), { numRuns: 1, seed: 5 });
        const body = type.encode(good as never);
        body[index] = [[['wrong']]];
        using client = (await RawClient.greeted(port)).client;
        client.send(request(operations[name].code, body));
        expect(await client.closed, `${name}.${field}`).toContain(`${field}: `);
      }
    }
  });

  test('after the frame that ends the connection nothing more is done', async () => {
    const { client, hello } = await RawClient.greeted(port);
    using _client = client;
    client.send([77, 1]);
    client.send(request(code.mkdir, [hello.root.inode, Buffer.from('too-late'), 0o755, 0, false]));
    await client.closed;
    expect(readdirSync(outside.join('export'))).not.toContain('too-late');
  });

  test('a request that did not fit is no longer under way', async () => {
    const { client, hello } = await RawClient.greeted(port);
    using _client = client;
    client.send(request(code.lookup, [1, 2, 3]));
    await client.closed;
    const [session] = [...server.server.sessions.all].filter(({ id }) => id.equals(hello.session));
    expect(session?.inFlight).toBe(0);
  });
});

describe('bytes', () => {
  test('garbage and truncated messages end their connection only', async () => {
    const whole = Buffer.from(encodeFrame(request(code.lookup, [Buffer.alloc(40), Buffer.from('file')])).head);
    const messages = [
      ...fc.sample(fc.uint8Array({ minLength: 1, maxLength: 200 }), { numRuns: 60, seed: 1 }).map(Buffer.from),
      ...Array.from({ length: whole.length - 1 }, (_, length) => whole.subarray(0, length + 1)),
      Buffer.from('ddffffffff', 'hex'),
      Buffer.concat([Buffer.alloc(4096, 0x91), Buffer.from([0xc0])]),
    ];
    for (const bytes of messages) {
      using client = (await RawClient.greeted(port)).client;
      client.sendBytes(bytes);
      await client.closed;
    }
  });

  test('a message above the largest size is refused before it is taken in', async () => {
    using client = (await RawClient.greeted(port)).client;
    client.sendBytes(Buffer.alloc(limits.maxDataBytes + limits.maxHeaderBytes + 1));
    await client.closed;
  });

  test('a write above the largest size is refused', async () => {
    const session = await server.connect();
    const { handle } = await session.call('tmpfile', ROOT, {
      parent: session.hello.root.inode,
      mode: 0o600,
      umask: 0,
      flags: 2,
    });
    const write = { handle, offset: 0, ...PLAIN_WRITE } as const;
    const bulk = Buffer.alloc(limits.maxDataBytes + 1);
    await expect(session.call('write', ROOT, write, { bulk })).rejects.toMatchObject({ code: errno.EINVAL });
    const read = {
      handle,
      offset: 0,
      size: limits.maxDataBytes + 1,
      knownVersion: undefined,
      wantsLease: false,
      wantsBlock: false,
    };
    await expect(session.callForBulk('read', ROOT, read)).rejects.toMatchObject({ code: errno.EINVAL });
    session.close();
  });

  test('text, and a message of very many fragments', async () => {
    using text = (await RawClient.greeted(port)).client;
    text.socket.send('hello');
    expect(await text.closed).toMatch(/text messages/);
    using pieces = (await RawClient.greeted(port)).client;
    for (let count = 0; count < 20_000; count++) pieces.socket.send(Buffer.from([0]), { fin: false });
    await pieces.closed;
  });

  test('arbitrary valid arguments of every operation are answered', async () => {
    const { client } = await RawClient.greeted(port);
    using _client = client;
    let seq = 0;
    for (const name of NAMES) {
      for (const value of fc.sample(valuesOf(operations[name].request as WireType<unknown>), {
        numRuns: 30,
        seed: 9,
      })) {
        const body = operations[name].request.encode(value as never);
        client.send([REQUEST, ++seq, 0, operations[name].code, [1000, 1000], body], Buffer.from('bulk'));
        const [kind, answered] = await client.next();
        expect([kind, answered], name).toEqual([REPLY, seq]);
      }
    }
    expect(seq).toBe(NAMES.length * 30);
  });
});

describe('sequence numbers', () => {
  test('cancelling what is unknown or answered changes nothing', async () => {
    const { client, hello } = await RawClient.greeted(port);
    using _client = client;
    client.send([CANCEL, 12345]);
    client.send(request(code.statfs, [hello.root.inode], 1));
    await client.next();
    client.send([CANCEL, 1]);
    client.send(request(code.statfs, [hello.root.inode], 2));
    expect((await client.next()).slice(0, 3)).toEqual([REPLY, 2, 0]);
  });

  test('a number used twice is answered from memory, once applied', async () => {
    const { client, hello } = await RawClient.greeted(port);
    using _client = client;
    const mkdir = request(code.mkdir, [hello.root.inode, Buffer.from('twice'), 0o755, 0, false], 5);
    client.send(mkdir);
    const first = await client.next();
    client.send(mkdir);
    expect(await client.next()).toEqual(first);
    expect(first.slice(0, 3)).toEqual([REPLY, 5, 0]);
    client.send([REQUEST, 6, 5, code.rmdir, [0, 0], [hello.root.inode, Buffer.from('twice')]]);
    await client.next();
  });

  test('a delayed copy of a request whose reply was taken is not applied again', async () => {
    // A broken connection's bytes may reach the server after the connection that took its place.
    const { client, hello } = await RawClient.greeted(port);
    using late = (await RawClient.greeted(port, hello.session, 'bulk')).client;
    using _client = client;
    const root = hello.root.inode;
    const mkdir = request(code.mkdir, [root, Buffer.from('once'), 0o755, 0, false], 1);
    client.send(mkdir);
    await client.next();
    client.send([REQUEST, 2, 0, code.rmdir, [0, 0], [root, Buffer.from('once')]]);
    await client.next();
    late.send(mkdir);
    late.send([REQUEST, 3, 0, code.statfs, [0, 0], [root]]);
    expect((await late.next()).slice(0, 3)).toEqual([REPLY, 3, 0]);
    expect(readdirSync(outside.join('export'))).not.toContain('once');
  });

  test('more requests in flight than allowed end the connection', async () => {
    const { client, hello } = await RawClient.greeted(port);
    using _client = client;
    const { store } = server.server.exports.get('/') as {
      store: typeof import('../../server/store/store.ts');
    } as never as {
      store: import('../../server/store/store.ts').Store;
    };
    client.send(request(code.create, [hello.root.inode, Buffer.from('busy'), 0o644, 0, 2, 'none'], 1));
    const [, , , reply] = await client.next();
    const { handle, entry } = operations.create.reply.decode(reply);
    const held = await store.resolve(entry.inode).rangeLocks.acquire('exclusive', { start: 0, end: 1 });
    for (let seq = 2; seq < 2 + limits.maxRequestsInFlight + 1; seq++) {
      client.send([REQUEST, seq, 1, code.read, [0, 0], [handle, 0, 1, null, false, false]]);
    }
    expect(await client.closed).toMatch(/too many requests in flight/);
    held[Symbol.dispose]();
  });
});

describe('handles', () => {
  test('a handle with any bit changed, cut short, or lengthened names nothing', async () => {
    const { client, hello } = await RawClient.greeted(port);
    using _client = client;
    const root = Buffer.from(hello.root.inode);
    const forged = [
      ...Array.from({ length: root.length * 8 }, (_, bit) => {
        const copy = Buffer.from(root);
        copy[bit >> 3] = (copy[bit >> 3] as number) ^ (1 << (bit & 7));
        return copy;
      }),
      ...Array.from({ length: root.length }, (_, length) => root.subarray(0, length)),
      Buffer.concat([root, Buffer.alloc(1)]),
      randomBytes(root.length),
      Buffer.alloc(192, 1),
    ];
    for (const [index, inode] of forged.entries()) {
      client.send(request(code.getattr, [inode, 0], index + 1));
      expect((await client.next()).slice(0, 3)).toEqual([REPLY, index + 1, errno.ESTALE]);
    }
  });

  test('a handle of another export, and of another directory under the same name, names nothing', async () => {
    using elsewhere = new TemporaryDirectory();
    await using other = await TestServer.start(elsewhere.path); // the same key, the same name
    const { hello } = await RawClient.greeted(other.server.port);
    const { client } = await RawClient.greeted(port);
    using _client = client;
    client.send(request(code.getattr, [hello.root.inode, 0], 1));
    expect((await client.next()).slice(0, 3)).toEqual([REPLY, 1, errno.ESTALE]);
  });

  test('open handles belong to their session', async () => {
    const mine = await server.connect();
    const { handle } = await mine.call('opendir', ROOT, { inode: mine.hello.root.inode, maxEntries: 0 });
    const request = { handle, cookie: 0, sizeBytes: 4096, plus: false };
    await expect(bystander.call('readdir', ROOT, request)).rejects.toMatchObject({ code: errno.EBADF });
    mine.close();
  });

  test('a symbolic link out of the export is a symbolic link, whatever is done with it', async () => {
    const parent = bystander.hello.root.inode;
    for (const link of ['link', 'up']) {
      const { inode, attributes } = await lookUp(bystander, ROOT, { parent, name: Buffer.from(link) });
      expect(attributes.mode & 0o170000).toBe(0o120000);
      const attempts = [
        bystander.call('open', ROOT, { inode, flags: 0, killSuidgid: false, wants: 'none', firstBytes: 0 }),
        bystander.call('open', ROOT, { inode, flags: 0o1001, killSuidgid: false, wants: 'none', firstBytes: 0 }),
        bystander.call('opendir', ROOT, { inode, maxEntries: 0 }),
        bystander.call('lookup', ROOT, { parent: inode, name: Buffer.from('secret') }),
        bystander.call('create', ROOT, {
          parent: inode,
          name: Buffer.from('new'),
          mode: 0o644,
          umask: 0,
          flags: 2,
          wants: 'none',
        }),
        bystander.call('mkdir', ROOT, {
          parent: inode,
          name: Buffer.from('new'),
          mode: 0o755,
          umask: 0,
          wantsAlone: false,
        }),
        bystander.call('unlink', ROOT, { parent: inode, name: Buffer.from('secret') }),
        bystander.call('create', ROOT, {
          parent,
          name: Buffer.from(link),
          mode: 0o644,
          umask: 0,
          flags: 2,
          wants: 'none',
        }),
        bystander.call('setattr', ROOT, {
          inode,
          handle: 0,
          mode: undefined,
          uid: undefined,
          gid: undefined,
          size: 0,
          atime: undefined,
          mtime: undefined,
          killSuidgid: false,
        }),
      ];
      for (const attempt of attempts) await expect(attempt).rejects.toMatchObject({ name: 'FsError' });
      const times = { atime: { sec: 5, nsec: 0 }, mtime: { sec: 5, nsec: 0 } };
      const same = { mode: undefined, uid: undefined, gid: undefined, size: undefined, killSuidgid: false };
      const changed = await bystander.call('setattr', ROOT, { inode, handle: 0, ...same, ...times });
      expect(changed.attributes).toMatchObject({ mode: attributes.mode, mtime: { sec: 5, nsec: 0 } });
    }
    expect(readFileSync(outside.join('secret'), 'utf8')).toBe('secret');
  });
});

describe('connections', () => {
  test('many that never speak do not keep others out', async () => {
    const sockets = Array.from({ length: 200 }, () => connect(port, '127.0.0.1'));
    await Promise.all(sockets.map((socket) => new Promise((resolve) => socket.once('connect', resolve))));
    const silentClients = await Promise.all(Array.from({ length: 50 }, () => RawClient.open(port)));
    await expectUnharmed();
    for (const socket of sockets) socket.destroy();
    for (const client of silentClients) client[Symbol.dispose]();
  });

  test('no WebSocket at all', async () => {
    for (const bytes of [randomBytes(2000), Buffer.from('GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n')]) {
      const socket = connect(port, '127.0.0.1');
      socket.on('error', () => {});
      socket.end(bytes);
      await new Promise((resolve) => socket.once('close', resolve).resume());
    }
  });

  test('a frame cut off in the middle by a lost connection', async () => {
    const { client } = await RawClient.greeted(port);
    const raw = (client.socket as unknown as { _socket: import('node:net').Socket })._socket;
    raw.write(Buffer.from([0x82, 0xfe, 0x10, 0x00, 0, 0, 0, 0, 0x96, 1]));
    raw.destroy();
    await client.closed;
  });
});
