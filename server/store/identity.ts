/**
 * Who an operation runs as on the server. As root the server takes on the caller's fsuid, fsgid and groups for the
 * system calls of one operation, so its own kernel enforces permissions; otherwise everything runs as the server's user.
 * The switch is per thread (raw calls) and never spans an await: `runAs` takes a synchronous function.
 */
import { errno, FsError } from '../../shared/errno.ts';
import { setfsgid, setfsuid, setThreadGroups, umask } from '../../shared/linux/libc.ts';

/** Which callers lose their identity: `root` maps uid and gid 0 to nobody, `all` maps everyone, `none` nobody. */
export type Squash = 'root' | 'all' | 'none';

export interface Identity {
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly number[];
}

/** nobody and nogroup, as NFS uses them. */
export const ANONYMOUS: Identity = { uid: 65534, gid: 65534, groups: [] };

/** Nobody has it: a change to it changes nothing, and returns who it is. */
const NO_ID = 0xffffffff;

/** The server's own rights. */
export const SERVER: Identity = { uid: 0, gid: 0, groups: [] };

/** True when this process may act as other users. */
export const actsAsCallers = process.getuid?.() === 0;

/** The wire's [uid, gid, ...groups] as the identity that the export's squash leaves. */
export function identityOf(caller: readonly number[], squash: Squash): Identity {
  const [uid = ANONYMOUS.uid, gid = ANONYMOUS.gid, ...groups] = caller;
  if (squash === 'none') return { uid, gid, groups };
  if (squash === 'all' || uid === 0) return ANONYMOUS;
  const squashed = (id: number) => (id === 0 ? ANONYMOUS.gid : id);
  return { uid, gid: squashed(gid), groups: groups.map(squashed) };
}

/** Runs `work` with the caller's identity, and gives the thread its own back whatever happens. */
export function runAs<T>(identity: Identity, work: () => T): T {
  if (!actsAsCallers || (identity.uid === 0 && identity.gid === 0)) return work();
  try {
    setThreadGroups(identity.groups);
    setfsgid(identity.gid);
    setfsuid(identity.uid);
    // The calls do not say whether they worked: with an id that this system does not know, the work would be root's.
    if (setfsuid(NO_ID) !== identity.uid || setfsgid(NO_ID) !== identity.gid)
      throw new FsError(errno.EPERM, 'setfsuid');
    return work();
  } finally {
    setfsuid(SERVER.uid);
    setfsgid(SERVER.gid);
    setThreadGroups(SERVER.groups);
  }
}

/** The same with the caller's umask, for calls that create: the kernel applies it unless a default ACL takes its place. */
export function runAsCreator<T>(identity: Identity, mask: number, work: () => T): T {
  const earlier = umask(mask & 0o777);
  try {
    return runAs(identity, work);
  } finally {
    umask(earlier);
  }
}
