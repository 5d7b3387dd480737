/** What belongs to the process, or to its thread: identity, umask, limits, environment. */
import { check, declare } from './call.ts';

const c = {
  setfsuid: declare('uint setfsuid(uint uid)'),
  setfsgid: declare('uint setfsgid(uint gid)'),
  syscall: declare('long syscall(long number, long a, void *b)'),
  umask: declare('uint umask(uint mask)'),
  getenv: declare('void *getenv(void *name)'),
  explicitBzero: declare('void explicit_bzero(void *memory, ulong size)'),
  strlen: declare('ulong strlen(void *text)'),
  getrlimit: declare('int getrlimit64(int resource, void *limit)'),
  setrlimit: declare('int setrlimit64(int resource, void *limit)'),
  getrusage: declare('int getrusage(int who, void *usage)'),
  mallocTrim: declare('int malloc_trim(ulong pad)'),
} as const;

/** SYS_setgroups, raw: glibc's setgroups changes all threads of the process, weft needs its own thread only. */
const SYS_SETGROUPS = process.arch === 'arm64' ? 159 : 116;

/** Of this thread. Returns the earlier value; a change that is not permitted changes nothing and is not reported. */
export function setfsuid(uid: number): number {
  return c.setfsuid(uid) as number;
}

export function setfsgid(gid: number): number {
  return c.setfsgid(gid) as number;
}

/** The supplementary groups of this thread only. */
export function setThreadGroups(groups: readonly number[]): void {
  const list = Buffer.alloc(Math.max(4, groups.length * 4));
  for (const [index, gid] of groups.entries()) list.writeUInt32LE(gid, index * 4);
  check(c.syscall(SYS_SETGROUPS, groups.length, list) as number, 'setgroups');
}

/** Of the whole process. Returns the earlier mask. */
export function umask(mask: number): number {
  return c.umask(mask) as number;
}

/**
 * The value of an environment variable, which is gone afterwards: from `process.env`, from what children get, and from the
 * memory that others read as /proc/PID/environ.
 */
export function takeFromEnvironment(name: string): string | undefined {
  const value = process.env[name];
  if (value === undefined) return undefined;
  const memory: unknown = c.getenv(Buffer.from(`${name}\0`));
  if (memory !== null) c.explicitBzero(memory, c.strlen(memory));
  delete process.env[name];
  return value;
}

/** What malloc(3) keeps of freed memory goes back to the system. */
export function trimMemory(): void {
  c.mallocTrim(0);
}

const RUSAGE_THREAD = 1;
const usage = Buffer.alloc(144);
const RU_NVCSW = 128;

/** How often this thread has waited for something so far, in the kernel: not how often others had its processor instead. */
export function threadWaits(): number {
  check(c.getrusage(RUSAGE_THREAD, usage), 'getrusage');
  return usage.readUInt32LE(RU_NVCSW);
}

const RLIMIT_NOFILE = 7;

/** Raises the limit of open descriptors as far as the system permits; the limit then in force. */
export function raiseOpenFileLimit(): number {
  const limit = Buffer.alloc(16);
  check(c.getrlimit(RLIMIT_NOFILE, limit), 'getrlimit');
  limit.writeBigUInt64LE(limit.readBigUInt64LE(8), 0);
  c.setrlimit(RLIMIT_NOFILE, limit);
  check(c.getrlimit(RLIMIT_NOFILE, limit), 'getrlimit');
  const soft = limit.readBigUInt64LE(0);
  return soft > BigInt(Number.MAX_SAFE_INTEGER) ? Number.MAX_SAFE_INTEGER : Number(soft);
}
