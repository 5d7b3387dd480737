/**
 * The options of `-o` and the mount table, as tables of rows.
 */
import { describe, expect, it } from 'vitest';
import { parseMountOptions } from '../../client-fuse/mount/mount-options.ts';
import { parseMountInfo } from '../../shared/linux/mount-info.ts';

describe('mount options', () => {
  it('are none by default', () => {
    const defaults = { readOnly: false, allowOther: false, defaultPermissions: false, nonempty: false };
    expect(parseMountOptions([])).toEqual({ generic: [], credentials: {}, ...defaults, client: {} });
  });

  it.each([
    ['ro,noatime', { generic: ['ro', 'noatime'], readOnly: true }],
    ['ro,rw', { generic: ['ro', 'rw'], readOnly: false }],
    ['allow_other,dev,suid', { generic: ['dev', 'suid'], allowOther: true }],
    ['defaults,noauto,_netdev,nofail,user,users,x-systemd.automount,comment=a b', { generic: [] }],
    ['default_permissions,nonempty,max_read=65536', { defaultPermissions: true, nonempty: true, maxReadBytes: 65536 }],
    ['uid=1000,gid=0,umask=022', { client: { uid: 1000, gid: 0, umask: 0o22 } }],
    ['soft,timeout=30', { client: { soft: true, timeoutMs: 30_000 } }],
    ['soft,hard', { client: { soft: false } }],
    ['driver=fuse-native,max_write=16777216', { client: { driver: 'fuse-native', maxWriteBytes: 16777216 } }],
    ['', { generic: [] }],
  ])('%s', (list, expected) => {
    expect(parseMountOptions([list])).toMatchObject(expected);
  });

  it('come from several arguments', () => {
    expect(parseMountOptions(['ro', 'allow_other'])).toMatchObject({ readOnly: true, allowOther: true });
  });

  it.each([
    ['colour=blue', /unknown mount option "colour=blue"/],
    ['constructor', /unknown mount option/],
    ['allow_root', /allow_root is not supported.*allow_other/],
    ['uid=bob', /"uid=bob": the value must be a number/],
    ['uid', /"uid": the value must be a number/],
    ['umask=9', /octal/],
    ['timeout=0', /a number from 1/],
    ['driver=nfs', /kernel or fuse-native/],
    ['fsname=a', /fsname is not supported/],
    ['subtype=sshfs', /subtype is not supported.*fuse\.weft/],
    ['remount,ro', /cannot change a mount: `weft umount`/],
    ['timeout=5', /timeout is of soft mounts/],
    ['soft,hard,timeout=5', /timeout is of soft mounts/],
  ])('%s is refused', (list, message) => {
    expect(() => parseMountOptions([list])).toThrow(message);
  });
});

it('the mount table, with a path of spaces and UTF-8', () => {
  const text = [
    '22 28 0:21 / /proc rw,nosuid shared:12 - proc proc rw',
    '99 28 0:42 / /mnt/a\\040b\\134ü rw,relatime - fuse.weft ws://host/x\\040y rw,user_id=0',
    'garbage',
    '',
  ].join('\n');
  expect(parseMountInfo(text)).toEqual([
    { id: 22, device: '0:21', mountpoint: '/proc', type: 'proc', source: 'proc' },
    { id: 99, device: '0:42', mountpoint: '/mnt/a b\\ü', type: 'fuse.weft', source: 'ws://host/x y' },
  ]);
});
