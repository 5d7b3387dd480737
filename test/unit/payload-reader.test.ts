import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer as createHttpServer, type Server as HttpServer } from 'node:http';
import { connect, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { WebSocket, WebSocketServer } from 'ws';
import { Acceptor } from '../../server/transport/acceptor.ts';
import { KiB, MiB } from '../../shared/limits.ts';
import { PayloadReader, pooledPayload, recyclePayload } from '../../shared/transport/payload-reader.ts';
import { webSocketOptions } from '../../shared/transport/websocket-transport.ts';

let front: Acceptor;
let http: HttpServer;
let sockets: WebSocketServer;
let client: WebSocket;
let accepted: WebSocket;
let acceptedSocket: Socket;
/** Buffers that payloads were read into, on either side. */
let allocated: Buffer[];

const counted = (allocate: (bytes: number) => Buffer) => (bytes: number) => {
  const buffer = allocate(bytes);
  allocated.push(buffer);
  return buffer;
};

/** Both ends as weft has them; but the client masks, as others would. */
beforeEach(async () => {
  allocated = [];
  sockets = new WebSocketServer({ noServer: true, ...webSocketOptions });
  http = createHttpServer();
  front = await Acceptor.listen('127.0.0.1', 0);
  front.start(({ fd }) => {
    const reader = new PayloadReader(counted(pooledPayload));
    acceptedSocket = reader.accept(fd);
    http.emit('connection', acceptedSocket);
    http.once('upgrade', (request, socket, head) =>
      sockets.handleUpgrade(request, socket, head, (webSocket) => {
        reader.follow(webSocket);
        sockets.emit('connection', webSocket);
      }),
    );
  });
  const { port } = front;
  const reader = new PayloadReader(counted(Buffer.allocUnsafeSlow));
  client = new WebSocket(`ws://127.0.0.1:${port}/`, {
    ...webSocketOptions,
    createConnection: () => reader.connect('127.0.0.1', port),
  });
  client.once('open', () => reader.follow(client));
  [accepted] = await once(sockets, 'connection');
  if (client.readyState !== WebSocket.OPEN) await once(client, 'open');
  accepted.binaryType = 'fragments';
  client.binaryType = 'fragments';
});

afterEach(() => {
  client.terminate();
  accepted.terminate();
  http.close();
  front.close();
});

/** A head and a payload, as frames are sent; the payload as it arrives. */
async function sent(payload: Buffer, from = client, to = accepted): Promise<Buffer> {
  const arrived = once(to, 'message');
  from.send('head', { fin: false, binary: true });
  from.send(payload);
  const [fragments] = (await arrived) as [Buffer[]];
  expect(fragments.map(({ length }) => length)).toEqual([4, payload.length]);
  return fragments[1] as Buffer;
}

const SIZES = [1, 4000, 65_536, 200_000, MiB - 1, MiB, MiB + 1, 3 * MiB];

test.each(SIZES)('%i bytes arrive as they were sent, either way', async (bytes) => {
  for (let round = 0; round < 3; round++) {
    const payload = randomBytes(bytes);
    const arrived = await sent(payload);
    expect(arrived.equals(payload)).toBe(true);
    recyclePayload(arrived);
    expect((await sent(payload, accepted, client)).equals(payload)).toBe(true);
  }
});

test('large payloads are in the buffer that they were read into, and nowhere else', async () => {
  for (const [from, to] of [
    [client, accepted],
    [accepted, client],
  ] as const) {
    const payload = randomBytes(MiB);
    const arrived = await sent(payload, from, to);
    expect(arrived).toBe(allocated.pop());
    expect(allocated).toEqual([]);
    expect(arrived.buffer.byteLength).toBe(MiB);
  }
});

test('of a payload that is only announced little is in memory', async () => {
  const head = Buffer.alloc(14);
  head.writeUInt16BE(0x82ff, 0);
  head.writeBigUInt64BE(BigInt(16 * MiB), 2);
  const socket = (client as unknown as { _socket: Socket })._socket;
  socket.write(head);
  socket.write(Buffer.alloc(100_000));
  await expect.poll(() => acceptedSocket.bytesRead).toBeGreaterThan(100_000);
  expect(allocated).toEqual([]);
  socket.write(Buffer.alloc(2 * MiB));
  await expect.poll(() => allocated.map(({ length }) => length)).toEqual([16 * MiB]);
  const arrived = once(accepted, 'message');
  socket.write(Buffer.alloc(14 * MiB - 100_000));
  const [[whole]] = (await arrived) as [[Buffer]];
  expect(whole.equals(Buffer.alloc(16 * MiB))).toBe(true);
});

test('what comes with the upgrade, and control frames within a message, change nothing', async () => {
  const { port } = front;
  const payload = randomBytes(MiB);
  const mask = Buffer.alloc(4);
  const frame = (head: number, data: Buffer) => {
    const length = Buffer.alloc(8);
    length.writeBigUInt64BE(BigInt(data.length));
    return Buffer.concat(
      data.length < 126
        ? [Buffer.from([head, 0x80 | data.length]), mask, data]
        : [Buffer.from([head, 0xff]), length, mask, data],
    );
  };
  const raw = connect(port, '127.0.0.1');
  const messages = new Promise<Buffer[]>((resolve) => {
    sockets.once('connection', (webSocket: WebSocket) => {
      webSocket.binaryType = 'fragments';
      webSocket.once('message', (data) => resolve(data as unknown as Buffer[]));
    });
  });
  const upgrade =
    'GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n';
  const key = `Sec-WebSocket-Key: ${randomBytes(16).toString('base64')}\r\n\r\n`;
  const ping = frame(0x89, Buffer.from('ping'));
  const parts = [
    frame(0x02, payload),
    ping,
    frame(0, Buffer.alloc(0)),
    ping,
    frame(0, payload.subarray(0, 99_999)),
    frame(0x80, payload),
  ];
  raw.write(Buffer.concat([Buffer.from(upgrade + key), ...parts]));
  const fragments = await messages;
  expect(Buffer.concat(fragments).equals(Buffer.concat([payload, payload.subarray(0, 99_999), payload]))).toBe(true);
  raw.destroy();
});

test('many messages of all sizes, sent without waiting, keep their order and their bytes', async () => {
  const payloads = Array.from({ length: 120 }, (_, index) => randomBytes(SIZES[index % (SIZES.length - 1)] as number));
  const arrived: Buffer[] = [];
  const all = new Promise<void>((resolve) =>
    accepted.on('message', (data) => {
      arrived.push(...(data as unknown as Buffer[]));
      if (arrived.length === payloads.length) resolve();
    }),
  );
  for (const payload of payloads) client.send(payload);
  await all;
  // Only now: what was handed on stays as it is while more arrives.
  for (const [index, payload] of payloads.entries()) expect(arrived[index]?.equals(payload)).toBe(true);
});

test('what is paused waits, and goes on where it was', async () => {
  const payload = randomBytes(32 * MiB);
  const parts = Array.from({ length: 32 }, (_, index) => payload.subarray(index * MiB, (index + 1) * MiB));
  const arrived: Buffer[] = [];
  accepted.on('message', (data) => {
    arrived.push(...(data as unknown as Buffer[]));
    accepted.pause();
    setTimeout(() => accepted.resume(), 2);
  });
  for (const part of parts) client.send(part);
  await expect.poll(() => arrived.length, { timeout: 10_000 }).toBe(parts.length);
  expect(Buffer.concat(arrived).equals(payload)).toBe(true);
});

describe('the end of a connection', () => {
  test('in the middle of a payload ends the WebSocket', async () => {
    const closed = once(accepted, 'close');
    client.send(randomBytes(8 * MiB), () => {});
    client.terminate();
    expect((await closed)[0]).toBe(1006);
    await expect.poll(() => acceptedSocket.destroyed).toBe(true);
  });

  test('is told with its reason', async () => {
    const closed = once(accepted, 'close');
    client.close(1000, 'done');
    expect((await closed).map(String)).toEqual(['1000', 'done']);
  });
});

describe('memory that is used again', () => {
  test('a payload keeps its bytes until it is given back, and then its memory is used again, by one', async () => {
    const payloads = [randomBytes(MiB), randomBytes(MiB), randomBytes(MiB), randomBytes(MiB)] as const;
    const first = await sent(payloads[0]);
    const second = await sent(payloads[1]);
    expect(first.equals(payloads[0]) && second.equals(payloads[1])).toBe(true);
    recyclePayload(first);
    recyclePayload(first);
    const third = await sent(payloads[2]);
    const fourth = await sent(payloads[3]);
    expect(third.buffer).toBe(first.buffer);
    expect(fourth.buffer).not.toBe(third.buffer);
    const kept = [second.equals(payloads[1]), third.equals(payloads[2]), fourth.equals(payloads[3])];
    expect(kept).toEqual([true, true, true]);
  });

  test('memory that is not of the pool is not taken into it', async () => {
    const foreign = Buffer.alloc(MiB, 1);
    recyclePayload(foreign);
    const arrived = await sent(Buffer.alloc(MiB, 2));
    expect(arrived.buffer).not.toBe(foreign.buffer);
    expect(foreign.every((byte) => byte === 1)).toBe(true);
  });

  test('small payloads do not hold much more than themselves', async () => {
    const arrived = await sent(randomBytes(100));
    expect(arrived.buffer.byteLength).toBeLessThanOrEqual(64 * KiB);
  });
});
