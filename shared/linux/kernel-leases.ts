/**
 * The kernel's own leases of open files, between this process and other local programs. Sources: fcntl(2) "Leases",
 * __break_lease() and do_dentry_open() in the kernel's fs/locks.c and fs/open.c, signalfd(2).
 */
import koffi from 'koffi';
import { assert } from '../assert.ts';
import { errno } from '../errno.ts';
import { check, declare, O_CLOEXEC } from './call.ts';
import { O } from './constants.ts';
import { close, type Polling, pollReadable, readNonblocking } from './descriptors.ts';
import { reopen } from './files.ts';

const c = {
  fcntl: declare('int fcntl(int fd, int command, long argument)'),
  fcntlPointer: declare('int fcntl(int fd, int command, void *argument)'),
  gettid: declare('int gettid()'),
  pthread_sigmask: declare('int pthread_sigmask(int how, void *set, void *old)'),
  signalfd: declare('int signalfd(int fd, void *mask, int flags)'),
} as const;

const F_SETSIG = 10;
const F_SETOWN_EX = 15;
const F_OWNER_TID = 0;
const F_SETLEASE = 1024;
const F_GETLEASE = 1025;

/** As fcntl(2): what a local open must wait for. */
export const lease = { READ: 0, WRITE: 1, NONE: 2 } as const;

/**
 * F_SETLEASE: until it is NONE again, opens of the file by other programs that conflict wait, and this process gets SIGIO
 * (which ends it unless it is handled). False when others have the file open, or this user may not.
 */
export function setLease(fd: number, kind: number): boolean {
  return c.fcntl(fd, F_SETLEASE, kind) === 0;
}

/** The kind that the lease has, or must become because somebody waits. */
export function getLease(fd: number): number {
  return check(c.fcntl(fd, F_GETLEASE, 0), 'fcntl');
}

/** Any descriptor of the file will do: the lease has one of its own. Disposed, whoever waits goes on. */
export interface ReadLease extends Disposable {}

/** What to call when somebody waits for a lease, by the lease's descriptor. */
const breaks = new Map<number, () => void>();
let polling: Polling | undefined;

/**
 * Until the lease is disposed, local programs that open the file to write, or truncate it, wait in the kernel, and `onBreak`
 * is called from the event loop. 'written': somebody has it open to write. 'refused': the filesystem has no leases, or this
 * user may not have one on this file. Throws FsError when it cannot be opened to read.
 */
export function leaseForReading(fd: number, onBreak: () => void): ReadLease | 'written' | 'refused' {
  const own = reopen(fd, O.RDONLY | O.NONBLOCK | O.CLOEXEC);
  // Before the lease is there: a signal of another kind, or to another thread, would be lost.
  check(c.fcntl(own, F_SETSIG, BREAK_SIGNAL), 'fcntl');
  check(c.fcntlPointer(own, F_SETOWN_EX, thisThread()), 'fcntl');
  if (breaks.size === 0) listen();
  if (!setLease(own, lease.READ)) {
    const isWritten = koffi.errno() === errno.EAGAIN;
    close(own);
    if (breaks.size === 0) polling?.pause();
    return isWritten ? 'written' : 'refused';
  }
  breaks.set(own, onBreak);
  return {
    [Symbol.dispose]() {
      assert(breaks.delete(own), 'a lease is given up once');
      close(own);
      // A poll keeps the process from ending.
      if (breaks.size === 0) polling?.pause();
    },
  };
}

/*
 * SIGIO would say that somebody waits, but not which of thousands of leases for. So they raise a real-time signal, which brings
 * the lease's descriptor: blocked in this thread, which alone is sent it, and read from a signalfd. Where too many are queued
 * already, the kernel sends SIGIO instead.
 */
const BREAK_SIGNAL = 40;
const SIG_BLOCK = 0;
const SIGSET_BYTES = 128;
const SFD_NONBLOCK = 0o4000;
/* signalfd_siginfo: 128 bytes, the descriptor i32 at 20 */
const SIGINFO_BYTES = 128;
const SIGINFO_FD_AT = 20;
const signals = Buffer.alloc(64 * SIGINFO_BYTES);

function listen(): void {
  if (polling) return polling.resume();
  const set = Buffer.alloc(SIGSET_BYTES);
  set.writeBigUInt64LE(1n << BigInt(BREAK_SIGNAL - 1), 0);
  check(c.pthread_sigmask(SIG_BLOCK, set, null), 'pthread_sigmask');
  const fd = check(c.signalfd(-1, set, SFD_NONBLOCK | O_CLOEXEC), 'signalfd');
  polling = pollReadable(fd, () => readSignals(fd));
  process.on('SIGIO', () => {
    for (const own of breaks.keys()) tell(own);
  });
}

function readSignals(fd: number): void {
  for (;;) {
    const length = readNonblocking(fd, signals);
    if (length <= 0) return;
    for (let at = 0; at < length; at += SIGINFO_BYTES) tell(signals.readInt32LE(at + SIGINFO_FD_AT));
  }
}

/** The signal may be of a lease that is gone, whose descriptor is another's now. */
function tell(own: number): void {
  const onBreak = breaks.get(own);
  if (onBreak && getLease(own) !== lease.READ) onBreak();
}

/** struct f_owner_ex: type i32, tid i32 */
function thisThread(): Buffer {
  const owner = Buffer.alloc(8);
  owner.writeInt32LE(F_OWNER_TID, 0);
  owner.writeInt32LE(c.gettid(), 4);
  return owner;
}
