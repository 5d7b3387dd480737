/** Shared mappings under locks, by programs on two mounts: mapped-counters.py. WEFT_MAPPED_ROUNDS for more. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { runCommand } from '../../../client-fuse/mount/command.ts';
import { LeaseExport } from '../lease-mounts.ts';
import { buildPrograms } from '../memory-mount-fixture.ts';

const ROUNDS = Number(process.env.WEFT_MAPPED_ROUNDS ?? 30);
const COUNTERS = 5;
/** No hang: a round takes milliseconds. */
const TIMEOUT_MS = 120_000 + 500 * ROUNDS;
const program = resolve(import.meta.dirname, 'mapped-counters.py');

let exported: LeaseExport;
beforeAll(async () => {
  await buildPrograms();
  exported = await LeaseExport.open(2);
}, 120_000);
afterAll(() => exported?.[Symbol.asyncDispose](), 60_000);

it.each([
  ['posix', 'map'],
  ['posix', 'mixed'],
  ['flock', 'map'],
])(
  '%s, %s: four programs on two mounts count side by side in one page, and none is lost',
  {
    timeout: TIMEOUT_MS + 10_000,
  },
  async (kind, how) => {
    const name = `${kind}-${how}`;
    // Its only page is not full: what is written back ends with the file.
    writeFileSync(join(exported.local, name), Buffer.alloc(4 * COUNTERS));
    const paths = exported.mounts.flatMap(({ path }) => [join(path, name), join(path, name)]);
    const args = [String(COUNTERS), String(ROUNDS), kind, how];
    const runs = await Promise.all(
      paths.map((path) => runCommand('python3', [program, path, ...args], { timeoutMs: TIMEOUT_MS })),
    );
    expect(runs.map(({ stderr, timedOut }) => ({ stderr, timedOut }))).toEqual(
      runs.map(() => ({ stderr: '', timedOut: false })),
    );
    const counted = runs.map(({ stdout }) => JSON.parse(stdout) as number[]);
    const content = readFileSync(join(exported.local, name));
    const found = Array.from({ length: COUNTERS }, (_, number) => content.readUInt32LE(4 * number));
    expect(found).toEqual(
      found.map((_, number) => counted.reduce((sum, counts) => sum + (counts[number] as number), 0)),
    );
    expect(content.length).toBe(4 * COUNTERS);
  },
);
