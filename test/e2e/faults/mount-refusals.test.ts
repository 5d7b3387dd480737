/**
 * `weft mount` when it cannot work: within 10 s it ends with status 1 and one line that names the thing and the next step, and
 * leaves nothing mounted. In the background, as a person starts it.
 */
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { runCommand } from '../../../client-fuse/mount/command.ts';
import { Caller } from '../caller.ts';
import { LeaseExport, send, weft } from '../lease-mounts.ts';
import { buildPrograms } from '../memory-mount-fixture.ts';

beforeAll(buildPrograms, 120_000);

const WITHIN_MS = 10_000;

async function refusal(url: string, mountpoint: string): Promise<string> {
  const mountsHere = () => readFileSync('/proc/self/mountinfo', 'utf8').split(` ${mountpoint} `).length;
  const before = mountsHere();
  const startedMs = performance.now();
  const { status, stdout, stderr } = await runCommand(process.execPath, [weft, 'mount', url, mountpoint], {
    timeoutMs: 30_000,
  });
  expect(performance.now() - startedMs, stderr).toBeLessThan(WITHIN_MS);
  expect([status, stdout], stderr).toEqual([1, '']);
  expect(mountsHere()).toBe(before);
  return stderr;
}

describe('weft umount', { timeout: 60_000 }, () => {
  const umount = (...command: string[]) => runCommand(command[0] as string, command.slice(1), { timeoutMs: 30_000 });

  it("leaves alone what is not weft's, lazily or not", async () => {
    await using exported = await LeaseExport.open(0);
    const at = join(exported.directory, 'tmpfs');
    mkdirSync(at);
    const script = `mount -t tmpfs none $0 && touch $0/there || exit 9
      for lazy in '' --lazy; do ${process.execPath} ${weft} umount $lazy $0; echo $?; done; ls $0`;
    const { stdout, stderr } = await umount('unshare', '--mount', 'sh', '-c', script, at);
    expect(stdout).toBe('1\n1\nthere\n');
    const line = `weft: ${at} is not a weft mount (tmpfs): \`umount\` is for others`;
    expect(stderr).toBe(`${line}\n${line}`);
  });

  it('says whose mount it is, and finds it through a symbolic link', async () => {
    await using exported = await LeaseExport.open(1);
    const { directory } = exported;
    const [path, link] = [join(directory, 'm0'), join(directory, 'link')];
    symlinkSync('m0', link);
    const asUser = ['setpriv', '--reuid', 'nobody', '--regid', 'nogroup', '--clear-groups', process.execPath];
    const other = await umount(...asUser, weft, 'umount', path);
    const line = `weft: ${path} was mounted by somebody else: unmount it as that user, or as root`;
    expect(other).toMatchObject({ status: 1, stderr: line });
    expect(await umount(process.execPath, weft, 'umount', link)).toMatchObject({ status: 0, stderr: '' });
    expect(readFileSync('/proc/self/mountinfo', 'utf8')).not.toContain(path);
  });
});

describe('weft mount refuses', { timeout: 60_000, concurrent: true }, () => {
  it('what cannot be mounted, or mounted on', async () => {
    await using exported = await LeaseExport.open(1);
    const { url, directory, port } = exported;
    const at = (name: string) => join(directory, name);
    for (const name of ['empty', 'full', 'full/sub']) mkdirSync(at(name));
    writeFileSync(at('file'), '');
    const start = 'start the server with `weft serve DIR --listen 127.0.0.1:1`, or correct the address';
    const rows = [
      ['ws://127.0.0.1:1/', 'empty', `127.0.0.1:1: nothing listens there; ${start}`],
      [`${url}absent`, 'empty', `127.0.0.1:${port}: no export "absent" here; this server exports "/"`],
      [url, 'absent', `mount point ${at('absent')} does not exist: make it with \`mkdir -p ${at('absent')}\``],
      [url, 'file', `mount point ${at('file')} is not a directory: give an empty directory`],
      [url, 'full', `mount point ${at('full')} is not empty: choose an empty directory, or give \`-o nonempty\``],
      [url, 'm0', `${at('m0')} is already mounted (${url}): \`weft umount ${at('m0')}\` first`],
    ] as const;
    for (const [from, name, line] of rows) expect(await refusal(from, at(name))).toBe(`weft: ${line}`);
    // The mount that was there goes on.
    expect((await exported.shell('echo text > $A/f; cat $X/f')).stdout).toBe('text\n');
  });

  it('a server that takes the connection and is silent, and a mount point where a mount hangs', async () => {
    await using exported = await LeaseExport.open(1);
    const { url, directory, port } = exported;
    mkdirSync(join(directory, 'empty'));
    send(exported.server.pid as number, 'SIGSTOP');
    // Waits once the mount's leases have run out.
    await using caller = new Caller('perl', '-e', '1 while lstat $ARGV[0]', join(directory, 'm0'));
    await caller.waits();
    const [silent, hanging] = await Promise.all([
      refusal(url, join(directory, 'empty')),
      refusal(url, join(directory, 'm0')),
    ]);
    const next = 'no answer; check the address and whether a firewall is in between';
    expect(silent).toBe(`weft: 127.0.0.1:${port}: ${next}`);
    expect(hanging).toMatch(/^weft: .*m0 is already mounted \(ws:.*\): `weft umount .*m0` first$/);
  });
});
