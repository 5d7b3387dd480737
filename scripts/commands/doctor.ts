/** `weft doctor`: looks at this machine, and says of each finding what it means and what to do. */

import { accessSync, constants, existsSync, readFileSync, symlinkSync, unlinkSync } from 'node:fs';
import { release } from 'node:os';
import { fileURLToPath } from 'node:url';
import type { Command } from 'commander';
import { loadFuseNative } from '../../client-fuse/fuse-native/binding.ts';
import { raiseOpenFileLimit } from '../../shared/linux/libc.ts';

type Verdict = 'ok' | 'note' | 'fail';

interface Finding {
  readonly subject: string;
  readonly verdict: Verdict;
  readonly meaning: string;
}

const HELPER = '/sbin/mount.weft';

export function addDoctorCommand(program: Command): void {
  program
    .command('doctor')
    .description('check whether this machine can serve and mount')
    .option('--install-helper', `make ${HELPER}, so that \`mount -t weft\` and /etc/fstab work (as root)`)
    .option('--json', 'for programs')
    .addHelpText('after', '\nExample:\n  weft doctor')
    .action(doctor);
}

function doctor({ installHelper, json }: { installHelper?: true; json?: true }): void {
  if (installHelper) linkHelper();
  const findings = [node(), kernel(), device(), fusermount(), maxPages(), openFiles(), helper(), secondDriver()];
  if (json) console.log(JSON.stringify(findings, null, 2));
  else for (const { subject, verdict, meaning } of findings) console.log(`${verdict.padEnd(5)} ${subject}: ${meaning}`);
  if (findings.some(({ verdict }) => verdict === 'fail')) process.exitCode = 1;
}

function node(): Finding {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  const enough = major > 20 || (major === 20 && minor >= 19);
  const meaning = enough ? 'recent enough' : 'too old: weft needs 20.19 or later';
  return { subject: `Node ${process.versions.node}`, verdict: enough ? 'ok' : 'fail', meaning };
}

function kernel(): Finding {
  const [major = 0, minor = 0] = release().split('.').map(Number);
  const subject = `kernel ${release()}`;
  if (major > 5 || (major === 5 && minor >= 4)) return { subject, verdict: 'ok', meaning: 'its FUSE protocol serves' };
  return { subject, verdict: 'fail', meaning: 'older than 5.4: mount with --driver fuse-native' };
}

function device(): Finding {
  const subject = '/dev/fuse';
  if (!existsSync(subject)) {
    return {
      subject,
      verdict: 'fail',
      meaning: 'missing: run `modprobe fuse` as root; in a container, give it the device',
    };
  }
  try {
    accessSync(subject, constants.R_OK | constants.W_OK);
    return { subject, verdict: 'ok', meaning: 'there, and this user may use it' };
  } catch {
    return {
      subject,
      verdict: 'fail',
      meaning: 'this user may not open it: mount as root, or allow it (mode 0666 is usual)',
    };
  }
}

function onPath(program: string): boolean {
  return (process.env.PATH ?? '').split(':').some((directory) => existsSync(`${directory}/${program}`));
}

function fusermount(): Finding {
  const subject = 'fusermount3';
  if (onPath(subject)) return { subject, verdict: 'ok', meaning: 'users other than root can mount' };
  const isRoot = process.getuid?.() === 0;
  const meaning = 'missing: only root can mount; install the package fuse3 for other users';
  return { subject, verdict: isRoot ? 'note' : 'fail', meaning };
}

function maxPages(): Finding {
  const file = '/proc/sys/fs/fuse/max_pages_limit';
  const pages = existsSync(file) ? Number(readFileSync(file, 'utf8')) : 256;
  const mebibytes = (pages * 4096) / 2 ** 20;
  const meaning = `one write(2) of up to ${mebibytes} MiB stays whole; raise it with \`sysctl fs.fuse.max_pages_limit=4096\` for 16 MiB`;
  return { subject: 'fs.fuse.max_pages_limit', verdict: mebibytes >= 1 ? 'ok' : 'note', meaning };
}

function openFiles(): Finding {
  const limit = raiseOpenFileLimit();
  const subject = `open files: ${limit}`;
  if (limit >= 10_000) return { subject, verdict: 'ok', meaning: 'enough for a busy server' };
  return {
    subject,
    verdict: 'note',
    meaning: 'a server of many open files needs more: raise `ulimit -n` or LimitNOFILE=',
  };
}

function helper(): Finding {
  if (existsSync(HELPER)) return { subject: HELPER, verdict: 'ok', meaning: '`mount -t weft` and /etc/fstab work' };
  const meaning = 'missing: for `mount -t weft` and /etc/fstab run `weft doctor --install-helper` as root';
  return { subject: HELPER, verdict: 'note', meaning };
}

function linkHelper(): void {
  const script = fileURLToPath(new URL('../mount.weft.cjs', import.meta.url));
  try {
    if (existsSync(HELPER)) unlinkSync(HELPER);
    symlinkSync(script, HELPER);
  } catch (error) {
    throw new Error(`cannot make ${HELPER} (${(error as Error).message}); run this as root`);
  }
}

function secondDriver(): Finding {
  const subject = 'fuse-native (second driver)';
  try {
    loadFuseNative();
    return { subject, verdict: 'ok', meaning: 'usable with --driver fuse-native' };
  } catch (error) {
    return { subject, verdict: 'note', meaning: (error as Error).message };
  }
}
