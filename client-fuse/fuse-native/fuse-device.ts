/**
 * The /dev/fuse descriptor that libfuse opened for a mount: found, kept from child processes (one of them would keep
 * a dead mount alive), and watched, because libfuse tells nobody when the mount has ended.
 *
 * Watched by looking now and then. An event loop's poll (libuv) would make the open file non-blocking, which libfuse shares:
 * its next read gets EAGAIN, and it ends the mount.
 */
import { readdirSync, readlinkSync } from 'node:fs';
import { closeDescriptor, duplicate, isBroken, setCloseOnExec } from './native-memory.ts';

/** Notices an unmount from outside before a person wonders; one system call each. */
const LOOK_EVERY_MS = 500;
/** After our own unmount: the kernel ends the connection a moment after umount(2). */
const LOOK_SOON_MS = 5;

/** Descriptors of this process that lead to /dev/fuse. Reads /proc, which never waits for a mount. */
export function listFuseDescriptors(): Set<number> {
  const found = new Set<number>();
  for (const name of readdirSync('/proc/self/fd')) {
    try {
      if (readlinkSync(`/proc/self/fd/${name}`) === '/dev/fuse') found.add(Number(name));
    } catch {
      // The descriptor of this very listing is closed by now.
    }
  }
  return found;
}

/** Owns a duplicate until the mount has ended, because libfuse closes its own, whose number may then be another file's. */
export class FuseDevice {
  /** Resolves when the mount behind the descriptor is unmounted or its connection aborted. */
  readonly ended: Promise<void>;
  readonly #fd: number;
  #timer: NodeJS.Timeout;
  #end: () => void = () => {};

  constructor(fd: number) {
    setCloseOnExec(fd);
    this.#fd = duplicate(fd);
    this.ended = new Promise((resolve) => {
      this.#end = resolve;
    });
    this.#timer = setInterval(() => this.#look(), LOOK_EVERY_MS);
  }

  /** The mount is about to end. */
  lookSoon(): void {
    clearInterval(this.#timer);
    this.#timer = setInterval(() => this.#look(), LOOK_SOON_MS);
  }

  #look(): void {
    if (!isBroken(this.#fd)) return;
    clearInterval(this.#timer);
    closeDescriptor(this.#fd);
    this.#end();
  }
}
