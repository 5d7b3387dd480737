/**
 * Exclusive leases and the kernel: a client gathers writes only while the server's kernel keeps everybody else out, local
 * programs too. So each exclusive lease belongs to one open handle, whose descriptor carries a kernel lease
 * (fcntl F_SETLEASE): a local open waits in the kernel until the client has written what it gathered. One an export,
 * owned by its LeaseManager. Source: fcntl(2) "Leases", check_conflicting_open() in the kernel's fs/locks.c.
 */
import { getLease, lease } from '../../shared/linux/libc.ts';
import type { Inode } from '../store/inode.ts';
import type { OpenFile } from '../store/open-file.ts';

export class ExclusiveLeases {
  readonly #files = new Map<Inode, OpenFile>();
  /** A local program waits for this inode. */
  readonly #onLocalOpen: (inode: Inode) => void;
  readonly #onSignal = (): void => this.#lookWhoWaits();
  #isListening = false;

  constructor(onLocalOpen: (inode: Inode) => void) {
    this.#onLocalOpen = onLocalOpen;
  }

  get size(): number {
    return this.#files.size;
  }

  has(inode: Inode): boolean {
    return this.#files.has(inode);
  }

  /** False when anyone else has the file open: programs on the server, or another handle of a client. */
  take(file: OpenFile): boolean {
    this.#listen();
    if (!file.canWrite || file.inode.opens > 1 || !file.calls.holdOffLocalOpens(file.fd, true)) return false;
    file.isExclusive = true;
    file.wasExclusive = true;
    this.#files.set(file.inode, file);
    file.onClose = () => this.end(file.inode);
    return true;
  }

  /** Whoever waits in the kernel goes on; what the client still sends under the lease is refused. */
  end(inode: Inode): void {
    const file = this.#files.get(inode);
    if (file === undefined) return;
    this.#files.delete(inode);
    file.isExclusive = false;
    file.onClose = undefined;
    file.calls.holdOffLocalOpens(file.fd, false);
    inode.leases.endExclusive();
  }

  #lookWhoWaits(): void {
    for (const [inode, { fd }] of this.#files) if (getLease(fd) !== lease.WRITE) this.#onLocalOpen(inode);
  }

  /** SIGIO ends the process where nobody handles it, so this stays until there can be no lease any more. */
  #listen(): void {
    if (this.#isListening) return;
    this.#isListening = true;
    process.on('SIGIO', this.#onSignal);
  }

  close(): void {
    for (const inode of [...this.#files.keys()]) this.end(inode);
    process.off('SIGIO', this.#onSignal);
  }
}
