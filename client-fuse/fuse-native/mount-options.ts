/**
 * The option string that libfuse 2.9 gets (mount.fuse(8) of libfuse 2, lib/mount.c). fuse-native cuts it at 1023 bytes
 * without a word, and libfuse prints what it does not know: so both are checked here.
 */

export interface FuseNativeOptions {
  /** Shown as the source of the mount, for example the server's address. */
  readonly fsname?: string;
  /** Words as after `-o` of mount(8): `ro`, `allow_other`, `noatime`, ... */
  readonly mountOptions?: readonly string[];
}

/** The largest data of one request: what libfuse 2 and the kernel agree on. */
export const MAX_DATA_BYTES = 128 * 1024;
const MAX_OPTION_BYTES = 1023;

const ALWAYS = [
  'subtype=weft',
  // The caller of a request is not known here: the kernel checks permissions by the attributes.
  'default_permissions',
  // Without big_writes a write that is not direct_io arrives in pieces of one page.
  'big_writes',
  `max_read=${MAX_DATA_BYTES}`,
  // Nothing is remembered: there are no leases to take it back.
  'attr_timeout=0',
  'entry_timeout=0',
  'negative_timeout=0',
  'direct_io',
  // O_TRUNC comes with OPEN instead of as a truncate of its own.
  'atomic_o_trunc',
  // Else unlink of an open file would become a rename to .fuse_hidden..., and rename over one not be atomic.
  'hard_remove',
  'use_ino',
];

/** What libfuse or the kernel acts upon. */
const PASSED = new Set(
  'allow_other allow_root ro rw suid nosuid dev nodev exec noexec sync async dirsync atime noatime nonempty'.split(' '),
);
/** Set in any case, or for mount(8) and fstab only. */
const IGNORED = new Set('default_permissions defaults auto noauto user users owner group nofail _netdev'.split(' '));

export function allowsOthers({ mountOptions = [] }: FuseNativeOptions): boolean {
  return mountOptions.includes('allow_other') || mountOptions.includes('allow_root');
}

/** Throws an Error that names the option which does not fit. */
export function encodeMountOptions({ fsname = 'weft', mountOptions = [] }: FuseNativeOptions): string {
  const passed = mountOptions.filter((option) => {
    if (PASSED.has(option)) return true;
    if (IGNORED.has(option) || option.startsWith('x-') || option.startsWith('comment=')) return false;
    throw new Error(`driver fuse-native: mount option \`${option}\` is unknown to libfuse 2; leave it out`);
  });
  const encoded = `-o${[...ALWAYS, ...passed, `fsname=${escapeOption(fsname)}`].join(',')}`;
  if (Buffer.byteLength(encoded) > MAX_OPTION_BYTES) {
    throw new Error(`driver fuse-native: the mount options are longer than ${MAX_OPTION_BYTES} bytes; use fewer`);
  }
  return encoded;
}

function escapeOption(value: string): string {
  return value.replace(/[\\,]/g, (special) => `\\${special}`);
}
