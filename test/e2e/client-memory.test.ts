/**
 * A client's memory follows what its kernel remembers: an hour of `find` leaves no more behind than a minute of it. Here with all
 * names forgotten by the kernel after each round, so that every node is given back and named again. What is compared is what
 * is left when the garbage is collected: the resident size goes up and down by 25 MiB meanwhile.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { LeaseExport, programs, waitFor } from './lease-mounts.ts';
import { buildPrograms } from './memory-mount-fixture.ts';

const FILES = 2000;
const DIRECTORIES = 20;
/** Until caches and compiled code have found their sizes. */
const WARM_UP_ROUNDS = 30;
/** Without a leak 0.1 MiB were seen in them; 100 bytes a name and round are 6 MiB. */
const ROUNDS = 30;
const MOST_GROWTH_BYTES = 2 ** 20;

const reports = mkdtempSync(join(tmpdir(), 'weft-heap-'));

beforeAll(() => {
  vi.stubEnv('HEAP_REPORTS', reports);
  vi.stubEnv('NODE_OPTIONS', `--require ${join(programs, 'scripts/faults/heap-reporter.cjs')}`);
  return buildPrograms();
}, 120_000);
afterAll(() => {
  vi.unstubAllEnvs();
  rmSync(reports, { recursive: true });
});

async function bytesInUse(pid: number): Promise<number> {
  const report = join(reports, String(pid));
  rmSync(report, { force: true });
  process.kill(pid, 'SIGUSR2');
  await waitFor(`process ${pid} reports`, async () => existsSync(report));
  return Number(readFileSync(report, 'latin1'));
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
    return Promise.all(pids.map(bytesInUse));
  };
  const before = await find(WARM_UP_ROUNDS);
  const after = await find(ROUNDS);
  after.forEach((bytes, index) => {
    expect(bytes - (before[index] as number), `process ${pids[index]}`).toBeLessThan(MOST_GROWTH_BYTES);
  });
  const { sessions } = await exported.status();
  const client = sessions.find((one) => one.client.endsWith(`:${clientPid}`));
  expect(client).toMatchObject({ openFiles: 0, requestsInFlight: 0 });
  expect(client?.leases).toBeLessThanOrEqual(2 + DIRECTORIES + FILES);
});
