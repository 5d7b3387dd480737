/**
 * KernelDriver: one mount served over a KernelChannel, from INIT until it is unmounted. Owns the channel, the dispatcher and the
 * watch for killed callers; the filesystem belongs to whoever made it, who disposes of it after `run`.
 */
import { readFileSync } from 'node:fs';
import type { Filesystem } from '../vfs/filesystem.ts';
import type { KernelChannel } from './channel.ts';
import type { Counters } from './counters.ts';
import { Dispatcher } from './dispatcher.ts';
import type { Features } from './init.ts';
import type { Log } from './log.ts';
import { Notifier } from './notifications.ts';
import { procTasks, type TaskInspector } from './task.ts';

export interface KernelDriverOptions {
  readonly channel: KernelChannel;
  readonly filesystem: Filesystem;
  readonly log: Log;
  /** The largest write(2) that should arrive whole, as far as the kernel goes. Default 1 MiB. */
  readonly maxWriteBytes?: number;
  readonly maxPagesLimit?: number;
  readonly cacheSymlinks?: boolean;
  /** See InitWishes. Default true. */
  readonly checkPermissions?: boolean;
  readonly maxBackground?: number;
  readonly tasks?: TaskInspector;
}

export const DEFAULT_MAX_WRITE_BYTES = 1024 * 1024;
const DEFAULT_MAX_BACKGROUND = 64;
/** How long a killed caller may wait when the kernel sent no INTERRUPT for it: noticed by a person, cheap for the CPU. */
const SCAN_INTERVAL_MS = 250;

export class KernelDriver {
  /** Resolves when INIT is answered; rejects when the kernel's protocol does not fit, or the mount ended before. */
  readonly ready: Promise<Features>;
  readonly notifier: Notifier;
  readonly #channel: KernelChannel;
  readonly #dispatcher: Dispatcher;
  #scan: NodeJS.Timeout | undefined;
  #refusal: string | undefined;
  #rejectReady: (error: Error) => void = () => {};

  constructor(options: KernelDriverOptions) {
    this.#channel = options.channel;
    this.notifier = new Notifier(options.channel);
    let agreed: (features: Features) => void = () => {};
    this.ready = new Promise((resolve, reject) => {
      agreed = resolve;
      this.#rejectReady = reject;
    });
    // Whoever does not look at `ready` learns the same from `run`.
    this.ready.catch(() => {});
    this.#dispatcher = new Dispatcher({
      channel: options.channel,
      filesystem: options.filesystem,
      log: options.log,
      tasks: options.tasks ?? procTasks,
      wishes: {
        maxWriteBytes: options.maxWriteBytes ?? DEFAULT_MAX_WRITE_BYTES,
        maxPagesLimit: options.maxPagesLimit ?? readMaxPagesLimit(),
        cacheSymlinks: options.cacheSymlinks ?? false,
        checkPermissions: options.checkPermissions ?? true,
        maxBackground: options.maxBackground ?? DEFAULT_MAX_BACKGROUND,
      },
      onPending: () => this.#watchCallers(),
      onAgreed: (features) => agreed(features),
      onRefused: (reason) => {
        this.#refusal = reason;
        this.#channel.close();
      },
    });
  }

  get counters(): Counters {
    return this.#dispatcher.counters;
  }

  /** Requests that wait for the filesystem. */
  get inFlight(): number {
    return this.#dispatcher.inFlight;
  }

  /** Serves until the filesystem is unmounted (resolves) or cannot be served (rejects). */
  async run(): Promise<void> {
    try {
      await this.#channel.serve(this.#dispatcher.receive);
      if (this.#refusal !== undefined) throw new Error(this.#refusal);
      this.#rejectReady(new Error('unmounted before the first request'));
    } catch (error) {
      this.#rejectReady(error as Error);
      throw error;
    } finally {
      clearTimeout(this.#scan);
      this.#dispatcher.abortAll();
    }
  }

  /** Runs only while requests wait: an idle mount has no timers. */
  #watchCallers(): void {
    if (this.#scan !== undefined) return;
    this.#scan = setTimeout(() => {
      this.#scan = undefined;
      this.#dispatcher.scanCallers();
      if (this.#dispatcher.inFlight > 0) this.#watchCallers();
    }, SCAN_INTERVAL_MS);
  }

  /** Stops serving without unmounting: callers get ENOTCONN once the descriptor is closed. */
  close(): void {
    this.#channel.close();
  }
}

/** fs.fuse.max_pages_limit (Linux 6.13 and later), else the 256 that was fixed before. */
export function readMaxPagesLimit(): number {
  try {
    return Number(readFileSync('/proc/sys/fs/fuse/max_pages_limit', 'latin1'));
  } catch {
    return 256;
  }
}
