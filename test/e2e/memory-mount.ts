/**
 * A whole mount of MemoryFilesystem, for the tests of the kernel driver: `supervise MOUNTPOINT [-o OPTIONS] [--background]` is
 * process A, `client` is process B. B listens on the Unix socket of WEFT_TEST_CONTROL: one JSON command a connection, one
 * JSON answer.
 */
import { createServer } from 'node:net';
import { fileURLToPath } from 'node:url';
import type { KernelDriver } from '../../client-fuse/kernel/kernel-driver.ts';
import { backgroundParent, mountInBackground } from '../../client-fuse/mount/background.ts';
import { MountError } from '../../client-fuse/mount/mount-error.ts';
import { parseMountOptions } from '../../client-fuse/mount/mount-options.ts';
import { failMount, serveMount } from '../../client-fuse/mount/serve-mount.ts';
import { superviseMount } from '../../client-fuse/mount/supervisor.ts';
import { LoopPoll } from '../../shared/loop-poll.ts';
import { MemoryFilesystem } from '../memory-filesystem.ts';

const write = (level: string) => (fields: object, message: string) =>
  process.stderr.write(`${level} ${message} ${JSON.stringify(fields)}\n`);
const log = { debug: () => {}, info: write('info'), warn: write('warn'), error: write('error') };

/** What a test may ask of process B. */
export type Control =
  | { readonly hang: string; readonly interruptible: boolean }
  | { readonly resume: true }
  | { readonly state: true };

export interface ControlState {
  readonly pid: number;
  readonly supervisor: number;
  readonly held: { lookups: number; inodes: number; handles: number };
  readonly waiting: number;
  readonly inFlight: number;
  readonly killedCallers: number;
  readonly unexpectedErrors: number;
  readonly lastGroups: readonly number[];
  readonly readSizes: readonly number[];
  readonly writeSizes: readonly number[];
}

async function client(): Promise<void> {
  if (process.env.WEFT_TEST_FAIL) {
    await failMount(process.env.WEFT_TEST_FAIL);
    process.exit(1);
  }
  const filesystem = new MemoryFilesystem({ directIo: process.env.WEFT_TEST_CACHED === undefined });
  let driver: KernelDriver | undefined;
  const obey = (control: Control): ControlState => {
    if ('hang' in control) filesystem.hanging.set(control.hang, { interruptible: control.interruptible });
    if ('resume' in control) filesystem.resume();
    return {
      pid: process.pid,
      supervisor: process.ppid,
      held: filesystem.held,
      waiting: filesystem.waiting,
      inFlight: driver?.inFlight ?? 0,
      killedCallers: driver?.counters.killedCallers ?? 0,
      unexpectedErrors: driver?.counters.unexpectedErrors ?? 0,
      lastGroups: filesystem.lastGroups,
      readSizes: filesystem.readSizes.slice(-20),
      writeSizes: filesystem.writeSizes.slice(-20),
    };
  };
  createServer((socket) => {
    socket.on('data', (line) => socket.end(JSON.stringify(obey(JSON.parse(String(line)) as Control))));
    socket.on('error', () => {});
  }).listen(process.env.WEFT_TEST_CONTROL);
  const spin = process.env.WEFT_TEST_SPIN_MS;
  await serveMount({
    filesystem,
    log,
    loop: new LoopPoll(spin === undefined ? 500 : Number(spin) * 1000),
    onReady: (_features, made) => {
      driver = made;
    },
  });
  process.exit(0);
}

async function supervise(args: readonly string[]): Promise<number> {
  const self = fileURLToPath(import.meta.url);
  const toTerminal = (line: string) => void process.stderr.write(`weft: ${line}\n`);
  if (args.includes('--background')) {
    const foreground = [process.execPath, self, 'supervise', ...args.filter((arg) => arg !== '--background')];
    return mountInBackground(foreground, { report: toTerminal });
  }
  const parent = backgroundParent();
  const report = (line: string) => (parent ? parent.report(line) : toTerminal(line));
  try {
    const [mountpoint = '', , list = ''] = args;
    return await superviseMount({
      source: 'memory',
      mountpoint,
      options: parseMountOptions([list]),
      clientCommand: [process.execPath, self, 'client'],
      log,
      report,
      onMounted: () => void (parent ? parent.mounted() : process.stdout.write('mounted\n')),
    });
  } catch (error) {
    if (!(error instanceof MountError)) throw error;
    await report(error.message);
    return 1;
  }
}

const [role, ...rest] = process.argv.slice(2);
if (role === 'client') await client();
else if (role === 'supervise') process.exit(await supervise(rest));
