/** What `mount.weft` makes of the command lines of mount(8). */
import { expect, it } from 'vitest';
import { mountHelper } from '../../scripts/mount-helper.ts';

async function mountsBy(...args: string[]): Promise<string[][]> {
  const mounts: string[][] = [];
  await mountHelper(args, async (one) => void mounts.push(one));
  return mounts;
}

it.each([
  [
    ['ws://a/', '/m'],
    ['mount', 'ws://a/', '/m'],
  ],
  [
    ['ws://a/', '/m', '-o', 'rw,dev'],
    ['mount', 'ws://a/', '/m', '-o', 'rw,dev'],
  ],
  [
    ['ws://a/', '/m', '-v', '-n', '-t', 'weft', '-orw', '-o', 'dev'],
    ['mount', 'ws://a/', '/m', '-o', 'rw,dev'],
  ],
  [
    ['ws://a/', '/m', '-o', 'frob,rw'],
    ['mount', 'ws://a/', '/m', '-o', 'frob,rw'],
  ],
  [
    ['ws://a/', '/m', '-snv', '-o', 'frob,rw,what=1'],
    ['mount', 'ws://a/', '/m', '-o', 'rw'],
  ],
])('%j', async (args, mount) => {
  expect(await mountsBy(...args)).toEqual([mount]);
});

it.each([['-f'], ['-vf', '-o', 'rw'], ['--fake']])('mounts nothing with %s', async (...args) => {
  expect(await mountsBy('ws://a/', '/m', ...args)).toEqual([]);
});

it('mounts in no other namespace than was asked for', async () => {
  await expect(mountsBy('ws://a/', '/m', '-N', '/proc/1/ns/mnt')).rejects.toThrow(
    /`nsenter --mount=\/proc\/1\/ns\/mnt /,
  );
});
