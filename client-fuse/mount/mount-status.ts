/**
 * What a mount says about itself, to `weft status`: over an abstract Unix socket named after the mount's device number, so
 * that nothing on the mount is touched, nothing is left behind, and it answers when the server is away. Owned by the
 * process that serves the mount. It tells counts only, to whoever on this machine asks. Source: unix(7) "abstract".
 */
import { connect, createServer } from 'node:net';
import type { Log } from '../kernel/log.ts';

export interface MountStatus {
  readonly pid: number;
  readonly upSeconds: number;
  /** For how long the server has been away; null while it is there. */
  readonly serverAwaySeconds: number | null;
  /** Milliseconds for which leases may be used without another answer of the server; 0: none are used now. */
  readonly leasesUsableMs: number;
  /** Inodes that leases are held on. */
  readonly leases: number;
  /** Lookups, stats, opens and listings that were answered from memory, and that the server was asked for. */
  readonly hits: number;
  readonly misses: number;
  readonly recalls: number;
  /** What the kernel asked; it answers the most by itself, and what of that is not known here. */
  readonly kernelRequests: number;
  readonly serverRequests: number;
  readonly requestsInFlight: number;
  readonly openFiles: number;
}

const ANSWER_WITHIN_MS = 1_000;
/** A status is some hundred bytes; whoever has taken the name may send anything. */
const MAX_ANSWER_BYTES = 64 * 1024;

function socketOf(device: string): string {
  return `\0weft/mount/${device}`;
}

/** Answers as long as the process lives. That the name is taken is no reason not to mount: then there is no status. */
export function answerStatus(device: string, status: () => MountStatus, log: Log): void {
  const server = createServer((socket) => {
    socket.on('error', () => {}); // it has gone before it was answered
    socket.end(JSON.stringify(status()));
  });
  server.maxConnections = 16;
  server.on('error', (error) => log.warn({ err: error }, 'this mount will not answer `weft status`'));
  server.listen(socketOf(device));
  server.unref();
}

/** Rejects when nobody answers in time: a stopped client, another driver, or a mount of another network namespace. */
export function askMount(device: string, timeoutMs = ANSWER_WITHIN_MS): Promise<MountStatus> {
  return new Promise((resolve, reject) => {
    const socket = connect(socketOf(device));
    const fail = (why: string) => {
      clearTimeout(timer);
      socket.destroy();
      reject(new Error(`the mount's client does not say how it is: ${why}`));
    };
    const timer = setTimeout(() => fail('no answer'), timeoutMs);
    let text = '';
    socket.setEncoding('utf8');
    // The message has the socket's name, with a NUL.
    socket.on('error', (error: NodeJS.ErrnoException) => fail(error.code ?? 'not reached'));
    socket.on('data', (more) => {
      text += more;
      if (text.length > MAX_ANSWER_BYTES) fail('this is no status');
    });
    socket.on('end', () => {
      clearTimeout(timer);
      try {
        resolve(JSON.parse(text) as MountStatus);
      } catch {
        fail('this is no status');
      }
    });
  });
}
