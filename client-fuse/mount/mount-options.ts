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

/** Other filesystems have these; here they would be a fault. */
const REFUSED: ReadonlySet<string> = new Set(['allow_root', 'fsname', 'subtype', 'remount']);

function refuse(reason: string): Setter {
  return (_draft, _value, option) => {
    throw new MountError(`option ${nameOf(option)} is not supported: ${reason}`);
  };
}

const setters: Readonly<Record<string, Setter>> = {
  allow_other: (draft) => (draft.allowOther = true),
  allow_root: refuse('the kernel knows only allow_other; use that, with default_permissions if need be'),
  default_permissions: (draft) => (draft.defaultPermissions = true),
  nonempty: (draft) => (draft.nonempty = true),
  fsname: refuse('the mount table shows the address there, which `weft status` asks'),
  subtype: refuse('weft knows its mounts by the type fuse.weft'),
  remount: refuse('weft cannot change a mount: `weft umount` it, and mount it anew'),
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

/** What `-o` knows, for people: `weft mount --help` lists them. */
export const mountOptionNames: readonly string[] = [...GENERIC, ...Object.keys(setters)]
  .filter((name) => !REFUSED.has(name))
  .sort();

/** False: parseMountOptions would say that it does not know it. */
export function isKnownMountOption(option: string): boolean {
  return option === '' || IGNORED.test(option) || GENERIC.has(option) || Object.hasOwn(setters, nameOf(option));
}

function nameOf(option: string): string {
  return option.replace(/=.*/s, '');
}

/** Reads any number of `-o` arguments, each a list with commas. The last one wins where two contradict each other. */
export function parseMountOptions(lists: readonly string[]): MountOptions {
  const draft: Draft = {
    generic: [],
    readOnly: false,
    allowOther: false,
    defaultPermissions: false,
    nonempty: false,
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
    const name = nameOf(option);
    const value = name === option ? undefined : option.slice(name.length + 1);
    const setter = Object.hasOwn(setters, name) ? setters[name] : undefined;
    if (setter === undefined)
      throw new MountError(`unknown mount option "${option}": \`weft mount --help\` lists them`);
    setter(draft, value, option);
  }
  if (draft.client.timeoutMs !== undefined && !draft.client.soft)
    throw new MountError(
      'timeout is of soft mounts: add soft, or leave it out (a hard mount waits until the server is back)',
    );
  return draft;
}

function wrongValue(option: string, wanted: string): MountError {
  return new MountError(`mount option "${option}": the value must be ${wanted}`);
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
