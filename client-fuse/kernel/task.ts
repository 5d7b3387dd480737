/**
 * Task: what /proc tells of the thread behind a request. Its supplementary groups (the FUSE header carries only uid and
 * gid), and whether it is being killed, for then its requests must be answered at once, server or no server. Read synchronously:
 * /proc never waits for a mount of ours. Source: proc_pid_status(5), proc_pid_stat(5), do_exit() and complete_signal()
 * in the kernel.
 */
import { readFileSync } from 'node:fs';

export interface TaskInspector {
  /** Supplementary groups of a thread; empty when it is gone, or 0 (the kernel itself). */
  groupsOf(pid: number): readonly number[];
  /** The thread has a fatal signal pending, or dies of one already. False when it is gone: it waits for nothing. */
  isBeingKilled(pid: number): boolean;
}

const NO_GROUPS: readonly number[] = [];

/** Signal 9 in the masks of /proc/PID/status. The kernel puts it there for every fatal signal without a core dump. */
const SIGKILL_BIT = 1n << 8n;
/** task_struct.flags: the thread is in do_exit(). */
const PF_EXITING = 0x4;

/** /proc of this machine. */
export const procTasks: TaskInspector = {
  groupsOf(pid) {
    const status = pid === 0 ? undefined : readProc(pid, 'status');
    return status === undefined ? NO_GROUPS : parseGroups(status);
  },

  isBeingKilled(pid) {
    if (pid === 0) return false;
    const status = readProc(pid, 'status');
    if (status === undefined) return false;
    if (hasSigkillPending(status)) return true;
    // Once a killed thread is in do_exit() its signals are taken, and it may wait in FLUSH for each file it had open.
    const stat = readProc(pid, 'stat');
    return stat !== undefined && diesOfSignal(stat);
  },
};

function readProc(pid: number, file: string): string | undefined {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'latin1');
  } catch {
    // The thread has ended, which is an answer.
    return undefined;
  }
}

function lineValue(status: string, key: string): string | undefined {
  const start = status.indexOf(`\n${key}:\t`);
  if (start < 0) return undefined;
  const from = start + key.length + 3;
  return status.slice(from, status.indexOf('\n', from));
}

export function parseGroups(status: string): number[] {
  const groups = (lineValue(status, 'Groups') ?? '').split(' ').filter((word) => word !== '');
  return groups.map(Number);
}

export function hasSigkillPending(status: string): boolean {
  for (const key of ['SigPnd', 'ShdPnd']) {
    const mask = lineValue(status, key);
    if (mask !== undefined && (BigInt(`0x${mask.trim()}`) & SIGKILL_BIT) !== 0n) return true;
  }
  return false;
}

/** Exiting, and with a signal as the reason. Fields are counted after the command's name, which may hold anything. */
export function diesOfSignal(stat: string): boolean {
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const flags = Number(fields[9 - 3]);
  const exitCode = Number(fields[52 - 3]);
  return (flags & PF_EXITING) !== 0 && (exitCode & 0x7f) !== 0;
}
