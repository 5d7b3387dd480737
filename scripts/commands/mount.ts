/**
 * `weft mount URL MOUNTPOINT`: parses, then supervises (in the background unless -f); and the hidden `mount-client`, the
 * supervised process that talks to the server and the kernel.
 */
import { availableParallelism } from 'node:os';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Command, Option } from 'commander';
import type { Logger } from 'pino';
import type { KernelDriver } from '../../client-fuse/kernel/kernel-driver.ts';
import { backgroundParent, mountInBackground } from '../../client-fuse/mount/background.ts';
import { type MountOptions, mountOptionNames, parseMountOptions } from '../../client-fuse/mount/mount-options.ts';
import { answerStatus, type MountStatus } from '../../client-fuse/mount/mount-status.ts';
import { hasMountsInside } from '../../client-fuse/mount/mount-table.ts';
import { failMount, serveMount } from '../../client-fuse/mount/serve-mount.ts';
import { superviseMount } from '../../client-fuse/mount/supervisor.ts';
import { tokenFileWarning } from '../../client-fuse/transport/credentials.ts';
import { environmentToken } from '../../client-fuse/transport/environment-token.ts';
import { serverAddressWith } from '../../client-fuse/transport/server-address.ts';
import { ServerSession } from '../../client-fuse/transport/server-session.ts';
import { RemoteFilesystem } from '../../client-fuse/vfs/remote-filesystem.ts';
import { giveBackWhenIdle } from '../../shared/idle-memory.ts';
import { LoopPoll } from '../../shared/loop-poll.ts';
import { logLevelOption, openLog, pollOption } from './common-options.ts';
import {
  type CredentialOptions,
  credentialLists,
  warnOfTokenFile,
  withCredentialOptions,
} from './credential-options.ts';
import { failNativeMount, serveNativeMount, superviseNativeMount } from './mount-native.ts';

interface MountCommandOptions extends CredentialOptions {
  readonly foreground?: true;
  readonly soft?: true;
  readonly timeout?: string;
  readonly o: string[];
  readonly driver: 'kernel' | 'fuse-native';
  readonly logFile?: string;
  readonly logLevel: string;
  readonly pollUs: number;
}

/** How long a soft mount waits for a silent server. */
const DEFAULT_SOFT_TIMEOUT_MS = 30_000;

/** After so long without the server what is still to be written is worth a line. */
const HAND_OVER_MS = 1000;

const collect = (text: string, earlier: string[]): string[] => [...earlier, text];
const mountOption = () =>
  new Option('-o <OPTIONS>', 'as mount(8): ro, allow_other, uid=, gid=, umask=, noatime, ...')
    .argParser(collect)
    .default([], 'none');
const driverOption = () =>
  new Option('--driver <NAME>', 'how to talk to the kernel; fuse-native needs libfuse2')
    .choices(['kernel', 'fuse-native'])
    .default('kernel');

export function addMountCommand(program: Command): void {
  withCredentialOptions(program.command('mount'))
    .description('mount an export of a server; returns when the mount answers')
    .argument('URL', 'ws://HOST:PORT/ or wss://HOST:PORT/EXPORT')
    .argument('MOUNTPOINT', 'an empty directory')
    .option('-f, --foreground', 'stay in the foreground; Ctrl-C unmounts')
    .option('--soft', 'give callers ETIMEDOUT when the server is silent, instead of letting them wait')
    .option('--timeout <SECONDS>', 'for how long it may be silent with --soft (default: 30)')
    .addOption(mountOption())
    .addOption(driverOption())
    .addOption(pollOption('client'))
    .option('--log-file <FILE>', 'in the background: where the log goes (default: nowhere)')
    .addOption(logLevelOption)
    .addHelpText('after', `\nOptions of -o:\n${mountOptionLines()}`)
    .addHelpText('after', '\nExample:\n  weft mount ws://127.0.0.1:7333/ /mnt/projects -o allow_other,noatime')
    .action(mount);
  program
    .command('mount-client', { hidden: true })
    .argument('URL')
    .addOption(mountOption())
    .addOption(driverOption())
    .addOption(pollOption('client'))
    .option('--at <MOUNTPOINT>', 'for the driver that mounts by itself')
    .addOption(logLevelOption)
    .action(mountClient);
}

function mountOptionLines(): string {
  const lines: string[] = [];
  for (const name of mountOptionNames) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + name.length < 100) lines[lines.length - 1] = `${last} ${name}`;
    else lines.push(`  ${name}`);
  }
  return [...lines, '  README says what each means. Those of fstab (_netdev, nofail, x-*, ...) are passed over.'].join(
    '\n',
  );
}

/** Of V8's four compiler threads: on few processors they take these from the client itself, and one makes it quick sooner. */
const nodeOptions = availableParallelism() < 4 ? ['--v8-pool-size=1'] : [];

function self(...args: string[]): string[] {
  return [process.execPath, ...nodeOptions, fileURLToPath(new URL('../weft.cjs', import.meta.url)), ...args];
}

