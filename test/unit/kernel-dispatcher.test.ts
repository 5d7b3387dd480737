/**
 * The dispatcher over a channel of the test and a filesystem in memory: what it calls, what it answers, and that nothing is held
 * when an answer did not arrive.
 */
import { beforeEach, describe, expect, it, vi } from 'vitest';
import type { KernelChannel, Message } from '../../client-fuse/kernel/channel.ts';
import { opcode } from '../../client-fuse/kernel/constants.ts';
import { Dispatcher } from '../../client-fuse/kernel/dispatcher.ts';
import type { Reply } from '../../client-fuse/kernel/reply.ts';
import { entryOut, inHeader, initIn, lkOut, openOut, outHeader } from '../../client-fuse/kernel/structures.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { MemoryFilesystem } from '../memory-filesystem.ts';

interface Answer {
  readonly unique: number;
  readonly error: number;
  readonly body: Buffer;
  readonly view: DataView;
}

class TestChannel implements KernelChannel {
  answers: Answer[] = [];
  recycled: Message[] = [];
  refuseWith = 0;
  async serve(): Promise<void> {}
  recycle(message: Message): void {
    this.recycled.push(message);
  }
  reply(reply: Reply): number {
    const whole = Buffer.concat([reply.bytes.subarray(0, reply.length), reply.payload ?? new Uint8Array()]);
    const header = new DataView(whole.buffer, whole.byteOffset, whole.length);
    expect(outHeader.fields.len.get(header, 0)).toBe(whole.length);
    const body = Buffer.from(whole.subarray(outHeader.bytes));
    const view = new DataView(body.buffer, body.byteOffset, body.length);
    const error = 0 - outHeader.fields.error.get(header, 0);
    if (this.refuseWith !== 0 && error === 0) return this.refuseWith;
    this.answers.push({ unique: outHeader.fields.unique.get(header, 0), error, body, view });
    return 0;
  }
  async notify(): Promise<number> {
    return 0;
  }
  setMaxWrite(): void {}
  close(): void {}
}

let channel: TestChannel;
let filesystem: MemoryFilesystem;
let dispatcher: Dispatcher;
let killed: Set<number>;
let logged: object[];
let nextUnique: number;

function u32(...values: number[]): Buffer {
  const bytes = Buffer.alloc(values.length * 4);
  for (const [index, value] of values.entries()) bytes.writeUInt32LE(value, index * 4);
  return bytes;
}

