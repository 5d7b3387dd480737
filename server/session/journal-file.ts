/**
 * The journal's file in the state directory. A full disk does not stop the server: what could not be noted is logged,
 * and may be applied twice if the server is killed right then.
 */
import { constants, fstatSync, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import type { Logger } from 'pino';
import { errno, FsError } from '../../shared/errno.ts';
import { bootId } from '../../shared/linux/boot-id.ts';
import { pwrite } from '../../shared/linux/libc.ts';
import { type JournalFile, RequestJournal } from './request-journal.ts';

class StateFile implements JournalFile {
  readonly #fd: number;
  readonly #log: Logger;
  #hasFailed = false;

  constructor(path: string, log: Logger) {
    this.#fd = openSync(path, constants.O_RDWR | constants.O_CREAT, 0o600);
    this.#log = log;
  }

  get bytes(): number {
    return fstatSync(this.#fd).size;
  }

  read(position: number, length: number): Buffer {
    const buffer = Buffer.alloc(length);
    return buffer.subarray(0, readSync(this.#fd, buffer, 0, length, position));
  }

  write(data: Uint8Array, position: number): void {
    try {
      if (pwrite(this.#fd, data, position) < data.length) throw new FsError(errno.ENOSPC, 'journal');
    } catch (error) {
      if (!this.#hasFailed) this.#log.error({ err: error }, 'the journal of requests cannot be written');
      this.#hasFailed = true;
    }
  }
}

/** The state directory is this server's: see ClientListFile. */
export function openJournal(directory: string, log: Logger): RequestJournal {
  // CLOCK_MONOTONIC: since the start of the machine, for all its processes; nobody sets it.
  const nowMs = Number(process.hrtime.bigint() / 1_000_000n);
  return new RequestJournal(new StateFile(join(directory, 'requests.journal'), log), bootId(), nowMs);
}
