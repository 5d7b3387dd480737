/** One file on two mounts in turn, with everything that fsx does to one: one-file.py. WEFT_FSX_OPERATIONS, WEFT_SEED. */
import { resolve } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import { runCommand } from '../../../client-fuse/mount/command.ts';
import { LeaseExport } from '../lease-mounts.ts';
import { buildPrograms } from '../memory-mount-fixture.ts';

const OPERATIONS = Number(process.env.WEFT_FSX_OPERATIONS ?? 400);
const SEED = Number(process.env.WEFT_SEED ?? Math.floor(Math.random() * 2 ** 31));
/** No hang: an operation takes milliseconds. */
const TIMEOUT_MS = 120_000 + 500 * OPERATIONS;

beforeAll(buildPrograms, 120_000);

it(`one file, ${OPERATIONS} operations on two mounts in turn: what the other one reads is always what it should be (seed ${SEED})`, {
  timeout: TIMEOUT_MS + 30_000,
}, async () => {
  await using exported = await LeaseExport.open(2);
  const program = resolve(import.meta.dirname, 'one-file.py');
  const roots = exported.mounts.map(({ path }) => path);
  const args = [program, String(SEED), String(OPERATIONS), ...roots, `${exported.local}/file`];
  const { stdout, stderr, timedOut } = await runCommand('python3', args, { timeoutMs: TIMEOUT_MS });
  expect({ stderr, timedOut }).toEqual({ stderr: '', timedOut: false });
  const said = JSON.parse(stdout) as { counts: Record<string, number> };
  if (process.env.WEFT_FSX_OPERATIONS) console.log(stdout.trim());
  expect(said).toMatchObject({ operations: OPERATIONS, problem: null });
  // Every kind had its turn.
  expect(Object.keys(said.counts).length).toBeGreaterThan(9);
});

/** The kernel writes nothing back until it is told that the file is cut: who waits for its pages before that waits for ever. */
it('one file is cut while pages of a mapping are dirty', async () => {
  await using exported = await LeaseExport.open(1);
  const [mount] = exported.mounts;
  const program = resolve(import.meta.dirname, 'dirty-pages.py');
  const { stderr, timedOut } = await runCommand('python3', [program, `${mount?.path}/cut`, '20'], {
    timeoutMs: 60_000,
  });
  expect({ stderr, timedOut }).toEqual({ stderr: '', timedOut: false });
}, 120_000);
