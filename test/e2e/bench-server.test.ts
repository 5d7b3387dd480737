/**
 * `weft bench overlap --url`: the checker on a real server, without a mount, with many clients in one process.
 */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import pino from 'pino';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { parseServerAddress } from '../../client-fuse/transport/server-address.ts';
import { benchServer } from '../../scripts/bench/overlap-bench.ts';
import { openExports } from '../../server/open-exports.ts';
import { Server } from '../../server/server.ts';

const options = {
  sizesBytes: [65536, 1 << 20],
  spanBytes: 2 << 20,
  durationMs: 3000,
  seed: 5,
  disjoint: false,
  direct: false,
};

let directory: string;
let server: Server;
beforeEach(async () => {
  directory = fs.mkdtempSync(path.join(os.tmpdir(), 'weft-bench-server-'));
  const log = pino({ level: 'warn' });
  const exports = openExports([{ name: '/', directory, readOnly: false }], 'none', Buffer.alloc(32, 1), log);
  server = await Server.start({ exports, listen: { host: '127.0.0.1', port: 0 }, log, pollUs: 0 });
});
afterEach(async () => {
  await server.close();
  fs.rmSync(directory, { recursive: true });
});

test.each([
  [2, 2],
  [40, 40],
])('%i writers and %i readers never see a torn read', async (writers, readers) => {
  const address = parseServerAddress(`ws://127.0.0.1:${server.port}/`);
  const { report } = await benchServer(address, { ...options, writers, readers }, 20_000, () => {});
  expect(report).toMatchObject({ torn: 0, stale: 0, backward: 0, mixedPages: 0, failures: [], passed: true });
  expect(report.writes.calls).toBeGreaterThan(writers);
  expect(report.reads.calls).toBeGreaterThan(readers);
  expect(new Set(report.finalStates.map((state) => state.sha256)).size).toBe(1);
  expect(fs.readdirSync(directory)).toEqual([]);
});
