/**
 * The INIT negotiation with kernels from 5.4 to 6.18, and with those that are too old or too new.
 */
import { expect, it } from 'vitest';
import { INIT, INIT2 } from '../../client-fuse/kernel/constants.ts';
import {
  type Features,
  type InitAnswer,
  type InitOffer,
  type InitWishes,
  largestWriteBytes,
  negotiate,
} from '../../client-fuse/kernel/init.ts';

const MiB = 1024 * 1024;
const wishes: InitWishes = {
  maxWriteBytes: MiB,
  maxPagesLimit: 256,
  cacheSymlinks: false,
  checkPermissions: false,
  maxBackground: 64,
};

/** What each kernel offers, as its process_init_in() sets it. */
const flagsOf54 = 0x03fffffb;
const flagsOf511 = flagsOf54 | INIT.HANDLE_KILLPRIV_V2;
const flagsOf512 = flagsOf511 | INIT.SETXATTR_EXT;
const flagsOf517 = flagsOf512 | INIT.INIT_EXT;

function offer(minor: number, flags: number, flags2 = 0): InitOffer {
  return { major: 7, minor, maxReadahead: 131072, flags: flags >>> 0, flags2 };
}

function agreed(offered: InitOffer, wanted: InitWishes = wishes): { answer: InitAnswer; features: Features } {
  const negotiation = negotiate(offered, wanted);
  if (negotiation.kind !== 'agreed') throw new Error(negotiation.kind);
  return negotiation;
}

const rows: [string, InitOffer, Partial<Features>][] = [
  ['5.4', offer(31, flagsOf54), { minor: 31, setxattrExtended: false, killPrivileges: false, expireOnly: false }],
  ['5.11', offer(32, flagsOf511), { minor: 32, setxattrExtended: false, killPrivileges: true }],
  ['5.13', offer(33, flagsOf512), { minor: 33, setxattrExtended: true, killPrivileges: true }],
  ['6.1', offer(37, flagsOf517, 0x7), { minor: 37, expireOnly: false, sharedMmapOfDirectIo: false }],
  ['6.2', offer(38, flagsOf517, 0xf), { minor: 38, expireOnly: true, sharedMmapOfDirectIo: false }],
  ['6.6', offer(39, flagsOf517, 0x1f), { minor: 39, expireOnly: true, sharedMmapOfDirectIo: true, epochs: false }],
  ['6.16', offer(44, flagsOf517, 0x7ff), { minor: 44, epochs: true }],
  ['6.18', offer(45, flagsOf517, 0x7ff), { minor: 45, epochs: true, readdirplus: true, maxWriteBytes: MiB }],
  ['a later one', offer(60, flagsOf517, 0x7ff), { minor: 45 }],
];

it.each(rows)('Linux %s', (_, offered, expected) => {
  const { answer, features } = agreed(offered);
  expect(features).toMatchObject(expected);
  expect(answer).toMatchObject({ major: 7, minor: features.minor, timeGran: 1, maxWrite: MiB, maxPages: 256 });
  expect(answer.maxBackground).toBe(64);
  expect(answer.maxReadahead).toBe(131072);
});

it('takes nothing that was not offered', () => {
  const { answer, features } = agreed(offer(31, 0));
  expect(answer).toMatchObject({ flags: 0, flags2: 0, maxPages: 0, maxWrite: 32 * 4096 });
  expect(features.readdirplus).toBe(false);
});

it('does not look at flags2 without INIT_EXT', () => {
  expect(agreed(offer(36, flagsOf512, 0xffffffff)).answer.flags2).toBe(0);
});

it('never takes what would break the rules of several writers', () => {
  const { answer } = agreed(offer(45, 0xffffffff, 0xffffffff));
  const never = INIT.WRITEBACK_CACHE | INIT.POSIX_ACL | INIT.EXPORT_SUPPORT | INIT.ABORT_ERROR;
  expect(answer.flags & never).toBe(0);
  expect(answer.flags & (INIT.NO_OPEN_SUPPORT | INIT.NO_OPENDIR_SUPPORT | INIT.EXPLICIT_INVAL_DATA)).toBe(0);
  expect(answer.flags2).toBe(INIT2.HAS_EXPIRE_ONLY | INIT2.DIRECT_IO_ALLOW_MMAP);
});

it('caches symbolic links only when told to', () => {
  const offered = offer(45, flagsOf517);
  expect(agreed(offered).answer.flags & INIT.CACHE_SYMLINKS).toBe(0);
  expect(agreed(offered, { ...wishes, cacheSymlinks: true }).answer.flags & INIT.CACHE_SYMLINKS).not.toBe(0);
});

it('asks for one page more than the data where the limit has room', () => {
  const raised = agreed(offer(45, flagsOf517), { ...wishes, maxPagesLimit: 1024 });
  expect(raised.answer).toMatchObject({ maxWrite: MiB, maxPages: 257 });
  const large = agreed(offer(45, flagsOf517), { ...wishes, maxWriteBytes: 16 * MiB, maxPagesLimit: 65535 });
  expect(large.answer).toMatchObject({ maxWrite: 16 * MiB, maxPages: 4097 });
});

it.each([
  [MiB, 256, MiB],
  [16 * MiB, 256, MiB],
  [16 * MiB, 4096, 16 * MiB],
  [100_000, 256, 98_304],
  [1, 256, 4096],
])('a wish of %d bytes under a limit of %d pages gives %d', (wanted, limit, result) => {
  expect(largestWriteBytes(wanted, limit)).toBe(result);
});

it('refuses an older kernel with a reason, and asks a newer one again', () => {
  const old = negotiate({ ...offer(26, flagsOf54) }, wishes);
  expect(old).toMatchObject({ kind: 'refused', reason: expect.stringContaining('the kernel speaks FUSE 7.26') });
  expect(negotiate({ ...offer(0, 0), major: 6 }, wishes).kind).toBe('refused');
  expect(negotiate({ ...offer(0, 0), major: 8 }, wishes)).toMatchObject({ kind: 'again', answer: { major: 7 } });
});
