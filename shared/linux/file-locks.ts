/** The kernel's own locks of open files, between this process and other local programs. */
import koffi from 'koffi';
import { errno, FsError } from '../errno.ts';
import { declare, keepAlive } from './call.ts';
import { F } from './constants.ts';

const c = {
  flock: declare('int flock(int fd, int operation)'),
  fcntl: declare('int fcntl(int fd, int command, void *lock)'),
} as const;

const LOCK_EX = 2;
const LOCK_NB = 4;

/** False: another open file has it locked. As flock(2): given back when the last descriptor of this open file is closed. */
export function tryLockFile(fd: number): boolean {
  if (c.flock(fd, LOCK_EX | LOCK_NB) === 0) return true;
  const code = koffi.errno();
  if (code === errno.EAGAIN) return false;
  throw new FsError(code, 'flock');
}

/** How flock(2) and fcntl(2) say what is wanted. */
const LOCKS = { exclusive: { flock: LOCK_EX, type: F.WRLCK }, none: { flock: 8, type: F.UNLCK } } as const;
const F_OFD_SETLKW = 38;
/** struct flock: type, whence, start, length (0: all of it), process. */
const FLOCK_BYTES = 32;

/** A lock of the open file on all of its bytes, waited for on a thread: of flock(2), or the one of fcntl(2). */
export function lockFileAsync(fd: number, kind: 'flock' | 'fcntl', wanted: keyof typeof LOCKS): Promise<void> {
  const { flock, type } = LOCKS[wanted];
  const lock = Buffer.alloc(FLOCK_BYTES);
  lock.writeInt16LE(type);
  return new Promise((resolve, reject) => {
    const done = (error: Error | null, result: number) => {
      keepAlive(lock);
      if (error) reject(error);
      else if (result < 0) reject(new FsError(koffi.errno(), kind));
      else resolve();
    };
    if (kind === 'flock') c.flock.async(fd, flock, done);
    else c.fcntl.async(fd, F_OFD_SETLKW, lock, done);
  });
}
