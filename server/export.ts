/** A directory that the server exports: its name, its rules, and its store. Lives as long as the server. */

import type { LeaseManager } from './leases/lease-manager.ts';
import type { Squash } from './store/identity.ts';
import type { Store } from './store/store.ts';

export interface Export {
  /** `/` for a server's only export, else a name without slashes. */
  readonly name: string;
  readonly directory: string;
  readonly readOnly: boolean;
  readonly squash: Squash;
  readonly store: Store;
  readonly leases: LeaseManager;
  /** False: handles do not survive a restart of the server, nor some changes by local programs. */
  readonly usesKernelHandles: boolean;
}

/** Nothing of them is used any more. */
export function closeExports(exports: Iterable<Export>): void {
  for (const { leases, store } of exports) {
    leases.close();
    store.close();
  }
}
