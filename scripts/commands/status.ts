/** `weft status [URL|MOUNTPOINT]`: what is mounted here, and what the servers behind it say. */
import { resolve } from 'node:path';
import Table from 'cli-table3';
import type { Command } from 'commander';
import pino from 'pino';
import { isWeftMount, type Mount, readMounts } from '../../client-fuse/mount/mount-table.ts';
import { parseServerAddress } from '../../client-fuse/transport/server-address.ts';
import { ServerSession } from '../../client-fuse/transport/server-session.ts';
import type { ServerStatus } from '../../server/admin/status.ts';

export function addStatusCommand(program: Command): void {
  program
    .command('status')
    .description('show mounts of this machine, and the state of a server')
    .argument('[URL|MOUNTPOINT]', 'one server or mount; without it, all mounts of this machine')
    .option('--json', 'for programs')
    .addHelpText('after', '\nExample:\n  weft status ws://127.0.0.1:7333/')
    .action(status);
}

interface Answer {
  readonly url: string;
  readonly mountpoints: string[];
  readonly server?: ServerStatus;
  readonly error?: string;
}

async function status(target: string | undefined, { json }: { json?: true }): Promise<void> {
  const mounts = (await readMounts()).filter(isWeftMount);
  const answers = await Promise.all(urlsOf(target, mounts).map((url) => ask(url, mounts)));
  if (json) return console.log(JSON.stringify(answers, null, 2));
  if (answers.length === 0) console.log('nothing is mounted here; `weft mount URL MOUNTPOINT` mounts');
  for (const answer of answers) show(answer);
  if (answers.some(({ error }) => error !== undefined)) process.exitCode = 1;
}

function urlsOf(target: string | undefined, mounts: readonly Mount[]): string[] {
  if (target === undefined) return [...new Set(mounts.map(({ source }) => source))];
  if (target.includes('://')) return [target];
  const mountpoint = resolve(target);
  const mount = mounts.find((one) => one.mountpoint === mountpoint);
  if (!mount) throw new Error(`${mountpoint} is not a weft mount; \`weft status\` lists those of this machine`);
  return [mount.source];
}

async function ask(url: string, mounts: readonly Mount[]): Promise<Answer> {
  const mountpoints = mounts.filter(({ source }) => source === url).map(({ mountpoint }) => mountpoint);
  try {
    const session = await ServerSession.connect(parseServerAddress(url), pino({ level: 'silent' }));
    const { json } = await session.call('status', [], {});
    session.close();
    return { url, mountpoints, server: JSON.parse(json) as ServerStatus };
  } catch (error) {
    return { url, mountpoints, error: (error as Error).message };
  }
}

function show({ url, mountpoints, server, error }: Answer): void {
  console.log(`${url}${mountpoints.length > 0 ? ` mounted at ${mountpoints.join(', ')}` : ''}`);
  if (error !== undefined) return console.log(`  ${error}`);
  if (server === undefined) return;
  const memoryMiB = Math.round(server.memoryBytes / 2 ** 20);
  console.log(`  server: pid ${server.pid}, up ${server.uptimeSeconds} s, ${memoryMiB} MiB`);
  for (const one of server.exports) {
    console.log(`  export "${one.name}": ${one.directory}${one.readOnly ? ', read-only' : ''}, squash ${one.squash}`);
    for (const guarantee of one.guarantees) console.log(`    - ${guarantee}`);
  }
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
