/**
 * mount(8) with the helper mount.weft, and a line of fstab. In a mount namespace of the test's own, where /sbin holds nothing but
 * the helper: the machine stays as it is.
 */
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { runCommand } from '../../client-fuse/mount/command.ts';
import { LeaseExport, programs } from './lease-mounts.ts';
import { buildPrograms } from './memory-mount-fixture.ts';

beforeAll(buildPrograms, 120_000);

/** A shell command in the namespace, with $X the export, $M a mount point of which fstab says `options`, and $U its URL. */
function withHelper(exported: LeaseExport, options: string, command: string) {
  const { directory, local, url } = exported;
  const [sbin, fstab, M] = ['sbin', 'fstab', 'mnt'].map((name) => join(directory, name)) as [string, string, string];
  for (const path of [sbin, M]) mkdirSync(path);
  symlinkSync(join(programs, 'scripts/mount.weft.cjs'), join(sbin, 'mount.weft'));
  writeFileSync(fstab, `${url} ${M} weft ${options} 0 0\n`);
  // The namespace goes away with its last process: a mount that stayed would keep it, so it is unmounted in any case.
  const prepared = `mount --bind ${sbin} /sbin/ && mount --bind ${fstab} /etc/fstab || exit 9
    trap 'umount -l $M 2> /dev/null || :' EXIT\n${command}`;
  const environment = { X: local, M, U: url };
  return runCommand('unshare', ['--mount', 'sh', '-c', prepared], { timeoutMs: 30_000, environment });
}

describe('mount -t weft', { timeout: 60_000 }, () => {
  it('mounts with the options given, and umount ends it', async () => {
    await using exported = await LeaseExport.open(0);
    const script = `set -e; echo text > $X/f; mount -t weft -o ro,noatime,uid=1234,allow_other $U $M
      cat $M/f; stat -c %u $M/f; findmnt -no FSTYPE,SOURCE $M; findmnt -no OPTIONS $M; ! touch $M/g; umount $M; ls $M`;
    const { status, stdout, stderr } = await withHelper(exported, 'noauto', script);
    expect(status, stderr).toBe(0);
    const [content, uid, type, options = '', ...more] = stdout.trim().split('\n');
    expect([content, uid, type?.replace(/ +/, ' ')]).toEqual(['text', '1234', `fuse.weft ${exported.url}`]);
    expect(options.split(',')).toEqual(expect.arrayContaining(['ro', 'noatime', 'allow_other']));
    expect(stderr).toMatch(/Read-only file system/);
    expect(more).toEqual([]);
  });

  it('does what a line of fstab says, and says in one line why it cannot', async () => {
    await using exported = await LeaseExport.open(0);
    const options = 'allow_other,umask=077,_netdev,nofail,x-systemd.automount';
    const script = `set -e; echo text > $X/f; mount -a; cat $M/f; stat -c %a $M/f; umount $M
      ! mount -t weft ws://127.0.0.1:1/ $M; mount -f $M; ! findmnt $M; mount -s -o frob $M; echo more >> $M/f; umount $M; cat $X/f`;
    const { status, stdout, stderr } = await withHelper(exported, options, script);
    expect(status, stderr).toBe(0);
    expect(stdout).toBe('text\n600\ntext\nmore\n');
    expect(stderr).toMatch(/^weft: 127\.0\.0\.1:1: nothing listens there; start the server with .*$/);
  });
});
