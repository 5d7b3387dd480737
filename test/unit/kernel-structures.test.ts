/**
 * The structures of the FUSE protocol against the numbers a C compiler gives for the kernel's header (sizeof, offsetof), and the
 * fields at the edges of their ranges.
 */
import { describe, expect, it } from 'vitest';
import { type Place, structure } from '../../client-fuse/kernel/field.ts';
import * as structures from '../../client-fuse/kernel/structures.ts';
import { errno, FsError } from '../../shared/errno.ts';

const sizes: Record<string, number> = {
  fuse_in_header: 40,
  fuse_out_header: 16,
  fuse_attr: 88,
  fuse_sx_time: 16,
  fuse_statx: 256,
  fuse_kstatfs: 80,
  fuse_entry_out: 128,
  fuse_getattr_in: 16,
  fuse_attr_out: 104,
  fuse_statx_in: 24,
  fuse_statx_out: 288,
  fuse_setattr_in: 88,
  fuse_access_in: 8,
  fuse_forget_in: 8,
  fuse_forget_one: 16,
  fuse_batch_forget_in: 8,
  fuse_mknod_in: 16,
  fuse_mkdir_in: 8,
  fuse_rename_in: 8,
  fuse_rename2_in: 16,
  fuse_link_in: 8,
  fuse_open_in: 8,
  fuse_create_in: 16,
  fuse_open_out: 16,
  fuse_release_in: 24,
  fuse_flush_in: 24,
  fuse_lk_in: 48,
  fuse_lk_out: 24,
  fuse_read_in: 40,
  fuse_write_in: 40,
  fuse_write_out: 8,
  fuse_fsync_in: 16,
  fuse_fallocate_in: 32,
  fuse_lseek_in: 24,
  fuse_lseek_out: 8,
  fuse_copy_file_range_in: 56,
  fuse_copy_file_range_out: 8,
  fuse_dirent: 24,
  fuse_setxattr_in: 16,
  'fuse_setxattr_in (compat)': 8,
  fuse_getxattr_in: 8,
  fuse_getxattr_out: 8,
  fuse_init_in: 64,
  fuse_init_out: 64,
  fuse_interrupt_in: 8,
  fuse_notify_inval_inode_out: 24,
  fuse_notify_inval_entry_out: 16,
  fuse_notify_store_out: 24,
  fuse_notify_delete_out: 24,
};

describe('sizes', () => {
  for (const described of Object.values(structures)) {
    it(`${described.name} is as long as in C`, () => {
      expect(described.bytes).toBe(sizes[described.name]);
    });
  }
});

const { inHeader, attr, setattrIn, statx, statxOut, entryOut, initIn, initOut, writeIn, copyFileRangeIn, kstatfs } =
  structures;

const offsets: [string, Place, number][] = [
  ['fuse_in_header.pid', inHeader.fields.pid, 32],
  ['fuse_in_header.total_extlen', inHeader.fields.totalExtlen, 36],
  ['fuse_attr.atimensec', attr.fields.atimensec, 48],
  ['fuse_attr.mode', attr.fields.mode, 60],
  ['fuse_attr.flags', attr.fields.flags, 84],
  ['fuse_setattr_in.mtime', setattrIn.fields.mtime, 40],
  ['fuse_setattr_in.gid', setattrIn.fields.gid, 80],
  ['fuse_statx.ino', statx.fields.ino, 32],
  ['fuse_statx.btime', statx.fields.btime, 80],
  ['fuse_statx.rdev_major', statx.fields.rdevMajor, 128],
  ['fuse_statx_out.stat', statxOut.fields.stat, 32],
  ['fuse_entry_out.attr', entryOut.fields.attr, 40],
  ['fuse_init_in.flags2', initIn.fields.flags2, 16],
  ['fuse_init_out.max_write', initOut.fields.maxWrite, 20],
  ['fuse_init_out.max_pages', initOut.fields.maxPages, 28],
  ['fuse_init_out.flags2', initOut.fields.flags2, 32],
  ['fuse_init_out.request_timeout', initOut.fields.requestTimeout, 40],
  ['fuse_write_in.flags', writeIn.fields.flags, 32],
  ['fuse_copy_file_range_in.len', copyFileRangeIn.fields.len, 40],
  ['fuse_kstatfs.frsize', kstatfs.fields.frsize, 48],
];

it.each(offsets)('%s stands where C puts it', (_, field, offset) => {
  expect(field.offset).toBe(offset);
});

describe('64-bit fields', () => {
  const { fields } = structure('test', { counted: 'u64', passed: 'u64 passed', signed: 'i64' });
  const view = new DataView(new ArrayBuffer(24));

  it.each([0, 1, 2 ** 32 - 1, 2 ** 32, 2 ** 40 + 7, Number.MAX_SAFE_INTEGER])('%d is exact', (value) => {
    fields.counted.set(view, 0, value);
    expect(view.getBigUint64(0, true)).toBe(BigInt(value));
    expect(fields.counted.get(view, 0)).toBe(value);
    fields.passed.set(view, 0, value);
    expect(fields.passed.get(view, 0)).toBe(value);
  });

  it.each([-1, -(2 ** 31), -(2 ** 32), -(2 ** 32) - 5, -631152000, 2 ** 40])('%d seconds are exact', (value) => {
    fields.signed.set(view, 0, value);
    expect(view.getBigInt64(16, true)).toBe(BigInt(value));
    expect(fields.signed.get(view, 0)).toBe(value);
  });

  it('refuses to round, with the errno that fits', () => {
    view.setBigUint64(0, 2n ** 53n, true);
    expect(() => fields.counted.get(view, 0)).toThrow(FsError);
    expect(() => fields.counted.get(view, 0, errno.EFBIG)).toThrow(/EFBIG/);
    view.setBigInt64(16, 2n ** 62n, true);
    expect(() => fields.signed.get(view, 0)).toThrow(/EOVERFLOW/);
  });

  it('passes large inode numbers and cookies on', () => {
    const largest = 2n ** 64n - 1n;
    fields.passed.set(view, 0, largest);
    expect(fields.passed.get(view, 0)).toBe(largest);
  });
});
