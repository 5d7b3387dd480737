/**
 * Acceptor: a listening socket, whose connections come as bare descriptors. Takes a few at a time, so that a crowd at the door
 * does not keep those waiting who are in; what it does not take yet the kernel keeps, as far as its queue goes.
 */
import { lookup } from 'node:dns/promises';
import { getSystemErrorName } from 'node:util';
import { errno, FsError } from '../../shared/errno.ts';
import {
  type Accepted,
  acceptTcp,
  close,
  listenTcp,
  localPort,
  type Polling,
  pollReadable,
} from '../../shared/linux/libc.ts';

/** As node:net asks for. */
const BACKLOG = 511;
/** Taken at one go, before sockets that are open have their turn. */
const BATCH = 16;
/** Whoever that was is gone already. Source: accept(2), which also tells of errors of the network. */
const GONE: ReadonlySet<number> = new Set([
  errno.ECONNABORTED,
  errno.EINTR,
  errno.EPROTO,
  errno.EPERM,
  errno.ENETDOWN,
  errno.ENOPROTOOPT,
  errno.EHOSTDOWN,
  errno.ENONET,
  errno.EHOSTUNREACH,
  errno.EOPNOTSUPP,
  errno.ENETUNREACH,
]);
/** Otherwise no descriptor or no memory is free, and others must close first. */
const PAUSE_MS = 100;

export class Acceptor {
  readonly port: number;
  readonly #fd: number;
  #polling: Polling | undefined;
  #pause: NodeJS.Timeout | undefined;
  #isOpen = true;

  private constructor(fd: number) {
    this.#fd = fd;
    this.port = localPort(fd);
  }

  /** Rejects as node:net does: `code` is the name of the errno. */
  static async listen(host: string, port: number): Promise<Acceptor> {
    const { address } = await lookup(host);
    try {
      return new Acceptor(listenTcp(address, port, BACKLOG));
    } catch (error) {
      if (!(error instanceof FsError)) throw error;
      throw Object.assign(new Error(`${error.message}, ${host}:${port}`), { code: getSystemErrorName(-error.code) });
    }
  }

  /** `enter` owns each descriptor. Until it is called, connections wait. */
  start(enter: (accepted: Accepted) => void): void {
    this.#polling = pollReadable(this.#fd, () => {
      for (let count = 0; count < BATCH && this.#isOpen; count++) {
        const accepted = acceptTcp(this.#fd);
        if (typeof accepted === 'object') enter(accepted);
        else if (accepted === -errno.EAGAIN) return;
        else if (!GONE.has(-accepted)) return this.#rest();
      }
    });
  }

  #rest(): void {
    this.#polling?.pause();
    this.#pause = setTimeout(() => this.#polling?.resume(), PAUSE_MS);
  }

  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    clearTimeout(this.#pause);
    this.#polling?.close();
    close(this.#fd);
  }
}
