/**
 * How a mount ends: by `weft umount`, by signals, by the death of its client process. Whichever it is, the mount point is a plain
 * directory again, no process is left, nobody hangs. The server is a real one, and is away in the bad cases.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { beforeAll, describe, expect, it } from 'vitest';
import { runCommand } from '../../../client-fuse/mount/command.ts';
import { Caller } from '../caller.ts';
import { LeaseExport, type LeaseMount, send, waitFor, weft } from '../lease-mounts.ts';
import { buildPrograms, ends } from '../memory-mount-fixture.ts';

beforeAll(buildPrograms, 120_000);

const run = (...args: string[]) => runCommand(process.execPath, [weft, ...args], { timeoutMs: 20_000 });

/** Processes whose command line has `text`; those that are ending have none. */
function processesNaming(text: string): string[] {
  return readdirSync('/proc').filter((name) => {
    try {
      return /^\d+$/.test(name) && readFileSync(`/proc/${name}/cmdline`, 'utf8').includes(text);
    } catch {
      return false; // it has gone
    }
  });
}

/** The mount point is a directory like any other, and neither supervisor nor client is left. */
async function expectNothingLeft({ url }: LeaseExport, mountpoint: string): Promise<void> {
  expect(readFileSync('/proc/self/mountinfo', 'utf8')).not.toContain(mountpoint);
  // The server's command line does not have its URL.
  await waitFor('no process is left', async () => processesNaming(url).length === 0, 5000);
  const used = await runCommand('sh', ['-c', 'cd "$M" && ls -A && echo x > f && rm f'], {
    timeoutMs: 5000,
    environment: { M: mountpoint },
  });
  expect(used).toMatchObject({ status: 0, stdout: '', stderr: '' });
}

function stopServer({ server }: LeaseExport): void {
  send(server.pid as number, 'SIGSTOP');
}

describe('a mount that is asked to end', { timeout: 60_000 }, () => {
  it('in the background, by weft umount; one that is in use says so, and goes on', async () => {
    await using exported = await LeaseExport.open(0);
    const mountpoint = `${exported.directory}/m0`;
    await exported.shell(`mkdir ${mountpoint}`);
    expect(await run('mount', exported.url, mountpoint)).toMatchObject({ status: 0, stdout: '', stderr: '' });
    expect(processesNaming(exported.url).length).toBe(2);
    await using user = await Caller.prepared(`cd ${mountpoint} && echo text > f`, 'cat f');
    const busy = await run('umount', mountpoint);
    const next = `close what \`lsof ${mountpoint}\` shows, or \`weft umount --lazy ${mountpoint}\``;
    expect(busy).toMatchObject({ status: 1, stderr: `weft: mount point busy: ${next}` });
    user.go();
    expect(await user.ends(5000)).toEqual({ code: 0, signal: null });
    expect(user.stdout).toBe('text\n');
    expect(await run('umount', mountpoint)).toMatchObject({ status: 0, stdout: '', stderr: '' });
    await expectNothingLeft(exported, mountpoint);
    expect(await run('umount', mountpoint)).toMatchObject({
      status: 1,
      stderr: expect.stringMatching(/is not mounted/),
    });
    expect((await exported.shell('cat $X/f')).stdout).toBe('text\n');
  });

  it.each([
    ['weft umount', async ({ path }: LeaseMount) => expect((await run('umount', path)).status).toBe(0)],
    ['SIGTERM', async ({ supervisor }: LeaseMount) => send(supervisor.pid as number, 'SIGTERM')],
    [
      // A terminal sends it to both.
      'Ctrl-C',
      async ({ supervisor, clientPid }: LeaseMount) => {
        for (const pid of [clientPid, supervisor.pid as number]) send(pid, 'SIGINT');
      },
    ],
  ])('in the foreground, by %s', async (_how, end) => {
    await using exported = await LeaseExport.open(1);
    const [mount] = exported.mounts as [LeaseMount];
    expect((await exported.shell('echo text > $A/f')).stderr).toBe('');
    await end(mount);
    expect(await ends(mount.supervisor, 5000), mount.output).toEqual({ code: 0, signal: null });
    await expectNothingLeft(exported, mount.path);
    expect((await exported.shell('cat $X/f')).stdout).toBe('text\n');
  });
});

describe('a mount that is unmounted while the server is away', { timeout: 60_000 }, () => {
  it('hands over what a killed program has written when the server is back; weft umount waits for it', async () => {
    await using exported = await LeaseExport.open(1);
    const [{ path, supervisor, clientPid }] = exported.mounts as [LeaseMount];
    // What it writes last is gathered: write(2) has returned.
    const program = `import os, sys, time
f = os.open("${path}/f", os.O_CREAT | os.O_WRONLY)
os.write(f, b"first\\n"); os.fsync(f)
print("ready", flush=True); sys.stdin.readline()
os.write(f, b"last\\n"); print("written", flush=True); time.sleep(60)`;
    await using writer = new Caller('python3', '-c', program);
    await waitFor('it has the file open', async () => writer.stdout === 'ready\n');
    stopServer(exported);
    writer.go();
    await waitFor('it has written', async () => writer.stdout === 'ready\nwritten\n');
    writer.child.kill('SIGKILL');
    await writer.ends(5000);
    const unmounting = run('umount', path);
    await waitFor('it is unmounted', async () => !readFileSync('/proc/self/mountinfo', 'utf8').includes(path));
    await delay(2500);
    expect(supervisor.exitCode).toBe(null);
    send(exported.server.pid as number, 'SIGCONT');
    const says = `weft: ${path} is unmounted; its client (process ${clientPid}) stays until the server has all that was written`;
    expect(await unmounting).toMatchObject({ status: 0, stderr: says });
    expect((await exported.shell('cat $X/f')).stdout).toBe('first\nlast\n');
    expect(await ends(supervisor, 5000)).toEqual({ code: 0, signal: null });
    expect(exported.mounts[0]?.output).toMatch(/"files":\["f"\].*unmounted; this process stays/);
    await expectNothingLeft(exported, path);
  });
});

