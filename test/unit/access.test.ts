/** Who gets in: grants, and an attacker's client against a live server that asks for tokens. */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync, renameSync, statSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import pino from 'pino';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { WebSocket } from 'ws';
import { openTls, parseFingerprint } from '../../client-fuse/transport/credentials.ts';
import type { Credentials } from '../../client-fuse/transport/server-address.ts';
import { ServerSession } from '../../client-fuse/transport/server-session.ts';
import { Admission, Ticket } from '../../server/access/admission.ts';
import { admittedCaller, type IdentityRule } from '../../server/access/credential.ts';
import {
  changeGrants,
  type Grant,
  grantFile,
  grantOfToken,
  newToken,
  readGrants,
} from '../../server/access/grant-file.ts';
import { automaticTlsFiles, loadTls } from '../../server/access/tls-files.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { limits } from '../../shared/limits.ts';
import { lookUp, ROOT, silent, TemporaryDirectory, TestServer } from '../support/fixture.ts';

describe('a credential', () => {
  const rows: [IdentityRule, number[], number[]][] = [
    [{ kind: 'trusted' }, [0, 0, 5], [0, 0, 5]],
    [{ kind: 'fixed', uid: 7, gid: 8 }, [0, 0, 5], [7, 8]],
    [{ kind: 'mapped', uids: { 1000: 7 }, gids: { 100: 8 } }, [1000, 100, 0], [7, 8, 65534]],
    [{ kind: 'mapped', uids: { 1000: 7 }, gids: { 100: 8 } }, [0, 0], [65534, 65534]],
    [{ kind: 'mapped', uids: {}, gids: {} }, [], [65534]],
  ];
  it.each(rows)('%j makes %j to %j', (identity, caller, becomes) => {
    expect(admittedCaller({ id: '1', name: 'n', readOnly: false, identity }, caller)).toEqual(becomes);
  });
});

describe('admission', () => {
  it('lets one address hold only its share of half-open connections, and takes places back', () => {
    const admission = new Admission();
    const enter = (address: string) => admission.enter(address, () => {});
    const tickets = Array.from({ length: limits.maxHalfOpenPerAddress }, () => enter('a') as Ticket);
    expect(enter('a')).toMatch(/half-open/);
    expect(enter('b')).toBeInstanceOf(Ticket);
    admission.established(tickets[0] as Ticket);
    expect(enter('a')).toBeInstanceOf(Ticket);
    admission.leave(tickets[0] as Ticket);
    admission.leave(tickets[1] as Ticket);
    expect(enter('a')).toBeInstanceOf(Ticket);
  });

  it('has the oldest connection of the address with the most make room for one that has less than its share', () => {
    const admission = new Admission();
    const ended: string[] = [];
    const enter = (address: string, name = '') => admission.enter(address, () => ended.push(name));
    const { maxHalfOpen, maxHalfOpenPerAddress } = limits;
    const addresses = maxHalfOpen / maxHalfOpenPerAddress;
    for (let count = 0; count < maxHalfOpen; count++) enter(`a${count % addresses}`, `${count}`);
    expect(enter('b')).toBeInstanceOf(Ticket);
    expect(ended).toEqual(['0']);
    // Who has not less than others is refused.
    expect(enter('a0')).toMatch(/too many half-open connections$/);
    // All are ended at the most once, whoever comes, until each has its share.
    for (let count = 0; count < maxHalfOpen; count++) enter('b');
    const share = Math.floor(maxHalfOpen / (addresses + 2));
    expect(ended.length).toBe(new Set(ended).size);
    expect(ended.length).toBe(share);
    expect(enter('b')).toMatch(/too many half-open connections$/);
  });

  it('lets nobody push another out where each address has but one', () => {
    const admission = new Admission();
    for (let count = 0; count < limits.maxHalfOpen; count++) {
      expect(admission.enter(`a${count}`, () => expect.unreachable())).toBeInstanceOf(Ticket);
    }
    expect(admission.enter('b', () => {})).toMatch(/too many half-open connections$/);
  });

  it('counts wrong tokens of an address, and forgets them', () => {
    const admission = new Admission();
    for (let guess = 0; guess < limits.maxGuesses; guess++) admission.failed('a', 0);
    expect([admission.isFailing('a', 0), admission.isFailing('b', 0)]).toEqual([true, false]);
    expect(admission.isFailing('a', limits.guessForgottenMs)).toBe(false);
  });

  it('limits the connections of one credential', () => {
    const admission = new Admission();
    const ticket = () => new Ticket('a', () => {});
    for (let count = 0; count < limits.maxConnectionsPerCredential; count++) {
      expect(admission.claim(ticket(), 'c')).toBeUndefined();
    }
    expect(admission.claim(ticket(), 'c')).toMatch(/this credential/);
  });
});