function u64(value: number | bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

const text = (value: string) => Buffer.from(`${value}\0`);

/** Sends one request; its unique number and whether the dispatcher kept the message. */
function send(code: number, node: number, ...body: Buffer[]): { unique: number; kept: boolean } {
  const bytes = Buffer.concat([Buffer.alloc(inHeader.bytes), ...body]);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const h = inHeader.fields;
  const unique = nextUnique;
  nextUnique += 2;
  h.len.set(view, 0, bytes.length);
  h.opcode.set(view, 0, code);
  h.unique.set(view, 0, unique);
  h.nodeid.set(view, 0, node);
  h.uid.set(view, 0, 1000);
  h.gid.set(view, 0, 100);
  h.pid.set(view, 0, 4711);
  const kept = dispatcher.receive({ bytes, view, length: bytes.length });
  return { unique, kept };
}

/** The one answer that came since the last look. */
function answer(): Answer {
  expect(channel.answers).toHaveLength(1);
  return channel.answers.pop() as Answer;
}

const settled = () => new Promise((done) => setImmediate(done));

function start(): void {
  channel = new TestChannel();
  filesystem = new MemoryFilesystem();
  killed = new Set();
  logged = [];
  nextUnique = 2;
  dispatcher = new Dispatcher({
    channel,
    filesystem,
    wishes: {
      maxWriteBytes: 1 << 20,
      maxPagesLimit: 256,
      cacheSymlinks: false,
      checkPermissions: false,
      maxBackground: 64,
    },
    tasks: { groupsOf: () => [5, 6], isBeingKilled: (pid) => killed.has(pid) },
    log: { debug: () => {}, info: () => {}, warn: () => {}, error: (fields) => logged.push(fields) },
    onPending: () => {},
    onAgreed: () => {},
    onRefused: () => {},
  });
  const init = Buffer.alloc(initIn.bytes);
  init.set(u32(7, 45, 131072, 0x7fffffff, 0x7ff));
  send(opcode.INIT, 0, init);
  expect(answer().error).toBe(0);
}

beforeEach(start);

function createFile(name: string): { node: number; handle: number } {
  send(opcode.CREATE, 1, u32(0o102, 0o100644, 0o022, 0), text(name));
  const { error, view } = answer();
  expect(error).toBe(0);
  return { node: entryOut.fields.nodeid.get(view, 0), handle: openOut.fields.fh.get(view, entryOut.bytes) };
}

const readArguments = (handle: number, offset: number | bigint, size: number) =>
  Buffer.concat([u64(handle), u64(offset), u32(size, 0), u64(0), u32(0, 0)]);
const writeArguments = (handle: number, offset: number | bigint, data: Buffer) =>
  Buffer.concat([u64(handle), u64(offset), u32(data.length, 0), u64(0), u32(0, 0), data]);

describe('answers', () => {
  it('creates, writes, reads and forgets', () => {
    const { node, handle } = createFile('a');
    expect(send(opcode.WRITE, node, writeArguments(handle, 0, Buffer.from('hello'))).kept).toBe(false);
    expect(answer().body.readUInt32LE(0)).toBe(5);
    send(opcode.READ, node, readArguments(handle, 1, 3));
    expect(answer().body.toString()).toBe('ell');
    send(opcode.RELEASE, node, u64(handle), u32(0, 0), u64(0));
    expect(answer().error).toBe(0);
    send(opcode.FORGET, node, u64(1));
    expect(channel.answers).toHaveLength(0);
    expect(filesystem.held).toEqual({ lookups: 0, inodes: 0, handles: 0 });
  });

  it('forgets in batches', () => {
    const a = createFile('a');
    const b = createFile('b');
    send(opcode.LOOKUP, 1, text('b'));
    answer();
    send(opcode.BATCH_FORGET, 0, u32(2, 0), u64(a.node), u64(1), u64(b.node), u64(2));
    expect(filesystem.held.lookups).toBe(0);
  });

  it('refuses what does not fit into 53 bits, as each operation would', () => {
    const { node, handle } = createFile('a');
    send(opcode.WRITE, node, writeArguments(handle, 2n ** 60n, Buffer.from('x')));
    expect(answer().error).toBe(errno.EFBIG);
    send(opcode.READ, node, readArguments(handle, 2n ** 60n, 10));
    expect(answer().error).toBe(errno.EINVAL);
    send(opcode.LSEEK, node, u64(handle), u64(2n ** 60n), u32(3, 0));
    expect(answer().error).toBe(errno.ENXIO);
    send(opcode.FALLOCATE, node, u64(handle), u64(0), u64(2n ** 60n), u32(0, 0));
    expect(answer().error).toBe(errno.EFBIG);
  });

  it('sets times before 1970', () => {
    const { node } = createFile('a');
    const valid = 1 << 4;
    const times = Buffer.alloc(24);
    times.writeBigInt64LE(-631152000n, 0);
    const body = [u32(valid, 0), u64(0), u64(0), u64(0), times, u32(7, 0, 0), u32(0, 0, 0, 0, 0)];
    send(opcode.SETATTR, node, ...body);
    // fuse_attr_out: attributes from 16, atime 24 into them.
    expect(answer().body.readBigInt64LE(16 + 24)).toBe(-631152000n);
  });

  it('reports the length of an xattr, and ERANGE', () => {
    send(opcode.SETXATTR, 1, u32(5, 0, 0, 0), text('user.a'), Buffer.from('value'));
    expect(answer().error).toBe(0);
    send(opcode.GETXATTR, 1, u32(0, 0), text('user.a'));
    expect(answer().body.readUInt32LE(0)).toBe(5);
    send(opcode.GETXATTR, 1, u32(4, 0), text('user.a'));
    expect(answer().error).toBe(errno.ERANGE);
    send(opcode.GETXATTR, 1, u32(5, 0), text('user.a'));
    expect(answer().body.toString()).toBe('value');
    send(opcode.LISTXATTR, 1, u32(100, 0));
    expect(answer().body.toString()).toBe('user.a\0');
  });

  it('passes names on that are no UTF-8', () => {
    const name = Buffer.from([0xff, 0xfe, 0x41]);
    send(opcode.MKDIR, 1, u32(0o755, 0o022), name, Buffer.alloc(1));
    expect(answer().error).toBe(0);
    expect([...filesystem.root.names.keys()]).toEqual([name.toString('latin1')]);
  });

  it.each([
    [opcode.IOCTL, errno.ENOTTY],
    [opcode.POLL, errno.ENOSYS],
    [opcode.BMAP, errno.ENOSYS],
    [4000, errno.ENOSYS],
    [opcode.DESTROY, 0],
  ])('opcode %d is answered %d', (code, error) => {
    send(code, 1, Buffer.alloc(64));
    expect(answer().error).toBe(error);
  });

  it('survives short and unterminated requests', () => {
    for (const code of Object.values(opcode)) {
      if (code === opcode.INIT) continue;
      channel.answers = [];
      send(code, 1);
      send(code, 1, Buffer.from('xxx'));
      for (const { error } of channel.answers) expect(error === 0 || error > 0).toBe(true);
    }
  });
});

describe('errors', () => {
  it('an unexpected error is EIO, counted and logged', () => {
    filesystem.lookup = () => {
      throw new TypeError('bug');
    };
    send(opcode.LOOKUP, 1, text('a'));
    expect(answer().error).toBe(errno.EIO);
    expect(dispatcher.counters.unexpectedErrors).toBe(1);
    expect(logged).toHaveLength(1);
  });

  it.each([
    [errno.ENOSYS, errno.EOPNOTSUPP],
    [0, errno.EIO],
    [4000, errno.EIO],
    [errno.EDQUOT, errno.EDQUOT],
  ])('errno %d of the filesystem reaches the kernel as %d', async (code, error) => {
    filesystem.lookup = () => Promise.reject(new FsError(code, 'lookup'));
    send(opcode.LOOKUP, 1, text('a'));
    await settled();
    expect(answer().error).toBe(error);
  });

  it('more data than was asked for is EIO, not a caller that waits for ever', () => {
    const { node, handle } = createFile('a');
    filesystem.read = () => Buffer.alloc(11);
    send(opcode.READ, node, readArguments(handle, 0, 10));
    expect(answer().error).toBe(errno.EIO);
  });
});

describe('what nobody took is given back', () => {
  beforeEach(() => {
    send(opcode.MKDIR, 1, u32(0o755, 0), text('d'));
    send(opcode.FORGET, entryOut.fields.nodeid.get(answer().view, 0), u64(1));
    channel.refuseWith = errno.ENOENT;
  });

  it.each([
    ['LOOKUP', () => send(opcode.LOOKUP, 1, text('d'))],
    ['CREATE', () => send(opcode.CREATE, 1, u32(0o102, 0o100644, 0, 0), text('a'))],
    ['TMPFILE', () => send(opcode.TMPFILE, 1, u32(2, 0o100644, 0, 0))],
    ['OPENDIR', () => send(opcode.OPENDIR, 1, u32(0, 0))],
    ['SYMLINK', () => send(opcode.SYMLINK, 1, text('l'), text('target'))],
  ])('%s', (_, request) => {
    request();
    expect(filesystem.held).toEqual({ lookups: 0, inodes: 0, handles: 0 });
    expect(dispatcher.counters.undelivered).toBe(1);
    expect(channel.answers).toHaveLength(0);
  });

  it('READDIRPLUS: those that did not fit, and all when the reply was refused', () => {
    channel.refuseWith = 0;
    for (let index = 0; index < 100; index++) {
      send(opcode.MKDIR, 1, u32(0o755, 0), text(`directory-${index}`));
      send(opcode.FORGET, entryOut.fields.nodeid.get(answer().view, 0), u64(1));
    }
    send(opcode.OPENDIR, 1, u32(0, 0));
    const handle = openOut.fields.fh.get(answer().view, 0);
    send(opcode.READDIRPLUS, 1, readArguments(handle, 0, 4096));
    const { body } = answer();
    expect(body.length).toBeLessThanOrEqual(4096);
    // 152 bytes and the name, padded to 8: `.`, `..`, `d`, then `directory-N`.
    const listed = 3 + Math.floor((4096 - 3 * 160) / 168);
    expect(filesystem.held.lookups).toBe(listed - 2);
    channel.refuseWith = errno.ENOENT;
    send(opcode.READDIRPLUS, 1, readArguments(handle, 0, 4096));
    expect(filesystem.held.lookups).toBe(listed - 2);
  });

  it('a reply that the kernel calls wrong is logged, and the caller gets EIO', () => {
    channel.refuseWith = errno.EINVAL;
    send(opcode.LOOKUP, 1, text('d'));
    expect(answer().error).toBe(errno.EIO);
    expect(logged).toHaveLength(1);
    expect(filesystem.held.lookups).toBe(0);
  });
});

describe('locks', () => {
  const lock = (code: number, handle: number, type: number, flags: number) =>
    send(code, 1, u64(handle), u64(2n ** 64n - 1n), u64(10), u64(2n ** 63n - 1n), u32(type, 4711, flags, 0));

  it.each([
    [opcode.SETLK, 0, 0, { kind: 'posix', mode: 'shared' }],
    [opcode.SETLK, 1, 0, { kind: 'posix', mode: 'exclusive' }],
    [opcode.SETLKW, 1, 1, { kind: 'flock', mode: 'exclusive' }],
  ])('opcode %d of type %d with flags %d asks for %j', (code, type, flags, asked) => {
    const { handle } = createFile('a');
    lock(code, handle, type, flags);
    expect(answer().error).toBe(0);
    expect(filesystem.locks).toEqual([{ ...asked, owner: 2n ** 64n - 1n, pid: 4711, start: 10n, end: 2n ** 63n }]);
  });

  it('the lock in the way is described, or that there is none; types that do not exist are refused', () => {
    const { handle } = createFile('a');
    lock(opcode.GETLK, handle, 1, 0);
    const { start, end, type, pid } = lkOut.fields;
    expect(type.get(answer().view, 0)).toBe(2);
    lock(opcode.SETLK, handle, 0, 0);
    answer();
    lock(opcode.GETLK, handle, 1, 0);
    const { view } = answer();
    expect([start, end, type, pid].map((field) => field.get(view, 0))).toEqual([10, 2n ** 63n - 1n, 0, 4711]);
    lock(opcode.SETLK, handle, 7, 0);
    expect(answer().error).toBe(errno.EINVAL);
    lock(opcode.SETLK, handle, 2, 0);
    expect(answer().error).toBe(0);
    expect(filesystem.locks).toEqual([]);
  });
});

describe('interrupts', () => {
  const interrupt = (unique: number) => send(opcode.INTERRUPT, 0, u64(unique));

  it('a caller that is being killed is answered at once; its result is undone when it comes', async () => {
    filesystem.hanging.set('create', { interruptible: false });
    const { unique } = send(opcode.CREATE, 1, u32(0o102, 0o100644, 0, 0), text('a'));
    killed.add(4711);
    interrupt(unique);
    expect(answer()).toMatchObject({ unique, error: errno.EINTR });
    filesystem.resume();
    await settled();
    expect(channel.answers).toHaveLength(0);
    expect(filesystem.held).toEqual({ lookups: 0, inodes: 0, handles: 0 });
    expect(dispatcher.inFlight).toBe(0);
  });

  it('a lock that is granted to a caller that was killed meanwhile is given back', async () => {
    const { handle } = createFile('a');
    filesystem.hanging.set('lock', { interruptible: false });
    const { unique } = send(opcode.SETLKW, 1, u64(handle), u64(77), u64(0), u64(2n ** 63n - 1n), u32(1, 4711, 0, 0));
    killed.add(4711);
    interrupt(unique);
    expect(answer()).toMatchObject({ unique, error: errno.EINTR });
    filesystem.resume();
    await settled();
    expect(filesystem.locks).toEqual([]);
    expect(channel.answers).toHaveLength(0);
  });

  it('a buffer of a killed writer is free only when the write has ended', async () => {
    const { node, handle } = createFile('a');
    filesystem.hanging.set('write', { interruptible: false });
    const { unique, kept } = send(opcode.WRITE, node, writeArguments(handle, 0, Buffer.from('data')));
    expect(kept).toBe(true);
    killed.add(4711);
    interrupt(unique);
    expect(answer().error).toBe(errno.EINTR);
    expect(channel.recycled).toHaveLength(0);
    filesystem.resume();
    await settled();
    expect(channel.recycled).toHaveLength(1);
  });

  it.each([
    ['now', (written: number) => written],
    ['later', async (written: number) => written],
  ])('data that the filesystem keeps are its own beyond the answer, when it answers %s', async (_when, answered) => {
    const { node, handle } = createFile('a');
    let release: (() => void) | undefined;
    vi.spyOn(filesystem, 'write').mockImplementation((caller, _handle, _offset, data) => {
      release = caller.keepData?.();
      return answered(data.length) as Promise<number>;
    });
    expect(send(opcode.WRITE, node, writeArguments(handle, 0, Buffer.from('data'))).kept).toBe(true);
    await settled();
    expect(answer().error).toBe(0);
    expect(channel.recycled).toHaveLength(0);
    release?.();
    expect(channel.recycled).toHaveLength(1);
  });

  it('any other signal aborts the caller’s signal only', async () => {
    filesystem.hanging.set('open', { interruptible: true });
    filesystem.hanging.set('getattr', { interruptible: false });
    const { node } = createFile('a');
    const open = send(opcode.OPEN, node, u32(0, 0));
    const getattr = send(opcode.GETATTR, node, u32(0, 0), u64(0));
    interrupt(open.unique);
    interrupt(getattr.unique);
    await settled();
    expect(answer()).toMatchObject({ unique: open.unique, error: errno.EINTR });
    filesystem.resume();
    await settled();
    expect(answer()).toMatchObject({ unique: getattr.unique, error: 0 });
  });

  it('a SIGKILL after another signal, for which the kernel sends nothing, is found by the second scan', () => {
    filesystem.hanging.set('lookup', { interruptible: false });
    const { unique } = send(opcode.LOOKUP, 1, text('a'));
    killed.add(4711);
    dispatcher.scanCallers();
    expect(channel.answers).toHaveLength(0);
    dispatcher.scanCallers();
    expect(answer()).toMatchObject({ unique, error: errno.EINTR });
    dispatcher.scanCallers();
    interrupt(unique);
    expect(channel.answers).toHaveLength(0);
  });

  it('an INTERRUPT whose request is unknown is given back to the kernel', () => {
    const { unique } = interrupt(1000);
    expect(answer()).toMatchObject({ unique, error: errno.EAGAIN });
  });
});
