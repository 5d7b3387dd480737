/** The small parts: errno table, buffer pool, addresses, the handle key, exports. */
import { chmodSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import { describe, expect, test } from 'vitest';
import { explainConnectError } from '../../client-fuse/transport/connect-error.ts';
import { parseServerAddress, serverAddressWith } from '../../client-fuse/transport/server-address.ts';
import { openExports } from '../../server/open-exports.ts';
import { defaultStateDirectory, loadHandleKey } from '../../server/store/handle-key.ts';
import { HandleSigner, handleKind } from '../../server/store/inode-handle.ts';
import { BufferPool } from '../../shared/buffer-pool.ts';
import { errno, errnoName, errnoOf, FsError } from '../../shared/errno.ts';
import { KEY, silent, TemporaryDirectory } from '../support/fixture.ts';

describe('errno', () => {
  test("the numbers are the system's, each once", () => {
    const here = constants.errno as unknown as Record<string, number>;
    for (const [name, code] of Object.entries(errno)) if (name in here) expect(code, name).toBe(here[name]);
    expect(new Set(Object.values(errno)).size).toBe(Object.keys(errno).length);
  });

  const values: [string, unknown, number][] = [
    ['an FsError', new FsError(errno.ENOTEMPTY, 'rmdir'), errno.ENOTEMPTY],
    ['a Node error', Object.assign(new Error(), { code: 'EACCES' }), errno.EACCES],
    ['a Node error of another kind', Object.assign(new Error(), { code: 'ERR_INVALID_ARG_TYPE' }), errno.EIO],
    ['a code that every object has', Object.assign(new Error(), { code: 'toString' }), errno.EIO],
    ['a numeric code', { code: 2 }, errno.EIO],
    ['an error', new Error('bug'), errno.EIO],
    ['nothing', undefined, errno.EIO],
    ['null', null, errno.EIO],
    ['text', 'ENOENT', errno.EIO],
  ];
  test.each(values)('of %s', (_what, value, code) => {
    expect(errnoOf(value)).toBe(code);
  });

  test('an FsError says what failed and how, and carries no stack', () => {
    const error = new FsError(errno.EDQUOT, 'write', { cause: 'x' });
    expect([error.message, error.code, error.operation, error.cause]).toEqual(['write: EDQUOT', 122, 'write', 'x']);
    expect(error.stack).not.toContain('.ts');
    expect(new Error('after').stack).toContain('.ts');
    expect(errnoName(9999)).toBe('errno 9999');
  });
});

describe('BufferPool', () => {
  test('a buffer given back is taken again, one of another size is not', () => {
    const pool = new BufferPool(1 << 20);
    const one = pool.take(100_000);
    expect(one.length).toBe(131_072);
    pool.giveBack(one);
    expect(pool.take(300_000) === one).toBe(false);
    expect(pool.take(65_537) === one).toBe(true);
    expect(pool.take(131_072) === one).toBe(false);
  });

  test('it holds no more than its bound, and nothing small or odd', () => {
    const pool = new BufferPool(1 << 20);
    const [one, two] = [pool.take(1 << 20), pool.take(1 << 20)];
    pool.giveBack(one);
    pool.giveBack(two);
    expect(pool.take(1 << 20) === one).toBe(true);
    expect(pool.take(1 << 20) === two).toBe(false);
    const odd = Buffer.alloc(100_001);
    pool.giveBack(odd);
    pool.giveBack(Buffer.alloc(10));
    expect(pool.take(100_001) === odd).toBe(false);
    for (const size of [0, 1, 65_535, 65_536, 65_537]) expect(pool.take(size).length).toBeGreaterThanOrEqual(size);
  });
});

describe('addresses', () => {
  const good: [string, string, number, string, string][] = [
    ['ws://host:7000/', 'host', 7000, '/', 'ws://host:7000/'],
    ['ws://host', 'host', 7333, '/', 'ws://host:7333/'],
    ['host', 'host', 7333, '/', 'ws://host:7333/'],
    ['host:1234/music', 'host', 1234, 'music', 'ws://host:1234/'],
    ['ws://host/music/', 'host', 7333, 'music', 'ws://host:7333/'],
    ['ws://host:80/', 'host', 80, '/', 'ws://host:80/'],
    ['host:80', 'host', 80, '/', 'ws://host:80/'],
    ['ws://[::1]:7333/x', '[::1]', 7333, 'x', 'ws://[::1]:7333/'],
    ['ws://127.0.0.1/a%20b', '127.0.0.1', 7333, 'a b', 'ws://127.0.0.1:7333/'],
    ['wss://host/', 'host', 7333, '/', 'wss://host:7333/'],
    ['wss://host:443/', 'host', 443, '/', 'wss://host:443/'],
    ['ws://host/M%C3%BCll', 'host', 7333, 'Müll', 'ws://host:7333/'],
  ];
  test.each(good)('%s', (text, host, port, exportName, url) => {
    expect(parseServerAddress(text)).toEqual({ host, port, exportName, url });
  });

  const bad: [string, RegExp][] = [
    ['', /is not an address/],
    ['http://host/', /http:\/\/ is not supported/],
    ['ws://host:99999/', /is not an address/],
    ['ws://host:x/', /is not an address/],
    ['ws:///', /is not an address/],
    ['ws://host/%zz', /%25/],
    ['ws://user:secret@host/', /^an address holds no user and no password.*--token-file$/],
    ['user@host', /no user/],
    ['ws://host/?x=1', /nothing goes after.*%3F/],
    ['ws://host/x#y', /%23/],
  ];
  test.each(bad)('%j is refused: %s', (text, says) => {
    expect(() => parseServerAddress(text)).toThrow(says);
  });

  test('what only TLS can do is asked of none without it', () => {
    const [fingerprint, certFile] = ['00'.repeat(32), '/cert'];
    expect(() => serverAddressWith('host', { fingerprint })).toThrow(/^a fingerprint needs wss:\/\//);
    expect(() => serverAddressWith('ws://host/', { certFile })).toThrow(/^a certificate needs wss:\/\//);
    expect(serverAddressWith('wss://host/', { fingerprint })).toMatchObject({ credentials: { fingerprint } });
    expect(serverAddressWith('ws://host/', { tokenFile: '/t' })).toMatchObject({ credentials: { tokenFile: '/t' } });
  });

  const address = parseServerAddress('ws://box:7333/');
  const reasons: [unknown, RegExp][] = [
    [new FsError(errno.ECONNREFUSED, 'connect'), /^box:7333: nothing listens there; start the server with `weft serve/],
    [new FsError(errno.ETIMEDOUT, 'hello'), /^box:7333: no answer; check the address/],
    [
      new FsError(errno.EHOSTUNREACH, 'connect', { cause: new Error('ENOTFOUND box') }),
      /cannot connect \(ENOTFOUND box\)/,
    ],
    [new FsError(errno.ECONNRESET, 'connect'), /^box:7333: the server hung up; if it wants TLS, write wss:\/\//],
    ['odd', /cannot connect \(odd\)/],
  ];
  test.each(reasons)('%s is explained', (error, says) => {
    expect(explainConnectError(address, error)).toMatch(says);
  });
});

describe('the handle key', () => {
  test('is made once, for its owner only, and found again', () => {
    using directory = new TemporaryDirectory();
    const state = directory.join('deep', 'state');
    const key = loadHandleKey(state);
    expect(key.length).toBe(32);
    expect(loadHandleKey(state).equals(key)).toBe(true);
    expect(readFileSync(directory.join('deep', 'state', 'handle.key')).equals(key)).toBe(true);
    expect(statSync(directory.join('deep', 'state', 'handle.key')).mode & 0o777).toBe(0o600);
    expect(statSync(state).mode & 0o777).toBe(0o700);
    expect(loadHandleKey(directory.join('other')).equals(key)).toBe(false);
  });

  test('damaged or unreadable: one line that names the file', () => {
    using directory = new TemporaryDirectory();
    writeFileSync(directory.join('handle.key'), 'short');
    expect(() => loadHandleKey(directory.path)).toThrow(/handle\.key is damaged \(5 bytes instead of 32\)/);
    mkdirSync(directory.join('dir', 'handle.key'), { recursive: true });
    expect(() => loadHandleKey(directory.join('dir'))).toThrow(/cannot read .*handle\.key.*--state DIR/);
    expect(() => loadHandleKey('/sys/nowhere')).toThrow(/cannot write \/sys\/nowhere\/handle\.key.*--state DIR/);
  });

  test("the state directory is systemd's where it gives one", () => {
    const before = process.env.STATE_DIRECTORY;
    process.env.STATE_DIRECTORY = '/given';
    expect(defaultStateDirectory()).toBe('/given');
    delete process.env.STATE_DIRECTORY;
    expect(defaultStateDirectory()).toBe('/var/lib/weft');
    if (before !== undefined) process.env.STATE_DIRECTORY = before;
  });
});

describe('signed handles', () => {
  const content = { kind: handleKind.KERNEL, filesystem: 2 ** 40 + 5, body: Buffer.from('body') };

  test('what was signed opens, under the same key and scope only', () => {
    const handle = new HandleSigner(KEY, 'a').sign(content);
    expect(handle.length).toBe(9 + 4 + 16);
    expect(new HandleSigner(KEY, 'a').open(handle)).toEqual(content);
    expect(new HandleSigner(KEY, 'b').open(handle)).toBeUndefined();
    expect(new HandleSigner(Buffer.alloc(32), 'a').open(handle)).toBeUndefined();
  });

  test('no bit may change, none may be missing', () => {
    const signer = new HandleSigner(KEY, 'a');
    const handle = signer.sign(content);
    for (let bit = 0; bit < handle.length * 8; bit++) {
      const copy = Buffer.from(handle);
      copy[bit >> 3] = (copy[bit >> 3] as number) ^ (1 << (bit & 7));
      expect(signer.open(copy)).toBeUndefined();
    }
    for (let length = 0; length < handle.length; length++) {
      expect(signer.open(handle.subarray(0, length))).toBeUndefined();
    }
  });
});

describe('exports', () => {
  test('a directory that is not there, or is none, is named with the next step', () => {
    using directory = new TemporaryDirectory();
    writeFileSync(directory.join('f'), '');
    chmodSync(directory.path, 0o755);
    const open = (path: string) => openExports([{ name: '/', directory: path, readOnly: false }], 'root', KEY, silent);
    expect(() => open(directory.join('none'))).toThrow(/none does not exist; make it/);
    expect(() => open(directory.join('f'))).toThrow(/is not a directory/);
    expect(() => open(directory.join('f', 'x'))).toThrow(/cannot be exported: ENOTDIR/);
  });
});