it('reads fingerprints as printed and as openssl shows them', () => {
  const sha = randomBytes(32);
  const hex = sha.toString('hex');
  const colons = hex.toUpperCase().match(/../g)?.join(':');
  for (const text of [`SHA256:${sha.toString('base64').slice(0, 43)}`, `SHA256:${hex}`, colons as string]) {
    expect(parseFingerprint(text)).toBe(hex);
  }
  expect(parseFingerprint('SHA256:short')).toBeUndefined();
});

it('says what is wrong with certificates and keys, and where no TLS is spoken', async () => {
  using directory = new TemporaryDirectory();
  const [one, two] = [automaticTlsFiles(directory.join('one')), automaticTlsFiles(directory.join('two'))];
  const mismatch = `${one.cert} and ${two.key} are no certificate and its key`;
  expect(() => loadTls(one.cert, two.key, undefined)).toThrow(mismatch);
  expect(() => loadTls(one.cert, one.key, one.key)).toThrow(`${one.key} is no certificate`);
  expect(loadTls(one.cert, one.key, two.cert).clientCa).toEqual(readFileSync(two.cert));

  await using server = await TestServer.start(directory.path, {});
  const address = { ...server.address, url: server.address.url.replace('ws:', 'wss:') };
  const opened = (credentials: Credentials) => openTls({ ...address, credentials });
  await expect(opened({ certFile: one.cert, keyFile: two.key })).rejects.toThrow(mismatch);
  await expect(opened({ certFile: one.cert })).rejects.toThrow(/give both --tls-cert and --tls-key/);
  await expect(opened({ certFile: one.cert, keyFile: one.key })).rejects.toThrow(/^no TLS is spoken there/);
});

const { deniedRetryMs, maxHalfOpen, maxHalfOpenPerAddress } = limits;

