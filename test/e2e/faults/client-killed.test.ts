/** A client's machine goes without a word: what it held is free for others after the session lease, and not before. */
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { LeaseExport, waitFor } from '../lease-mounts.ts';
import { LockProgram } from '../lock-program.ts';
import { buildPrograms } from '../memory-mount-fixture.ts';

beforeAll(buildPrograms, 120_000);

const LEASE_SECONDS = 3;

/** Starting programs, looking whose lease is over, and a loaded machine. */
const MARGIN_MS = 2_500;

describe('kill -9 of a mount that holds locks and data', { timeout: 60_000 }, () => {
  it.each(['posix', 'flock'])('%s: the other mount is granted them within the lease time', async (kind) => {
    await using exported = await LeaseExport.open(2, undefined, ['--lease-time', `${LEASE_SECONDS}`]);
    const [killed, other] = exported.mounts;
    const [a, b] = [new LockProgram(), new LockProgram()];
    try {
      await a.do(`open f ${join(killed?.path as string, 'f')}`);
      await b.do(`open f ${join(other?.path as string, 'f')}`);
      await a.do(`open data ${join(killed?.path as string, 'data')}`);
      expect(await a.do(`lock f ${kind} ex`)).toBe('ok');
      await a.do('write data synchronized');
      expect(await a.do('sync data')).toBe('ok');
      expect(await a.do('write data gathered')).toBe('ok');

      const killedMs = performance.now();
      await killed?.kill();
      expect(await b.do(`lock f ${kind} ex nb`)).toBe('EAGAIN');
      const waits = b.do(`lock f ${kind} ex`);
      await waitFor('it waits', async () => (await exported.status()).locks.waiting === 1);
      expect(await waits).toBe('ok');
      const tookMs = performance.now() - killedMs;
      expect(tookMs).toBeGreaterThan(LEASE_SECONDS * 1000 - 100);
      expect(tookMs).toBeLessThan(LEASE_SECONDS * 1000 + MARGIN_MS);

      await b.do(`open data ${join(other?.path as string, 'data')}`);
      expect(await b.do('read data')).toBe('synchronized');
      expect(exported.serverOutput).toContain('session ended: its client stayed away');
    } finally {
      for (const one of [a, b]) one.kill();
    }
  });

  it('nobody asks for them: they are kept beyond the lease time, until somebody does', async () => {
    await using exported = await LeaseExport.open(2, undefined, ['--lease-time', `${LEASE_SECONDS}`]);
    const [killed, other] = exported.mounts;
    const [a, b] = [new LockProgram(), new LockProgram()];
    try {
      await a.do(`open f ${join(killed?.path as string, 'f')}`);
      expect(await a.do('lock f posix ex')).toBe('ok');
      await killed?.kill();
      await waitFor('the lease is over', async () =>
        (await exported.status()).sessions.some(({ absentSeconds }) => (absentSeconds ?? 0) >= LEASE_SECONDS + 2),
      );
      expect((await exported.status()).locks.held).toBe(1);
      await b.do(`open f ${join(other?.path as string, 'f')}`);
      expect(await b.do('lock f posix ex nb')).toBe('ok');
    } finally {
      for (const one of [a, b]) one.kill();
    }
  });
});
