/**
 * Serving a mount as the supervised client (process B): says that it is ready, receives the mounted /dev/fuse from the supervisor,
 * and runs the kernel driver until the mount is gone. Goes on by itself when the supervisor dies. Never calls into
 * the mount from its own threads.
 */
import { writeFileSync } from 'node:fs';
import { KiB } from '../../shared/limits.ts';
import { close, receiveDescriptor } from '../../shared/linux/libc.ts';
import type { LoopPoll } from '../../shared/loop-poll.ts';
import { DeviceChannel } from '../kernel/device-channel.ts';
import type { Features } from '../kernel/init.ts';
import { DEFAULT_MAX_WRITE_BYTES, KernelDriver } from '../kernel/kernel-driver.ts';
import type { Log } from '../kernel/log.ts';
import type { Filesystem } from '../vfs/filesystem.ts';
import { endMount } from './end-mount.ts';
import { isMounted, type Mount } from './mount-table.ts';
import { DESCRIPTOR_SOCKET, messageType, STOP_SIGNALS, type ToClient, type ToSupervisor } from './supervision.ts';
import { detach } from './unmount.ts';

export interface ServeOptions {
  readonly filesystem: Filesystem;
  readonly log: Log;
  readonly maxWriteBytes?: number;
  readonly cacheSymlinks?: boolean;
  readonly checkPermissions?: boolean;
  /** Keeps the event loop awake between requests; the connection to the server reports to it too. */
  readonly loop: LoopPoll;
  /** Awaited when nobody can use the mount any more: what it holds for the server goes there. */
  readonly handOver?: () => Promise<void>;
  /** INIT is answered: what the kernel can do, and the driver for its notifier and counters. */
  readonly onReady?: (features: Features, driver: KernelDriver, mount: Mount) => void;
}

/**
 * Call it when the filesystem can answer. Resolves when the mount has ended; then close the session and exit with
 * status 0. Rejects when it cannot be served: report it by `failMount`, and exit with status 1.
 */
export async function serveMount(options: ServeOptions): Promise<void> {
  if (process.send === undefined) throw new Error('serveMount runs only in a process that superviseMount started');
  // Terminal and supervisor may go away while the mount stays: what is written for them is then lost, not an error.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {});
  const mount = await receiveMount();
  const fuseFd = receiveDescriptor(DESCRIPTOR_SOCKET);
  close(DESCRIPTOR_SOCKET);
  const { filesystem, log, maxWriteBytes, cacheSymlinks, checkPermissions, loop } = options;
  const driver = new KernelDriver({
    channel: new DeviceChannel(fuseFd, loop),
    filesystem,
    log,
    ...(maxWriteBytes === undefined ? {} : { maxWriteBytes }),
    ...(cacheSymlinks === undefined ? {} : { cacheSymlinks }),
    ...(checkPermissions === undefined ? {} : { checkPermissions }),
  });
  driver.ready.then(
    (features) => {
      options.onReady?.(features, driver, mount);
      readAheadInLargePieces(mount);
      return tell({ type: 'serving' });
    },
    () => {},
  );
  const release = listen(driver, mount, log);
  try {
    await driver.run();
  } finally {
    release();
    // With the descriptor closed nobody waits for this process any more, so this cannot hang it.
    if (!process.connected && (await isMounted(mount))) await detach(mount.mountpoint).catch(() => {});
  }
  await options.handOver?.();
  tell({ type: 'unmounted' });
}

/**
 * The kernel reads ahead 128 KiB of cached files, and FUSE can only lower that. Root may raise it: as far as one request
 * goes; for others it stays.
 */
function readAheadInLargePieces({ device }: Mount): void {
  try {
    writeFileSync(`/sys/class/bdi/${device}/read_ahead_kb`, String(DEFAULT_MAX_WRITE_BYTES / KiB));
  } catch {
    // not root, or no sysfs here
  }
}

/** Tells the user, through the supervisor, why there will be no mount. */
export function failMount(line: string): Promise<void> {
  return tell({ type: 'failed', line });
}

/** Resolves when the message has been taken, or can never be. */
function tell(message: ToSupervisor): Promise<void> {
  return new Promise((resolve) => {
    if (process.send === undefined || !process.connected) resolve();
    else process.send(message, () => resolve());
  });
}

function receiveMount(): Promise<Mount> {
  return new Promise((resolve, reject) => {
    const settle = (then: () => void) => {
      process.off('message', onMessage);
      process.off('disconnect', onDisconnect);
      then();
    };
    const onMessage = (message: unknown) => {
      if (messageType(message) !== 'mounted') return;
      settle(() => resolve((message as Extract<ToClient, { type: 'mounted' }>).mount));
    };
    const onDisconnect = () => settle(() => reject(new Error('the supervisor ended before it had mounted')));
    process.on('message', onMessage);
    process.on('disconnect', onDisconnect);
    void tell({ type: 'ready' });
  });
}

/** Signals and messages that end the mount. Returns what stops listening. */
function listen(driver: KernelDriver, mount: Mount, log: Log): () => void {
  let ending = false;
  const onSignal = () => {
    if (process.connected) {
      void tell({ type: 'stop' });
      return;
    }
    if (ending) return;
    ending = true;
    const report = (line: string) => log.warn({}, line);
    endMount(mount, report)
      .then((outcome) => outcome === 'lazy' && driver.close())
      .catch((error) => log.error({ err: error }, 'unmounting failed'));
  };
  const onMessage = (message: unknown) => {
    if (messageType(message) === 'end') driver.close();
  };
  const onDisconnect = () => log.warn({}, 'the supervisor is gone: the mount goes on without it');
  process.on('message', onMessage);
  process.on('disconnect', onDisconnect);
  for (const signal of STOP_SIGNALS) process.on(signal, onSignal);
  return () => {
    process.off('message', onMessage);
    process.off('disconnect', onDisconnect);
    // The handlers of the signals stay: the session is being closed, and a second Ctrl-C must not cut that off.
  };
}
