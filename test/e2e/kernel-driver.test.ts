/**
 * The kernel driver and the supervisor on real mounts, over the in-memory filesystem. Every mount is taken away again by its
 * fixture; every wait has a deadline.
 */
import { execFileSync, spawn } from 'node:child_process';
import { chownSync, existsSync, mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { open, readFile, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { unmount } from '../../client-fuse/mount/unmount.ts';
import { buildPrograms, ends, isGone, MountFixture, until } from './memory-mount-fixture.ts';

const MiB = 1024 * 1024;

beforeAll(buildPrograms, 120_000);

describe('files through a mount', { timeout: 30_000 }, () => {
  it('passes a shell session', async () => {
    await using mount = await MountFixture.mount();
    const script = `set -e; cd $M; echo one > a; echo two >> a; mkdir d; mv a d/b; ln d/b c; ln -s d/b l; cat l
      rm c; chmod 600 d/b; touch -d '1950-01-01 00:00:00 UTC' d/b; stat -c '%a %Y %s %h' d/b; mkfifo p; stat -c %F p
      rm -r d; ls; cd /`;
    const result = await mount.shell(script);
    expect(result.stderr).toBe('');
    expect(result.stdout).toBe('one\ntwo\n600 -631152000 8 1\nfifo\nl\np\n');
    expect((await mount.state()).unexpectedErrors).toBe(0);
  });

  it('carries a direct read and write of 1 MiB as one request', async () => {
    await using mount = await MountFixture.mount();
    const data = `dd if=/dev/urandom of=${mount.directory}/source bs=1M count=4`;
    // dd aligns its buffer: an unaligned one needs 257 pages, which the kernel permits only with a raised max_pages_limit.
    const copy = `dd if=${mount.directory}/source of=$M/f bs=1M && dd if=$M/f of=${mount.directory}/back bs=1M`;
    const result = await mount.shell(`${data} && ${copy} && cmp ${mount.directory}/source ${mount.directory}/back`);
    expect(result.status, result.stderr).toBe(0);
    const { writeSizes, readSizes } = await mount.state();
    expect(writeSizes).toEqual([MiB, MiB, MiB, MiB]);
    expect(readSizes.slice(0, 4)).toEqual([MiB, MiB, MiB, MiB]);
  });

  it('lists 5,000 entries, each once, with and without attributes', async () => {
    await using mount = await MountFixture.mount();
    const made = await mount.shell('cd $M && mkdir d && cd d && seq -f "entry-%05g" 5000 | xargs touch && ls | wc -l');
    expect(made.stdout.trim(), made.stderr).toBe('5000');
    const names = await mount.shell("ls -l $M/d | tail -n +2 | awk '{print $NF}' | sort -u | wc -l");
    expect(names.stdout.trim()).toBe('5000');
  });

  it('runs a program (mapped pages of a file open for direct I/O)', async () => {
    await using mount = await MountFixture.mount();
    const result = await mount.shell('cp /bin/true $M/t && chmod 755 $M/t && $M/t && echo ran');
    expect(result.stdout, result.stderr).toBe('ran\n');
  });

  it('works through the page cache too', async () => {
    await using mount = await MountFixture.mount({ environment: { WEFT_TEST_CACHED: '1' } });
    const result = await mount.shell(
      'seq 200000 > $M/f && seq 200000 | cmp - $M/f && md5sum < $M/f && seq 200000 | md5sum',
    );
    expect(result.status, result.stderr).toBe(0);
    expect(new Set(result.stdout.trim().split('\n')).size).toBe(1);
  });

  it('gives every lookup count and handle back when the kernel drops its caches', async () => {
    await using mount = await MountFixture.mount();
    await mount.shell(
      'cd $M && for d in 1 2 3; do mkdir $d; touch $d/a $d/b; ln $d/a $d/c; done; ls -lR . ; find . -type f',
    );
    expect((await mount.state()).held.inodes).toBeGreaterThan(0);
    await until('all counts are back', async () => {
      writeFileSync('/proc/sys/vm/drop_caches', '2');
      const { held } = await mount.state();
      return held.lookups === 0 && held.handles === 0;
    });
  });

  it('knows the groups of its caller', async () => {
    await using mount = await MountFixture.mount();
    await mount.shell('echo x > $M/f && chmod 644 $M/f');
    await mount.shell('setpriv --reuid 1000 --regid 1000 --groups 1000,2001,2002 cat $M/f');
    expect((await mount.state()).lastGroups).toEqual([1000, 2001, 2002]);
  });
});

describe('callers that are killed or interrupted', { timeout: 30_000 }, () => {
  /** A reader of a file whose read hangs in the filesystem. */
  async function hangingReader(mount: MountFixture, interruptible: boolean, command: [string, ...string[]]) {
    await writeFile(mount.path('f'), 'content');
    await mount.tell({ hang: 'read', interruptible });
    const [program, ...args] = command;
    const reader = mount.start(program, args);
    await until('the read waits', async () => (await mount.state()).waiting === 1);
    return reader;
  }

  it('lets a caller die by SIGKILL at once, and gives back what the late result holds', async () => {
    await using mount = await MountFixture.mount();
    const reader = await hangingReader(mount, false, ['cat', mount.path('f')]);
    reader.kill('SIGKILL');
    expect((await ends(reader, 5000)).signal).toBe('SIGKILL');
    expect((await mount.state()).killedCallers).toBeGreaterThan(0);
    await mount.tell({ resume: true });
    await until('nothing is held', async () => (await mount.state()).held.handles === 0);
  });

  it('lets a caller die by Ctrl-C (a fatal SIGINT)', async () => {
    await using mount = await MountFixture.mount();
    const reader = await hangingReader(mount, false, ['cat', mount.path('f')]);
    reader.kill('SIGINT');
    expect((await ends(reader, 5000)).signal).toBe('SIGINT');
  });

  it('ends an interruptible wait with EINTR at a signal that has a handler', async () => {
    await using mount = await MountFixture.mount();
    // Perl installs handlers without SA_RESTART, and sysread does not try again.
    const script =
      '$SIG{USR1} = sub {}; open(F, "<", $ARGV[0]); defined(sysread(F, $b, 9)) and exit 1; exit($!{EINTR} ? 42 : 2)';
    const reader = await hangingReader(mount, true, ['perl', '-e', script, mount.path('f')]);
    reader.kill('SIGUSR1');
    expect((await ends(reader, 5000)).code).toBe(42);
  });

  it('passes a signal with a handler on as an abort, and a SIGKILL after it still kills', async () => {
    await using mount = await MountFixture.mount();
    // The shell has a handler for USR1 and itself opens the file: its open hangs, not interruptible.
    await writeFile(mount.path('f'), 'content');
    await mount.tell({ hang: 'open', interruptible: false });
    const caller = mount.start('sh', ['-c', `trap : USR1; exec 3< ${mount.path('f')}`]);
    await until('the open waits', async () => (await mount.state()).waiting === 1);
    caller.kill('SIGUSR1');
    await new Promise((done) => setTimeout(done, 300));
    expect(caller.signalCode).toBe(null);
    caller.kill('SIGKILL');
    expect((await ends(caller, 5000)).signal).toBe('SIGKILL');
    await mount.tell({ resume: true });
    await until('the late handle is released', async () => (await mount.state()).held.handles === 0);
  });

  it('lets a killed process end although its close waits (FLUSH)', async () => {
    await using mount = await MountFixture.mount();
    await writeFile(mount.path('f'), 'content');
    const holder = mount.start('sh', [
      '-c',
      `exec 3< ${mount.path('f')}; echo > ${mount.directory}/opened; exec sleep 60`,
    ]);
    await until('it is open', async () => existsSync(`${mount.directory}/opened`));
    await mount.tell({ hang: 'flush', interruptible: false });
    holder.kill('SIGKILL');
    expect((await ends(holder, 5000)).signal).toBe('SIGKILL');
  });
});

describe('the end of a mount', { timeout: 40_000 }, () => {
  it('umount from outside: both processes end with status 0', async () => {
    await using mount = await MountFixture.mount();
    const { pid } = await mount.state();
    await unmount(mount.mountpoint);
    expect(await mount.exited).toEqual({ code: 0, signal: null });
    expect(isGone(pid)).toBe(true);
    expect(await mount.isMounted()).toBe(false);
  });

  it.each(['SIGINT', 'SIGTERM', 'SIGHUP'] as const)('%s to the whole group: unmounted, status 0', async (signal) => {
    await using mount = await MountFixture.mount({ detached: true });
    const { pid } = await mount.state();
    process.kill(-(mount.supervisor.pid as number), signal);
    expect(await mount.exited).toEqual({ code: 0, signal: null });
    expect(isGone(pid)).toBe(true);
    expect(await mount.isMounted()).toBe(false);
  });

  it('SIGTERM to the client alone does the same', async () => {
    await using mount = await MountFixture.mount();
    process.kill((await mount.state()).pid, 'SIGTERM');
    expect(await mount.exited).toEqual({ code: 0, signal: null });
    expect(await mount.isMounted()).toBe(false);
  });

  it('a busy mount is unmounted lazily, and says so', async () => {
    await using mount = await MountFixture.mount();
    const user = mount.start('sh', ['-c', `cd ${mount.mountpoint}; echo > ${mount.directory}/used; exec sleep 60`]);
    await until('it is used', async () => existsSync(`${mount.directory}/used`));
    await expect(unmount(mount.mountpoint)).rejects.toThrow('mount point busy');
    mount.supervisor.kill('SIGINT');
    expect(await mount.exited).toEqual({ code: 0, signal: null });
    expect(mount.output).toContain('unmounted lazily');
    expect(await mount.isMounted()).toBe(false);
    user.kill('SIGKILL');
  });

  it('kill -9 of the client, with callers waiting: no dead mount point, no process stuck', async () => {
    await using mount = await MountFixture.mount();
    await writeFile(mount.path('f'), 'content');
    await mount.tell({ hang: 'read', interruptible: false });
    const reader = mount.start('cat', [mount.path('f')]);
    await until('the read waits', async () => (await mount.state()).waiting === 1);
    process.kill((await mount.state()).pid, 'SIGKILL');
    expect(await mount.exited).toEqual({ code: 1, signal: null });
    expect(mount.output).toContain('killed by SIGKILL');
    expect((await ends(reader, 5000)).code).toBe(1);
    expect(await mount.isMounted()).toBe(false);
    expect((await stat(mount.mountpoint)).isDirectory()).toBe(true);
  });

  it('kill -9 of the supervisor: the client goes on, and unmounts by itself at its end', async () => {
    await using mount = await MountFixture.mount();
    const { pid } = await mount.state();
    mount.supervisor.kill('SIGKILL');
    await mount.exited;
    await writeFile(mount.path('f'), 'still here');
    expect(await readFile(mount.path('f'), 'utf8')).toBe('still here');
    process.kill(pid, 'SIGTERM');
    await until('the client has ended', async () => isGone(pid));
    expect(await mount.isMounted()).toBe(false);
  });

  it('goes to the background when the mount answers', async () => {
    await using mount = await MountFixture.mount({ background: true });
    expect(await mount.exited).toEqual({ code: 0, signal: null });
    await writeFile(mount.path('f'), 'x');
    const { pid, supervisor } = await mount.state();
    await unmount(mount.mountpoint);
    await until('both have ended', async () => isGone(pid) && isGone(supervisor));
  });

  it('tells the reason when the client cannot work, also from the background', async () => {
    for (const background of [false, true]) {
      await using mount = new MountFixture({
        background,
        environment: { WEFT_TEST_FAIL: 'no server at ws://nowhere' },
      });
      expect((await mount.exited).code).toBe(1);
      expect(mount.output).toContain('weft: no server at ws://nowhere\n');
      expect(await mount.isMounted()).toBe(false);
    }
  });
});

describe('mount points that will not do', { timeout: 30_000 }, () => {
  async function refusal(mountpoint: string, options = ''): Promise<string> {
    await using mount = new MountFixture({ mountpoint, options });
    expect((await mount.exited).code).toBe(1);
    return mount.output;
  }

  it('says what is wrong in one line', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'weft-points-'));
    writeFileSync(join(directory, 'file'), '');
    expect(await refusal(join(directory, 'absent'))).toMatch(/^weft: mount point .* does not exist: make it with/);
    expect(await refusal(join(directory, 'file'))).toMatch(/^weft: mount point .* is not a directory/);
    expect(await refusal(directory)).toMatch(/^weft: mount point .* is not empty.*nonempty/);
    expect(await refusal(directory, 'colour=blue')).toMatch(/^weft: unknown mount option "colour=blue"/);
  });

  it('refuses a second mount, and cleans a dead one away', async () => {
    await using first = await MountFixture.mount();
    expect(await refusal(first.mountpoint)).toMatch(/already mounted/);
    const { pid } = await first.state();
    first.supervisor.kill('SIGKILL');
    process.kill(pid, 'SIGKILL');
    await until('the mount is dead', async () => (await first.shell('ls $M')).stderr.includes('not connected'));
    await using second = await MountFixture.mount({ mountpoint: first.mountpoint });
    expect(second.output).toContain('cleaned away a dead mount');
    await writeFile(second.path('f'), 'alive');
  });
});

