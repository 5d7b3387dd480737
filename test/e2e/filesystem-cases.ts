/**
 * What a filesystem must do, one function a case. Run as a program in a fresh directory of a local filesystem (the
 * control), or of a mount: `node filesystem-cases.js DIRECTORY CASE`. Synchronous calls throughout, so it must not be the
 * process that serves the mount; it exits with 1 and a stack when something is not as it should be.
 */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { createServer } from 'node:net';
import { pathToFileURL } from 'node:url';
import { FALLOC, O, RENAME, SEEK } from '../../shared/linux/constants.ts';
import * as libc from '../../shared/linux/libc.ts';

const bytes = (text: string) => Buffer.from(text, 'latin1');
const MiB = 1 << 20;
const ENOENT = { code: 'ENOENT' };

function pattern(length: number, seed: number): Buffer {
  const data = Buffer.alloc(length);
  for (let at = 0; at + 4 <= length; at += 4) data.writeUInt32LE((at * 2654435761 + seed) >>> 0, at);
  return data;
}

export interface Case {
  /** The fuse-native driver lacks what it needs (docs/fuse-native.md). */
  readonly kernelDriverOnly?: true;
  run(root: string): void | Promise<void>;
}

export const cases: Readonly<Record<string, Case>> = {
  'write, read, append, truncate': {
    run(root) {
      const file = `${root}/file`;
      fs.writeFileSync(file, 'hello');
      fs.appendFileSync(file, ' world');
      assert.equal(fs.readFileSync(file, 'utf8'), 'hello world');
      fs.truncateSync(file, 5);
      fs.truncateSync(file, 8);
      assert.deepEqual(fs.readFileSync(file), bytes('hello\0\0\0'));
      fs.writeFileSync(file, '');
      assert.equal(fs.statSync(file).size, 0);
    },
  },
  'three megabytes, unaligned': {
    run(root) {
      const data = pattern(3 * MiB + 777, 1);
      const fd = fs.openSync(`${root}/big`, 'w+');
      for (let at = 0; at < data.length; ) at += fs.writeSync(fd, data, at, Math.min(1_000_003, data.length - at), at);
      const back = Buffer.alloc(data.length);
      for (let at = 0; at < back.length; ) at += fs.readSync(fd, back, at, back.length - at, at);
      assert.ok(back.equals(data));
      assert.equal(fs.readSync(fd, back, 0, 10, data.length), 0);
      fs.fsyncSync(fd);
      fs.fdatasyncSync(fd);
      fs.closeSync(fd);
    },
  },
  'names of any bytes, and the longest': {
    run(root) {
      const names = [bytes('caf\xe9'), bytes('\xff\xfe\x01'), bytes('sp ace\nline'), Buffer.alloc(255, 0xc3)];
      for (const name of names) fs.writeFileSync(Buffer.concat([bytes(`${root}/`), name]), name);
      const listed = fs.readdirSync(bytes(root), { encoding: 'buffer' });
      assert.deepEqual(new Set(listed.map(String)), new Set(names.map(String)));
      for (const name of names) assert.ok(fs.readFileSync(Buffer.concat([bytes(`${root}/`), name])).equals(name));
      assert.throws(() => fs.writeFileSync(`${root}/${'x'.repeat(256)}`, ''), { code: 'ENAMETOOLONG' });
      fs.renameSync(Buffer.concat([bytes(`${root}/`), bytes('caf\xe9')]), bytes(`${root}/plain`));
      assert.ok(fs.existsSync(`${root}/plain`));
    },
  },
  'beyond 4 GiB, and sparse': {
    run(root) {
      const fd = fs.openSync(`${root}/sparse`, 'w+');
      const offset = 5 * 2 ** 30 + 123;
      fs.writeSync(fd, 'far', offset);
      assert.equal(fs.fstatSync(fd).size, offset + 3);
      assert.ok(fs.fstatSync(fd).blocks * 512 < MiB);
      const back = Buffer.alloc(6);
      assert.equal(fs.readSync(fd, back, 0, 6, offset - 3), 6);
      assert.deepEqual(back, bytes('\0\0\0far'));
      fs.ftruncateSync(fd, 2 ** 33);
      assert.equal(fs.fstatSync(fd).size, 2 ** 33);
      fs.closeSync(fd);
    },
  },
  'holes, preallocation and copies': {
    kernelDriverOnly: true,
    async run(root) {
      const fd = fs.openSync(`${root}/holes`, 'w+');
      fs.writeSync(fd, pattern(65536, 3), 0, 65536, MiB);
      assert.equal(libc.lseek(fd, 0, SEEK.DATA), MiB);
      assert.equal(libc.lseek(fd, MiB, SEEK.HOLE), MiB + 65536);
      await libc.fallocateAsync(fd, FALLOC.PUNCH_HOLE | FALLOC.KEEP_SIZE, MiB, 4096);
      const zeros = Buffer.alloc(4096, 1);
      fs.readSync(fd, zeros, 0, 4096, MiB);
      assert.deepEqual(zeros, Buffer.alloc(4096));
      await libc.fallocateAsync(fd, 0, 0, 4 * MiB);
      assert.equal(fs.fstatSync(fd).size, 4 * MiB);
      const copy = fs.openSync(`${root}/copy`, 'w+');
      assert.equal(await libc.copyFileRangeAsync(fd, MiB + 4096, copy, 10, 1000), 1000);
      const [there, here] = [Buffer.alloc(1000), Buffer.alloc(1000)];
      fs.readSync(fd, here, 0, 1000, MiB + 4096);
      fs.readSync(copy, there, 0, 1000, 10);
      assert.ok(there.equals(here));
      fs.closeSync(fd);
      fs.closeSync(copy);
    },
  },
  'times before 1970, with nanoseconds': {
    kernelDriverOnly: true,
    run(root) {
      fs.writeFileSync(`${root}/old`, '');
      const fd = fs.openSync(`${root}/old`, 'r+');
      libc.utimens(fd, { sec: -1_000_000_000, nsec: 123_456_789 }, { sec: -1, nsec: 999_999_999 });
      const { atimeNs, mtimeNs } = fs.fstatSync(fd, { bigint: true });
      assert.equal(atimeNs, -1_000_000_000n * 1_000_000_000n + 123_456_789n);
      assert.equal(mtimeNs, -1n);
      fs.closeSync(fd);
    },
  },
  'links, symbolic links, fifos, sockets': {
    async run(root) {
      fs.writeFileSync(`${root}/one`, 'x');
      fs.linkSync(`${root}/one`, `${root}/two`);
      assert.equal(fs.statSync(`${root}/one`).nlink, 2);
      assert.equal(fs.statSync(`${root}/one`).ino, fs.statSync(`${root}/two`).ino);
      fs.unlinkSync(`${root}/one`);
      assert.equal(fs.statSync(`${root}/two`).nlink, 1);
      fs.symlinkSync('no/such/place', `${root}/dangling`);
      assert.equal(fs.readlinkSync(`${root}/dangling`), 'no/such/place');
      assert.throws(() => fs.statSync(`${root}/dangling`), ENOENT);
      const directory = fs.openSync(root, O.RDONLY | O.DIRECTORY);
      libc.mknodat(directory, bytes('fifo'), 0o010644, 0);
      fs.closeSync(directory);
      assert.ok(fs.statSync(`${root}/fifo`).isFIFO());
      const socket = createServer();
      await new Promise<void>((resolve) => socket.listen(`${root}/socket`, resolve));
      assert.ok(fs.statSync(`${root}/socket`).isSocket());
      await new Promise((resolve) => socket.close(resolve));
    },
  },
  'directories, renames, errors': {
    run(root) {
      fs.mkdirSync(`${root}/a/b/c`, { recursive: true });
      fs.writeFileSync(`${root}/a/b/c/f`, '1');
      fs.writeFileSync(`${root}/g`, '2');
      assert.throws(() => fs.rmdirSync(`${root}/a`), { code: 'ENOTEMPTY' });
      assert.throws(() => fs.mkdirSync(`${root}/a`), { code: 'EEXIST' });
      assert.throws(() => fs.openSync(`${root}/g`, 'wx'), { code: 'EEXIST' });
      assert.throws(() => fs.readdirSync(`${root}/g`), { code: 'ENOTDIR' });
      assert.throws(() => fs.unlinkSync(`${root}/none`), ENOENT);
      fs.renameSync(`${root}/g`, `${root}/a/b/c/f`);
      assert.equal(fs.readFileSync(`${root}/a/b/c/f`, 'utf8'), '2');
      fs.renameSync(`${root}/a/b`, `${root}/moved`);
      assert.deepEqual(fs.readdirSync(root).sort(), ['a', 'moved']);
      assert.throws(() => fs.renameSync(`${root}/moved`, `${root}/moved/c/x`), { code: 'EINVAL' });
      fs.rmSync(`${root}/moved`, { recursive: true });
      assert.deepEqual(fs.readdirSync(root), ['a']);
    },
  },
  'renameat2: no replacing, exchange': {
    kernelDriverOnly: true,
    run(root) {
      fs.writeFileSync(`${root}/a`, 'A');
      fs.writeFileSync(`${root}/b`, 'B');
      const at = fs.openSync(root, O.RDONLY | O.DIRECTORY);
      assert.throws(() => libc.renameat2(at, bytes('a'), at, bytes('b'), RENAME.NOREPLACE), /EEXIST/);
      libc.renameat2(at, bytes('a'), at, bytes('b'), RENAME.EXCHANGE);
      fs.closeSync(at);
      assert.equal(fs.readFileSync(`${root}/a`, 'utf8') + fs.readFileSync(`${root}/b`, 'utf8'), 'BA');
    },
  },
  'unlinked but open, and O_TMPFILE': {
    kernelDriverOnly: true,
    run(root) {
      const fd = fs.openSync(`${root}/gone`, 'w+');
      fs.unlinkSync(`${root}/gone`);
      fs.writeSync(fd, 'still here', 0);
      fs.fchmodSync(fd, 0o600);
      const back = Buffer.alloc(10);
      fs.readSync(fd, back, 0, 10, 0);
      assert.equal(back.toString(), 'still here');
      assert.equal(fs.fstatSync(fd).nlink, 0);
      assert.deepEqual(fs.readdirSync(root), []);
      fs.closeSync(fd);
      const temporary = fs.openSync(root, O.TMPFILE | O.RDWR, 0o644);
      fs.writeSync(temporary, 'named later');
      const at = fs.openSync(root, O.RDONLY | O.DIRECTORY);
      libc.linkDescriptor(temporary, at, bytes('named'));
      fs.closeSync(at);
      fs.closeSync(temporary);
      assert.equal(fs.readFileSync(`${root}/named`, 'utf8'), 'named later');
    },
  },
  'modes, owners, extended attributes': {
    run(root) {
      fs.writeFileSync(`${root}/f`, '');
      fs.chmodSync(`${root}/f`, 0o4711);
      assert.equal(fs.statSync(`${root}/f`).mode & 0o7777, 0o4711);
      fs.chownSync(`${root}/f`, 1234, 5678);
      assert.deepEqual([fs.statSync(`${root}/f`).uid, fs.statSync(`${root}/f`).gid], [1234, 5678]);
      const fd = fs.openSync(`${root}/f`, 'r');
      libc.setxattr(fd, bytes('user.weft'), bytes('value\0\xff'), 0);
      assert.deepEqual(libc.getxattr(fd, bytes('user.weft')), bytes('value\0\xff'));
      assert.ok(libc.listxattr(fd).includes(bytes('user.weft\0')));
      libc.removexattr(fd, bytes('user.weft'));
      assert.throws(() => libc.getxattr(fd, bytes('user.weft')), /ENODATA/);
      fs.closeSync(fd);
      assert.ok(fs.statfsSync(root).blocks > 0);
    },
  },
  '10,000 open files': {
    run(root) {
      assert.ok(libc.raiseOpenFileLimit() > 10_100, 'this test needs a limit of more than 10,100 open files');
      fs.writeFileSync(`${root}/f`, 'content');
      const open = Array.from({ length: 10_000 }, () => fs.openSync(`${root}/f`, 'r'));
      const back = Buffer.alloc(7);
      for (const fd of [open[0], open[5_000], open[9_999]]) assert.equal(fs.readSync(fd as number, back, 0, 7, 0), 7);
      for (const fd of open) fs.closeSync(fd);
      fs.unlinkSync(`${root}/f`);
    },
  },
  /** The directory holds them already, as hard links, made by the test on the server's side. */
  '50,000 entries in a directory': {
    run(root) {
      const names = fs.readdirSync(root);
      assert.equal(new Set(names).size, 50_000);
      assert.equal(names.length, 50_000);
      for (const name of ['f0', 'f24999', 'f49999']) assert.equal(fs.statSync(`${root}/${name}`).size, 0);
      assert.throws(() => fs.statSync(`${root}/f50000`), ENOENT);
    },
  },
};

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [, , root = '', name = ''] = process.argv;
  await cases[name]?.run(root);
}
