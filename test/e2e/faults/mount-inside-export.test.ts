/** A server's own export, mounted inside the exported directory: the server must not wait for itself. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { runCommand } from '../../../client-fuse/mount/command.ts';
import { MountedFilesystem } from '../../support/mounted.ts';
import { LeaseExport } from '../lease-mounts.ts';
import { buildPrograms } from '../memory-mount-fixture.ts';

beforeAll(buildPrograms, 120_000);

const run = (command: string, ...args: string[]) => runCommand(command, args, { timeoutMs: 10_000 });

describe('a weft mount inside its export', { timeout: 60_000 }, () => {
  // ramfs has no file handles
  it.each(['tmpfs', 'ramfs'] as const)('of %s: clients do not see into it, and all else goes on', async (type) => {
    using disk = new MountedFilesystem(type);
    await using exported = await LeaseExport.open(1, disk.path);
    const inside = join(disk.path, 'inside');
    mkdirSync(inside);
    writeFileSync(join(disk.path, 'f'), 'text');
    const { path: outside } = exported.mounts[0] as { path: string };
    const mount = await exported.mount(exported.port, inside);
    for (const top of [inside, outside]) {
      const { stdout, stderr } = await run('ls', '-l', top);
      expect(stdout).toMatch(/ f$/m);
      expect(stdout).toMatch(/ inside$/m);
      expect(stderr).toMatch(/inside.*: Object is remote/);
      expect((await run('cat', join(top, 'f'))).stdout).toBe('text');
    }
    await mount.unmount();
    expect(await run('ls', '-A', join(outside, 'inside'))).toMatchObject({ status: 0, stdout: '', stderr: '' });
  });
});
