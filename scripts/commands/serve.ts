/** `weft serve DIR`: exports directories until it is told to stop. */
import { accessSync, constants, existsSync } from 'node:fs';
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { Logger } from 'pino';
import { grantFile } from '../../server/access/grant-file.ts';
import { automaticTlsFiles, fingerprintOf, loadTls, type TlsMaterial } from '../../server/access/tls-files.ts';
import { closeExports, type Export } from '../../server/export.ts';
import { type ExportRequest, openExports } from '../../server/open-exports.ts';
import { Server, type ServerOptions } from '../../server/server.ts';
import { ClientList } from '../../server/session/client-list.ts';
import { ClientListFile } from '../../server/session/client-list-file.ts';
import { openJournal } from '../../server/session/journal-file.ts';
import { KeptChangesFile } from '../../server/session/kept-changes.ts';
import { defaultStateDirectory, loadHandleKey } from '../../server/store/handle-key.ts';
import { actsAsCallers, type Squash } from '../../server/store/identity.ts';
import type { ListenAddress } from '../../server/transport/listener.ts';
import { giveBackWhenIdle } from '../../shared/idle-memory.ts';
import { limits } from '../../shared/limits.ts';
import { isLoopback } from '../../shared/loopback.ts';
import { logLevelOption, openLog, pollOption } from './common-options.ts';
import { makeStateDirectory } from './state-directory.ts';

/** A client that is away for longer than an hour comes back as a new one. */
const MAX_LEASE_SECONDS = 3600;
/** Until then it may answer its programs from memory: its session must not end sooner, and others change what it shows. */
const MIN_LEASE_SECONDS = limits.leaseUseMs / 1000;

interface ServeOptions {
  readonly export: ExportRequest[];
  readonly listen: ListenAddress;
  readonly squash: Squash;
  readonly state: string;
  readonly insecureNoAuth?: true;
  readonly tls?: 'auto';
  readonly tlsCert?: string;
  readonly tlsKey?: string;
  readonly tlsClientCa?: string;
  readonly leases: boolean;
  readonly leaseTime: number;
  readonly readOnly?: true;
  readonly pollUs: number;
  readonly logLevel: string;
}

export function addServeCommand(program: Command): void {
  program
    .command('serve')
    .description('export a directory of this machine')
    .argument('[DIR]', 'the directory to export as "/"')
    .addOption(
      new Option('--export <NAME=DIR[:ro]>', 'export DIR under a name; may be repeated')
        .argParser(collectExport)
        .default([], 'none'),
    )
    .option('--read-only', 'refuse every change, below all exports')
    .addOption(
      new Option('--listen <HOST:PORT>', 'address to listen on')
        .argParser(parseListen)
        .default({ host: '127.0.0.1', port: 7333 }, '127.0.0.1:7333'),
    )
    .addOption(
      new Option('--squash <WHO>', 'whose identity is taken away: root becomes nobody, all do, or none')
        .choices(['root', 'all', 'none'])
        .default('root'),
    )
    .addOption(
      new Option('--tls <HOW>', 'wss://, with a certificate that is made at the first start').choices(['auto']),
    )
    .option('--tls-cert <FILE>', 'wss://, with this certificate and what leads to its CA')
    .option('--tls-key <FILE>', 'the key of --tls-cert')
    .option('--tls-client-ca <FILE>', 'accept certificates of this CA that `weft token create --certificate` names')
    .option('--insecure-no-auth', 'ask nobody who they are, on an address that others reach too')
    .option(
      '--state <DIR>',
      'where tokens, the certificate, the key of file handles and the state of clients are kept',
      defaultStateDirectory(),
    )
    .option('--no-leases', 'grant no leases: clients ask about names and attributes each time')
    .option(
      '--lease-time <SECONDS>',
      'how long a client may be away before others get the locks that it holds',
      parseLeaseTime,
      limits.sessionLeaseMs / 1000,
    )
    .addOption(pollOption('server'))
    .addOption(logLevelOption)
    .addHelpText(
      'after',
      '\nExample:\n  weft serve /srv/projects\n  weft serve --export home=/home --export iso=/srv/iso:ro',
    )
    .action(serve);
}

function collectExport(text: string, earlier: ExportRequest[]): ExportRequest[] {
  const match = /^([^=/]+)=(.+?)(:ro)?$/.exec(text);
  if (!match) throw new InvalidArgumentError('write NAME=DIR or NAME=DIR:ro; a name has no slash.');
  const [, name = '', directory = '', readOnly] = match;
  if (earlier.some((one) => one.name === name)) throw new InvalidArgumentError(`the name "${name}" is there twice.`);
  return [...earlier, { name, directory, readOnly: readOnly !== undefined }];
}

function parseListen(text: string): ListenAddress {
  const match = /^(?:\[(.+)\]|([^:]+)):(\d+)$/.exec(text);
  const port = Number(match?.[3]);
  if (!match || port > 65535) throw new InvalidArgumentError('write HOST:PORT, for instance 127.0.0.1:7333.');
  return { host: match[1] ?? match[2] ?? '', port };
}

function parseLeaseTime(text: string): number {
  const seconds = Number(text);
  if (!/^\d+$/.test(text) || seconds < MIN_LEASE_SECONDS || seconds > MAX_LEASE_SECONDS) {
    throw new InvalidArgumentError(`write whole seconds, ${MIN_LEASE_SECONDS} to ${MAX_LEASE_SECONDS}.`);
  }
  return seconds;
}

