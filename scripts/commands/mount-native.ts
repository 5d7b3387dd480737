/**
 * Mounting by the second driver: libfuse mounts by itself, inside the client process, so its supervisor only starts that
 * process, passes signals on, and takes the mount away when it died.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Logger } from 'pino';
import { mountFuseNative } from '../../client-fuse/fuse-native/mount-fuse-native.ts';
import { prepareMountPoint } from '../../client-fuse/mount/mount-point.ts';
import { isWeftMount, mountAt } from '../../client-fuse/mount/mount-table.ts';
import { detach } from '../../client-fuse/mount/unmount.ts';
import { environmentWithToken } from '../../client-fuse/transport/environment-token.ts';
import type { Filesystem } from '../../client-fuse/vfs/filesystem.ts';

const STOP_SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

type ToSupervisor = { readonly type: 'mounted' } | { readonly type: 'failed'; readonly line: string };

export interface NativeSupervision {
  readonly mountpoint: string;
  readonly nonempty: boolean;
  /** Program and arguments of the client process, which calls `serveNativeMount`. */
  readonly clientCommand: readonly string[];
  readonly report: (line: string) => void;
  readonly onMounted: () => void;
}

/** Resolves to the exit status when the mount has ended. Throws an Error of one line when it never came to be. */
export async function superviseNativeMount(options: NativeSupervision): Promise<number> {
  const mountpoint = await prepareMountPoint(options.mountpoint, options);
  const [program = '', ...args] = options.clientCommand;
  const client = spawn(program, [...args, '--at', mountpoint], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    env: environmentWithToken(),
  });
  const pass = (signal: NodeJS.Signals) => client.kill(signal);
  for (const signal of STOP_SIGNALS) process.on(signal, pass);
  let failure: string | undefined;
  client.on('message', (message: ToSupervisor) => {
    if (message.type === 'mounted') options.onMounted();
    else failure = message.line;
  });
  const [status] = (await once(client, 'exit')) as [number | null];
  for (const signal of STOP_SIGNALS) process.off(signal, pass);
  const left = await mountAt(mountpoint);
  if (left && isWeftMount(left)) await detach(mountpoint);
  if (failure !== undefined) throw new Error(failure);
  return status ?? 1;
}

export interface NativeMount {
  readonly filesystem: Filesystem;
  readonly url: string;
  readonly mountpoint: string;
  readonly mountOptions: readonly string[];
  readonly log: Logger;
}

/** In the client process: mounts, and resolves when the mount has ended. */
export async function serveNativeMount(request: NativeMount): Promise<void> {
  const { filesystem, url, mountpoint, mountOptions, log } = request;
  const mount = await mountFuseNative({ filesystem, mountpoint, options: { fsname: url, mountOptions }, log });
  const stop = () => {
    mount.unmount().catch((error: Error) => {
      log.warn({ mountpoint }, `${error.message}; it is taken away now, programs that use it get errors`);
      return mount.unmount({ lazy: true });
    });
  };
  for (const signal of STOP_SIGNALS) process.on(signal, stop);
  tell({ type: 'mounted' });
  await mount.closed;
}

/** Says why there will be no mount. */
export function failNativeMount(line: string): void {
  tell({ type: 'failed', line });
}

function tell(message: ToSupervisor): void {
  if (process.connected) process.send?.(message);
}
