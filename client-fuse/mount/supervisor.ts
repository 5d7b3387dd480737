/**
 * The supervisor (process A): starts the client (process B), mounts, waits, and sees to it that no dead mount point and no stuck
 * process stays, however B ends. It holds no descriptor of the mount once B has it, so the kernel ends the connection
 * by itself when B dies; what is left to do is to unmount, and to abort when a thread of B cannot die.
 */
import { closeSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { largestWriteBytes } from '../kernel/init.ts';
import { DEFAULT_MAX_WRITE_BYTES, readMaxPagesLimit } from '../kernel/kernel-driver.ts';
import type { Log } from '../kernel/log.ts';
import { runCommand } from './command.ts';
import { endMount } from './end-mount.ts';
import { MountError } from './mount-error.ts';
import type { MountOptions } from './mount-options.ts';
import { prepareMountPoint } from './mount-point.ts';
import { isMounted, type Mount } from './mount-table.ts';
import { checkDevice, mountFuse } from './mounter.ts';
import { type ClientExit, SupervisedClient } from './supervised-client.ts';
import { STOP_SIGNALS } from './supervision.ts';
import { abortConnection, detach } from './unmount.ts';

export interface SuperviseOptions {
  /** What `mount` shows as mounted: the server's URL. */
  readonly source: string;
  readonly mountpoint: string;
  readonly options: MountOptions;
  /** Program and arguments of process B, which calls `serveMount`. */
  readonly clientCommand: readonly string[];
  readonly log: Log;
  /** Lines for the user. */
  readonly report: (line: string) => void;
  /** The mount answers: who waits for it may go on. */
  readonly onMounted?: (mount: Mount) => void;
}

const FIRST_ANSWER_TIMEOUT_MS = 20_000;
/** How long B may take to close its session after the mount is gone. */
const FAREWELL_MS = 10_000;
const LAZY_FAREWELL_MS = 1000;
const WEDGE_CHECK_MS = 2000;

/**
 * Mounts, and returns the exit status when the mount has ended: 0 after an unmount or a signal to stop, 1 when the client
 * died. Throws a MountError when the mount never came to be. Changes the working directory to `/`.
 */
export async function superviseMount(options: SuperviseOptions): Promise<number> {
  checkDevice();
  const { report } = options;
  const mountpoint = await prepareMountPoint(options.mountpoint, { nonempty: options.options.nonempty, report });
  process.chdir('/');
  const supervisor = new Supervisor(options, mountpoint);
  return supervisor.run();
}

class Supervisor {
  readonly #options: SuperviseOptions;
  readonly #mountpoint: string;
  readonly #client: SupervisedClient;
  #mount: Mount | undefined;
  #stopping: Promise<void> | undefined;

  constructor(options: SuperviseOptions, mountpoint: string) {
    this.#options = options;
    this.#mountpoint = mountpoint;
    this.#client = new SupervisedClient(options.clientCommand, () => this.#stop());
  }

  async run(): Promise<number> {
    const onSignal = () => this.#stop();
    for (const signal of STOP_SIGNALS) process.on(signal, onSignal);
    const finished = new AbortController();
    try {
      await this.#start();
      void this.#watchForWedge(finished.signal);
      void this.#client.reaches('unmounted').then(
        () => this.#giveTimeToEnd(FAREWELL_MS, finished.signal),
        () => {},
      );
      const exit = await this.#client.exited;
      await this.#stopping;
      return await this.#conclude(exit);
    } catch (error) {
      if (this.#stopping === undefined) throw error;
      await this.#stopping;
      return 0;
    } finally {
      finished.abort();
      await this.#cleanUp();
      for (const signal of STOP_SIGNALS) process.off(signal, onSignal);
    }
  }

  async #start(): Promise<void> {
    const client = this.#client;
    const { source, options, log } = this.#options;
    await client.reaches('ready');
    const wanted = options.client.maxWriteBytes ?? DEFAULT_MAX_WRITE_BYTES;
    const maxReadBytes = largestWriteBytes(wanted, readMaxPagesLimit());
    const { fuseFd, mount } = await mountFuse({ source, mountpoint: this.#mountpoint, options, maxReadBytes });
    this.#mount = mount;
    client.giveDescriptor(fuseFd);
    closeSync(fuseFd);
    client.send({ type: 'mounted', mount });
    await client.reaches('serving');
    await this.#checkRoot();
    log.info({ mountpoint: this.#mountpoint, device: mount.device, client: client.pid }, 'mounted');
    this.#options.onMounted?.(mount);
  }

  /** The root answers stat and statfs. Asked by a child: whatever happens, this process must be able to exit. */
  async #checkRoot(): Promise<void> {
    for (const args of [['-c', '%F'], ['-f']]) {
      const result = await runCommand('stat', [...args, '--', this.#mountpoint], {
        timeoutMs: FIRST_ANSWER_TIMEOUT_MS,
      });
      if (result.status === 0) continue;
      const why = result.timedOut ? `no answer within ${FIRST_ANSWER_TIMEOUT_MS / 1000} s` : result.stderr;
      throw new MountError(`${this.#mountpoint} was mounted but does not work: ${why}`);
    }
  }

  /** A signal to A or to B: unmounts, and lets B end. */
  #stop(): void {
    this.#stopping ??= this.#unmountAndEnd();
  }

  async #unmountAndEnd(): Promise<void> {
    if (this.#mount === undefined) {
      this.#client.kill('SIGTERM');
      await this.#giveTimeToEnd(LAZY_FAREWELL_MS);
      return;
    }
    const outcome = await endMount(this.#mount, this.#options.report).catch((error) => {
      this.#options.log.error({ err: error }, 'unmounting failed');
      return 'lazy' as const;
    });
    if (outcome === 'lazy') {
      // Perhaps the last user goes away at once; if not, B stops serving it.
      await Promise.race([this.#client.exited, delay(LAZY_FAREWELL_MS, undefined, { ref: false })]);
      this.#client.send({ type: 'end' });
    }
    await this.#giveTimeToEnd(FAREWELL_MS);
  }

  /** B itself keeps this process alive: a clock that did would delay its end after B's, and with it the prompt after Ctrl-C. */
  async #giveTimeToEnd(ms: number, signal?: AbortSignal): Promise<void> {
    const options = { ref: false, ...(signal && { signal }) };
    const waiting = delay(ms, 'late' as const, options).catch(() => 'finished' as const);
    const first = await Promise.race([this.#client.exited, waiting]);
    if (first === 'late') this.#client.kill('SIGKILL');
  }

  /** A killed B whose thread waits for the mount that B itself serves dies only when the connection is aborted. */
  async #watchForWedge(signal: AbortSignal): Promise<void> {
    let suspected = false;
    while (!signal.aborted) {
      await delay(WEDGE_CHECK_MS, undefined, { signal, ref: false }).catch(() => {});
      if (signal.aborted || !(await this.#client.isWedged())) {
        suspected = false;
        continue;
      }
      // Twice in a row: a process that is just dying looks the same for a moment.
      if (suspected && this.#mount) {
        this.#options.log.warn(
          { client: this.#client.pid },
          'the client was killed but cannot die: connection aborted',
        );
        await abortConnection(this.#mount);
        if (await isMounted(this.#mount)) await detach(this.#mountpoint).catch(() => {});
      }
      suspected = true;
    }
  }

  async #conclude({ code, signal }: ClientExit): Promise<number> {
    if (this.#stopping !== undefined) return 0;
    const leftBehind = this.#mount !== undefined && (await isMounted(this.#mount));
    if (code === 0 && !leftBehind) return 0;
    const how = signal ? `was killed by ${signal}` : `ended with status ${code}`;
    this.#options.report(`the client process ${how}: ${this.#mountpoint} is unmounted`);
    return 1;
  }

  /** Nothing stays: neither a dead mount point nor a client without one. */
  async #cleanUp(): Promise<void> {
    this.#client.kill('SIGKILL');
    if (this.#mount === undefined || !(await isMounted(this.#mount))) return;
    await detach(this.#mountpoint).catch((error) => this.#options.report((error as Error).message));
  }
}
