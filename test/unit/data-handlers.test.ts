/** Data of files under many sessions: writes stay whole, appends are all there, nothing waits for ever, limits hold. */
import {
  appendFileSync,
  chmodSync,
  existsSync,
  readFileSync,
  statfsSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { ServerSession } from '../../client-fuse/transport/server-session.ts';
import type { Export } from '../../server/export.ts';
import { errno } from '../../shared/errno.ts';
import { limits, MiB, PAGE_SIZE } from '../../shared/limits.ts';
import { FALLOC, SEEK } from '../../shared/linux/constants.ts';
import { frameKind, operations, type ReplyOf } from '../../shared/protocol/messages.ts';
import { lookUp, RawClient, ROOT, TemporaryDirectory, TestServer } from '../support/fixture.ts';
import { MountedFilesystem } from '../support/mounted.ts';
import { PLAIN_WRITE } from '../support/requests.ts';

const RDWR = 2;

let directory: TemporaryDirectory;
let server: TestServer;
let sessions: ServerSession[];

beforeEach(async () => {
  directory = new TemporaryDirectory();
  server = await TestServer.start(directory.path);
  sessions = await Promise.all(Array.from({ length: 8 }, () => server.connect()));
});
afterEach(async () => {
  for (const session of sessions) session.close();
  await server[Symbol.asyncDispose]();
  directory[Symbol.dispose]();
});

async function open(session: ServerSession, name: string, flags = RDWR): Promise<number> {
  const request = {
    parent: session.hello.root.inode,
    name: Buffer.from(name),
    mode: 0o644,
    umask: 0,
    flags,
    wants: 'none' as const,
  };
  return (await session.call('create', ROOT, request)).handle;
}

const first = () => sessions[0] as ServerSession;

function read(session: ServerSession, handle: number, offset: number, size: number, knownVersion?: number) {
  return session.callForBulk('read', ROOT, {
    handle,
    offset,
    size,
    knownVersion,
    wantsLease: false,
    wantsBlock: false,
  });
}

function write(session: ServerSession, handle: number, offset: number, bulk: Buffer) {
  return session.call('write', ROOT, { handle, offset, ...PLAIN_WRITE }, { bulk });
}

const setattr = (session: ServerSession, handle: number, size: number) =>
  session.call('setattr', ROOT, {
    inode: Buffer.alloc(0),
    handle,
    mode: undefined,
    uid: undefined,
    gid: undefined,
    size,
    atime: undefined,
    mtime: undefined,
    killSuidgid: false,
  });

test('overlapping writes of many sessions never tear, for readers and on disk', async () => {
  const OFFSET = 1000; // in the middle of a page
  const SIZE = 32 * PAGE_SIZE;
  const handles = await Promise.all(sessions.map((session) => open(session, 'f')));
  await write(first(), handles[0] as number, OFFSET, Buffer.alloc(SIZE, 255));
  let reads = 0;
  const seen = new Set<number>();
  await Promise.all(
    sessions.map(async (session, index) => {
      const handle = handles[index] as number;
      for (let round = 0; round < 30; round++) {
        if (index < 4) {
          await write(session, handle, OFFSET, Buffer.alloc(SIZE, index * 30 + round));
        } else {
          const { bulk } = await read(session, handle, OFFSET, SIZE);
          const [tag] = bulk;
          expect(bulk.length).toBe(SIZE);
          expect(Buffer.from(bulk).equals(Buffer.alloc(SIZE, tag))).toBe(true);
          seen.add(tag as number);
          reads++;
        }
      }
    }),
  );
  expect(reads).toBe(120);
  expect(seen.size).toBeGreaterThan(1);
  const disk = readFileSync(directory.join('f')).subarray(OFFSET);
  expect(disk.equals(Buffer.alloc(SIZE, disk[0]))).toBe(true);
});

test('appends of many sessions, of any length, are all there and whole', async () => {
  const handles = await Promise.all(sessions.map((session) => open(session, 'log')));
  const written: string[] = [];
  await Promise.all(
    sessions.map(async (session, index) => {
      for (let round = 0; round < 25; round++) {
        const record = `${index}.${round}:${'x'.repeat((index * 997 + round * 3301) % 9000)}\n`;
        written.push(record);
        const request = { handle: handles[index] as number, offset: 0, ...PLAIN_WRITE, append: true };
        expect(await session.call('write', ROOT, request, { bulk: Buffer.from(record) })).toEqual({
          written: record.length,
        });
      }
    }),
  );
  const found = readFileSync(directory.join('log'), 'utf8').split(/(?<=\n)/);
  expect(found.sort()).toEqual(written.sort());
});

test('appends and truncations: a record is at the end of the file as it was, whole', async () => {
  const handles = await Promise.all(sessions.map((session) => open(session, 'log')));
  const RECORD = 5000;
  await Promise.all(
    sessions.map(async (session, index) => {
      for (let round = 0; round < 20; round++) {
        const handle = handles[index] as number;
        if (index === 0) await setattr(session, handle, RECORD * (round % 5));
        else {
          const request = { handle, offset: 0, ...PLAIN_WRITE, append: true };
          await session.call('write', ROOT, request, { bulk: Buffer.alloc(RECORD, index) });
        }
      }
    }),
  );
  const content = readFileSync(directory.join('log'));
  expect(content.length % RECORD).toBe(0);
  for (let at = 0; at < content.length; at += RECORD) {
    const record = content.subarray(at, at + RECORD);
    expect(record.equals(Buffer.alloc(RECORD, record[0]))).toBe(true);
  }
});

describe('in the order of the locks', () => {
  // With the whole file locked, requests line up; what they leave behind shows the order in which they ran.
  const rows: { what: string; run: (session: ServerSession, handle: number) => Promise<unknown>; after: string }[] = [
    { what: 'truncate', run: (session, handle) => setattr(session, handle, 2), after: 'ab' },
    {
      what: 'punch a hole',
      run: (session, handle) =>
        session.call('fallocate', ROOT, { handle, mode: FALLOC.PUNCH_HOLE | FALLOC.KEEP_SIZE, offset: 1, length: 2 }),
      after: 'a\0\0d',
    },
    {
      what: 'allocate beyond the end',
      run: (session, handle) => session.call('fallocate', ROOT, { handle, mode: 0, offset: 0, length: 6 }),
      after: 'abcd\0\0',
    },
    {
      what: 'append',
      run: (session, handle) =>
        session.call('write', ROOT, { handle, offset: 0, ...PLAIN_WRITE, append: true }, { bulk: Buffer.from('!') }),
      after: 'abcd!',
    },
    {
      what: 'open with O_TRUNC',
      run: async (session) => {
        const { inode } = await lookUp(session, ROOT, {
          parent: session.hello.root.inode,
          name: Buffer.from('f'),
        });
        return session.call('open', ROOT, {
          inode,
          flags: RDWR | 0o1000,
          killSuidgid: false,
          wants: 'none' as const,
          firstBytes: 0,
        });
      },
      after: '',
    },
  ];
  test.each(rows)('write, then $what', async ({ run, after }) => {
    const [one, two] = sessions as [ServerSession, ServerSession];
    const handles = [await open(one, 'f'), await open(two, 'f')] as const;
    const { entry } = await one.call('create', ROOT, {
      parent: one.hello.root.inode,
      name: Buffer.from('f'),
      mode: 0o644,
      umask: 0,
      flags: RDWR,
      wants: 'none' as const,
    });
    const { store } = server.server.exports.get('/') as Export;
    const locks = store.resolve(entry.inode).rangeLocks;
    const held = await locks.acquire('exclusive', { start: 0, end: Infinity });
    const written = write(one, handles[0], 0, Buffer.from('abcd'));
    await until(() => locks.locks.waiting.length === 1);
    const done = run(two, handles[1]);
    await until(() => locks.locks.waiting.length === 2);
    held[Symbol.dispose]();
    await Promise.all([written, done]);
    expect(readFileSync(directory.join('f'), 'latin1')).toBe(after);
    expect(locks.locks.isIdle).toBe(true);
  });

  // In a file of five pages: a lock on which page an operation waits for, and which it passes.
  const P = PAGE_SIZE;
  type Work = (session: ServerSession, handle: number) => Promise<unknown>;
  const allocate = (mode: number, offset: number, length: number): Work => {
    return (session, handle) => session.call('fallocate', ROOT, { handle, mode, offset, length });
  };
  const append: Work = (session, handle) =>
    session.call('write', ROOT, { handle, offset: 0, ...PLAIN_WRITE, append: true }, { bulk: Buffer.from('!') });
  const pages: { what: string; run: Work; waits: number[]; passes: number[] }[] = [
    { what: 'read of page 2', run: (s, h) => read(s, h, 2 * P, P), waits: [2], passes: [1, 3] },
    { what: 'read across two', run: (s, h) => read(s, h, 2 * P + 1, P), waits: [2, 3], passes: [1, 4] },
    { what: 'write of a byte', run: (s, h) => write(s, h, 2 * P + 1, Buffer.from('x')), waits: [2], passes: [1, 3] },
    { what: 'append', run: append, waits: [5, 9], passes: [0, 4] },
    { what: 'truncate to two pages', run: (s, h) => setattr(s, h, 2 * P), waits: [2, 4, 9], passes: [0, 1] },
    { what: 'extend to nine', run: (s, h) => setattr(s, h, 9 * P), waits: [5, 9], passes: [0, 4] },
    { what: 'punch page 1', run: allocate(FALLOC.PUNCH_HOLE | FALLOC.KEEP_SIZE, P, P), waits: [1], passes: [0, 2] },
    { what: 'allocate behind the end', run: allocate(0, 7 * P, P), waits: [5, 7], passes: [4] },
    { what: 'collapse page 1', run: allocate(FALLOC.COLLAPSE_RANGE, P, P), waits: [1, 4], passes: [0] },
  ];
  test.each(pages)('$what waits for what it touches alone', async ({ run, waits, passes }) => {
    const handle = await open(first(), 'f');
    const name = Buffer.from('f');
    const { inode } = await lookUp(first(), ROOT, { parent: first().hello.root.inode, name });
    const { store } = server.server.exports.get('/') as Export;
    const locks = store.resolve(inode).rangeLocks;
    for (const page of [...waits, ...passes]) {
      writeFileSync(directory.join('f'), Buffer.alloc(5 * P, 'f'));
      const held = await locks.acquire('exclusive', { start: page, end: page + 1 });
      const done = run(first(), handle);
      if (waits.includes(page)) await until(() => locks.locks.waiting.length === 1);
      else await done;
      held[Symbol.dispose]();
      await done;
      expect(locks.locks.isIdle).toBe(true);
    }
  });

  test('a handle that is released while its read waits leaves no lock behind', async () => {
    const handle = await open(first(), 'f');
    await write(first(), handle, 0, Buffer.from('text'));
    const { store } = server.server.exports.get('/') as Export;
    const name = Buffer.from('f');
    const { inode } = await lookUp(first(), ROOT, { parent: first().hello.root.inode, name });
    const locks = store.resolve(inode).rangeLocks;
    const held = await locks.acquire('exclusive', { start: 0, end: 1 });
    const waiting = read(first(), handle, 0, 4);
    await until(() => locks.locks.waiting.length === 1);
    await first().call('release', ROOT, { handles: [handle] });
    held[Symbol.dispose]();
    expect(Buffer.from((await waiting).bulk).toString()).toBe('text');
    expect(locks.locks.isIdle).toBe(true);
    expect(server.server.dispatcher.unexpectedErrors).toBe(0);
  });
});

/** Looks again at every turn of the event loop. The test's own time limit ends a wait that is in vain. */
async function until(fact: () => boolean): Promise<void> {
  while (!fact()) await new Promise((resolve) => setImmediate(resolve));
}

test('copies of two files in both directions at once, and within one file, do not wait for each other for ever', async () => {
  const SIZE = 256 * 1024;
  const handles = await Promise.all(
    sessions.map(async (session) => [await open(session, 'a'), await open(session, 'b')] as const),
  );
  await write(first(), (handles[0] as readonly [number, number])[0], 0, Buffer.alloc(SIZE, 1));
  await write(first(), (handles[0] as readonly [number, number])[1], 0, Buffer.alloc(SIZE, 2));
  const copy = (session: ServerSession, handleIn: number, offsetIn: number, handleOut: number, offsetOut: number) =>
    session.call('copyFileRange', ROOT, { handleIn, offsetIn, handleOut, offsetOut, length: SIZE / 2 });
  await Promise.all(
    sessions.map(async (session, index) => {
      const [a, b] = handles[index] as readonly [number, number];
      for (let round = 0; round < 10; round++) {
        const { copied } = await (index % 2 ? copy(session, a, 0, b, SIZE / 2) : copy(session, b, 0, a, SIZE / 2));
        expect(copied).toBe(SIZE / 2);
        if (index === 2) await copy(session, a, 0, a, SIZE / 2);
      }
    }),
  );
  // The first halves were never a target.
  expect(
    readFileSync(directory.join('a'))
      .subarray(0, SIZE / 2)
      .equals(Buffer.alloc(SIZE / 2, 1)),
  ).toBe(true);
  expect(
    readFileSync(directory.join('b'))
      .subarray(SIZE / 2)
      .equals(Buffer.alloc(SIZE / 2, 1)),
  ).toBe(true);
  const [a] = handles[0] as readonly [number, number];
  await expect(copy(first(), a, 0, a, 100)).rejects.toMatchObject({ code: errno.EINVAL }); // overlapping
});

test('a full disk is told to who wrote, and what was synced stays', async () => {
  using mounted = new MountedFilesystem('tmpfs', 'size=1m,mode=0755');
  await using small = await TestServer.start(mounted.path);
  const session = await small.connect();
  const handle = await open(session, 'f');
  const kept = Buffer.alloc(512 * 1024, 'k');
  await write(session, handle, 0, kept);
  await session.call('fsync', ROOT, { handle, dataOnly: false });
  const other = await open(session, 'g');
  // As write(2): what fits is written, the next call fails.
  const { written } = await write(session, other, 0, Buffer.alloc(1 * MiB, 'x'));
  expect(written).toBeGreaterThan(0);
  expect(written).toBeLessThan(1 * MiB);
  await expect(write(session, other, written, Buffer.alloc(4096))).rejects.toMatchObject({ code: errno.ENOSPC });
  const append = { handle: other, offset: 0, ...PLAIN_WRITE, append: true };
  const appended = session.call('write', ROOT, append, { bulk: Buffer.alloc(4096) });
  await expect(appended).rejects.toMatchObject({ code: errno.ENOSPC });
  const allocated = session.call('fallocate', ROOT, { handle: other, mode: 0, offset: 0, length: 4 * MiB });
  await expect(allocated).rejects.toMatchObject({ code: errno.ENOSPC });
  expect(Buffer.from((await read(session, handle, 0, MiB)).bulk).equals(kept)).toBe(true);
  expect(readFileSync(`${mounted.path}/f`).equals(kept)).toBe(true);
  session.close();
});

test('a file that was removed while open gives its space back when it is closed', async () => {
  using mounted = new MountedFilesystem('tmpfs', 'size=8m,mode=0755');
  await using small = await TestServer.start(mounted.path);
  const session = await small.connect();
  const before = statfsSync(mounted.path).bfree;
  const handle = await open(session, 'f');
  await write(session, handle, 0, Buffer.alloc(2 * MiB));
  await session.call('unlink', ROOT, { parent: session.hello.root.inode, name: Buffer.from('f') });
  expect((await read(session, handle, 0, 10)).bulk.length).toBe(10);
  expect(before - statfsSync(mounted.path).bfree).toBeGreaterThanOrEqual(512);
  await session.call('release', ROOT, { handles: [handle] });
  expect(statfsSync(mounted.path).bfree).toBe(before);
  session.close();
});

describe('versions of the data', () => {
  const changes: [string, (handle: number) => unknown][] = [
    ['a write', (handle) => write(sessions[1] as ServerSession, handle, 0, Buffer.from('B'))],
    ['a truncation', (handle) => setattr(sessions[1] as ServerSession, handle, 1)],
    [
      'an allocation',
      (handle) => (sessions[1] as ServerSession).call('fallocate', ROOT, { handle, mode: 0, offset: 0, length: 9 }),
    ],
    ['a local write of the same length', () => writeFileSync(directory.join('f'), 'XXXX')],
    ['a local append', () => appendFileSync(directory.join('f'), 'X')],
    ['a local truncation', () => truncateSync(directory.join('f'), 3)],
    [
      'a local write that puts the times back',
      () => {
        const { atime, mtime } = statSync(directory.join('f'));
        writeFileSync(directory.join('f'), 'YYYY');
        utimesSync(directory.join('f'), atime, mtime);
      },
    ],
  ];
  test.each(changes)('%s makes a new one; without a change it stays', async (_what, change) => {
    const handle = await open(first(), 'f');
    await write(first(), handle, 0, Buffer.from('aaaa'));
    const { reply, bulk } = await read(first(), handle, 0, 10, 0);
    expect(Buffer.from(bulk).toString()).toBe('aaaa');
    expect(reply.version).toBeGreaterThan(0);
    const again = await read(first(), handle, 0, 10, reply.version);
    expect(again).toMatchObject({ reply: { version: reply.version, unchanged: true } });
    expect(again.bulk.length).toBe(0);
    await change(await open(sessions[1] as ServerSession, 'f'));
    const after = await read(first(), handle, 0, 10, reply.version);
    expect(after.reply.unchanged).toBe(false);
    expect(after.reply.version).not.toBe(reply.version);
    expect(Buffer.from(after.bulk).equals(readFileSync(directory.join('f')))).toBe(true);
  });

  test('a read that does not ask gets none', async () => {
    const handle = await open(first(), 'f');
    expect((await read(first(), handle, 0, 10)).reply).toMatchObject({ version: 0, unchanged: false });
  });
});

describe('edges', () => {
  test('holes, and offsets beyond 4 GiB', async () => {
    const handle = await open(first(), 'f');
    const far = 6 * 2 ** 30;
    await write(first(), handle, far, Buffer.from('far'));
    expect(Buffer.from((await read(first(), handle, far - 2, 100)).bulk).toString('latin1')).toBe('\0\0far');
    const lseek = (offset: number, whence: number) => first().call('lseek', ROOT, { handle, offset, whence });
    expect((await lseek(0, SEEK.DATA)).offset).toBe(far);
    expect((await lseek(0, SEEK.HOLE)).offset).toBe(0);
    expect((await lseek(far, SEEK.HOLE)).offset).toBe(far + 3);
    await expect(lseek(far + 3, SEEK.DATA)).rejects.toMatchObject({ code: errno.ENXIO });
    await expect(lseek(0, SEEK.END)).rejects.toMatchObject({ code: errno.EINVAL });
    const beyond = Number.MAX_SAFE_INTEGER;
    await expect(write(first(), handle, beyond, Buffer.from('x'))).rejects.toMatchObject({ code: errno.EFBIG });
    await expect(write(first(), handle, 2 ** 45, Buffer.from('x'))).rejects.toMatchObject({ code: errno.EFBIG });
    expect((await read(first(), handle, beyond, 10)).bulk.length).toBe(0);
  });

  test('the largest write is one, and odd sizes come back as they were', async () => {
    const handle = await open(first(), 'f');
    const data = Buffer.alloc(limits.maxDataBytes, 'weft');
    expect(await write(first(), handle, 1, data)).toEqual({ written: data.length });
    expect(Buffer.from((await read(first(), handle, 1, data.length)).bulk).equals(data)).toBe(true);
    for (const size of [1, 4095, 65535, 65536, 65537, MiB + 1]) {
      expect((await read(first(), handle, 1, size)).bulk.length).toBe(size);
    }
    expect((await read(first(), handle, data.length, 100)).bulk.length).toBe(1);
  });

  test('a directory has no data, a file no entries', async () => {
    const { handle } = await first().call('opendir', ROOT, { inode: first().hello.root.inode, maxEntries: 0 });
    await expect(read(first(), handle, 0, 10)).rejects.toMatchObject({ code: errno.EISDIR });
    await expect(write(first(), handle, 0, Buffer.from('x'))).rejects.toMatchObject({ code: errno.EISDIR });
    const file = await open(first(), 'f');
    const list = first().call('readdir', ROOT, { handle: file, cookie: 0, sizeBytes: 4096, plus: false });
    await expect(list).rejects.toMatchObject({ code: errno.ENOTDIR });
    await first().call('fsync', ROOT, { handle, dataOnly: false });
  });

  test('a handle for reading does not write', async () => {
    await open(first(), 'f');
    const handle = await open(first(), 'f', 0);
    await expect(write(first(), handle, 0, Buffer.from('x'))).rejects.toMatchObject({ code: errno.EBADF });
    const append = { handle, offset: 0, ...PLAIN_WRITE, append: true };
    const appended = first().call('write', ROOT, append, { bulk: Buffer.from('x') });
    await expect(appended).rejects.toMatchObject({ code: errno.EBADF });
    await expect(setattr(first(), handle, 5)).rejects.toMatchObject({ code: errno.EINVAL });
    expect(statSync(directory.join('f')).size).toBe(0);
  });

  test('who may only read a file does not take its set-user-ID away', async () => {
    const other = [1234, 1234];
    writeFileSync(directory.join('s'), '');
    chmodSync(directory.path, 0o755);
    chmodSync(directory.join('s'), 0o4755);
    const where = { parent: first().hello.root.inode, name: Buffer.from('s') };
    const { inode } = await lookUp(first(), other, where);
    const { handle } = await first().call('open', other, {
      inode,
      flags: 0,
      killSuidgid: true,
      wants: 'none' as const,
      firstBytes: 0,
    });
    const write = { handle, offset: 0, ...PLAIN_WRITE, killSuidgid: true } as const;
    await expect(first().call('write', other, write, { bulk: Buffer.from('x') })).rejects.toMatchObject({ code: 9 });
    const none = {
      mode: undefined,
      uid: undefined,
      gid: undefined,
      size: undefined,
      atime: undefined,
      mtime: undefined,
    };
    const kill = first().call('setattr', other, { inode, handle: 0, ...none, killSuidgid: true });
    await expect(kill).rejects.toMatchObject({ code: errno.EACCES });
    const cut = first().call('setattr', other, { inode, handle, ...none, size: 0, killSuidgid: true });
    await expect(cut).rejects.toMatchObject({ code: errno.EINVAL });
    expect(statSync(directory.join('s')).mode & 0o7777).toBe(0o4755);
  });

  test('who is not root and changes the content takes the set-ID bits away', async () => {
    const other = [1234, 1234];
    chmodSync(directory.path, 0o755);
    for (const name of ['s', 't']) {
      writeFileSync(directory.join(name), 'content');
      chmodSync(directory.join(name), 0o6777);
    }
    const openAs = async (name: string) => {
      const { inode } = await lookUp(first(), other, { parent: first().hello.root.inode, name: Buffer.from(name) });
      const how = { inode, flags: 2, killSuidgid: false, wants: 'none' as const, firstBytes: 0 };
      return (await first().call('open', other, how)).handle;
    };
    const [s, t] = [await openAs('s'), await openAs('t')];
    await first().call('fallocate', other, { handle: s, mode: 0, offset: 0, length: 10 });
    const copy = { handleIn: s, offsetIn: 0, handleOut: t, offsetOut: 0, length: 3 };
    await first().call('copyFileRange', other, copy);
    for (const name of ['s', 't']) expect(statSync(directory.join(name)).mode & 0o7777).toBe(0o777);
  });

  test('who removes the last name of an open file is told what that made of it', async () => {
    const handle = await open(first(), 'f');
    const reply = await first().call('unlink', ROOT, { parent: first().hello.root.inode, name: Buffer.from('f') });
    expect(reply.changed).toMatchObject([{ attributes: { nlink: 0 }, leased: false }]);
    await first().call('release', ROOT, { handles: [handle] });
  });

  test('50,000 names in a directory, in chunks, each once', async () => {
    const { execFileSync } = await import('node:child_process');
    execFileSync('sh', ['-c', 'seq -f f%g 50000 | xargs touch'], { cwd: directory.path });
    const { handle } = await first().call('opendir', ROOT, { inode: first().hello.root.inode, maxEntries: 0 });
    const names = new Set<string>();
    let cookie: number | bigint = 0;
    let count = 0;
    for (;;) {
      const reply: ReplyOf<'readdir'> = await first().call('readdir', ROOT, {
        handle,
        cookie,
        sizeBytes: 65536,
        plus: count === 0,
      });
      for (const entry of reply.entries) {
        names.add(Buffer.from(entry.name).toString());
        cookie = entry.cookie;
        count++;
      }
      if (reply.end) break;
    }
    expect(count).toBe(50_002);
    expect(names.size).toBe(50_002);
  });
});

test('a client that asks for much and takes nothing costs the server little, and disturbs nobody', async () => {
  const handle = await open(first(), 'f');
  await setattr(first(), handle, 600 * MiB);
  const { client, hello } = await RawClient.greeted(server.server.port);
  using _client = client;
  const where = [hello.root.inode, Buffer.from('f'), 0o644, 0, 0, 'none'];
  client.send([frameKind.REQUEST, 1, 0, operations.create.code, [0, 0], where]);
  const [, , , result] = await client.next();
  const mine = operations.create.reply.decode(result).handle;
  const READS = 500;
  client.socket.pause();
  for (let seq = 2; seq < 2 + READS; seq++) {
    const body = [mine, (seq - 2) * MiB, MiB, null, false, false];
    client.send([frameKind.REQUEST, seq, 1, operations.read.code, [0, 0], body]);
  }
  const [greedy] = [...server.server.sessions.all].filter(({ id }) => id.equals(hello.session));
  await until(() => greedy?.requests === READS + 1);
  for (let round = 0; round < 50; round++) expect((await read(first(), handle, 0, 100)).bulk.length).toBe(100);
  // What the sockets' buffers took, and what the limit permits to be queued.
  expect(greedy?.bytesRead).toBeLessThan(limits.maxQueuedReplyBytes + 40 * MiB);
  client.socket.resume();
  const answered = new Set<unknown>();
  for (let count = 0; count < READS; count++) {
    const [, seq, code, , bulk] = await client.next();
    expect([code, (bulk as Uint8Array).length]).toEqual([0, MiB]);
    answered.add(seq);
  }
  expect(answered.size).toBe(READS);
  expect(existsSync(directory.join('f'))).toBe(true);
});
