/** `weft token create|list|revoke`: who may connect to the server of a state directory. A running server sees the change. */
import { randomBytes } from 'node:crypto';
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { IdentityRule } from '../../server/access/credential.ts';
import { changeGrants, type Grant, grantFile, newToken, readGrants } from '../../server/access/grant-file.ts';
import { defaultStateDirectory } from '../../server/store/handle-key.ts';
import { makeStateDirectory } from './state-directory.ts';

interface CreateOptions {
  readonly export?: string[];
  readonly readOnly?: true;
  readonly identity: IdentityRule;
  readonly expires?: number;
  readonly certificate?: string;
  readonly state: string;
}

const stateOption = () =>
  new Option('--state <DIR>', 'the state directory of the server').default(defaultStateDirectory());

export function addTokenCommand(program: Command): void {
  const token = program.command('token').description('who may connect: create, list and revoke access tokens');
  token
    .command('create')
    .description('print a new token, which is shown this once')
    .argument('NAME', 'whose it is; shown in logs', parseName)
    .option('--export <NAME>', 'only this export; may be repeated', collectExport)
    .option('--read-only', 'refuse every change')
    .addOption(
      new Option(
        '--identity <RULE>',
        'as whom requests run: trusted (as sent), UID:GID, or map:u1000=1005,g100=1005 (all others are nobody)',
      )
        .argParser(parseIdentity)
        .default({ kind: 'trusted' }, 'trusted'),
    )
    .option('--expires <DAYS>', 'after so many days', parseDays)
    .option(
      '--certificate <CN>',
      'no token: for the client certificate with this common name (--tls-client-ca)',
      parseName,
    )
    .addOption(stateOption())
    .addHelpText('after', '\nExample:\n  weft token create laptop --identity 1000:1000 > laptop.token')
    .action(create);
  token
    .command('list')
    .description('show what there is')
    .addOption(stateOption())
    .addHelpText('after', '\nExample:\n  weft token list')
    .action(list);
  token
    .command('revoke')
    .description('end what was given under this name, and the sessions that use it')
    .argument('NAME')
    .addOption(stateOption())
    .addHelpText('after', '\nExample:\n  weft token revoke laptop')
    .action(revoke);
  token.addHelpText('after', '\nExample:\n  weft token create laptop --identity 1000:1000 > laptop.token');
}

function parseName(text: string): string {
  if (text.trim() !== '' && !/\p{C}/u.test(text)) return text;
  throw new InvalidArgumentError('a name is a line of text.');
}

function collectExport(text: string, all: readonly string[] = []): string[] {
  if (text !== '/' && !/^[^/]+$/.test(text))
    throw new InvalidArgumentError('a name of an export has no slash, or is / alone.');
  return [...all, parseName(text)];
}

const MAX_ID = 0xfffffffe;

function parseIdentity(text: string): IdentityRule {
  if (text === 'trusted') return { kind: 'trusted' };
  const fixed = /^(\d+):(\d+)$/.exec(text);
  if (fixed) return { kind: 'fixed', uid: idOf(fixed[1]), gid: idOf(fixed[2]) };
  if (!text.startsWith('map:')) throw new InvalidArgumentError('write trusted, UID:GID, or map:u1000=1005,g100=1005.');
  const tables = { u: {} as Record<string, number>, g: {} as Record<string, number> };
  for (const pair of text.slice('map:'.length).split(',')) {
    const match = /^([ug])(\d+)=(\d+)$/.exec(pair);
    if (!match) throw new InvalidArgumentError(`"${pair}": write u1000=1005 or g100=1005.`);
    const table = tables[match[1] as 'u' | 'g'];
    const from = String(idOf(match[2]));
    if (Object.hasOwn(table, from)) throw new InvalidArgumentError(`${match[1]}${from} is there twice.`);
    table[from] = idOf(match[3]);
  }
  return { kind: 'mapped', uids: tables.u, gids: tables.g };
}

function idOf(text: string | undefined): number {
  const id = Number(text);
  if (id <= MAX_ID) return id;
  throw new InvalidArgumentError(`${text} is not an id.`);
}

function parseDays(text: string): number {
  const days = Number(text);
  if (days > 0 && days <= 36_500) return days;
  throw new InvalidArgumentError('write a number of days.');
}

function create(name: string, options: CreateOptions): void {
  const { certificate, expires } = options;
  const { token, hash } = newToken();
  const nowMs = Date.now();
  const grant: Grant = {
    id: randomBytes(8).toString('hex'),
    name,
    ...(certificate === undefined ? { hash } : { certificate }),
    ...(options.export ? { exports: options.export } : {}),
    readOnly: options.readOnly ?? false,
    identity: options.identity,
    createdMs: nowMs,
    ...(expires === undefined ? {} : { expiresMs: nowMs + expires * 86_400_000 }),
  };
  let isFirst = false;
  change(options.state, (grants) => {
    if (grants?.some((one) => one.name === name)) throw new Error(`"${name}" is there already: revoke it first`);
    isFirst = grants === undefined;
    return [...(grants ?? []), grant];
  });
  if (certificate === undefined) console.log(token);
  if (isFirst) console.error('the first one: a server that is running asks for it after its next start');
}

function change(state: string, how: Parameters<typeof changeGrants>[1]): void {
  makeStateDirectory(state);
  try {
    changeGrants(grantFile(state), how);
  } catch (error) {
    const { code, syscall } = error as NodeJS.ErrnoException;
    if (syscall === undefined) throw error;
    throw new Error(`${grantFile(state)} cannot be written (${code}): run it as the server's user, or see --state DIR`);
  }
}

function list({ state }: { state: string }): void {
  const grants = readGrants(grantFile(state)) ?? [];
  if (grants.length === 0) console.error(`there are none in ${state}: \`weft token create NAME\` makes one`);
  for (const grant of grants) {
    const { identity, expiresMs } = grant;
    const who = identity.kind === 'fixed' ? `${identity.uid}:${identity.gid}` : identity.kind;
    const words = [
      grant.name,
      grant.certificate === undefined ? 'token' : `certificate "${grant.certificate}"`,
      `exports ${grant.exports?.join(', ') ?? 'all'}`,
      grant.readOnly ? 'read-only' : 'read-write',
      `identity ${who}`,
      expiresMs === undefined ? 'does not expire' : `expires ${new Date(expiresMs).toISOString()}`,
    ];
    console.log(words.join('; '));
  }
}

function revoke(name: string, { state }: { state: string }): void {
  change(state, (grants = []) => {
    const left = grants.filter((one) => one.name !== name);
    if (left.length === grants.length)
      throw new Error(`there is no "${name}": \`weft token list\` shows what there is`);
    // The file stays when it is empty: then nobody may connect, not everybody.
    return left;
  });
}
