/**
 * The fuse-native driver on a real mount, end to end. The mount lives in a child process (fuse-native-child.ts), compiled
 * first, since Node 20 runs no TypeScript. This process is the mount's user: it makes asynchronous calls only, and
 * killing the child ends whatever waits.
 */
import { type ChildProcess, execFile, execFileSync, fork, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { constants, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import {
  appendFile,
  chmod,
  link,
  lstat,
  mkdir,
  open,
  readdir,
  readFile,
  readlink,
  rename,
  rm,
  rmdir,
  stat,
  statfs,
  symlink,
  truncate,
  unlink,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeAll, beforeEach, expect, test, vi } from 'vitest';
import type { ChildCounts } from './fuse-native-child.ts';

const repository = resolve(import.meta.dirname, '../..');
const base = mkdtempSync(join(tmpdir(), 'weft-fuse-native-'));
const compiled = join(base, 'compiled');
const directory = join(base, 'served');
const mountpoint = join(base, 'mount');

const run = promisify(execFile);
/** As long as a loaded machine may take; how long it does take the tests of leases measure. */
const SOON = { timeout: 2000, interval: 5 };

interface Word {
  readonly kind: string;
  readonly value: unknown;
}

let child: ChildProcess;
let words: Word[];

/** The child's next word of this kind. */
async function heard(kind: string): Promise<unknown> {
  for (;;) {
    const index = words.findIndex((word) => word.kind === kind);
    if (index >= 0) return words.splice(index, 1)[0]?.value;
    const failed = words.find((word) => word.kind === 'failed');
    if (failed) throw new Error(String(failed.value));
    if (child.exitCode !== null || child.signalCode !== null) throw new Error(`the child ended before \`${kind}\``);
    await Promise.race([once(child, 'message'), once(child, 'exit')]);
  }
}

async function counts(): Promise<ChildCounts> {
  child.send('counts');
  return (await heard('counts')) as ChildCounts;
}

function start(...mountOptions: string[]): void {
  words = [];
  const script = join(compiled, 'test/e2e/fuse-native-child.js');
  child = fork(script, [directory, mountpoint, ...mountOptions], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
  child.on('message', (word: Word) => words.push(word));
}

const mountLines = () => execFileSync('cat', ['/proc/mounts'], { encoding: 'utf8' }).split('\n');
const isMounted = () => mountLines().some((line) => line.split(' ')[1] === mountpoint);

beforeAll(() => {
  // Type errors elsewhere are the business of `npm run types`: what is emitted is what counts here.
  spawnSync(join(repository, 'node_modules/.bin/tsc'), ['-p', 'tsconfig.json', '--outDir', compiled], {
    cwd: repository,
  });
  symlinkSync(join(repository, 'node_modules'), join(compiled, 'node_modules'));
  writeFileSync(join(compiled, 'package.json'), '{"type":"module"}');
  return () => rmSync(base, { recursive: true, force: true });
}, 60_000);

beforeEach(async () => {
  for (const path of [directory, mountpoint]) mkdirSync(path, { recursive: true });
  start();
  await heard('mounted');
});

afterEach(async () => {
  if (child.exitCode === null && child.signalCode === null) {
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
  if (isMounted()) spawnSync('umount', ['--lazy', mountpoint], { timeout: 10_000 });
  for (const path of [directory, mountpoint]) rmSync(path, { recursive: true, force: true });
});

const here = (name: string) => join(mountpoint, name);
const there = (name: string) => join(directory, name);

test('files: written, read, appended to, cut, renamed over, removed', async () => {
  await writeFile(here('a'), 'weft');
  expect(await readFile(there('a'), 'utf8')).toBe('weft');
  await appendFile(here('a'), ' and warp');
  expect(await readFile(here('a'), 'utf8')).toBe('weft and warp');
  await truncate(here('a'), 4);
  expect((await stat(here('a'))).size).toBe(4);
  await writeFile(here('b'), 'other');
  await rename(here('a'), here('b'));
  expect(await readFile(there('b'), 'utf8')).toBe('weft');
  await unlink(here('b'));
  expect(await readdir(directory)).toEqual([]);
});

test('what another program does on the server is seen: data at once, names when inotify has told of them', async () => {
  await expect(stat(here('new'))).rejects.toMatchObject({ code: 'ENOENT' });
  await writeFile(there('new'), '1');
  await vi.waitFor(() => stat(here('new')), SOON);
  expect(await readFile(here('new'), 'utf8')).toBe('1');
  await writeFile(there('new'), '22');
  await vi.waitFor(async () => expect((await stat(here('new'))).size).toBe(2), SOON);
  expect(await readFile(here('new'), 'utf8')).toBe('22');
  await unlink(there('new'));
  await vi.waitFor(() => expect(stat(here('new'))).rejects.toMatchObject({ code: 'ENOENT' }), SOON);
});

test('directories, symbolic and hard links, modes', async () => {
  await mkdir(here('d/e/f'), { recursive: true });
  await writeFile(here('d/e/f/g'), 'x');
  await expect(rmdir(here('d'))).rejects.toMatchObject({ code: 'ENOTEMPTY' });
  await symlink('e/f/g', here('d/s'));
  expect(await readlink(there('d/s'))).toBe('e/f/g');
  expect(await readFile(here('d/s'), 'utf8')).toBe('x');
  await link(here('d/e/f/g'), here('h'));
  expect((await stat(here('h'))).nlink).toBe(2);
  await chmod(here('h'), 0o640);
  expect((await lstat(there('d/e/f/g'))).mode & 0o7777).toBe(0o640);
  await rm(here('d'), { recursive: true });
  expect(await readdir(here(''))).toEqual(['h']);
});

test('names of any bytes go through unchanged', async () => {
  const name = Buffer.from([0x78, 0xff, 0xfe]);
  const path = Buffer.concat([Buffer.from(`${mountpoint}/`), name]);
  await writeFile(path, 'bytes');
  await writeFile(here('\ufffd'), 'replacement');
  expect(await readFile(path, 'utf8')).toBe('bytes');
  const listed = await readdir(mountpoint, { encoding: 'buffer' });
  expect(listed.map((one) => one.toString('hex')).sort()).toEqual(['78fffe', 'efbfbd']);
  expect((await readdir(directory, { encoding: 'buffer' })).some((one) => one.equals(name))).toBe(true);
  await expect(writeFile(here('n'.repeat(256)), '')).rejects.toMatchObject({ code: 'ENAMETOOLONG' });
});

test('inode numbers, nanoseconds, statistics and offsets beyond 32 bits are exact', async () => {
  await writeFile(there('f'), 'x');
  // As dates: of negative numbers Node makes the present time.
  await utimes(there('f'), new Date(-86_399_500), 5_000_000_000);
  const [mine, servers] = [await stat(here('f'), { bigint: true }), await stat(there('f'), { bigint: true })];
  for (const field of ['ino', 'mtimeNs', 'atimeNs', 'ctimeNs', 'blocks'] as const) {
    expect(mine[field]).toBe(servers[field]);
  }
  expect((await statfs(mountpoint)).blocks).toBe((await statfs(directory)).blocks);
  const file = await open(here('big'), 'w+');
  await file.write(Buffer.from('end'), 0, 3, 2 ** 42);
  const { buffer } = await file.read(Buffer.alloc(3), 0, 3, 2 ** 42);
  await file.close();
  expect(buffer.toString()).toBe('end');
  expect((await stat(there('big'))).size).toBe(2 ** 42 + 3);
});

test('access time and modification time are set apart, to the millisecond, before 1970 too', async () => {
  await writeFile(here('f'), '');
  await utimes(here('f'), new Date(-5500), 1_000_000_000.125);
  const { atimeNs, mtimeNs } = await stat(there('f'), { bigint: true });
  expect(atimeNs).toBe(-5_500_000_000n);
  expect(mtimeNs).toBe(1_000_000_000_125_000_000n);
});

test('an exclusive creation and an append at creation reach the server as such', async () => {
  const log = await open(here('log'), 'a');
  await appendFile(there('log'), 'server;');
  await log.write('client;');
  await appendFile(there('log'), 'server;');
  await log.write('client;');
  await log.close();
  expect(await readFile(there('log'), 'utf8')).toBe('server;client;server;client;');
  const flags = constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY;
  await expect(open(here('log'), flags)).rejects.toMatchObject({ code: 'EEXIST' });
});

test('128 KiB are one request, written and read', async () => {
  // dd's buffer begins on a page: another would span a page more than a request has, and arrive as two.
  await run('dd', ['if=/dev/zero', `of=${here('f')}`, 'bs=128K', 'count=2'], { timeout: 10_000 });
  await run('dd', ['of=/dev/null', `if=${here('f')}`, 'bs=128K', 'count=2'], { timeout: 10_000 });
  const { writeSizes, readSizes } = await counts();
  expect(writeSizes).toEqual([128 * 1024, 128 * 1024]);
  expect(readSizes).toEqual([128 * 1024, 128 * 1024]);
});

test('a large directory is listed whole', async () => {
  mkdirSync(there('many'));
  const names = Array.from({ length: 5000 }, (_, index) => `name-${index}`);
  for (const name of names) writeFileSync(there(`many/${name}`), '');
  expect((await readdir(here('many'))).sort()).toEqual(names.sort());
});

test('nothing is held when nothing is open', async () => {
  await mkdir(here('d'));
  for (let index = 0; index < 50; index++) {
    await writeFile(here(`d/${index}`), 'x');
    await rename(here(`d/${index}`), here(`d/renamed-${index}`));
    await expect(open(here(`d/none/${index}`), 'w')).rejects.toMatchObject({ code: 'ENOENT' });
  }
  const file = await open(here('d/renamed-7'), 'r');
  expect(await counts()).toMatchObject({ nodes: 2, handles: 1, openFiles: 1 });
  await file.close();
  await rm(here('d'), { recursive: true });
  // RELEASE follows close(2) without being waited for; a request after it shows that it is through.
  await expect.poll(async () => (await counts()).handles).toBe(0);
  expect(await counts()).toMatchObject({ nodes: 1, handles: 0, openFiles: 0, inFlight: 0, unexpectedErrors: 0 });
});

test('a file removed while open says ENOENT, and closes', async () => {
  const file = await open(here('f'), 'w+');
  await unlink(here('f'));
  await expect(file.stat()).rejects.toMatchObject({ code: 'ENOENT' });
  await file.close();
  expect(await readdir(directory)).toEqual([]);
  await expect.poll(async () => (await counts()).handles).toBe(0);
});

test('unmount leaves a clean mount point, and refuses while a file is open', async () => {
  const file = await open(here('f'), 'w');
  child.send('unmount');
  expect(await heard('busy')).toContain('lsof');
  await file.close();
  child.send('unmount');
  expect(await heard('closed')).toMatchObject({ nodes: 1, handles: 0 });
  await once(child, 'exit');
  expect(isMounted()).toBe(false);
  expect(await readdir(mountpoint)).toEqual([]);
});

test('an unmount from outside is noticed', async () => {
  execFileSync('umount', [mountpoint], { timeout: 10_000 });
  expect(await heard('closed')).toMatchObject({ nodes: 1, handles: 0 });
});

test('a mount point that is not empty, or an unknown option, is refused in one line', async () => {
  child.send('unmount');
  await heard('closed');
  start('whatever');
  await expect(heard('mounted')).rejects.toThrow('mount option `whatever` is unknown to libfuse 2');
  writeFileSync(here('local'), '');
  start();
  await expect(heard('mounted')).rejects.toThrow('is not empty');
});
