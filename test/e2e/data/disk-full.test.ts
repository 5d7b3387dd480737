/**
 * A full disk behind an export: a writer is told, nobody loses what was there, and with space writing works again. The disk is a
 * tmpfs of 8 MiB. Which of write, fsync and close tells is left open: SEMANTICS promises it for the call that failed.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import { MountedFilesystem } from '../../support/mounted.ts';
import { LeaseExport } from '../lease-mounts.ts';
import { buildPrograms } from '../memory-mount-fixture.ts';

beforeAll(buildPrograms, 120_000);

/** dd stops at the first of write, fsync and close that fails, says which, and exits 1. */
const dd = (from: string, to: string, more: string) => `dd if=${from} of=${to} bs=64K conv=fsync${more}`;

describe('an export whose disk is full', { timeout: 60_000 }, () => {
  it('tells the writers, keeps what was synced, and works again when there is space', async () => {
    using disk = new MountedFilesystem('tmpfs', 'mode=0755,size=8m');
    await using exported = await LeaseExport.open(2, disk.path);
    const { directory } = exported;
    const kept = await exported.shell(`${dd('/dev/urandom', '$A/kept', ' count=48')} && cp $A/kept ${directory}/kept`);
    expect(kept.status, kept.stderr).toBe(0);

    // Two at once: neither may be told that all went well, nor wait for the other.
    const writers = await Promise.all(
      ['$A/big', '$B/large'].map((path) => exported.shell(dd('/dev/urandom', path, ' count=128'))),
    );
    for (const { status, stderr } of writers) {
      expect(stderr).toContain('No space left on device');
      expect(status).toBe(1);
    }
    const small = await exported.shell('/bin/echo text > $B/small');
    expect(small.stderr).toContain('No space left on device');
    const blocks = (path: string) => `$(stat -fc '%a %f %b %S' ${path})`;
    const shown = await exported.shell(`echo ${blocks('$X')}; echo ${blocks('$A')}; echo ${blocks('$B')}`);
    expect(new Set(shown.stdout.trim().split('\n')).size, shown.stdout).toBe(1);
    expect(shown.stdout).toMatch(/^0 /);

    const intact = `for m in $X $A $B; do cmp $m/kept ${directory}/kept || exit 1; done`;
    expect(await exported.shell(intact)).toMatchObject({ status: 0, stderr: '' });
    // Pages that the file has already need no space.
    const overwrite = await exported.shell(
      `for f in $A/kept ${directory}/kept; do ${dd('/dev/zero', '$f', ',notrunc seek=7 count=1')} || exit 1; done`,
    );
    expect(overwrite.status, overwrite.stderr).toBe(0);
    expect(await exported.shell(intact)).toMatchObject({ status: 0, stderr: '' });
    expect(await exported.differences()).toEqual([]);

    // Open files hold their space: afterwards exactly `kept` is left.
    const removed = await exported.shell('rm $B/big $A/large $A/small && stat -fc "%f %b" $A && du -k $X/kept');
    expect(removed.stderr).toBe('');
    const [free = 0, all = 0, keptKiB = 0] = (removed.stdout.match(/\d+/g) ?? []).map(Number);
    expect((all - free) * 4).toBe(keptKiB);
    const again = await exported.shell(
      `${dd('/dev/urandom', '$B/again', ' count=64')} && cmp $A/again $X/again && stat -c %s $A/again && echo x > $A/small`,
    );
    expect(again.status, again.stderr).toBe(0);
    expect(again.stdout).toBe(`${64 * 65_536}\n`);
    expect(await exported.shell(intact)).toMatchObject({ status: 0, stderr: '' });
  });

  it('tells whoever closes a new file that is made then, and keeps those before it', async () => {
    using disk = new MountedFilesystem('tmpfs', 'mode=0755,size=1m,nr_inodes=64');
    await using exported = await LeaseExport.open(2, disk.path);
    // Each of 40 KiB, by one write and one close: `made` of them, then what is told, and what is there of the next one.
    const fill = `mkdir $A/d && head -c 40960 /dev/urandom > /dev/shm/weft-fill-$$ && python3 -c "
import os
data = open('/dev/shm/weft-fill-$$', 'rb').read()
made = 0
while True:
    fd = os.open('$A/d/f%d' % made, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        try: os.write(fd, data)
        finally: os.close(fd)
    except OSError as error:
        print(made, error.strerror)
        break
    made += 1
for n in range(made):
    for root in ('$A', '$B', '$X'): assert open('%s/d/f%d' % (root, n), 'rb').read() == data, (root, n)
assert data.startswith(open('$B/d/f%d' % made, 'rb').read())
"; rm -f /dev/shm/weft-fill-$$`;
    const filled = await exported.shell(fill);
    expect(filled.stderr).toBe('');
    expect(filled.stdout).toMatch(/^2[345] No space left on device\n$/);
    expect(await exported.differences()).toEqual([]);
    // And where there is space, but no inode for one more.
    const many = await exported.shell(
      'rm $A/d/* && mkdir $A/e && for n in $(seq 80); do /bin/echo text > $A/e/$n || break; done; ls $B/e | wc -l; cat $B/e/20',
    );
    expect(many.stderr).toContain('No space left on device');
    const [count = 0] = (many.stdout.match(/\d+/g) ?? []).map(Number);
    expect(count).toBeGreaterThan(50);
    expect(many.stdout).toMatch(/text\n$/);
    expect(await exported.differences()).toEqual([]);
  });
});
