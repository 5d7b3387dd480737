/**
 * Files that are extracted and copied with their times, modes and owners: on the server, and on every mount, they are what
 * the same program makes locally, and each costs a few requests, since what is done to a new file is gathered.
 */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { LeaseExport } from '../lease-mounts.ts';
import { buildPrograms } from '../memory-mount-fixture.ts';

const FILES = 40;
/** A directory with files of every kind of mode, owner, time and size, named after them, as `$T/made`; and `$T/made.tar`. */
const MAKE = `
  mkdir -p "$T/made/deep/er" && cd "$T/made"
  for mode in 0644 0600 0755 0444 0000 0664 4755 2755 1644; do
    for owner in 0:0 1000:1000 0:1000; do
      head -c $((mode * 7)) /dev/urandom > "$mode $owner"
      chown "$owner" "$mode $owner" && chmod "$mode" "$mode $owner"
    done
  done
  head -c 3000000 /dev/urandom > deep/large
  : > deep/empty
  chmod 0640 deep/large deep/empty
  echo early > 'deep/er/early'
  n=0
  find . -type f | sort | while read -r file; do n=$((n + 1)); touch -d "2001-09-0$((n % 9 + 1)) 12:00:00.12345678$((n % 10))" "$file"; done
  touch -d '1970-01-02 03:04:05.000000006' deep/er/early
  touch -d '1999-01-01 00:00:00.5' deep/er deep
  tar --format=posix -cf "$T/made.tar" *
`;
const LIST =
  "find . -mindepth 1 -printf '%p|%y %m %s %T@ %n %U %G\\n' | sort; find . -type f | sort | xargs -d '\\n' cksum";

let exported: LeaseExport;

beforeAll(async () => {
  await buildPrograms();
  exported = await LeaseExport.open(2);
}, 120_000);
afterAll(() => exported[Symbol.asyncDispose]());

/** Its output, and nothing on stderr. */
async function run(command: string): Promise<string> {
  const { stdout, stderr, status } = await exported.shell(`T=${join(exported.directory, 'T')}; ${command}`, 60_000);
  expect({ command, stderr, status }).toEqual({ command, stderr: '', status: 0 });
  return stdout;
}

describe('what was made with all its attributes', () => {
  const ways: [what: string, command: (at: string) => string][] = [
    ['tar x, as root', (at) => `tar xpf "$T/made.tar" -C ${at}`],
    [
      'tar x, as a user',
      (at) => `chmod 777 ${at} && setpriv --reuid 1000 --regid 1000 --clear-groups tar xf "$T/made.tar" -C ${at}`,
    ],
    ['cp -a', (at) => `cp -a "$T/made/." ${at}`],
    ['cp -a, over what is there', (at) => `cp -a "$T/made/." ${at} && chmod -R u+w ${at} && cp -a "$T/made/." ${at}`],
    ['install', (at) => `cd "$T/made" && install -p -m 0664 -o 1000 -g 1000 deep/large deep/empty 0600* ${at}`],
  ];
  it.each(ways)('%s', async (what, command) => {
    await run(`[ -e "$T/made.tar" ] || { ${MAKE} }; chmod -R o+rX "$T"`);
    const name = what.replaceAll(/[^a-z]/g, '');
    // Locally, and at the same time through a mount.
    await run(`mkdir "$T/${name}" "$A/${name}"; ${command(`"$T/${name}"`)}; ${command(`"$A/${name}"`)}`);
    const list = (at: string) => run(`cd ${at} && { ${LIST}; }`);
    const local = await list(`"$T/${name}"`);
    expect(local.split('\n').length).toBeGreaterThan(10);
    // Before the mount that made them has closed anything that it might have open still.
    for (const at of ['$B', '$X', '$A']) expect(await list(`"${at}/${name}"`), at).toBe(local);
    expect(await exported.differences(name)).toEqual([]);
  });
});

describe('what it costs', () => {
  async function cost(command: string): Promise<Record<string, number>> {
    const before = await exported.requests();
    await run(command);
    const after = await exported.requests();
    const all = Object.entries(after).map(([name, count]) => [name, count - (before[name] ?? 0)] as const);
    return Object.fromEntries(all.filter(([name, count]) => count > 0 && !['hello', 'renew', 'status'].includes(name)));
  }

  // cp(1) looks at what it has made before it writes to it.
  const programs: [what: string, command: string, looks: boolean][] = [
    ['tar', 'tar xpf "$T/plain.tar" -C "$A/tar"', false],
    ['cp', 'cp --preserve=timestamps,ownership "$T"/plain/* "$A/cp"', true],
  ];
  it.each(programs)('%s: at most three requests for a file', async (what, command, looks) => {
    await run(`mkdir -p "$T/plain" "$A/${what}"; cd "$T/plain";
      for n in $(seq ${FILES}); do echo "$n" > "$n"; done; tar cf ../plain.tar *`);
    const { create = 0, createWith = 0, write = 0, release = 0, ...rest } = await cost(command);
    expect([create + createWith, write], JSON.stringify(rest)).toEqual([FILES, create]);
    // One that took longer than 10 ms, on a busy machine, was made before it was closed.
    if (looks) expect(createWith).toBe(0);
    else expect(createWith).toBeGreaterThan(FILES / 2);
    expect(release).toBeLessThanOrEqual(FILES);
    // How the server's filesystem says that there is no capability is asked once, the directory looked at.
    const others = Object.values(rest).reduce((sum, count) => sum + count, 0);
    expect(others, JSON.stringify(rest)).toBeLessThan(10);
  });
});
