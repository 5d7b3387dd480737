/** Open descriptors of any kind: reading and writing without waiting, waiting in the event loop, closing. */
import koffi from 'koffi';
import { check, declare } from './call.ts';

const c = {
  close: declare('int close(int fd)'),
  fcntl: declare('int fcntl(int fd, int command, long argument)'),
  read: declare('long read(int fd, void *buffer, ulong count)'),
  write: declare('long write(int fd, void *buffer, ulong count)'),
  ioctl: declare('int ioctl(int fd, ulong request, void *argument)'),
} as const;

export function close(fd: number): void {
  c.close(fd);
}

const F_GETFL = 3;
const F_SETFL = 4;

export function setNonblocking(fd: number): void {
  const flags = check(c.fcntl(fd, F_GETFL, 0), 'fcntl');
  check(c.fcntl(fd, F_SETFL, flags | 0o4000), 'fcntl');
}

/** read(2) on a descriptor that does not block: the bytes read, or a negative errno. Throws nothing: EAGAIN is frequent. */
export function readNonblocking(fd: number, buffer: Uint8Array): number {
  const count = c.read(fd, buffer, buffer.length) as number;
  return count < 0 ? -koffi.errno() : count;
}

/** write(2) of the first `length` bytes: the bytes written, or a negative errno. Throws nothing. */
export function writeBytes(fd: number, buffer: Uint8Array, length: number): number {
  const count = c.write(fd, buffer, length) as number;
  return count < 0 ? -koffi.errno() : count;
}

export interface Polling {
  pause(): void;
  resume(): void;
  close(): void;
}

/**
 * Calls `ready` from the event loop whenever `fd` is readable or broken. The descriptor (of the mount, inotify, or a listening
 * socket, which Node does not poll for others) becomes non-blocking. What `ready` throws is an uncaught exception, as of
 * any other callback: koffi would throw it out of its next call, whoever makes that.
 */
export function pollReadable(fd: number, ready: () => void): Polling {
  const wanted = { readable: true };
  const guarded = () => {
    try {
      ready();
    } catch (error) {
      setImmediate(() => {
        throw error;
      });
    }
  };
  const handle = koffi.node.poll(fd, wanted, guarded);
  return { pause: () => handle.stop(), resume: () => handle.start(wanted, guarded), close: () => handle.close() };
}

export function ioctl(fd: number, request: number, argument: Uint8Array): number {
  return check(c.ioctl(fd, request, argument), 'ioctl');
}
