/**
 * The end of a mount's client process: it ends when the server has what was written through the mount, which can be long
 * after the mount point is free.
 */
import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { askMount } from './mount-status.ts';
import type { Mount } from './mount-table.ts';

const LOOK_AGAIN_MS = 20;
const SILENT_MS = 1500;

/** The process that serves the mount, as it says itself; undefined when it does not. */
export function clientOf({ device }: Mount): Promise<number | undefined> {
  return askMount(device).then(
    ({ pid }) => pid,
    () => undefined,
  );
}

/** Resolves when the process has ended. `onWait`: it takes long. */
export async function clientEnds(pid: number, onWait: () => void): Promise<void> {
  const sinceMs = performance.now();
  let isSaid = false;
  while (isAlive(pid)) {
    if (!isSaid && performance.now() - sinceMs > SILENT_MS) {
      isSaid = true;
      onWait();
    }
    await delay(LOOK_AGAIN_MS);
  }
}

function isAlive(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return stat[stat.lastIndexOf(')') + 2] !== 'Z';
  } catch {
    return false;
  }
}