async function mount(url: string, mountpoint: string, options: MountCommandOptions): Promise<void> {
  environmentToken();
  const { soft, timeout } = options;
  const patience = [...(soft ? ['soft'] : []), ...(timeout === undefined ? [] : [`timeout=${timeout}`])];
  const o = [...options.o, ...credentialLists(options), ...patience];
  // What can be wrong with the command line is said at once, by the process that has the terminal.
  if (mountpoint.includes('://'))
    throw new Error(`the address goes before the mount point: \`weft mount ${mountpoint} ${url}\``);
  const parsed = parseMountOptions(o);
  serverAddressWith(url, parsed.credentials);
  const driver = parsed.client.driver ?? options.driver;
  const passed = [
    ...o.flatMap((one) => ['-o', one]),
    '--driver',
    driver,
    '--log-level',
    options.logLevel,
    '--poll-us',
    String(options.pollUs),
  ];
  const path = resolve(mountpoint);
  if (!options.foreground) {
    // With -f the log, where the client says so, is on the terminal.
    warnOfTokenFile(parsed.credentials);
    const report = (line: string) => console.error(`weft: ${line}`);
    const place = options.logFile === undefined ? {} : { logFile: resolve(options.logFile) };
    process.exitCode = await mountInBackground(self('mount', url, path, '-f', ...passed), { report, ...place });
    return;
  }
  await superviseInForeground(url, path, parsed, { ...options, driver }, self('mount-client', url, ...passed));
}

async function superviseInForeground(
  url: string,
  mountpoint: string,
  options: MountOptions,
  { driver, logLevel }: MountCommandOptions,
  clientCommand: string[],
): Promise<void> {
  const parent = backgroundParent();
  const log = openLog(logLevel, 'weft mount');
  // Who waits for the mount goes when it answers: what comes later is only in the log.
  const tell = (line: string): Promise<void> => {
    if (parent) log.warn({ mountpoint }, line);
    else console.error(`weft: ${line}`);
    return parent?.report(line) ?? Promise.resolve();
  };
  const report = (line: string) => void tell(line);
  const common = { mountpoint, clientCommand, report, onMounted: () => void parent?.mounted() };
  try {
    process.exitCode =
      driver === 'fuse-native'
        ? await superviseNativeMount({ ...common, nonempty: options.nonempty })
        : await superviseMount({ ...common, source: url, options, log });
  } catch (error) {
    if (parent === undefined) throw error;
    await tell((error as Error).message);
    process.exitCode = 1;
  }
}

async function mountClient(url: string, options: MountCommandOptions & { at?: string }): Promise<void> {
  // With a token file, too, which goes before it.
  environmentToken();
  const log = openLog(options.logLevel, 'weft client');
  const { pollUs } = options;
  const { client, allowOther, generic, credentials } = parseMountOptions(options.o);
  const warning = tokenFileWarning(credentials);
  if (warning !== undefined) log.warn({}, warning);
  const loop = new LoopPoll(pollUs);
  giveBackWhenIdle(() => loop.activities);
  let session: ServerSession | undefined;
  try {
    const softTimeoutMs = client.soft ? (client.timeoutMs ?? DEFAULT_SOFT_TIMEOUT_MS) : undefined;
    const address = serverAddressWith(url, credentials);
    const connected = await ServerSession.connect(address, log, loop, { softTimeoutMs });
    session = connected;
    const filesystem = new RemoteFilesystem(connected, client);
    if (options.at !== undefined) {
      const mountOptions = [...generic, ...(allowOther ? ['allow_other'] : [])];
      await serveNativeMount({ filesystem, url, mountpoint: options.at, mountOptions, log });
    } else {
      await serveMount({
        filesystem,
        log,
        loop,
        ...client,
        // A link's target never changes, and a node id is never used again.
        cacheSymlinks: true,
        checkPermissions: needsKernelChecks(connected, allowOther),
        handOver: () => handOver(filesystem, log),
        onReady: ({ epochs }, driver, mount) => {
          const { notifier } = driver;
          filesystem.attachKernel({ notifier, epochs, hasMountsInside: () => hasMountsInside(mount) });
          answerStatus(mount.device, statusOf(filesystem, driver, connected), log);
        },
      });
    }
    process.exitCode = 0;
  } catch (error) {
    const { message } = error as Error;
    await (options.at === undefined ? failMount(message) : failNativeMount(message));
    process.exitCode = 1;
  } finally {
    session?.close();
  }
  endWhenIdle(log);
}

/** Of programs that were killed something may still be on its way; the server may be away. */
async function handOver(filesystem: RemoteFilesystem, log: Logger): Promise<void> {
  const timer = setTimeout(() => {
    const files = filesystem.unwritten;
    log.warn({ files }, 'unmounted; this process stays until the server has what was written. To end it loses that');
  }, HAND_OVER_MS);
  await filesystem.drain();
  clearTimeout(timer);
}

/** What `weft status` shows of this mount. */
function statusOf(filesystem: RemoteFilesystem, driver: KernelDriver, session: ServerSession): () => MountStatus {
  const startedMs = Date.now();
  const secondsSince = (ms: number) => Math.round((Date.now() - ms) / 1000);
  return () => {
    const { handles, leases, hits, misses, recalls } = filesystem.counts;
    const { unreachableSinceMs } = session;
    return {
      pid: process.pid,
      upSeconds: secondsSince(startedMs),
      serverAwaySeconds: unreachableSinceMs === undefined ? null : secondsSince(unreachableSinceMs),
      leasesUsableMs: Math.max(0, Math.round(session.leasesUsableMs)),
      leases,
      hits,
      misses,
      recalls,
      kernelRequests: Object.values(driver.counters.requests).reduce((sum, count) => sum + count, 0),
      serverRequests: session.requests,
      requestsInFlight: session.inFlight,
      openFiles: handles,
    };
  };
}

/**
 * The server enforces every request's rights, but the kernel opens fifos, sockets and devices without a request: it must
 * know the rights too, unless only the mounting user can come here and the server does not tell users apart anyway.
 */
function needsKernelChecks(session: ServerSession, allowOther: boolean): boolean {
  return allowOther || session.hello.identity === 'caller';
}

/** A connection that lingers must not keep a process whose mount is gone. */
function endWhenIdle(log: Logger): void {
  setTimeout(() => {
    log.debug('ending with something still open');
    process.exit();
  }, 1000).unref();
}
