import { once } from 'node:events';
import { connect, Socket } from 'node:net';
import { networkInterfaces } from 'node:os';
import { afterEach, expect, test } from 'vitest';
import { Acceptor } from '../../server/transport/acceptor.ts';
import { type Accepted, close } from '../../shared/linux/libc.ts';

const acceptors: Acceptor[] = [];
const sockets: Socket[] = [];

async function listen(host: string, port = 0): Promise<Acceptor> {
  const acceptor = await Acceptor.listen(host, port);
  acceptors.push(acceptor);
  return acceptor;
}

function connected(host: string, port: number, localAddress?: string): Socket {
  const socket = connect({ host, port, ...(localAddress === undefined ? {} : { localAddress }) });
  socket.on('error', () => {});
  sockets.push(socket);
  return socket;
}

afterEach(() => {
  for (const acceptor of acceptors.splice(0)) acceptor.close();
  for (const socket of sockets.splice(0)) socket.destroy();
});

const hasIpv6 = Object.values(networkInterfaces()).some((all) => all?.some(({ address }) => address === '::1'));

const ADDRESSES = [
  ['127.0.0.1', '127.0.0.1', '127.0.0.1'],
  ['localhost', 'localhost', expect.stringMatching(/^(127\.0\.0\.1|::1)$/)],
  ['::1', '::1', '::1'],
  ['::', '127.0.0.1', '::ffff:127.0.0.1'],
  ['0.0.0.0', '127.0.0.1', '127.0.0.1'],
] as const;

test.each(ADDRESSES)('who connects to %s by %s has the address that node shows', async (host, to, address) => {
  if (host.startsWith('::') && !hasIpv6) return console.warn(`left out: this machine has no ${host}`);
  const acceptor = await listen(host);
  const accepted = new Promise<Accepted>((resolve) => acceptor.start(resolve));
  const client = connected(to, acceptor.port);
  const { fd, ...from } = await accepted;
  const socket = new Socket({ fd, readable: true, writable: true });
  sockets.push(socket);
  expect(from).toEqual({ address, port: client.localPort });
  expect(from).toEqual({ address: socket.remoteAddress, port: socket.remotePort });
  client.write('hello');
  expect(String((await once(socket, 'data'))[0])).toBe('hello');
});

test('connections wait until somebody accepts, and all come in, each once', async () => {
  const acceptor = await listen('127.0.0.1');
  const clients = Array.from({ length: 100 }, () => connected('127.0.0.1', acceptor.port));
  await Promise.all(clients.map((client) => once(client, 'connect')));
  const from = clients.map(({ localPort }) => localPort);
  const ports: number[] = [];
  acceptor.start(({ fd, port }) => {
    ports.push(port);
    close(fd);
  });
  await expect.poll(() => ports.length).toBe(clients.length);
  expect(new Set(ports)).toEqual(new Set(from));
});

test('errors have the codes of node', async () => {
  const { port } = await listen('127.0.0.1');
  await expect(listen('127.0.0.1', port)).rejects.toMatchObject({ code: 'EADDRINUSE' });
  await expect(listen('192.0.2.1')).rejects.toMatchObject({ code: 'EADDRNOTAVAIL' });
  await expect(listen('no-such-host.invalid')).rejects.toMatchObject({ code: expect.stringMatching(/^E/) });
});

test('nobody gets in after it was closed, and its port is free', async () => {
  const acceptor = await listen('127.0.0.1');
  let entered = 0;
  acceptor.start(() => entered++);
  acceptor.close();
  acceptor.close();
  const [error] = (await once(connected('127.0.0.1', acceptor.port), 'error')) as [NodeJS.ErrnoException];
  expect(error.code).toBe('ECONNREFUSED');
  expect(entered).toBe(0);
  expect((await listen('127.0.0.1', acceptor.port)).port).toBe(acceptor.port);
});