async function serve(directory: string | undefined, options: ServeOptions): Promise<void> {
  const named =
    directory === undefined ? options.export : [{ name: '/', directory, readOnly: false }, ...options.export];
  const requests = options.readOnly ? named.map((one) => ({ ...one, readOnly: true })) : named;
  if (requests.length === 0) throw new Error('nothing to serve: name a directory, `weft serve DIR`');
  const { listen, squash } = options;
  for (const one of requests) checkReadable(one.directory);
  makeStateDirectory(options.state);
  const tls = tlsOf(options);
  const asks = !options.insecureNoAuth && (existsSync(grantFile(options.state)) || options.tlsClientCa !== undefined);
  if (!isLoopback(listen.host) && !options.insecureNoAuth) refuseInsecure(listen, asks, tls);
  const log = openLog(options.logLevel, 'weft serve');
  const exports = openExports(requests, squash, loadHandleKey(options.state), log, options.leases);
  const server = await start(exports, options, log, tls, asks).catch((error: unknown) => {
    // What they wait for would keep this process from ending.
    closeExports(exports);
    throw error;
  });
  giveBackWhenIdle(() => server.activities);
  for (const one of exports) {
    const host = listen.host.includes(':') ? `[${listen.host}]` : listen.host;
    const path = one.name === '/' ? '/' : `/${one.name}`;
    console.log(
      `serving ${one.directory}${one.readOnly ? ' (read-only)' : ''} at ${tls ? 'wss' : 'ws'}://${host}:${server.port}${path}`,
    );
  }
  if (tls) console.log(`fingerprint ${fingerprintOf(tls.cert)}`);
  if (asks) console.log('clients need a token or a certificate: `weft token create NAME`');
  if (!actsAsCallers) console.log('not root: everything is done as this user, whoever asks');
  else if (squash === 'root') console.log('root of clients is treated as nobody (--squash none to trust it)');

  const stop = new Promise<NodeJS.Signals>((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, resolve);
  });
  const signal = await stop;
  log.info({ signal }, 'shutting down');
  await server.close();
}

/** What is not there, or no directory, is told of where it is opened. */
function checkReadable(directory: string): void {
  try {
    accessSync(directory, constants.R_OK | constants.X_OK);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EACCES') return;
    throw new Error(`${directory} cannot be read by this user: serve as a user who may, or export another directory`);
  }
}

async function start(
  exports: readonly Export[],
  { listen, pollUs, leaseTime, state }: ServeOptions,
  log: Logger,
  tls: TlsMaterial | undefined,
  asks: boolean,
): Promise<Server> {
  const sessionState = openSessionState(state, log);
  return Server.start({
    exports,
    listen,
    log,
    pollUs,
    sessionLeaseMs: leaseTime * 1000,
    ...sessionState,
    ...(tls ? { tls } : {}),
    ...(asks ? { grantFile: grantFile(state) } : {}),
  }).catch((error: unknown) => {
    throw new Error(explainListenError(listen, error), { cause: error });
  });
}

/** What survives a restart, beside keys and grants. */
function openSessionState(state: string, log: Logger): Pick<ServerOptions, 'clients' | 'journal' | 'changes'> {
  const file = ClientListFile.open(state);
  if (file) {
    const clients = new ClientList(file, log);
    return { clients, journal: openJournal(state, log), changes: new KeptChangesFile(state, log) };
  }
  const advice = 'locks, and requests under way, do not survive a restart; name another with --state';
  log.warn({ state }, `another server uses this directory: ${advice}`);
  return {};
}

function tlsOf({ tls, tlsCert, tlsKey, tlsClientCa, state }: ServeOptions): TlsMaterial | undefined {
  if ((tlsCert === undefined) !== (tlsKey === undefined)) throw new Error('--tls-cert and --tls-key go together');
  if (tls !== undefined && tlsCert !== undefined)
    throw new Error('--tls auto makes a certificate, --tls-cert brings one: leave one of them out');
  if (tlsCert !== undefined && tlsKey !== undefined) return loadTls(tlsCert, tlsKey, tlsClientCa);
  if (tls === undefined) {
    if (tlsClientCa === undefined) return undefined;
    throw new Error('--tls-client-ca needs --tls auto, or --tls-cert and --tls-key');
  }
  const files = automaticTlsFiles(state);
  return loadTls(files.cert, files.key, tlsClientCa);
}

function refuseInsecure({ host }: ListenAddress, asks: boolean, tls: TlsMaterial | undefined): void {
  const ways = 'or listen on 127.0.0.1, or accept that with --insecure-no-auth';
  const reached = `${host} may be reached from other machines, and`;
  if (!asks) throw new Error(`${reached} nobody is asked who they are: \`weft token create NAME\` first, ${ways}`);
  if (!tls) throw new Error(`${reached} tokens would be sent in clear: add --tls auto, ${ways}`);
}

function explainListenError({ host, port }: ListenAddress, error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === 'EADDRINUSE') return `${host}:${port} is in use: stop what listens there, or choose --listen HOST:PORT`;
  if (code === 'EACCES') return `${host}:${port} needs more rights: choose a port above 1023`;
  if (code === 'EADDRNOTAVAIL') return `${host} is not an address of this machine: choose another with --listen`;
  return `cannot listen on ${host}:${port}: ${message}`;
}
