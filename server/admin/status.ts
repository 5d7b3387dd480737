/** What `weft status` shows of a server: a snapshot as plain data, read by people and by scripts (`--json`). */
import { limits } from '../../shared/limits.ts';
import type { Export } from '../export.ts';
import type { Session } from '../session/session.ts';
import type { GraceStatus } from '../session/session-table.ts';
import type { Inode } from '../store/inode.ts';

/** What the snapshot is taken of; the server is one. */
export interface StatusSource {
  readonly startedMs: number;
  readonly connectionCount: number;
  readonly dispatcher: { readonly unexpectedErrors: number; readonly counts: ReadonlyMap<string, number> };
  readonly exports: ReadonlyMap<string, Export>;
  readonly sessions: {
    readonly all: Iterable<Session>;
    graceStatus(nowMs: number): GraceStatus | undefined;
  };
}

/** A lock of a program that is held or waited for. An end of 2^63 is beyond every file. */
interface ListedLock {
  readonly kind: 'posix' | 'flock';
  readonly mode: 'shared' | 'exclusive';
  readonly start: string;
  readonly end: string;
  readonly ino: string;
  readonly client: string;
  readonly pid: number;
  readonly isWaiting: boolean;
}

interface Locks {
  readonly held: number;
  readonly waiting: number;
  /** The first ones. */
  readonly list: readonly ListedLock[];
}

interface LeaseCounts {
  readonly recallsSent: number;
  readonly recallsPending: number;
  readonly revocations: number;
  readonly exclusive: number;
  /** Files that local programs wait for to write to. */
  readonly read: number;
  readonly localChanges: number;
}

export interface ServerStatus {
  readonly locks: Locks;
  /** The server was started lately, and clients are awaited. */
  readonly grace: GraceStatus | null;
  readonly pid: number;
  readonly uptimeSeconds: number;
  readonly memoryBytes: number;
  readonly connections: number;
  readonly unexpectedErrors: number;
  readonly requests: Readonly<Record<string, number>>;
  readonly exports: readonly {
    name: string;
    directory: string;
    readOnly: boolean;
    squash: string;
    guarantees: string[];
    leases: LeaseCounts;
  }[];
  readonly sessions: readonly {
    client: string;
    export: string;
    sinceSeconds: number;
    connections: number;
    absentSeconds: number | null;
    openFiles: number;
    leases: number;
    requestsInFlight: number;
    requests: number;
    bytesRead: number;
    bytesWritten: number;
  }[];
}

export function statusOf(server: StatusSource): ServerStatus {
  const nowMs = Date.now();
  return {
    pid: process.pid,
    uptimeSeconds: Math.round((nowMs - server.startedMs) / 1000),
    memoryBytes: process.memoryUsage.rss(),
    connections: server.connectionCount,
    unexpectedErrors: server.dispatcher.unexpectedErrors,
    requests: Object.fromEntries(server.dispatcher.counts),
    locks: locksOf(server.sessions.all),
    grace: server.sessions.graceStatus(performance.now()) ?? null,
    exports: [...server.exports.values()].map((one) => ({
      name: one.name,
      directory: one.directory,
      readOnly: one.readOnly,
      squash: one.squash,
      guarantees: guaranteesOf(one.usesKernelHandles, one.leases.guarantee),
      leases: one.leases.counts,
    })),
    sessions: [...server.sessions.all].map((session) => ({
      client: session.client,
      export: session.exported.name,
      sinceSeconds: Math.round((nowMs - session.createdMs) / 1000),
      connections: session.connections,
      absentSeconds: secondsSince(session.absentSinceMs),
      openFiles: session.openFiles,
      leases: session.leaseCount,
      requestsInFlight: session.inFlight,
      requests: session.requests,
      bytesRead: session.bytesRead,
      bytesWritten: session.bytesWritten,
    })),
  };
}

function secondsSince(absentSinceMs: number | undefined): number | null {
  return absentSinceMs === undefined ? null : Math.round((performance.now() - absentSinceMs) / 1000);
}

/** What `weft status PATH` shows of one inode of an export. */
export interface InodeStatus {
  readonly openHandles: number;
  readonly writers: number;
  /** What holds for programs on the server now. */
  readonly localPrograms: string;
  readonly leases: readonly {
    client: string;
    kind: 'shared' | 'exclusive';
    sinceSeconds: number;
    recallPending: boolean;
  }[];
}

export function inodeStatusOf({ store, leases }: Export, ino: bigint): InodeStatus[] {
  const nowMs = Date.now();
  return store.numbered(ino).map((inode) => ({
    openHandles: inode.opens,
    writers: inode.writers,
    localPrograms: localGuaranteeOf(inode, leases.makesWritersWait(inode)),
    leases: [...inode.leases.holders].map((holder) => ({
      client: holder.client,
      kind: inode.leases.exclusive === holder ? 'exclusive' : 'shared',
      sinceSeconds: Math.round((nowMs - (holder.leaseSinceMs(inode) ?? nowMs)) / 1000),
      recallPending: leases.isRecalled(holder, inode),
    })),
  }));
}

function locksOf(sessions: Iterable<Session>): Locks {
  let [held, waiting] = [0, 0];
  const list: ListedLock[] = [];
  for (const { locks } of sessions) {
    held += locks.lockCount;
    waiting += locks.waitingCount;
    for (const { lock, ino, isWaiting } of locks.all()) {
      if (list.length >= limits.maxListedLocks) break;
      const { kind, process } = lock.owner;
      const [start, end] = [String(lock.start), String(lock.end)];
      const { client } = process.holder;
      list.push({ kind, mode: lock.mode, start, end, ino: String(ino), client, pid: process.pid, isWaiting });
    }
  }
  return { held, waiting, list };
}

function localGuaranteeOf({ leases, isWrittenLocally }: Inode, makesWritersWait: boolean): string {
  if (leases.exclusive !== undefined)
    return 'kernel lease: an open waits until the client has written what it gathered';
  if (makesWritersWait)
    return 'kernel lease: an open to write waits until clients have dropped what they read; names and attributes: inotify, clients see a change within 50 ms';
  if (leases.holders.size > 0) return 'inotify: clients see a change within 50 ms';
  if (isWrittenLocally) return 'one had it open to write, so nothing is leased: clients ask each time';
  return 'nothing is leased: clients ask each time';
}

function guaranteesOf(usesKernelHandles: boolean, leases: string): string[] {
  return [
    'whole writes: one write(2) up to max_write never interleaves with another, on any mount or on disk',
    leases,
    usesKernelHandles
      ? 'handles survive renames and a restart of the server'
      : 'handles end with the server, and when a local program renames a file (no kernel handles here)',
  ];
}
