/** Handing a descriptor to another process. */
import koffi from 'koffi';
import { errno, FsError } from '../errno.ts';
import { check, declare, O_CLOEXEC } from './call.ts';

const c = {
  socketpair: declare('int socketpair(int domain, int type, int protocol, void *pair)'),
  sendmsg: declare('long sendmsg(int fd, void *message, int flags)'),
  recvmsg: declare('long recvmsg(int fd, void *message, int flags)'),
} as const;

const MSG_CMSG_CLOEXEC = 0x40000000;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;

/** A connected pair of stream sockets (AF_UNIX), close-on-exec. */
export function socketpair(): [number, number] {
  const pair = Buffer.alloc(8);
  check(c.socketpair(1, 1 | O_CLOEXEC, 0, pair), 'socketpair');
  return [pair.readInt32LE(0), pair.readInt32LE(4)];
}

/** Sends one descriptor (SCM_RIGHTS) with one byte of data; the receiver gets its own copy. Layout: see receiveDescriptor. */
export function sendDescriptor(socket: number, fd: number): void {
  const data = Buffer.alloc(1);
  const vector = Buffer.alloc(16);
  vector.writeBigUInt64LE(koffi.address(data), 0);
  vector.writeBigUInt64LE(1n, 8);
  const control = Buffer.alloc(24);
  control.writeBigUInt64LE(20n, 0);
  control.writeInt32LE(SOL_SOCKET, 8);
  control.writeInt32LE(SCM_RIGHTS, 12);
  control.writeInt32LE(fd, 16);
  const message = Buffer.alloc(56);
  message.writeBigUInt64LE(koffi.address(vector), 16);
  message.writeBigUInt64LE(1n, 24);
  message.writeBigUInt64LE(koffi.address(control), 32);
  message.writeBigUInt64LE(BigInt(control.length), 40);
  check(c.sendmsg(socket, message, 0) as number, 'sendmsg');
}

/**
 * Receives one descriptor (SCM_RIGHTS) with one byte of data. Blocks: call it when the sender has ended or answered.
 * struct msghdr (64-bit): name* u64, namelen u32+pad, iov* u64, iovlen u64, control* u64, controllen u64, flags
 * struct cmsghdr: len u64, level s32, type s32, then the descriptor
 */
export function receiveDescriptor(socket: number): number {
  const data = Buffer.alloc(1);
  const vector = Buffer.alloc(16);
  vector.writeBigUInt64LE(koffi.address(data), 0);
  vector.writeBigUInt64LE(1n, 8);
  const control = Buffer.alloc(64);
  const message = Buffer.alloc(56);
  message.writeBigUInt64LE(koffi.address(vector), 16);
  message.writeBigUInt64LE(1n, 24);
  message.writeBigUInt64LE(koffi.address(control), 32);
  message.writeBigUInt64LE(BigInt(control.length), 40);
  const count = check(c.recvmsg(socket, message, MSG_CMSG_CLOEXEC) as number, 'recvmsg');
  if (count === 0 || message.readBigUInt64LE(40) < 20n || control.readInt32LE(12) !== SCM_RIGHTS) {
    throw new FsError(errno.ENOMSG, 'recvmsg');
  }
  return control.readInt32LE(16);
}
