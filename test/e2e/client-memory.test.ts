/**
 * A client's memory follows what its kernel remembers: an hour of `find` leaves no more behind than a minute of it. Here with all
 * names forgotten by the kernel after each round, so that every node is given back and named again.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { beforeAll, expect, it } from 'vitest';
import { LeaseExport } from './lease-mounts.ts';
import { buildPrograms } from './memory-mount-fixture.ts';

beforeAll(buildPrograms, 120_000);

const FILES = 2000;
const DIRECTORIES = 20;
/** Until caches and heap have found their sizes; then a round adds nothing. Without a leak 3 MiB were seen in 30 rounds. */
const WARM_UP_ROUNDS = 8;
const ROUNDS = 12;
const MOST_GROWTH_MIB = 6;

function residentMiB(pid: number): number {
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1]) / 1024;
}

it('the memory of client and server does not grow with rounds of find', { timeout: 90_000 }, async () => {
  await using exported = await LeaseExport.open(1);
  const made = `for d in $(seq ${DIRECTORIES}); do mkdir $X/d$d; (cd $X/d$d; seq -f f%g ${FILES / DIRECTORIES} | xargs touch); done`;
  await exported.shell(made);
  const clientPid = exported.mounts[0]?.clientPid as number;
  const pids = [clientPid, exported.server.pid as number];
  const find = async (rounds: number) => {
    for (let round = 0; round < rounds; round++) {
      const { stdout, stderr } = await exported.shell("find $A -printf '%s %p\\n' | wc -l");
      expect([stdout.trim(), stderr]).toEqual([String(1 + DIRECTORIES + FILES), '']);
      writeFileSync('/proc/sys/vm/drop_caches', '2');
    }
    return pids.map(residentMiB);
  };
  const before = await find(WARM_UP_ROUNDS);
  const after = await find(ROUNDS);
  after.forEach((mib, index) => {
    expect(mib - (before[index] as number), `process ${pids[index]}`).toBeLessThan(MOST_GROWTH_MIB);
  });
  const { sessions } = await exported.status();
  const client = sessions.find((one) => one.client.endsWith(`:${clientPid}`));
  expect(client).toMatchObject({ openFiles: 0, requestsInFlight: 0 });
  expect(client?.leases).toBeLessThanOrEqual(2 + DIRECTORIES + FILES);
});
