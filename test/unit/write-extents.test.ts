/** Writes to several places in a file with one request: what is written where, what is refused, and which pages it locks. */
import { readFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { ServerSession } from '../../client-fuse/transport/server-session.ts';
import { endOfWrite, pagesOfWrite, writeExtents } from '../../server/dispatch/write-extents.ts';
import type { OpenFile } from '../../server/store/open-file.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { KiB, limits, PAGE_SIZE } from '../../shared/limits.ts';
import type { Extent, RequestOf } from '../../shared/protocol/messages.ts';
import { ROOT, TemporaryDirectory, TestServer } from '../support/fixture.ts';
import { PLAIN_WRITE } from '../support/requests.ts';

const at = (...pairs: [offset: number, length: number][]): Extent[] =>
  pairs.map(([offset, length]) => ({ offset, length }));

describe('at the server', () => {
  let directory: TemporaryDirectory;
  let server: TestServer;
  let session: ServerSession;
  let handle: number;

  beforeEach(async () => {
    directory = new TemporaryDirectory();
    server = await TestServer.start(directory.path);
    session = await server.connect();
    const made = { parent: session.hello.root.inode, name: Buffer.from('f'), mode: 0o600, umask: 0, flags: 2 };
    const { lease, handle: opened } = await session.call('create', ROOT, { ...made, wants: 'exclusive' });
    expect(lease).toBe('exclusive');
    handle = opened;
  });
  afterEach(async () => {
    session.close();
    await server[Symbol.asyncDispose]();
    directory[Symbol.dispose]();
  });

  const write = (extents: Extent[], text: string, how: Partial<RequestOf<'write'>> = {}) => {
    const request = { handle, offset: 0, ...PLAIN_WRITE, behind: true, extents, ...how };
    return session.call('write', ROOT, request, { bulk: Buffer.from(text) });
  };
  /** The handle is released first: the kernel makes whoever opens the file wait for it, and the server is in this process. */
  const content = async (): Promise<Buffer> => {
    await session.call('release', ROOT, { handles: [handle] });
    return readFileSync(directory.join('f'));
  };

  test('each part goes to its place, and the reply says what the file is then', async () => {
    const { written, attributes } = await write(at([6, 2], [0, 3], [8, 1]), 'xyabcz', { sync: 'data' });
    expect([written, attributes?.size]).toEqual([6, 9]);
    // At `offset` they mean nothing.
    await write(at([1, 1], [3, 1]), 'BD', { offset: 100 });
    expect((await content()).toString()).toBe('aBcD\0\0xyz');
  });

  test('as many as are let, beyond one turn of the server', async () => {
    const count = limits.maxExtents;
    const places = Array.from({ length: count }, (_, index) => [(count - 1 - index) * 2 * PAGE_SIZE, PAGE_SIZE]);
    const data = Buffer.concat(places.map((_, index) => Buffer.alloc(PAGE_SIZE, index)));
    const request = { handle, offset: 0, ...PLAIN_WRITE, behind: true, extents: at(...(places as [number, number][])) };
    expect((await session.call('write', ROOT, request, { bulk: data })).written).toBe(count * PAGE_SIZE);
    const file = await content();
    for (const [index, [offset = 0]] of places.entries()) expect(file.readUInt8(offset + 17)).toBe(index);
    expect(file.readUInt8(PAGE_SIZE)).toBe(0);
  });

  test.each<[string, Extent[], string, Partial<RequestOf<'write'>>, number]>([
    ['what was not gathered', at([0, 1], [2, 1]), 'ab', { behind: false }, errno.EINVAL],
    ['an append', at([0, 1], [2, 1]), 'ab', { append: true }, errno.EINVAL],
    ['more data than extents', at([0, 1], [2, 1]), 'abc', {}, errno.EINVAL],
    ['fewer data than extents', at([0, 1], [2, 2]), 'ab', {}, errno.EINVAL],
    ['nothing', [], '', {}, errno.EINVAL],
    ['what ends beyond the largest offset', at([0, 1], [Number.MAX_SAFE_INTEGER, 1]), 'ab', {}, errno.EFBIG],
  ])('%s is refused, and nothing is written', async (_what, extents, text, how, code) => {
    await expect(write(extents, text, how)).rejects.toMatchObject({ code });
    expect(await content()).toHaveLength(0);
  });
});

test('it locks from the first page to the last, and ends where the last extent does', () => {
  const request = { offset: 0, extents: at([9 * PAGE_SIZE, 1], [2 * PAGE_SIZE - 1, 2], [5 * PAGE_SIZE, 3]) };
  const { start, end } = pagesOfWrite(request as unknown as RequestOf<'write'>, 6);
  expect([start, end, endOfWrite(request, 6)]).toEqual([1, 10, 9 * PAGE_SIZE + 1]);
});

describe('a disk that does not take all of it', () => {
  const full = new FsError(errno.ENOSPC, 'write');
  /** A file that takes `room` bytes, and then says why not. */
  const fileWith = (room: number) => {
    let left = room;
    const write = (_fd: number, data: Uint8Array) => {
      if (left === 0) throw full;
      const count = Math.min(left, data.length);
      left -= count;
      return count;
    };
    return { fd: 0, calls: { write } } as unknown as OpenFile;
  };
  const data = Buffer.alloc(9);
  const extents = at([0, 3], [10, 3], [20, 3]);

  test.each([
    [9, 9],
    [7, 7],
    [6, 6],
    [3, 3],
  ])('with room for %i bytes', async (room, written) => {
    expect(await writeExtents(fileWith(room), extents, data)).toBe(written);
  });

  test('with room for none, it says why', async () => {
    await expect(writeExtents(fileWith(0), extents, data)).rejects.toBe(full);
  });

  test('others have their turn meanwhile', async () => {
    let turns = 0;
    const count = limits.maxExtents;
    const tick = () => {
      turns++;
      if (turns < 1000) setImmediate(tick);
    };
    setImmediate(tick);
    const large = Array.from({ length: count }, (_, index) => ({ offset: index * 8 * KiB, length: 4 * KiB }));
    const whole = count * 4 * KiB;
    expect(await writeExtents(fileWith(whole), large, Buffer.alloc(whole))).toBe(whole);
    expect(turns).toBeGreaterThanOrEqual(whole / (128 * KiB) - 1);
    turns = 1000;
  });
});
