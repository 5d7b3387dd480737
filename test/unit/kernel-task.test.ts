/**
 * Reading /proc of the caller: its groups, and whether it is dying.
 */
import { describe, expect, it } from 'vitest';
import { diesOfSignal, hasSigkillPending, parseGroups, procTasks } from '../../client-fuse/kernel/task.ts';

const status = (groups: string, pending: string, shared: string) =>
  `Name:\tcat\nGroups:\t${groups}\nSigPnd:\t${pending}\nShdPnd:\t${shared}\nSigBlk:\tffffffffffffffff\n`;
const none = '0000000000000000';
const kill = '0000000000000100';

/** pid (comm) state and fields 4 to 52 of /proc/PID/stat, with flags (9) and exit code (52). */
function stat(flags: number, exitCode: number): string {
  const fields = Array.from({ length: 52 }, () => '0');
  fields[8] = String(flags);
  fields[51] = String(exitCode);
  return ['17', '(a ) b)', 'S', ...fields.slice(3)].join(' ');
}

describe('/proc/PID/status', () => {
  it.each([
    ['', []],
    ['0 ', [0]],
    ['4 24 4294967294 ', [4, 24, 4294967294]],
  ])('groups %j', (line, groups) => {
    expect(parseGroups(status(line, none, none))).toEqual(groups);
  });

  it.each([
    [none, none, false],
    [kill, none, true],
    [none, kill, true],
    ['0000000000000200', '8000000000000000', false],
    ['8000000000000100', none, true],
  ])('pending %s, shared %s: killed %s', (pending, shared, expected) => {
    expect(hasSigkillPending(status('', pending, shared))).toBe(expected);
  });
});

describe('/proc/PID/stat', () => {
  it.each([
    [0x400000, 0, false],
    [0x4, 0, false],
    [0x4, 256, false],
    [0x4, 9, true],
    [0x4, 131, true],
    // Stopped: the signal that stopped it stands in the exit code.
    [0x400000, 19, false],
  ])('flags %d, exit code %d: %s', (flags, exitCode, expected) => {
    expect(diesOfSignal(stat(flags, exitCode))).toBe(expected);
  });
});

it('knows this process', () => {
  expect(procTasks.groupsOf(process.pid)).toEqual(expect.arrayContaining([]));
  expect(procTasks.isBeingKilled(process.pid)).toBe(false);
  expect(procTasks.groupsOf(0)).toEqual([]);
  expect(procTasks.groupsOf(2 ** 30)).toEqual([]);
  expect(procTasks.isBeingKilled(2 ** 30)).toBe(false);
});
