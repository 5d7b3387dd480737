/**
 * Listening for TCP connections, and accepting them as bare descriptors: what node:net does, but who is turned away costs two
 * system calls and no objects. Sources: ip(7), ipv6(7), accept4(2).
 */
import koffi from 'koffi';
import { errno } from '../errno.ts';
import { check, declare, O_CLOEXEC } from './call.ts';
import { close } from './descriptors.ts';

const c = {
  socket: declare('int socket(int domain, int type, int protocol)'),
  setsockopt: declare('int setsockopt(int fd, int level, int option, void *value, uint length)'),
  bind: declare('int bind(int fd, void *address, uint length)'),
  listen: declare('int listen(int fd, int backlog)'),
  getsockname: declare('int getsockname(int fd, void *address, void *length)'),
  accept4: declare('int accept4(int fd, void *address, void *length, int flags)'),
  inet_pton: declare('int inet_pton(int family, void *text, void *bytes)'),
  inet_ntop: declare('void *inet_ntop(int family, void *bytes, void *text, uint size)'),
} as const;

const AF_INET = 2;
const AF_INET6 = 10;
const SOCK_STREAM = 1;
const SOCK_NONBLOCK = 0o4000;
const SOL_SOCKET = 1;
const SO_REUSEADDR = 2;
const IPPROTO_IPV6 = 41;
const IPV6_V6ONLY = 26;
const INET6_ADDRSTRLEN = 46;

/*
 * sockaddr_in: family u16, port u16 (big endian), address u8[4], padding to 16
 * sockaddr_in6: family u16, port u16 (big endian), flow u32, address u8[16], scope u32
 */
const SOCKADDR_BYTES = { [AF_INET]: 16, [AF_INET6]: 28 } as const;
const ADDRESS_AT = { [AF_INET]: 4, [AF_INET6]: 8 } as const;

/** A listening socket, which does not block. `address` is numeric, `port` 0 for any free one. Throws FsError. */
export function listenTcp(address: string, port: number, backlog: number): number {
  const family = address.includes(':') ? AF_INET6 : AF_INET;
  const fd = check(c.socket(family, SOCK_STREAM | SOCK_NONBLOCK | O_CLOEXEC, 0), 'socket');
  try {
    set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    // `::` is every address, of either version.
    if (family === AF_INET6) set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    const name = Buffer.alloc(SOCKADDR_BYTES[family]);
    name.writeUInt16LE(family, 0);
    name.writeUInt16BE(port, 2);
    const isAddress = c.inet_pton(family, Buffer.from(`${address}\0`), name.subarray(ADDRESS_AT[family])) === 1;
    if (!isAddress)
      throw new TypeError(`${address} is not an address (one with a zone, fe80::1%eth0, is not supported)`);
    check(c.bind(fd, name, name.length), 'bind');
    check(c.listen(fd, backlog), 'listen');
    return fd;
  } catch (error) {
    close(fd);
    throw error;
  }
}

function set(fd: number, level: number, option: number, value: number): void {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32LE(value, 0);
  check(c.setsockopt(fd, level, option, bytes, bytes.length), 'setsockopt');
}

const scratch = Buffer.alloc(SOCKADDR_BYTES[AF_INET6]);
const scratchLength = Buffer.alloc(4);

export function localPort(fd: number): number {
  scratchLength.writeUInt32LE(scratch.length, 0);
  check(c.getsockname(fd, scratch, scratchLength), 'getsockname');
  return scratch.readUInt16BE(2);
}

export interface Accepted {
  readonly fd: number;
  /** Numeric, as node:net shows it, but without a zone. */
  readonly address: string;
  readonly port: number;
}

/** The next connection that waits, not blocking; or a negative errno: EAGAIN when none does. */
export function acceptTcp(listening: number): Accepted | number {
  scratchLength.writeUInt32LE(scratch.length, 0);
  const fd = c.accept4(listening, scratch, scratchLength, SOCK_NONBLOCK | O_CLOEXEC) as number;
  if (fd < 0) return -(koffi.errno() || errno.EAGAIN);
  return { fd, address: addressIn(scratch), port: scratch.readUInt16BE(2) };
}

function addressIn(name: Buffer): string {
  const family = name.readUInt16LE(0);
  if (family === AF_INET) return `${name[4]}.${name[5]}.${name[6]}.${name[7]}`;
  const text = Buffer.alloc(INET6_ADDRSTRLEN);
  c.inet_ntop(AF_INET6, name.subarray(ADDRESS_AT[AF_INET6]), text, text.length);
  return text.toString('latin1', 0, text.indexOf(0));
}
