/**
 * The child process of fuse-native.test.ts: a server on a directory, a session with it, and a fuse-native mount of that session, all
 * in one process that makes no call on the mount. So whatever goes wrong, killing this process ends the mount.
 *
 * Arguments: DIRECTORY MOUNTPOINT [OPTION...]. Talks over the IPC channel: sends `mounted`, `closed`, `failed`; is asked
 * `counts` and `unmount`.
 */
import pino from 'pino';
import { mountFuseNative } from '../../client-fuse/fuse-native/mount-fuse-native.ts';
import { parseServerAddress } from '../../client-fuse/transport/server-address.ts';
import { ServerSession } from '../../client-fuse/transport/server-session.ts';
import type { Filesystem } from '../../client-fuse/vfs/filesystem.ts';
import { RemoteFilesystem } from '../../client-fuse/vfs/remote-filesystem.ts';
import { openExports } from '../../server/open-exports.ts';
import { Server } from '../../server/server.ts';

/** What the parent asks, and gets as `counts`. */
export interface ChildCounts {
  readonly writeSizes: readonly number[];
  readonly readSizes: readonly number[];
  /** Of the filesystem: nodes that are held (1: only the root), and handles. */
  readonly nodes: number;
  readonly handles: number;
  readonly openFiles: number;
  readonly inFlight: number;
  readonly unexpectedErrors: number;
}

const [directory = '', mountpoint = '', ...mountOptions] = process.argv.slice(2);
const say = (kind: string, value?: unknown) => process.send?.({ kind, value });

const log = pino({ level: 'warn' }, pino.destination(2));
const exports = openExports([{ name: '/', directory, readOnly: false }], 'none', Buffer.alloc(32, 1), log);
const server = await Server.start({ exports, listen: { host: '127.0.0.1', port: 0 }, log, pollUs: 0 });
const session = await ServerSession.connect(parseServerAddress(`ws://127.0.0.1:${server.port}/`), log);
const remote = new RemoteFilesystem(session);

let writeSizes: number[] = [];
let readSizes: number[] = [];
const filesystem: Filesystem = new Proxy(remote, {
  get(target, property) {
    const method: unknown = Reflect.get(target, property, target);
    if (typeof method !== 'function') return method;
    return (...args: unknown[]) => {
      if (property === 'write') writeSizes.push((args[3] as Uint8Array).length);
      if (property === 'read') readSizes.push(args[3] as number);
      return method.apply(target, args);
    };
  },
});

const end = async () => {
  session.close();
  await server.close();
  process.disconnect();
};

try {
  const mount = await mountFuseNative({ filesystem, mountpoint, options: { fsname: 'a,b\\c', mountOptions }, log });
  process.on('message', async (question: string) => {
    if (question === 'counts') {
      const counts: ChildCounts = { writeSizes, readSizes, ...remote.counts, ...mount.counts };
      [writeSizes, readSizes] = [[], []];
      say('counts', counts);
    } else if (question === 'unmount') {
      await mount.unmount().catch((error: Error) => say('busy', error.message));
    }
  });
  say('mounted');
  await mount.closed;
  say('closed', remote.counts);
} catch (error) {
  say('failed', (error as Error).message);
}
await end();
