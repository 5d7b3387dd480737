/** `weft umount MOUNTPOINT`. */
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { unmount } from '../../client-fuse/mount/unmount.ts';

export function addUmountCommand(program: Command): void {
  program
    .command('umount')
    .description('unmount; waits until everything written has reached the server')
    .argument('MOUNTPOINT')
    .option('--lazy', 'take it out of the tree now, and let programs that still use it finish')
    .addHelpText('after', '\nExample:\n  weft umount /mnt/projects')
    .action((mountpoint: string, { lazy }: { lazy?: true }) => umount(resolve(mountpoint), lazy ?? false));
}

async function umount(path: string, lazy: boolean): Promise<void> {
  const onWait = (client: number) =>
    console.error(
      `weft: ${path} is unmounted; its client (process ${client}) stays until the server has all that was written`,
    );
  await unmount(path, { lazy, onWait });
}
