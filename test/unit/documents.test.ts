/**
 * The documents name only what there is: every relative link leads to a file, every `weft ...` command line in the
 * README uses options of that very command, and every option mentioned anywhere in it exists.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Command } from 'commander';
import { describe, expect, test } from 'vitest';
import { addBenchCommand } from '../../scripts/commands/bench.ts';
import { addDoctorCommand } from '../../scripts/commands/doctor.ts';
import { addMountCommand } from '../../scripts/commands/mount.ts';
import { addServeCommand } from '../../scripts/commands/serve.ts';
import { addStatusCommand } from '../../scripts/commands/status.ts';
import { addTokenCommand } from '../../scripts/commands/token.ts';
import { addUmountCommand } from '../../scripts/commands/umount.ts';

const root = join(dirname(fileURLToPath(import.meta.url)), '../..');
const read = (path: string): string => readFileSync(join(root, path), 'utf8');
const markdownIn = (directory: string): string[] =>
  readdirSync(join(root, directory))
    .filter((name) => name.endsWith('.md'))
    .map((name) => join(directory, name));

const documents = [...markdownIn('.'), ...markdownIn('docs'), ...markdownIn('docs/decisions')];
const readme = read('README.md').replace(/\$\(npm [^)]*\)/g, '');

/** Options by command: `serve`, `bench overlap`, ... */
function optionsByCommand(): Map<string, Set<string>> {
  const program = new Command('weft');
  for (const add of [addServeCommand, addMountCommand, addUmountCommand]) add(program);
  for (const add of [addStatusCommand, addTokenCommand, addBenchCommand, addDoctorCommand]) add(program);
  const found = new Map<string, Set<string>>();
  const visit = (command: Command, path: string[]): void => {
    const names = command.options.flatMap(({ long, short }) => [long, short].filter((one) => one !== undefined));
    found.set(path.join(' '), new Set([...names, '--help', '-h', '--version']));
    for (const one of command.commands) visit(one, [...path, one.name()]);
  };
  visit(program, []);
  return found;
}

const options = optionsByCommand();

/** Command lines of the README, in its code blocks and between backquotes. */
const commandLines = [
  ...[...readme.matchAll(/```(?:sh)?\n([\s\S]*?)```/g)].flatMap((block) => (block[1] as string).split('\n')),
  ...[...readme.matchAll(/`([^`\n]+)`/g)].map((inline) => inline[1] as string),
]
  .map((line) => line.replace(/\s#.*$/, '').trim())
  .filter((line) => /^(?:npx )?weft [a-z]/.test(line));

function commandOf(line: string): string {
  const [, verb = '', noun = ''] = line.replace(/^npx /, '').split(/\s+/);
  return options.has(`${verb} ${noun}`) ? `${verb} ${noun}` : verb;
}

describe('relative links lead to a file', () => {
  test.each(documents)('%s', (path) => {
    const links = [...read(path).matchAll(/\]\(([^)#\s]+)[^)]*\)/g)].map((match) => match[1] as string);
    const relative = links.filter((link) => !/^[a-z]+:/.test(link));
    expect(relative.filter((link) => !existsSync(join(root, dirname(path), link)))).toEqual([]);
  });
});

describe('command lines of the README use what there is', () => {
  test('there are some', () => {
    expect(commandLines.length).toBeGreaterThan(15);
  });

  test.each(commandLines)('%s', (line) => {
    const known = options.get(commandOf(line));
    expect(known, 'the command').toBeDefined();
    const used = line.split(/\s+/).filter((word) => /^--?[a-z]/.test(word));
    expect(used.filter((word) => !known?.has(word.split('=')[0] as string))).toEqual([]);
  });
});

test.each(['serve', 'mount', 'status', 'token create', 'doctor', 'bench overlap', 'bench io', 'bench meta'])(
  'the README names every option of weft %s',
  (command) => {
    const long = [...(options.get(command) ?? [])].filter(
      (option) => option.startsWith('--') && option !== '--version',
    );
    expect(long.length).toBeGreaterThan(1);
    expect(long.filter((option) => !readme.includes(option))).toEqual([]);
  },
);

test('every option that the README mentions exists', () => {
  const scripts = ['scripts/quickstart', 'scripts/test', 'scripts/soak.ts'].map(read).join('');
  const all = new Set([...options.values()].flatMap((one) => [...one]));
  const mentioned = new Set([...readme.matchAll(/(?<![\w-])--[a-z][a-z-]+/g)].map((match) => match[0]));
  expect([...mentioned].filter((option) => !all.has(option) && !scripts.includes(option))).toEqual([]);
});