describe('as a user', { timeout: 30_000 }, () => {
  it('mounts by fusermount3, and unmounts cleanly', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'weft-user-'));
    const mountpoint = join(directory, 'mnt');
    mkdirSync(mountpoint);
    for (const path of [directory, mountpoint]) chownSync(path, 1000, 1000);
    const program = join(import.meta.dirname, '../../dist/test/e2e/memory-mount.js');
    // Where udev has not made /dev/fuse usable for everybody, one that is stands in its place: in a mount namespace of
    // the test's own, so that the machine stays as it is.
    const prepare =
      'D=$(mktemp -d) && mount -t tmpfs none $D && mknod -m 666 $D/fuse c 10 229 && mount --bind $D/fuse /dev/fuse';
    const asUser = 'setpriv --reuid 1000 --regid 1000 --clear-groups';
    const supervise = `exec ${asUser} ${process.execPath} ${program} supervise ${mountpoint}`;
    const supervisor = spawn('unshare', ['--mount', 'sh', '-c', `${prepare} && ${supervise}`], {
      env: { ...process.env, WEFT_TEST_CONTROL: join(directory, 'control') },
      cwd: '/',
    });
    const inside = (command: string) => {
      const args = ['--mount', `--target=${supervisor.pid}`, ...asUser.split(' '), 'sh', '-c', command];
      return execFileSync('nsenter', args, { encoding: 'utf8', timeout: 10_000 });
    };
    let output = '';
    supervisor.stdout.on('data', (chunk) => (output += chunk));
    supervisor.stderr.on('data', (chunk) => (output += chunk));
    try {
      await until('mounted', async () => output.includes('mounted\n') || supervisor.exitCode !== null);
      expect(supervisor.exitCode, output).toBe(null);
      expect(inside(`cd ${mountpoint}; echo hi > a; cat a; grep -c ' ${mountpoint} ' /proc/self/mountinfo`)).toBe(
        'hi\n1\n',
      );
      supervisor.kill('SIGINT');
      expect(await ends(supervisor), output).toEqual({ code: 0, signal: null });
    } finally {
      supervisor.kill('SIGTERM');
    }
  });

  it('is told how to get allow_other', async () => {
    // fusermount3 itself answers as it does: only the wording is ours.
    const { explainUserMount } = await import('../../client-fuse/mount/mounter.ts');
    const said = "fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf";
    expect(explainUserMount('/mnt', false, said).message).toMatch(/user_allow_other` to \/etc\/fuse.conf/);
  });
});

describe('many open files', { timeout: 60_000 }, () => {
  it('keeps 2,000 handles apart', async () => {
    await using mount = await MountFixture.mount();
    const files = [];
    for (let index = 0; index < 2000; index++) {
      const file = await open(mount.path(`f${index}`), 'w+');
      await file.write(`content ${index}`);
      files.push(file);
    }
    for (const [index, file] of files.entries()) {
      const { buffer, bytesRead } = await file.read(Buffer.alloc(40), 0, 40, 0);
      expect(buffer.toString('latin1', 0, bytesRead)).toBe(`content ${index}`);
      await file.close();
    }
    await until('all are released', async () => (await mount.state()).held.handles === 0);
  });
});
