/** The kernel's own leases of open files, between this process and other local programs. */
import { check, declare } from './call.ts';

const c = {
  fcntl: declare('int fcntl(int fd, int command, long argument)'),
} as const;

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
