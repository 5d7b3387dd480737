/** `weft status [URL|PATH]`: what is mounted here, and what the servers behind it say. */
import { lstat } from 'node:fs/promises';
import { hostname } from 'node:os';
import { resolve } from 'node:path';
import Table from 'cli-table3';
import type { Command } from 'commander';
import pino from 'pino';
import { runCommand } from '../../client-fuse/mount/command.ts';
import { parseMountOptions } from '../../client-fuse/mount/mount-options.ts';
import { askMount, type MountStatus } from '../../client-fuse/mount/mount-status.ts';
import { isWeftMount, type Mount, readMounts } from '../../client-fuse/mount/mount-table.ts';
import { type Credentials, serverAddressWith } from '../../client-fuse/transport/server-address.ts';
import { ServerSession } from '../../client-fuse/transport/server-session.ts';
import type { InodeStatus, ServerStatus } from '../../server/admin/status.ts';
import {
  type CredentialOptions,
  credentialLists,
  warnOfTokenFile,
  withCredentialOptions,
} from './credential-options.ts';
import { mountCredentials } from './mount-credentials.ts';

export function addStatusCommand(program: Command): void {
  withCredentialOptions(program.command('status'))
    .description('show mounts of this machine, and the state of a server')
    .argument('[URL|PATH]', 'one server, one mount, or a file in a mount; without it, all mounts of this machine')
    .option('--file <PATH>', "with a URL, on the server's machine: who holds leases on this file")
    .option('--locks', 'who holds locks (fcntl, flock), and who waits for one')
    .option('--json', 'for programs')
    .addHelpText('after', '\nExample:\n  weft status ws://127.0.0.1:7333/\n  weft status /mnt/projects/notes.txt')
    .action(status);
}

interface MountAnswer extends Partial<MountStatus> {
  readonly mountpoint: string;
  readonly error?: string;
  /** In place of counts, when nothing is amiss. */
  readonly note?: string;
}

interface Answer {
  readonly url: string;
  readonly mountpoints: string[];
  /** What each mount says about itself. */
  readonly mounts: readonly MountAnswer[];
  readonly server?: ServerStatus;
  readonly error?: string;
}

interface StatusOptions extends CredentialOptions {
  readonly json?: true;
  readonly locks?: true;
  readonly file?: string;
}

async function status(target: string | undefined, options: StatusOptions): Promise<void> {
  const { json, locks, file } = options;
  const { credentials } = parseMountOptions(credentialLists(options));
  warnOfTokenFile(credentials);
  const mounts = (await readMounts()).filter(isWeftMount);
  const asked = fileOf(target, file, mounts);
  if (asked) return showFile(await askFile(asked, credentials), json === true);
  const shown = mountsOf(target, mounts);
  const answers = await Promise.all(urlsOf(target, shown).map((url) => ask(url, shown, credentials)));
  const isAmiss = ({ error, mounts }: Answer) => error !== undefined || mounts.some((one) => one.error !== undefined);
  if (answers.some(isAmiss)) process.exitCode = 1;
  if (json) return console.log(JSON.stringify(answers, null, 2));
  if (answers.length === 0) console.log('nothing is mounted here; `weft mount URL MOUNTPOINT` mounts');
  for (const answer of answers) {
    show(answer);
    if (locks && answer.server) showLocks(answer.server);
  }
}

interface FileOf {
  readonly url: string;
  readonly path: string;
  /** In which it is. */
  readonly mount?: Mount;
}

/** A path below a mount point, or on the server's machine. */
function fileOf(target: string | undefined, file: string | undefined, mounts: readonly Mount[]): FileOf | undefined {
  if (target === undefined || target.includes('://')) {
    if (file === undefined) return undefined;
    if (target === undefined) throw new Error('--file needs the URL of the server: `weft status URL --file PATH`');
    return { url: target, path: resolve(file) };
  }
  const path = resolve(target);
  if (mounts.some(({ mountpoint }) => mountpoint === path)) return undefined;
  const isBelow = ({ mountpoint }: Mount) => path.startsWith(`${mountpoint}/`);
  const mount = mounts.filter(isBelow).sort((a, b) => b.mountpoint.length - a.mountpoint.length)[0];
  return mount && { url: mount.source, path, mount };
}

/** A mount whose server is away would keep `lstat` waiting. */
const LOOK_WITHIN_MS = 5_000;

interface FileAnswer extends Pick<FileOf, 'url' | 'path'> {
  readonly ino: string;
  readonly inodes: readonly InodeStatus[];
}

