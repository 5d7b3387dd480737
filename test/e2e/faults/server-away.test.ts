/**
 * A server that hangs or dies: callers wait, can be killed, and go on when it is back. Nobody is told that a name, an entry or a
 * byte is not there. Callers have directories of their own, for a second change in one directory waits for the kernel's
 * lock of it, which no signal ends.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { Caller } from '../caller.ts';
import { exitOf, LeaseExport, send, waitFor } from '../lease-mounts.ts';
import { buildPrograms } from '../memory-mount-fixture.ts';

beforeAll(buildPrograms, 120_000);

const ENTRIES = 100;
const FATES = ['SIGKILL', 'SIGINT', 'goes on'] as const;

/** A directory as each caller has one: a file of 4 MiB, many entries, and an empty file. */
const MAKE_DIRECTORY = `mkdir -p $D/many && (cd $D/many && seq ${ENTRIES} | xargs touch) && cp $X/source $D/file && : > $D/out`;

/** What a caller does in its directory $D, and what it prints when it was done. */
const callers: Readonly<Record<string, { preparation: string; command: string; prints: string }>> = {
  'a read of an open file': {
    preparation: 'exec 3< $D/file && dd bs=64K count=3 of=/dev/null status=none <&3',
    command: 'md5sum <&3',
    prints: 'tail -c +196609 $X/source | md5sum',
  },
  'a write to an open file': { preparation: 'exec 3> $D/out', command: 'cat $X/source >&3', prints: 'true' },
  'a name': { preparation: 'true', command: 'stat -c %s $D/file', prints: 'echo 4194304' },
  'a listing': { preparation: 'true', command: 'ls $D/many', prints: `seq ${ENTRIES} | sort` },
  'a new directory': { preparation: 'true', command: 'mkdir $D/new', prints: 'true' },
};

/** Looks at the mount $1 and writes there until there is $2/stop; says what is not as it must be. */
const OBSERVER = `looks=0; export LC_ALL=C; sum=$(md5sum < $3/source)
  while [ ! -e $2/stop ]; do
    look() { [ "$1" = "$2" ] || echo "$1 instead of $2"; }
    look "$(stat -c %s $1/watched/file 2>&1)" 4194304
    look "$(ls $1/watched/many 2>&1 | wc -l)" ${ENTRIES}
    look "$(md5sum 2>&1 < $1/watched/file)" "$sum"
    looks=$((looks + 1)); echo $looks > $1/written/$looks; echo $looks > $2/looks
  done
  for look in $(seq $looks); do look "$(cat $3/written/$look 2>&1)" $look; done`;

interface Outage {
  /** Callers wait already, for a server that is stopped. */
  readonly goesOn: (exported: LeaseExport) => Promise<void>;
  readonly ends: (exported: LeaseExport) => Promise<void>;
}

const outages: Readonly<Record<string, Outage>> = {
  hangs: {
    goesOn: async () => {},
    ends: async ({ server }) => send(server.pid as number, 'SIGCONT'),
  },
  'is killed with their requests, and started again': {
    async goesOn({ server }) {
      send(server.pid as number, 'SIGKILL');
      expect(await exitOf(server, 5000)).toBe(true);
    },
    ends: (exported) => exported.startServer(),
  },
};

describe('a server that', { timeout: 90_000, concurrent: true }, () => {
  it.each(Object.entries(outages))('%s', async (_what, outage) => {
    await using exported = await LeaseExport.open(1);
    const { directory, local } = exported;
    const [mount = ''] = exported.mounts.map(({ path }) => path);
    await exported.shell('head -c 4M /dev/urandom > $X/source; mkdir $X/written');
    for (const name of ['watched', 'unseen']) await exported.shell(`D=$X/${name}; ${MAKE_DIRECTORY}`);

    await using observer = new Caller('sh', '-c', OBSERVER, 'observer', mount, directory, local);
    const looks = () => Number(readFileSync(join(directory, 'looks'), 'latin1'));
    const looksAgain = async () => {
      writeFileSync(join(directory, 'looks'), '0');
      await waitFor('the observer looks', async () => looks() > 0);
      const before = looks();
      await waitFor('the observer goes on', async () => looks() > before + 3);
    };
    await looksAgain();
    const planned = Object.values(callers).flatMap((caller, index) =>
      FATES.map((fate) => ({ ...caller, fate, name: `${index}-${fate.replace(' ', '-')}` })),
    );
    const names = planned.map(({ name }) => name).join(' ');
    await exported.shell(`for name in ${names}; do D=$X/$name; ${MAKE_DIRECTORY}; done`);
    const all = await Promise.all(
      planned.map(async ({ name, preparation, command, ...more }) => {
        const caller = await Caller.prepared(`X=${local} D=${mount}/${name} && ${preparation}`, command);
        return { name, caller, ...more };
      }),
    );

    send(exported.server.pid as number, 'SIGSTOP');
    for (const { caller } of all) caller.go();
    for (const { caller } of all) await caller.waits();
    await outage.goesOn(exported);
    await using late = new Caller('ls', `${mount}/unseen/many`);
    await late.waits();
    for (const { fate, caller, name } of all) {
      if (fate === 'goes on') continue;
      caller.child.kill(fate);
      expect(await caller.ends(1000), name).toEqual({ code: null, signal: fate });
    }
    for (const { fate, caller, name } of all) {
      expect([caller.stdout, caller.stderr, caller.isWaiting], name).toEqual(['', '', fate === 'goes on']);
    }

    await outage.ends(exported);
    expect(await late.ends(20_000)).toEqual({ code: 0, signal: null });
    expect([late.stdout, late.stderr]).toEqual([(await exported.shell('ls $X/unseen/many')).stdout, '']);
    for (const { caller, name, prints } of all.filter(({ fate }) => fate === 'goes on')) {
      expect(await caller.ends(20_000), name).toEqual({ code: 0, signal: null });
      expect([caller.stdout, caller.stderr], name).toEqual([(await exported.shell(prints)).stdout, '']);
    }
    const done = await exported.shell('cmp $X/source $X/1-goes-on/out && test -d $X/4-goes-on/new');
    expect(done.status, done.stderr).toBe(0);
    await looksAgain();
    writeFileSync(join(directory, 'stop'), '');
    expect(await observer.ends(10_000)).toEqual({ code: 0, signal: null });
    expect([observer.stdout, observer.stderr]).toEqual(['', '']);
    expect(await exported.differences()).toEqual([]);
  });
});
