/**
 * Ending a mount that still serves: politely, and when it stays busy lazily, after what is dirty in the kernel was asked
 * to be written. Used by the supervisor, and by the client when its supervisor is gone.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { runCommand } from './command.ts';
import { isMounted, type Mount } from './mount-table.ts';
import { detach, tryUnmount } from './unmount.ts';

/** How long programs have to let go of the mount, and how often that is looked at. */
const BUSY_MS = 1000;
const BUSY_STEP_MS = 100;
const SYNC_TIMEOUT_MS = 3000;

/** Resolves once nobody finds the mount any more. `lazy`: programs still use it, and get errors once the client ends. */
export async function endMount(mount: Mount, report: (line: string) => void): Promise<'clean' | 'lazy'> {
  const { mountpoint } = mount;
  for (let waitedMs = 0; ; waitedMs += BUSY_STEP_MS) {
    if (!(await isMounted(mount))) return 'clean';
    const outcome = await tryUnmount(mountpoint, { lazy: false });
    if (outcome === 'unmounted') return 'clean';
    if (outcome === 'stuck') {
      report(`${mountpoint} does not answer: unmounted by force`);
      await detach(mountpoint);
      return 'lazy';
    }
    if (outcome !== 'busy' && outcome !== 'not mounted') report(`cannot unmount ${mountpoint}: ${outcome.failed}`);
    if (outcome !== 'busy' || waitedMs >= BUSY_MS) break;
    await delay(BUSY_STEP_MS);
  }
  // Pages dirtied through a shared mapping would be lost with the connection. A child does it: it can be killed.
  await runCommand('sync', ['-f', mountpoint], { timeoutMs: SYNC_TIMEOUT_MS });
  if ((await tryUnmount(mountpoint, { lazy: true })) === 'unmounted') {
    report(`${mountpoint} is busy: unmounted lazily; programs that still use it get errors`);
  }
  return 'lazy';
}
