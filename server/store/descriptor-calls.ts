/**
 * The system calls on an open file's descriptor that handlers make besides the Store's own: a Store brings them, so that a
 * store without a kernel behind it (a simulated disk) has descriptors of its own kind. `linuxDescriptors` are the real ones.
 * All throw or reject with FsError.
 */
import { fdatasync, fsync, ftruncate } from 'node:fs';
import { promisify } from 'node:util';
import type { U64 } from '../../shared/attributes.ts';
import { errnoOf, FsError } from '../../shared/errno.ts';
import { O } from '../../shared/linux/constants.ts';
import {
  close,
  fstat,
  type LocalAttributes,
  lease,
  leaseForReading,
  type ReadLease,
  reopen,
  setLease,
  startWritebackAsync,
} from '../../shared/linux/libc.ts';
import { type Listed, readEntries } from './directory-stream.ts';
import { readFully, writeFully } from './whole-transfers.ts';

export interface DescriptorCalls {
  stat(fd: number): LocalAttributes;
  /** Fills `buffer` from `offset` on; fewer bytes only at the end of the file. */
  read(fd: number, buffer: Buffer, offset: number): number | Promise<number>;
  /** Writes `data` at `offset` (null: where the descriptor appends); fewer bytes when the disk fills up in the middle. */
  write(fd: number, data: Uint8Array, offset: number | null, inTurn?: boolean): number | Promise<number>;
  /** Durable when it resolves. */
  synchronize(fd: number, what: 'data' | 'all'): Promise<void>;
  truncate(fd: number, size: number): Promise<void>;
  /** The disk may begin with these bytes; nothing is durable by it. */
  startWriteback(fd: number, offset: number, length: number): Promise<void>;
  /** Another descriptor of the same file, that appends. The caller's to close. */
  openToAppend(fd: number): number;
  /** Makes local programs that open the file wait, or lets them go on. False: one has it open already. */
  holdOffLocalOpens(fd: number, isHeldOff: boolean): boolean;
  /**
   * Makes local programs that open the file to write wait until it is disposed; `onWriter` is called when one does.
   * 'written': one has it open already. 'refused': there is no such thing here.
   */
  holdOffLocalWriters(fd: number, onWriter: () => void): ReadLease | 'written' | 'refused';
  /** Of a directory: about `sizeBytes` worth of entries after `cookie`. */
  entries(fd: number, cookie: U64, sizeBytes: number): Listed;
  close(fd: number): void;
}

const sync = { data: promisify(fdatasync), all: promisify(fsync) };
const truncateFile = promisify(ftruncate);

function failed(call: string): (error: unknown) => never {
  return (error) => {
    throw new FsError(errnoOf(error), call, { cause: error });
  };
}

export const linuxDescriptors: DescriptorCalls = {
  stat: fstat,
  read: readFully,
  write: writeFully,
  synchronize: (fd, what) => sync[what](fd).catch(failed('fsync')),
  truncate: (fd, size) => truncateFile(fd, size).catch(failed('ftruncate')),
  startWriteback: startWritebackAsync,
  openToAppend: (fd) => reopen(fd, O.WRONLY | O.APPEND | O.CLOEXEC),
  holdOffLocalOpens: (fd, isHeldOff) => setLease(fd, isHeldOff ? lease.WRITE : lease.NONE),
  holdOffLocalWriters: leaseForReading,
  entries: readEntries,
  close,
};