async function askFile({ url, path, mount }: FileOf, given: Credentials): Promise<FileAnswer> {
  const late = new Promise<never>((_, reject) => {
    setTimeout(
      () => reject(new Error(`${path}: no answer; \`weft status\` says how its mount is`)),
      LOOK_WITHIN_MS,
    ).unref();
  });
  const look = lstat(path, { bigint: true }).catch((error: NodeJS.ErrnoException) => {
    throw new Error(`${path} cannot be looked at (${error.code})`);
  });
  const { ino } = await Promise.race([look, late]);
  const credentials = { ...(mount && (await mountCredentials(mount))), ...given };
  const session = await ServerSession.connect(serverAddressWith(url, credentials), pino({ level: 'silent' }));
  try {
    const { json } = await session.call('inodeStatus', [], { ino });
    return { url, path, ino: String(ino), inodes: JSON.parse(json) as InodeStatus[] };
  } finally {
    session.close();
  }
}

function showFile(answer: FileAnswer, json: boolean): void {
  if (json) return console.log(JSON.stringify(answer, null, 2));
  console.log(`${answer.path}: inode ${answer.ino} of ${answer.url}`);
  if (answer.inodes.length === 0) console.log('  the server knows nothing of it: no lease, no open handle');
  for (const { openHandles, writers, localPrograms, leases } of answer.inodes) {
    console.log(`  open handles: ${openHandles}, of which ${writers} may write`);
    console.log(`  programs on the server: ${localPrograms}`);
    for (const { client, kind, sinceSeconds, recallPending } of leases) {
      console.log(`  ${kind} lease: ${client}, for ${sinceSeconds} s${recallPending ? ', being recalled' : ''}`);
    }
  }
}

/** Those that are meant: of a server, the one at a path, or all. */
function mountsOf(target: string | undefined, mounts: readonly Mount[]): readonly Mount[] {
  if (target === undefined || target.includes('://')) return mounts;
  const mountpoint = resolve(target);
  const mount = mounts.findLast((one) => one.mountpoint === mountpoint);
  if (!mount) throw new Error(`${mountpoint} is not a weft mount; \`weft status\` lists those of this machine`);
  return [mount];
}

function urlsOf(target: string | undefined, mounts: readonly Mount[]): string[] {
  return target?.includes('://') ? [target] : [...new Set(mounts.map(({ source }) => source))];
}

async function ask(url: string, mounts: readonly Mount[], credentials: Credentials): Promise<Answer> {
  const here = mounts.filter(({ source }) => source === url);
  const mountpoints = here.map(({ mountpoint }) => mountpoint);
  const known = here[0] && (await mountCredentials(here[0]));
  const [mountAnswers, server] = await Promise.all([
    Promise.all(here.map(askOne)),
    askServer(url, { ...known, ...credentials }),
  ]);
  return { url, mountpoints, mounts: mountAnswers, ...server };
}

async function askOne({ mountpoint, device }: Mount): Promise<MountAnswer> {
  try {
    return { mountpoint, ...(await askMount(device)) };
  } catch (error) {
    return { mountpoint, ...(await whySilent(mountpoint, error as Error)) };
  }
}

/** statfs is always asked of the client, by a child that can be killed. */
async function whySilent(mountpoint: string, { message }: Error): Promise<Pick<MountAnswer, 'error' | 'note'>> {
  const probe = await runCommand('stat', ['-f', '--', mountpoint], { timeoutMs: LOOK_WITHIN_MS });
  if (probe.stderr.includes('not connected') || probe.stderr.includes('connection abort'))
    return { error: `its client is dead: \`weft umount ${mountpoint}\`` };
  if (probe.status !== 0) return { error: message };
  return { note: 'it works; its client keeps no counts (the driver fuse-native) or cannot be asked from here' };
}

/** As a session names its client. */
const self = `${hostname()}:${process.pid}`;

async function askServer(url: string, credentials: Credentials): Promise<Pick<Answer, 'server' | 'error'>> {
  try {
    const session = await ServerSession.connect(serverAddressWith(url, credentials), pino({ level: 'silent' }));
    const { json } = await session.call('status', [], {});
    session.close();
    const server = JSON.parse(json) as ServerStatus;
    return { server: { ...server, sessions: server.sessions.filter(({ client }) => client !== self) } };
  } catch (error) {
    return { error: (error as Error).message };
  }
}