it('a mount in the background whose client is killed says so in its log', { timeout: 60_000 }, async () => {
  await using exported = await LeaseExport.open(0);
  const [path, logFile] = ['m0', 'log'].map((name) => `${exported.directory}/${name}`) as [string, string];
  await exported.shell(`mkdir ${path}`);
  expect(await run('mount', exported.url, path, '--log-file', logFile)).toMatchObject({ status: 0 });
  const client = processesNaming(exported.url).find((pid) =>
    readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('mount-client'),
  );
  send(Number(client), 'SIGKILL');
  await waitFor('the supervisor has ended', async () => processesNaming(exported.url).length === 0, 10_000);
  await expectNothingLeft(exported, path);
  expect(readFileSync(logFile, 'utf8')).toContain(`the client process was killed by SIGKILL: ${path} is unmounted`);
});

it('weft status shows one mount when it is named, not itself, and says when its client is dead', {
  timeout: 60_000,
}, async () => {
  await using exported = await LeaseExport.open(2);
  const [first, second] = exported.mounts as [LeaseMount, LeaseMount];
  const alive = await run('status', first.path, '--json');
  expect(alive.status, alive.stderr).toBe(0);
  const [{ mounts, server }] = JSON.parse(alive.stdout);
  expect(mounts.map(({ mountpoint }: { mountpoint: string }) => mountpoint)).toEqual([first.path]);
  expect(server.sessions).toHaveLength(2);
  await first.kill();
  const dead = await run('status', first.path);
  expect(dead.status).toBe(1);
  expect(dead.stdout).toContain(`its client is dead: \`weft umount ${first.path}\`\n`);
  expect(dead.stdout).not.toContain(second.path);
});

describe('a mount whose callers wait for a server that is away', { timeout: 60_000, concurrent: true }, () => {
  it('is unmounted by Ctrl-C all the same, and they are told', async () => {
    await using exported = await LeaseExport.open(1);
    const [mount] = exported.mounts as [LeaseMount];
    await exported.shell('echo text > $X/f');
    stopServer(exported);
    await using caller = new Caller('cat', `${mount.path}/f`);
    await caller.waits();
    for (const pid of [mount.clientPid, mount.supervisor.pid as number]) send(pid, 'SIGINT');
    expect(await ends(mount.supervisor, 15_000)).toEqual({ code: 0, signal: null });
    expect(mount.output).toContain('unmounted lazily; programs that still use it get errors');
    expect(await caller.ends(1000)).toEqual({ code: 1, signal: null });
    expect(caller.stderr).toMatch(/not connected|connection abort/);
    await expectNothingLeft(exported, mount.path);
  });

  it('leaves a clean mount point after kill -9 of its client, where a new mount works; they end', async () => {
    await using exported = await LeaseExport.open(1);
    const [{ path, supervisor, clientPid }] = exported.mounts as [LeaseMount];
    await exported.shell('mkdir $X/d $X/e; echo text > $X/f; echo text > $X/g');
    const writer = await Caller.prepared(`exec 3<> ${path}/g`, 'dd if=/dev/zero bs=1M count=1 of=/dev/fd/3');
    const [first, second] = (await Promise.all(
      ['first', 'second'].map((name) => Caller.prepared(`cd ${path}/d`, `mkdir ${name}`)),
    )) as [Caller, Caller];
    stopServer(exported);
    const others = [
      ['cat', `${path}/f`],
      ['ls', `${path}/e`],
      ['stat', `${path}/absent`],
    ];
    const waiting = [first, writer, ...others.map(([command = '', ...args]) => new Caller(command, ...args))];
    first.go();
    writer.go();
    for (const caller of waiting) await caller.waits();
    // Waits for the lock of the directory that the first has: in D state, which no signal ends.
    second.go();
    await waitFor('the second mkdir is in D state', async () => stateOf(second) === 'D');

    send(clientPid, 'SIGKILL');
    expect(await ends(supervisor, 5000)).toEqual({ code: 1, signal: null });
    expect(exported.mounts[0]?.output).toContain(
      `weft: the client process was killed by SIGKILL: ${path} is unmounted\n`,
    );
    for (const caller of [...waiting, second]) {
      const { code, signal } = await caller.ends(2000);
      expect(code, String(signal)).toBeGreaterThan(0);
      expect(caller.stderr).toMatch(/not connected|connection abort/);
    }
    await expectNothingLeft(exported, path);

    send(exported.server.pid as number, 'SIGCONT');
    await exported.mount(exported.port, path);
    expect((await exported.shell('cat $A/f && echo more >> $A/f && cat $X/f')).stdout).toBe('text\ntext\nmore\n');
  });
});

function stateOf({ child }: Caller): string {
  const stat = readFileSync(`/proc/${child.pid}/stat`, 'latin1');
  return stat.charAt(stat.lastIndexOf(')') + 2);
}
