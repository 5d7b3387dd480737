/** Tells the server in which directories this client makes no more files behind, so that others may look there without asking. Owned by the RemoteContext. */

import { limits } from '../../shared/limits.ts';
import type { LeaseCache } from '../leases/lease-cache.ts';
import type { ServerSession } from '../transport/server-session.ts';
import type { Node } from './node.ts';
import type { UnmadeFiles } from './unmade-files.ts';

export class AloneSharing {
  readonly #session: ServerSession;
  readonly #leases: LeaseCache;
  readonly #unmade: UnmadeFiles;
  #timer: NodeJS.Timeout | undefined;

  constructor(session: ServerSession, leases: LeaseCache, unmade: UnmadeFiles) {
    this.#session = session;
    this.#leases = leases;
    this.#unmade = unmade;
  }

  /** Others look around: they need not ask for each. */
  shareAll(): void {
    this.#share(this.#leases.alone.takeAll((directory) => this.#unmade.has(directory)));
  }

  /** There is one: it will not be used for ever. */
  begins(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.#share(this.#leases.alone.takeIdle((directory) => this.#unmade.has(directory)));
      if (this.#leases.alone.size > 0) this.begins();
    }, limits.aloneIdleMs / 2).unref();
  }

  #share(directories: readonly Node[]): void {
    const most = limits.maxLeasesGivenBack;
    for (let start = 0; start < directories.length; start += most) {
      this.#session.downgraded(directories.slice(start, start + most).map(({ inode }) => inode));
    }
  }
}
