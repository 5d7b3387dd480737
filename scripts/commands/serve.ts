/** `weft serve DIR`: exports directories until it is told to stop. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { type ExportRequest, openExports } from '../../server/open-exports.ts';
import { Server } from '../../server/server.ts';
import { defaultStateDirectory, loadHandleKey } from '../../server/store/handle-key.ts';
import { actsAsCallers, type Squash } from '../../server/store/identity.ts';
import type { ListenAddress } from '../../server/transport/listener.ts';
import { logLevelOption, openLog, pollOption } from './common-options.ts';

interface ServeOptions {
  readonly export: ExportRequest[];
  readonly listen: ListenAddress;
  readonly squash: Squash;
  readonly state: string;
  readonly insecureNoAuth?: true;
  readonly leases: boolean;
  readonly readOnly?: true;
  readonly pollUs: number;
  readonly logLevel: string;
}

export function addServeCommand(program: Command): void {
  program
    .command('serve')
    .description('export a directory of this machine')
    .argument('[DIR]', 'the directory to export as "/"')
    .option('--export <NAME=DIR[:ro]>', 'export DIR under a name; may be repeated', collectExport, [])
    .option('--read-only', 'refuse every change below DIR')
    .option('--listen <HOST:PORT>', 'address to listen on', parseListen, { host: '127.0.0.1', port: 7333 })
    .addOption(
      new Option('--squash <WHO>', 'whose identity is taken away: root becomes nobody, all do, or none')
        .choices(['root', 'all', 'none'])
        .default('root'),
    )
    .option('--insecure-no-auth', 'listen on an address that others reach, although nobody is asked who they are')
    .option('--state <DIR>', 'where the key of file handles is kept', defaultStateDirectory())
    .option('--no-leases', 'grant no leases: clients ask about names and attributes each time')
    .addOption(pollOption())
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

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127\.\d+\.\d+\.\d+$/.test(host);
}

async function serve(directory: string | undefined, options: ServeOptions): Promise<void> {
  const requests = [...options.export];
  if (directory !== undefined) requests.unshift({ name: '/', directory, readOnly: options.readOnly ?? false });
  if (requests.length === 0) throw new Error('nothing to serve: name a directory, `weft serve DIR`');
  const { listen, squash } = options;
  if (!isLoopback(listen.host) && !options.insecureNoAuth) {
    throw new Error(
      `${listen.host} may be reached from other machines, and nobody is asked who they are: ` +
        'listen on 127.0.0.1, or accept that with --insecure-no-auth',
    );
  }
  const log = openLog(options.logLevel, 'weft serve');
  const exports = openExports(requests, squash, loadHandleKey(options.state), log, options.leases);
  const server = await Server.start({ exports, listen, log, pollUs: options.pollUs }).catch((error: unknown) => {
    throw new Error(explainListenError(listen, error), { cause: error });
  });
  for (const one of exports) {
    const host = listen.host.includes(':') ? `[${listen.host}]` : listen.host;
    const path = one.name === '/' ? '/' : `/${one.name}`;
    console.log(`serving ${one.directory}${one.readOnly ? ' (read-only)' : ''} at ws://${host}:${server.port}${path}`);
  }
  if (!actsAsCallers) console.log('not root: everything is done as this user, whoever asks');
  else if (squash === 'root') console.log('root of clients is treated as nobody (--squash none to trust it)');

  const stop = new Promise<NodeJS.Signals>((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, resolve);
  });
  const signal = await stop;
  log.info({ signal }, 'shutting down');
  await server.close();
}

function explainListenError({ host, port }: ListenAddress, error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === 'EADDRINUSE') return `${host}:${port} is in use: stop what listens there, or choose --listen HOST:PORT`;
  if (code === 'EACCES') return `${host}:${port} needs more rights: choose a port above 1023`;
  if (code === 'EADDRNOTAVAIL') return `${host} is not an address of this machine: choose another with --listen`;
  return `cannot listen on ${host}:${port}: ${message}`;
}