describe('a server that asks for tokens', () => {
  let directory: TemporaryDirectory;
  let path: string;
  let server: TestServer;
  let logged: string;
  const tokens: Record<string, string> = {};
  const open: ServerSession[] = [];

  function grant(name: string, allows: Partial<Grant> = {}): void {
    const { token, hash } = newToken();
    tokens[name] = token;
    const one: Grant = {
      id: name,
      name,
      hash,
      readOnly: false,
      identity: { kind: 'trusted' },
      createdMs: 0,
      ...allows,
    };
    changeGrants(path, (grants) => [...(grants ?? []), one]);
  }

  async function join(token: string, exportName = '/', log = silent): Promise<ServerSession> {
    const file = directory.join(`shown-${randomBytes(4).toString('hex')}`);
    writeFileSync(file, `${token}\n`);
    const address = { ...server.address, exportName, credentials: { tokenFile: file } };
    const session = await ServerSession.connect(address, log);
    open.push(session);
    return session;
  }

  beforeEach(async () => {
    directory = new TemporaryDirectory();
    path = grantFile(directory.join('state'));
    for (const name of ['one', 'two']) grant(name);
    grant('reader', { readOnly: true });
    grant('elsewhere', { exports: ['other'] });
    grant('old', { expiresMs: 1 });
    logged = '';
    const write = (line: string) => {
      logged += line;
    };
    const log = pino({ level: 'trace' }, { write });
    server = await TestServer.start(directory.path, { grantFile: path, log });
  });

  afterEach(async () => {
    for (const session of open.splice(0)) session.close();
    Object.assign(limits, { deniedRetryMs, maxHalfOpen, maxHalfOpenPerAddress });
    await server[Symbol.asyncDispose]();
    directory[Symbol.dispose]();
    // Whatever happened: no secret reached the log.
    for (const token of Object.values(tokens)) expect(logged).not.toContain(token);
  });

  it('keeps only hashes, for its owner', () => {
    expect(statSync(path).mode & 0o777).toBe(0o600);
    const text = readFileSync(path, 'utf8');
    for (const token of Object.values(tokens)) expect(text).not.toContain(token);
    expect(grantOfToken(readGrants(path) ?? [], tokens.two as string)?.name).toBe('two');
  });

  it('loses no change of the grants when two are made at once', () => {
    const names = () => (readGrants(path) ?? []).map(({ name }) => name);
    const before = names();
    changeGrants(path, (grants = []) => {
      expect(() => changeGrants(path, () => [])).toThrow(/another `weft token` is at work/);
      return grants.slice(1);
    });
    expect(names()).toEqual(before.slice(1));
    const refuse = () => {
      throw new Error('no');
    };
    expect(() => changeGrants(path, refuse)).toThrow('no');
    changeGrants(path, () => []);
    expect(names()).toEqual([]);
  });

  it('refuses who shows nothing, something else, something old, and who wants another export', async () => {
    await expect(server.connect()).rejects.toThrow(/asks for a token/);
    await expect(join('weft_wrong')).rejects.toThrow(/does not know this token/);
    await expect(join(tokens.old as string)).rejects.toThrow(/has expired/);
    await expect(join(tokens.elsewhere as string)).rejects.toThrow(/no export "\/" here; this server exports $/);
    expect(logged).toMatch(/connection refused/);
    await join(tokens.one as string);
  });

  it('says EROFS to a read-only token', async () => {
    const session = await join(tokens.reader as string);
    expect(session.hello.readOnly).toBe(true);
    const parent = session.hello.root.inode;
    const made = session.call('unlink', ROOT, { parent, name: Buffer.from('x') } as never);
    await expect(made).rejects.toMatchObject({ code: errno.EROFS });
  });

  it('lets no other credential join a session', async () => {
    const one = await join(tokens.one as string);
    const { sessions, exports } = server.server;
    const [held] = [...sessions.all];
    const exported = exports.get('/');
    if (!held || !exported) throw new Error('no session');
    const stranger = { id: 'two', name: 'two', readOnly: false, identity: { kind: 'trusted' } } as const;
    const { session, resumed } = sessions.attach(one.hello.session, exported, 'x', 0, stranger);
    expect([resumed, session === held]).toEqual([false, false]);
    expect(sessions.attach(one.hello.session, exported, 'x', 0, held.credential).session).toBe(held);
    sessions.detach(held, Date.now());
    sessions.detach(session, Date.now());
  });

  it('ends what was opened by a token that is revoked', async () => {
    const one = await join(tokens.one as string);
    const two = await join(tokens.two as string);
    changeGrants(path, (grants = []) => grants.filter(({ name }) => name !== 'one'));
    await expect
      .poll(() => [...server.server.sessions.all].map(({ credential }) => credential.name), { timeout: 5000 })
      .toEqual(['two']);
    await expect(one.call('renew', ROOT, {})).rejects.toMatchObject({ code: errno.EACCES });
    await two.call('renew', ROOT, {});
  });

  it('denies what waits, and serves it again when the grant is back', async () => {
    const one = await join(tokens.one as string);
    Object.assign(limits, { deniedRetryMs: 300 });
    const before = readGrants(path) as Grant[];
    changeGrants(path, (grants = []) => grants.filter(({ name }) => name !== 'one'));
    await expect.poll(() => [...server.server.sessions.all].length, { timeout: 5000 }).toBe(0);
    // As many as may be under way: were the place of one lost, nothing could be asked any more.
    const asked = Array.from({ length: limits.maxRequestsInFlight }, () => one.call('renew', ROOT, {}));
    const errors = (await Promise.allSettled(asked)).map((one) => one.status === 'rejected' && one.reason.code);
    expect(new Set(errors)).toEqual(new Set([errno.EACCES]));
    changeGrants(path, () => before);
    await expect.poll(() => one.call('renew', ROOT, {}).catch(() => undefined), { timeout: 15_000 }).toEqual({});
  });

  it('is asked over one connection, and seldom, by a client that it denies', async () => {
    Object.assign(limits, { deniedRetryMs: 300 });
    let said = '';
    const write = (line: string) => {
      said += line;
    };
    const one = await join(tokens.one as string, '/', pino({}, { write }));
    const guesses = vi.spyOn(Admission.prototype, 'failed');
    const before = readGrants(path) as Grant[];
    changeGrants(path, (grants = []) => grants.filter(({ name }) => name !== 'one'));
    await expect.poll(() => guesses.mock.calls.length, { timeout: 10_000 }).toBe(1);
    const deniedMs = performance.now();
    await expect.poll(() => guesses.mock.calls.length, { timeout: 10_000 }).toBe(5);
    expect(performance.now() - deniedMs).toBeGreaterThan(3.5 * limits.deniedRetryMs);
    expect(said.match(/the server refuses this client/g)).toHaveLength(1);
    const { requests } = one;
    await expect(one.call('renew', ROOT, {})).rejects.toMatchObject({ code: errno.EACCES });
    expect(one.requests).toBe(requests);
    changeGrants(path, () => before);
    // Both lanes.
    await expect.poll(() => said, { timeout: 10_000 }).toContain('connected again');
    await one.call('renew', ROOT, {}, { lane: 'bulk' });
    await one.call('renew', ROOT, {}, { lane: 'small' });
    guesses.mockRestore();
  });

  it('stops looking at the tokens of who guesses', async () => {
    const one = await join(tokens.one as string);
    const answers: string[] = [];
    for (let guess = 0; guess < limits.maxGuesses + 10; guess++) {
      answers.push(
        await join(newToken().token).then(
          () => 'let in',
          (error: Error) => error.message,
        ),
      );
    }
    expect(answers[0]).toMatch(/does not know this token/);
    expect(answers.some((answer) => /too many wrong tokens/.test(answer))).toBe(true);
    await one.call('renew', ROOT, {});
  });

  it('does not listen to where broken frames came from, while who is in stays in', async () => {
    const one = await join(tokens.one as string);
    const headers = { authorization: `Bearer ${tokens.two}` };
    const isLetIn = async (localAddress: string) => {
      const socket = new WebSocket(server.address.url, { headers, localAddress });
      socket.on('error', () => {});
      const closed = new Promise<false>((resolve) => socket.once('close', () => resolve(false)));
      const opened = new Promise<true>((resolve) => socket.once('open', () => resolve(true)));
      const isOpen = await Promise.race([opened, closed]);
      if (isOpen) socket.send(Buffer.from([0xc1]));
      await closed;
      return isOpen;
    };
    const answers: boolean[] = [];
    for (let times = 0; times < limits.maxGuesses + 5; times++) answers.push(await isLetIn('127.0.0.2'));
    expect([answers[0], answers.at(-1)]).toEqual([true, false]);
    expect(await isLetIn('127.0.0.3')).toBe(true);
    expect(logged).toMatch(/too many wrong tokens or broken connections/);
    await one.call('renew', ROOT, {});
  });

  it.each([
    {
      who: 'one address leaves',
      addresses: 1,
      wanted: Number(process.env.WEFT_HALF_OPEN ?? 2_000),
      bounds: { maxHalfOpen, maxHalfOpenPerAddress },
      mostOpen: maxHalfOpenPerAddress,
      said: [/half-open connections from this address/],
    },
    {
      // So few that all are there before the first are too old, however slow the machine is.
      who: 'eight addresses leave',
      addresses: 8,
      wanted: 160,
      bounds: { maxHalfOpen: 64, maxHalfOpenPerAddress: 16 },
      mostOpen: 64,
      said: [/the server has too many half-open connections/, /its place was needed/],
    },
  ])(
    'answers others, and lets others in, while $who connections half open',
    async (attack) => {
      const { addresses, wanted, bounds, mostOpen, said } = attack;
      const one = await join(tokens.one as string);
      Object.assign(limits, bounds);
      const held: Socket[] = [];
      let ended = 0;
      for (let batches = 0; held.length < wanted; batches++) {
        const localAddress = `127.0.0.${2 + (batches % addresses)}`;
        const batch = Array.from({ length: wanted / 8 }, () => {
          const socket = connect({ port: server.server.port, host: '127.0.0.1', localAddress });
          socket.on('error', () => {});
          socket.once('close', () => ended++);
          socket.resume();
          socket.write('GET / HTTP/1.1\r\nHost:');
          return socket;
        });
        held.push(...batch);
        await Promise.all(batch.map((socket) => Promise.race([once(socket, 'connect'), once(socket, 'close')])));
        await one.call('renew', ROOT, {});
      }
      // A new client of another address comes in too.
      const two = await join(tokens.two as string);
      await two.call('renew', ROOT, {});
      await expect.poll(() => ended, { timeout: 10_000 }).toBeGreaterThanOrEqual(wanted - mostOpen);
      for (const line of said) expect(logged).toMatch(line);
      for (const socket of held) socket.destroy();
    },
    60_000,
  );

  it('leads nobody out by a link that is swapped in during lookups', async () => {
    using outside = new TemporaryDirectory();
    writeFileSync(outside.join('secret'), 'secret');
    const session = await join(tokens.one as string);
    const parent = session.hello.root.inode;
    const secret = statSync(outside.join('secret')).ino;
    const [name, swap] = [directory.join('swapped'), directory.join('swap')];
    for (let round = 0; round < 300; round++) {
      if (round % 2) writeFileSync(swap, 'inside');
      else symlinkSync(outside.join('secret'), swap);
      const looking = lookUp(session, ROOT, { parent, name: Buffer.from('swapped') }).catch(() => undefined);
      renameSync(swap, name);
      const entry = await looking;
      if (entry) {
        const opened = session.call('open', ROOT, {
          inode: entry.inode,
          flags: 0,
          killSuidgid: false,
          wants: 'none',
          firstBytes: 100,
        });
        const reply = await opened.catch((error: unknown) => error);
        if (reply instanceof FsError) continue;
        expect(Number(entry.attributes.ino)).not.toBe(secret);
      }
      await delay(0);
    }
    unlinkSync(name);
  });
});