function showMount(one: MountAnswer): void {
  console.log(`  mount ${one.mountpoint}:`);
  const words = one.error ?? one.note;
  if (words !== undefined) return console.log(`    ${words}`);
  const { hits = 0, misses = 0, serverAwaySeconds, leasesUsableMs = 0 } = one;
  const rate = hits + misses > 0 ? `${((100 * hits) / (hits + misses)).toFixed(1)} %` : 'nothing asked yet';
  const away = serverAwaySeconds === null ? '' : `, the server has been away for ${serverAwaySeconds} s`;
  const usable = leasesUsableMs > 0 ? 'in use' : 'not used now';
  console.log(`    client: pid ${one.pid}, up ${one.upSeconds} s, ${one.openFiles} open files${away}`);
  console.log(`    leases: ${one.leases} held, ${usable}; ${one.recalls} recalled so far`);
  console.log(`    answered from memory: ${hits} of ${hits + misses} lookups, stats and opens (${rate})`);
  const inFlight = `${one.requestsInFlight} in flight`;
  console.log(`    requests: ${one.kernelRequests} by the kernel, ${one.serverRequests} to the server, ${inFlight}`);
}

const BEYOND_EVERY_FILE = String(2n ** 63n);

function showLocks({ locks }: ServerStatus): void {
  const table = new Table({
    style: { head: [], border: [] },
    head: ['inode', 'kind', 'mode', 'bytes', 'client', 'pid', 'state'],
  });
  for (const { ino, kind, mode, start, end, client, pid, isWaiting } of locks.list) {
    const bytes = `${start}..${end === BEYOND_EVERY_FILE ? '' : end}`;
    table.push([ino, kind, mode, bytes, client, pid, isWaiting ? 'waits' : 'held']);
  }
  console.log(table.toString());
  const listed = locks.list.length;
  if (listed < locks.held + locks.waiting) console.log(`  the first ${listed} of them`);
}

function showGrace(grace: NonNullable<ServerStatus['grace']>): void {
  const { holdsUpChanges, holdsUpLocks, holdsUpPages, atMostSeconds, clients } = grace;
  const waits = [
    ...(holdsUpChanges ? ['changes wait'] : []),
    ...(holdsUpLocks ? ['new locks wait'] : []),
    ...(holdsUpPages ? ['nothing is cached by the page'] : []),
  ];
  console.log(`  grace period after its start, for at most ${atMostSeconds} s more: ${waits.join(', ')}`);
  for (const one of clients) {
    const held = one.heldLocks ? 'held locks' : one.wrote ? 'had files open for writing' : 'held leases';
    console.log(`    awaited: ${one.client}, export "${one.export}", ${held}${one.isBack ? ', is back' : ''}`);
  }
}

function show({ url, mounts, server, error }: Answer): void {
  console.log(url);
  for (const mount of mounts) showMount(mount);
  if (error !== undefined) return console.log(`  ${error}`);
  if (server === undefined) return;
  const memoryMiB = Math.round(server.memoryBytes / 2 ** 20);
  console.log(`  server: pid ${server.pid}, up ${server.uptimeSeconds} s, ${memoryMiB} MiB`);
  for (const one of server.exports) {
    console.log(`  export "${one.name}": ${one.directory}${one.readOnly ? ', read-only' : ''}, squash ${one.squash}`);
    const { recallsSent, recallsPending, revocations, exclusive, read, localChanges } = one.leases;
    const recalls = `${recallsSent} recalls sent, ${recallsPending} pending, ${revocations} clients revoked`;
    console.log(
      `    leases: ${exclusive} exclusive, data of ${read} files, ${recalls}, ${localChanges} changes by local programs`,
    );
    for (const guarantee of one.guarantees) console.log(`    - ${guarantee}`);
  }
  console.log(`  locks: ${server.locks.held} held, ${server.locks.waiting} waited for (\`--locks\` lists them)`);
  if (server.grace) showGrace(server.grace);
  const table = new Table({
    style: { head: [], border: [] },
    head: ['client', 'export', 'open files', 'leases', 'in flight', 'requests', 'read', 'written', 'state'],
  });
  for (const one of server.sessions) {
    const state = one.absentSeconds === null ? 'connected' : `away for ${one.absentSeconds} s`;
    const megabytes = (bytes: number) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
    const traffic = [megabytes(one.bytesRead), megabytes(one.bytesWritten)];
    table.push([
      one.client,
      one.export,
      one.openFiles,
      one.leases,
      one.requestsInFlight,
      one.requests,
      ...traffic,
      state,
    ]);
  }
  console.log(table.toString());
}
