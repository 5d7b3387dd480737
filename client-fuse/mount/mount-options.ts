/**
 * The options of `-o`, pure: sorted into what mount(8) or fusermount3 is told, what FUSE is told, and what the client itself
 * does. Those that belong to /etc/fstab are accepted and mean nothing here. Sources: mount(8), mount.fuse3(8), fstab(5).
 */
import { limits } from '../../shared/limits.ts';
import { parseFingerprint } from '../transport/credentials.ts';
import type { Credentials } from '../transport/server-address.ts';
import { MountError } from './mount-error.ts';

export interface MountOptions {
  /** Passed on to mount(8) or fusermount3 as they are, in order. */
  readonly generic: readonly string[];
  readonly readOnly: boolean;
  readonly allowOther: boolean;
  readonly defaultPermissions: boolean;
  readonly nonempty: boolean;
  /** What `mount` shows as the source, when not the source itself. */
  readonly fsname?: string;
  /** `fuse.SUBTYPE` in the mount table. */
  readonly subtype: string;
  /** Bytes; only for tests, the client chooses it to fit max_write. */
  readonly maxReadBytes?: number;
  readonly client: ClientOptions;
  readonly credentials: Credentials;
}

/** What the client does itself. Absent: not asked for. */
export interface ClientOptions {
  /** Shown as the owner of everything, whatever the server says. */
  readonly uid?: number;
  readonly gid?: number;
  /** Taken off all shown permissions. */
  readonly umask?: number;
  /** True: errors after `timeoutMs` without the server; false: callers wait. */
  readonly soft?: boolean;
  readonly timeoutMs?: number;
  readonly driver?: 'kernel' | 'fuse-native';
  readonly maxWriteBytes?: number;
}

const GENERIC: ReadonlySet<string> = new Set(
  (
    'ro rw suid nosuid dev nodev exec noexec atime noatime diratime nodiratime relatime norelatime strictatime ' +
    'nostrictatime lazytime nolazytime sync async dirsync'
  ).split(' '),
);

const IGNORED = /^(defaults|auto|noauto|_netdev|nofail|users?|nouser|owner|group|big_writes|x-.*|comment=.*)$/;

type Mutable<T> = { -readonly [K in keyof T]: T[K] };
type Draft = Omit<Mutable<MountOptions>, 'client' | 'generic' | 'credentials'> & {
  generic: string[];
  client: Mutable<ClientOptions>;
  credentials: Mutable<Credentials>;
};
type Setter = (draft: Draft, value: string | undefined, option: string) => void;

const setters: Readonly<Record<string, Setter>> = {
  allow_other: (draft) => (draft.allowOther = true),
  allow_root: () => {
    throw new MountError(
      'option allow_root is not supported: the kernel knows only allow_other; use that, with default_permissions if need be',
    );
  },
  default_permissions: (draft) => (draft.defaultPermissions = true),
  nonempty: (draft) => (draft.nonempty = true),
  fsname: (draft, value, option) => (draft.fsname = text(value, option)),
  subtype: (draft, value, option) => (draft.subtype = text(value, option)),
  max_read: (draft, value, option) => (draft.maxReadBytes = count(value, option, 4096, 2 ** 28)),
  uid: (draft, value, option) => (draft.client.uid = count(value, option, 0, 0xfffffffe)),
  gid: (draft, value, option) => (draft.client.gid = count(value, option, 0, 0xfffffffe)),
  umask: (draft, value, option) => (draft.client.umask = octal(value, option)),
  soft: (draft) => (draft.client.soft = true),
  hard: (draft) => (draft.client.soft = false),
  timeout: (draft, value, option) => (draft.client.timeoutMs = count(value, option, 1, 86_400) * 1000),
  max_write: (draft, value, option) => (draft.client.maxWriteBytes = count(value, option, 4096, limits.maxDataBytes)),
  tokenfile: (draft, value, option) => (draft.credentials.tokenFile = path(value, option)),
  cert: (draft, value, option) => (draft.credentials.certFile = path(value, option)),
  key: (draft, value, option) => (draft.credentials.keyFile = path(value, option)),
  fingerprint(draft, value, option) {
    const fingerprint = parseFingerprint(value ?? '');
    if (fingerprint === undefined) throw wrongValue(option, 'SHA256: and what `weft serve` prints after it');
    draft.credentials.fingerprint = fingerprint;
  },
  driver(draft, value, option) {
    if (value !== 'kernel' && value !== 'fuse-native') throw wrongValue(option, 'kernel or fuse-native');
    draft.client.driver = value;
  },
};

/** Reads any number of `-o` arguments, each a list with commas. The last one wins where two contradict each other. */
export function parseMountOptions(lists: readonly string[]): MountOptions {
  const draft: Draft = {
    generic: [],
    readOnly: false,
    allowOther: false,
    defaultPermissions: false,
    nonempty: false,
    subtype: 'weft',
    client: {},
    credentials: {},
  };
  for (const option of lists.flatMap((list) => list.split(','))) {
    if (option === '' || IGNORED.test(option)) continue;
    if (GENERIC.has(option)) {
      draft.generic.push(option);
      if (option === 'ro' || option === 'rw') draft.readOnly = option === 'ro';
      continue;
    }
    const equals = option.indexOf('=');
    const name = equals < 0 ? option : option.slice(0, equals);
    const value = equals < 0 ? undefined : option.slice(equals + 1);
    const setter = Object.hasOwn(setters, name) ? setters[name] : undefined;
    if (setter === undefined)
      throw new MountError(`unknown mount option "${option}": \`weft mount --help\` lists them`);
    setter(draft, value, option);
  }
  return draft;
}

function wrongValue(option: string, wanted: string): MountError {
  return new MountError(`mount option "${option}": the value must be ${wanted}`);
}

function text(value: string | undefined, option: string): string {
  if (value === undefined || value === '') throw wrongValue(option, 'given');
  return value;
}

/** The client process runs in another directory. */
function path(value: string | undefined, option: string): string {
  if (!value?.startsWith('/')) throw wrongValue(option, 'an absolute path');
  return value;
}

function count(value: string | undefined, option: string, least: number, most: number): number {
  const number = /^\d+$/.test(value ?? '') ? Number(value) : Number.NaN;
  if (!(number >= least && number <= most)) throw wrongValue(option, `a number from ${least} to ${most}`);
  return number;
}

function octal(value: string | undefined, option: string): number {
  if (!/^[0-7]{1,4}$/.test(value ?? '')) throw wrongValue(option, 'an octal number such as 022');
  return Number.parseInt(value as string, 8);
}
