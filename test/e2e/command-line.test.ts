/**
 * Command lines that are refused: status and the one line that a person reads. Nothing is served or mounted.
 */
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { runCommand } from '../../client-fuse/mount/command.ts';
import { programs, weft } from './lease-mounts.ts';
import { buildPrograms } from './memory-mount-fixture.ts';

const directory = mkdtempSync(join(tmpdir(), 'weft-command-line-'));
const at = (name: string) => join(directory, name);
mkdirSync(at('m'));

beforeAll(buildPrograms, 120_000);
afterAll(() => rmSync(directory, { recursive: true }));

const run = (line: readonly string[]) => runCommand(process.execPath, [weft, ...line], { timeoutMs: 20_000 });
const pin = `SHA256:${'A'.repeat(43)}`;
const m = at('m');
const exported = ['--export', `x=${m}`, '--state', at('state')];

const refused: readonly (readonly [line: readonly string[], says: RegExp])[] = [
  [['mount', 'ws://127.0.0.1:1/', m, '--fingerprint', pin], /a fingerprint needs wss:\/\//],
  [['mount', 'ws://127.0.0.1:1/', m, '--tls-cert', 'c', '--tls-key', 'k'], /a certificate needs wss:\/\//],
  [['mount', 'ws://user:secret@127.0.0.1:1/', m], /an address holds no user and no password.*--token-file/],
  [
    ['mount', 'ws://127.0.0.1:1/', m, '--log-file', at('no/log')],
    /the log file .*no\/log cannot be written \(ENOENT\)/,
  ],
  [['mount', m, 'ws://127.0.0.1:1/'], /the address goes before the mount point: `weft mount ws:/],
  [
    ['serve', m, '--state', '/proc/nope'],
    /cannot make the state directory \/proc\/nope \(ENOENT\); name another place/,
  ],
  [['token', 'create', 'q', '--state', '/proc/nope'], /cannot make the state directory \/proc\/nope \(ENOENT\)/],
  [['status', at('missing')], /missing is not a weft mount; `weft status` lists/],
  [['serve', ...exported, '--tls', 'auto', '--tls-cert', 'c', '--tls-key', 'k'], /leave one of them out/],
];

describe('one line, status 1', { concurrent: true, timeout: 60_000 }, () => {
  it.each(refused)('%j', async (line, says) => {
    const { status, stdout, stderr } = await run(line);
    expect([status, stdout]).toEqual([1, '']);
    expect(stderr).toMatch(new RegExp(`^weft: .*${says.source}[^\n]*$`));
    expect(stderr).not.toContain('secret');
  });
});

it('a client may answer from memory for 3 s: the lease time is no shorter', { timeout: 60_000 }, async () => {
  const { status, stderr } = await run(['serve', m, '--lease-time', '2']);
  expect(status).toBe(1);
  expect(stderr).toContain("option '--lease-time <SECONDS>' argument '2' is invalid. write whole seconds, 3 to 3600.");
});

it.each([
  [['overlap', m, '--html', at('no/x.html')], /--html .*x\.html cannot be written \(ENOENT\)/],
  [['io', m, '--html', at('no/x.html')], /--html .*x\.html cannot be written \(ENOENT\)/],
  [['overlap', '--url', 'ws://127.0.0.1:1/', '--fingerprint', pin], /a fingerprint needs wss:/],
])('bench %j: one line, status 2', { timeout: 60_000 }, async (line, says) => {
  const { status, stdout, stderr } = await run(['bench', ...line]);
  expect([status, stdout]).toEqual([2, '']);
  expect(stderr).toMatch(new RegExp(`^weft bench: ${says.source}[^\n]*$`));
});

describe('mount.weft', { concurrent: true, timeout: 60_000 }, () => {
  const helper = join(programs, 'scripts/mount.weft.cjs');
  it.each([[['ws://127.0.0.1:1/']], [['ws://127.0.0.1:1/', m, 'more']], [['ws://127.0.0.1:1/', m, '-q']]])(
    '%j is wrong usage',
    async (args) => {
      const { status, stderr } = await runCommand(process.execPath, [helper, ...args], { timeoutMs: 20_000 });
      expect(status).toBe(1);
      expect(stderr).toMatch(/^error: .*\n\(`mount\.weft --help` says more\)$/);
    },
  );
});

it.each([
  [['token', 'create', ''], /a name is a line of text/],
  [['token', 'create', 'a\nb'], /a name is a line of text/],
  [['token', 'create', 'a', '--export', 'a/b'], /a name of an export has no slash/],
  [['token', 'create', 'a', '--identity', 'map:u1=2,u1=3'], /u1 is there twice/],
])('%j is wrong usage', { timeout: 60_000 }, async (line, says) => {
  const { status, stdout, stderr } = await run([...line, '--state', at('tokens')]);
  expect([status, stdout]).toEqual([1, '']);
  expect(stderr).toMatch(says);
});

it('token list says so when there are none', { timeout: 60_000 }, async () => {
  const { status, stderr } = await run(['token', 'list', '--state', at('tokens')]);
  expect([status, stderr]).toEqual([0, `there are none in ${at('tokens')}: \`weft token create NAME\` makes one`]);
});

it('they leave nothing behind', () => {
  expect(readdirSync(m)).toEqual([]);
});
