/**
 * Programs on two mounts make changes of all kinds while their connections are cut at random: before, inside and after
 * messages, in both directions, over both lanes, while they are opened again too. Each call gives what it gives on a local
 * directory, and the trees are the same at the end: each operation was applied exactly once.
 * WEFT_CUTS=1000 for a long run; WEFT_SEED repeats its operations, though not where they meet the cuts.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import { type Fault, FaultProxy } from '../../../scripts/faults/fault-proxy.ts';
import { LeaseExport } from '../lease-mounts.ts';
import { buildPrograms } from '../memory-mount-fixture.ts';

const CUTS = Number(process.env.WEFT_CUTS ?? 40);
const SEED = Number(process.env.WEFT_SEED ?? Math.floor(Math.random() * 1e6));
/** Of each worker and round. */
const OPERATIONS = 60;
const WORKERS = ['0', '1', '2', '3'];
const [CUT_CHANCE, DELAY_CHANCE, MOST_DELAY_MS] = [1 / 30, 1 / 10, 3];
const CUT_KINDS: readonly Fault[] = ['cut before', 'cut inside', 'cut after'];
const ROUND_WITHIN_MS = 60_000;
const program = resolve(import.meta.dirname, 'random-changes.py');

beforeAll(buildPrograms, 120_000);

function randomFault(): Fault {
  if (Math.random() < CUT_CHANCE) return CUT_KINDS[Math.floor(Math.random() * CUT_KINDS.length)] as Fault;
  return Math.random() < DELAY_CHANCE ? { delayMs: Math.random() * MOST_DELAY_MS } : 'pass';
}

function prepare(root: string): void {
  mkdirSync(root, { recursive: true });
  for (const name of [...WORKERS, 'shared']) mkdirSync(join(root, name));
  for (const name of ['log', 'lockf', 'flock']) writeFileSync(join(root, 'shared', name), '');
}

it(`${CUTS} cuts: results and trees are those of a local run`, { timeout: 30_000 + CUTS * 1_000 }, async () => {
  let isCutting = false;
  await using exported = await LeaseExport.open(0);
  await using proxy = await FaultProxy.open(
    () => exported.port,
    () => (isCutting ? randomFault() : 'pass'),
  );
  for (let mount = 0; mount < 2; mount++) await exported.mount(proxy.port);
  const mounts = exported.mounts.map(({ path }) => path);
  // By programs of their own: what waits here for a mount waits for the proxy, which is in this process.
  const python = async (args: string) => {
    const { status, stdout, stderr } = await exported.shell(`python3 ${program} ${args}`, ROUND_WITHIN_MS);
    expect([status, stderr], args).toEqual([0, '']);
    return stdout;
  };

  isCutting = true;
  for (let number = 0; proxy.cuts < CUTS; number++) {
    const round = `round-${number}`;
    const control = join(exported.directory, 'control', round);
    for (const root of [control, join(exported.local, round)]) prepare(root);
    const run = (root: string, workers: readonly string[]) =>
      python(`run ${root} ${SEED + number} ${OPERATIONS} ${workers.join(' ')}`);
    const expected = await run(control, WORKERS);
    const results = WORKERS.map((worker, index) => run(join(mounts[index % 2] as string, round), [worker]));
    const why = `WEFT_SEED=${SEED}, round ${number}`;
    expect((await Promise.all(results)).join(''), why).toBe(expected);
    const tree = await python(`tree ${control}`);
    for (const root of [...mounts, exported.local]) expect(await python(`tree ${join(root, round)}`), why).toBe(tree);
  }
  expect(proxy.cuts).toBeGreaterThanOrEqual(CUTS);
});
