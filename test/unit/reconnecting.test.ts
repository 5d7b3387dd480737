/** When a client tries again after its server went away, in virtual time. */
import { randomBytes } from 'node:crypto';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { reconnectDelayMs } from '../../client-fuse/transport/backoff.ts';
import type { Connector } from '../../client-fuse/transport/link.ts';
import { parseServerAddress } from '../../client-fuse/transport/server-address.ts';
import { ServerSession } from '../../client-fuse/transport/server-session.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { decodeFrame, encodeFrame } from '../../shared/protocol/frame.ts';
import { frameKind, operations, PROTOCOL_VERSION } from '../../shared/protocol/messages.ts';
import type { Transport, TransportEvents } from '../../shared/transport/transport.ts';
import { silent } from '../support/fixture.ts';

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance', 'Date'] });
});
afterEach(() => {
  vi.useRealTimers();
});

const time = { sec: 0, nsec: 0 };
const times = { atime: time, mtime: time, ctime: time, btime: time };
const numbers = { ino: 1n, mode: 0o40755, nlink: 2, uid: 0, gid: 0, rdev: 0, size: 0, blocks: 0, blksize: 4096 };
const attributes = { ...numbers, ...times };

/** A server that does nothing but greet, and is there or not. */
class Greeter {
  isThere = true;
  /** When each connection was opened. */
  readonly openedMs: number[] = [];
  readonly #connections: TransportEvents[] = [];

  readonly connect: Connector = async () => {
    if (!this.isThere) throw new FsError(errno.ECONNREFUSED, 'connect');
    this.openedMs.push(performance.now());
    return (events) => {
      this.#connections.push(events);
      return this.#transport(events);
    };
  };

  /** Cuts the connection that was opened as number `index`. */
  cut(index: number): void {
    this.#connections[index]?.closed('cut');
  }

  #transport(events: TransportEvents): Transport {
    const send = (head: Uint8Array) => {
      const [kind, seq] = decodeFrame([Buffer.from(head)]);
      if (kind !== frameKind.REQUEST) return;
      const reply = encodeFrame([frameKind.REPLY, seq, 0, this.#hello()]).head;
      queueMicrotask(() => events.message([Buffer.from(reply)]));
    };
    const nothing = () => {};
    return { send, queuedBytes: 0, pause: nothing, resume: nothing, close: nothing, terminate: nothing };
  }

  #hello(): unknown {
    return operations.hello.reply.encode({
      protocol: PROTOCOL_VERSION,
      instance: randomBytes(16),
      boot: Buffer.alloc(16),
      session: Buffer.alloc(16),
      resumed: false,
      remembers: true,
      grace: false,
      root: { inode: Buffer.alloc(1), attributes, leased: false },
      readOnly: false,
      identity: 'caller',
      wantsForget: false,
      maxDataBytes: 1 << 20,
    });
  }
}

test('an outage is felt at most a quarter longer than it is, and two seconds', () => {
  let awayMs = 0;
  for (let attempt = 0; attempt < 100; attempt++) {
    const delayMs = reconnectDelayMs(attempt);
    expect(delayMs).toBeLessThanOrEqual(Math.min(2_000, 20 + awayMs / 4 + 1e-6));
    expect(delayMs).toBeGreaterThanOrEqual(20);
    awayMs += delayMs;
  }
  expect(reconnectDelayMs(1e6)).toBe(2_000);
});

test('when one lane has found the server again, the other does not go on waiting', async () => {
  const server = new Greeter();
  const address = parseServerAddress('ws://127.0.0.1:1/');
  const session = await ServerSession.connect(address, silent, undefined, { connector: server.connect });
  try {
    server.isThere = false;
    const [small, bulk] = [0, 1];
    server.cut(bulk);
    // Out of step: one lane's pauses are long by the time at which the other's begin.
    await vi.advanceTimersByTimeAsync(20_000);
    server.cut(small);
    await vi.advanceTimersByTimeAsync(100);
    server.isThere = true;
    server.openedMs.length = 0;
    await vi.advanceTimersByTimeAsync(5_000);
    expect(server.openedMs).toHaveLength(2);
    expect(server.openedMs[1]).toBe(server.openedMs[0]);
    expect(session.unreachableSinceMs).toBeUndefined();
  } finally {
    session.close();
  }
});
