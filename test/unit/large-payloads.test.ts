import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { WebSocket, WebSocketServer } from 'ws';
import { MiB } from '../../shared/limits.ts';
import { poolLargePayloads, recyclePayload } from '../../shared/transport/large-payloads.ts';
import { webSocketOptions } from '../../shared/transport/websocket-transport.ts';

let server: WebSocketServer;
let client: WebSocket;
let accepted: WebSocket;

beforeEach(async () => {
  server = new WebSocketServer({ ...webSocketOptions, host: '127.0.0.1', port: 0 });
  await once(server, 'listening');
  client = new WebSocket(`ws://127.0.0.1:${(server.address() as AddressInfo).port}/`);
  [accepted] = await once(server, 'connection');
  accepted.binaryType = 'fragments';
  poolLargePayloads(accepted);
});

afterEach(() => {
  client.terminate();
  server.close();
});

/** A head and a payload, as frames are sent; the payload as it arrives. */
async function sent(payload: Buffer): Promise<Buffer> {
  if (client.readyState !== WebSocket.OPEN) await once(client, 'open');
  const arrived = once(accepted, 'message');
  client.send('head', { fin: false, binary: true });
  client.send(payload);
  const [fragments] = (await arrived) as [Buffer[]];
  expect(fragments.map(({ length }) => length)).toEqual([4, payload.length]);
  return fragments[1] as Buffer;
}

test.each([1, 65_536, MiB - 1, MiB, MiB + 1, 3 * MiB])('%i bytes arrive as they were sent', async (bytes) => {
  for (let round = 0; round < 3; round++) {
    const payload = randomBytes(bytes);
    const arrived = await sent(payload);
    expect(arrived.equals(payload)).toBe(true);
    recyclePayload(arrived);
  }
});

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
  expect([second.equals(payloads[1]), third.equals(payloads[2]), fourth.equals(payloads[3])]).toEqual([
    true,
    true,
    true,
  ]);
});

test('memory that is not of the pool is not taken into it', async () => {
  const foreign = Buffer.alloc(MiB, 1);
  recyclePayload(foreign);
  const arrived = await sent(Buffer.alloc(MiB, 2));
  expect(arrived.buffer).not.toBe(foreign.buffer);
  expect(foreign.every((byte) => byte === 1)).toBe(true);
});
