/**
 * What an attack takes from a client that is in already: `scripts/attack [ROUNDS] [SECONDS] [NICE]` (6 rounds of 4 s by default).
 * Three processes on loopback: a server that asks for tokens, an honest client (4 callers: 4 KiB reads and lookups), and an
 * attacker with several addresses. In turn: a round without the attack, one in which it goes to a port where nobody listens, and
 * one with it. The attacker would have processors of its own; here the second round tells what it takes of this machine's,
 * and the ratio of the third to the second what the server does for it. It runs with the lowest priority, unless told otherwise.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { constants, setPriority, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import pino from 'pino';
import { WebSocket } from 'ws';
import { parseServerAddress, type ServerAddress } from '../client-fuse/transport/server-address.ts';
import { ServerSession } from '../client-fuse/transport/server-session.ts';
import { changeGrants, newToken } from '../server/access/grant-file.ts';
import { openExports } from '../server/open-exports.ts';
import { Server } from '../server/server.ts';
import { KiB } from '../shared/limits.ts';
import { Random } from './bench/random.ts';

const log = pino({ level: 'silent' });
const CALLERS = 4;
const CALLER = [0, 0];
const FILE_BYTES = 1024 * KiB;
const READ_BYTES = 4 * KiB;
/** A server that has nothing to do takes less of a processor than this. */
const QUIET_MS = 300;
const QUIET_CPU_US = 15_000;
/** Another client comes and goes so often. */
const ENTRY_EACH_MS = 200;
/** The attacker's, all of loopback. */
const ADDRESSES = 40;
/** All at the same moment; the server lets 1,024 in. What it refuses is tried again. */
const HALF_OPEN = 10_000;
const TICK_MS = 10;
/** A tick: 2,000 connections a second, 1,000 guesses, 1,000 malformed frames. */
const OPENED_EACH_TICK = 20;
const SHOWN_EACH_TICK = 10;

const attacks = ['half-open connections', 'token guessing', 'malformed frames', 'all three'] as const;
type Attack = (typeof attacks)[number];
/** Lines of the log, and refusals that they tell of. */
type Said = { lines: number; refused: number };
type ServerCounts = { cpu: NodeJS.CpuUsage; said: Said };
/** `port`: where it goes. */
type Order = { readonly attack: Attack | undefined; readonly port: number };
/** Nobody listens there. */
const CLOSED_PORT = 1;

// --- the server

async function serve(directory: string, grantFile: string): Promise<void> {
  const said: Said = { lines: 0, refused: 0 };
  const lines = {
    write(line: string): void {
      const { msg, unsaid } = JSON.parse(line) as { msg: string; unsaid?: number };
      said.lines++;
      if (msg === 'connection refused') said.refused += 1 + (unsaid ?? 0);
    },
  };
  const serverLog = pino({ level: 'info' }, lines);
  const exports = openExports([{ name: '/', directory, readOnly: false }], 'none', Buffer.alloc(32, 1), serverLog);
  const listen = { host: '127.0.0.1', port: 0 };
  const server = await Server.start({ exports, listen, grantFile, log: serverLog, pollUs: 0 });
  process.on('message', () => process.send?.({ cpu: process.cpuUsage(), said }));
  process.send?.(server.port);
}

// --- the attacker

class Attacker {
  readonly #token: string;
  #port = CLOSED_PORT;
  readonly #open = new Set<Socket>();
  #timer: NodeJS.Timeout | undefined;
  #next = 0;
  count = 0;

  constructor(token: string) {
    this.#token = token;
  }

  start(attack: Attack, port: number): void {
    this.#port = port;
    const is = (one: Attack) => attack === one || attack === 'all three';
    if (is('half-open connections')) while (this.#open.size < HALF_OPEN) this.#halfOpen();
    this.#timer = setInterval(() => {
      if (is('half-open connections')) {
        for (let times = 0; times < OPENED_EACH_TICK && this.#open.size < HALF_OPEN; times++) this.#halfOpen();
      }
      for (let times = 0; times < SHOWN_EACH_TICK; times++) {
        if (is('token guessing')) this.#upgrade(newToken().token);
        if (is('malformed frames')) this.#upgrade(this.#token, Buffer.from([0x95, 1, 0xc1, 0xff, times]));
      }
    }, TICK_MS);
  }

  stop(): void {
    clearInterval(this.#timer);
    for (const socket of this.#open) socket.destroy();
  }

  get #address(): string {
    return `127.0.0.${2 + (this.#next++ % ADDRESSES)}`;
  }

  #halfOpen(): void {
    const socket = connect({ port: this.#port, host: '127.0.0.1', localAddress: this.#address });
    this.#open.add(socket);
    this.count++;
    socket.on('error', () => {});
    socket.once('close', () => this.#open.delete(socket));
    socket.resume();
    socket.write('GET / HTTP/1.1\r\nHost:');
  }

  #upgrade(token: string, message?: Buffer): void {
    const headers = { authorization: `Bearer ${token}` };
    const socket = new WebSocket(`ws://127.0.0.1:${this.#port}/`, { headers, localAddress: this.#address });
    this.count++;
    socket.on('error', () => {});
    socket.once('open', () => message && socket.send(message));
  }
}

function attack(token: string, nice: number): void {
  setPriority(nice);
  const attacker = new Attacker(token);
  process.on('message', ({ attack: kind, port }: Order) => {
    if (kind) attacker.start(kind, port);
    else attacker.stop();
    process.send?.(attacker.count);
    attacker.count = 0;
  });
  process.send?.(0);
}

// --- the honest client, and the measurement

/** Operations until it is over, by all callers. */
async function work(session: ServerSession, handle: number, isOver: () => boolean): Promise<number> {
  const parent = session.hello.root.inode;
  let done = 0;
  const caller = async (_: unknown, index: number) => {
    const random = new Random(index + 1);
    for (; !isOver(); done++) {
      const offset = random.below(FILE_BYTES / READ_BYTES) * READ_BYTES;
      if (done % 4 === 0) await session.call('lookup', CALLER, { parent, name: Buffer.from('absent') });
      else
        await session.callForBulk('read', CALLER, {
          handle,
          offset,
          size: READ_BYTES,
          knownVersion: undefined,
          wantsLease: false,
          wantsBlock: false,
        });
    }
  };
  await Promise.all(Array.from({ length: CALLERS }, caller));
  return done;
}

/** Another honest client, from an address of its own: how long it took to get in, in ms, each time; infinite when it was refused. */
async function comeAndGo(address: ServerAddress, isOver: () => boolean): Promise<number[]> {
  const took: number[] = [];
  while (!isOver()) {
    const startMs = performance.now();
    const session = await ServerSession.connect(address, log).catch(() => undefined);
    took.push(session ? performance.now() - startMs : Number.POSITIVE_INFINITY);
    session?.close();
    await delay(ENTRY_EACH_MS);
  }
  return took;
}

async function ask<T>(child: ChildProcess, order: unknown): Promise<T> {
  const answer = once(child, 'message');
  child.send(order as object);
  return (await answer)[0] as T;
}

async function start(...role: string[]): Promise<{ child: ChildProcess; said: number }> {
  const child = fork(fileURLToPath(import.meta.url), role);
  return { child, said: (await once(child, 'message'))[0] as number };
}

/** What an attack has left behind is worked off. */
async function quietOf(server: ChildProcess): Promise<void> {
  for (let used = Number.POSITIVE_INFINITY; used > QUIET_CPU_US; ) {
    const { cpu: before } = await ask<ServerCounts>(server, {});
    await delay(QUIET_MS);
    const { cpu: after } = await ask<ServerCounts>(server, {});
    used = after.user + after.system - before.user - before.system;
  }
}

/** What came of some seconds of work; `entries`: how long another client took to get in, in ms. */
interface Round {
  readonly rate: number;
  readonly cpuUs: number;
  readonly entries: readonly number[];
  readonly tookMs: number;
  readonly attempts: number;
}

const median = (numbers: readonly number[]) => [...numbers].sort((a, b) => a - b)[numbers.length >> 1] as number;

async function measure(count: number, seconds: number, nice: number): Promise<void> {
  const base = mkdtempSync(join(tmpdir(), 'weft-attack-'));
  const [grantFile, tokenFile] = [join(base, 'grants.json'), join(base, 'token')];
  const [honest, own] = [newToken(), newToken()];
  const grant = { readOnly: false, identity: { kind: 'trusted' }, createdMs: 0 } as const;
  changeGrants(grantFile, () => [
    { ...grant, id: '1', name: 'honest', hash: honest.hash },
    { ...grant, id: '2', name: 'attacker', hash: own.hash },
  ]);
  writeFileSync(tokenFile, honest.token);
  writeFileSync(join(base, 'data'), Buffer.alloc(FILE_BYTES, 1));
  const server = await start('serve', base, grantFile);
  const attacker = await start('attack', own.token, String(nice));
  const address = { ...parseServerAddress(`ws://127.0.0.1:${server.said}/`), credentials: { tokenFile } };
  const session = await ServerSession.connect(address, log);
  try {
    const { found } = await session.call('lookup', CALLER, {
      parent: session.hello.root.inode,
      name: Buffer.from('data'),
    });
    if (!found) throw new Error('the file is not there');
    const open = { inode: found.inode, flags: 0, killSuidgid: false, wants: 'none', firstBytes: 0 } as const;
    const { handle } = await session.call('open', CALLER, open);
    const warmMs = performance.now() + 2000;
    await work(session, handle, () => performance.now() > warmMs);
    const phase = async (kind?: Attack, port = CLOSED_PORT) => {
      // An attack begins while others work, and its begin is the worst of it: it is over when all of that was sent.
      let isOver = false;
      const started = ask<number>(attacker.child, { attack: kind, port });
      if (kind === undefined) await Promise.all([started, quietOf(server.child)]);
      const { cpu: before } = await ask<ServerCounts>(server.child, {});
      const startMs = performance.now();
      const over = Promise.all([started, delay(seconds * 1000)]).then(([attempts]) => {
        isOver = true;
        return attempts;
      });
      const until = () => isOver;
      const [done, entries] = await Promise.all([work(session, handle, until), comeAndGo(address, until)]);
      const tookMs = performance.now() - startMs;
      const { cpu: after } = await ask<ServerCounts>(server.child, {});
      const cpuUs = (after.user + after.system - before.user - before.system) / done;
      return { rate: (1000 * done) / tookMs, cpuUs, entries, tookMs, attempts: await over };
    };
    for (const kind of attacks) {
      const rounds: { quiet: Round; elsewhere: Round; attacked: Round }[] = [];
      let [attempts, attackedMs] = [0, 0];
      const stop = () => ask<number>(attacker.child, { attack: undefined, port: CLOSED_PORT });
      const { said: before } = await ask<ServerCounts>(server.child, {});
      for (let round = 0; round < count; round++) {
        const quiet = await phase();
        const elsewhere = await phase(kind);
        await stop();
        await quietOf(server.child);
        const attacked = await phase(kind, server.said);
        attempts += attacked.attempts + (await stop());
        attackedMs += attacked.tookMs;
        rounds.push({ quiet, elsewhere, attacked });
      }
      const { said: after } = await ask<ServerCounts>(server.child, {});
      const told = { refused: after.refused - before.refused, lines: after.lines - before.lines };
      const of = (which: 'quiet' | 'elsewhere' | 'attacked') => {
        const all = rounds.map((one) => one[which]);
        const entries = all.flatMap((one) => one.entries);
        const refused = entries.filter((ms) => ms === Number.POSITIVE_INFINITY).length;
        const longest = Math.round(Math.max(...entries.filter(Number.isFinite)));
        return {
          rate: Math.round(median(all.map((one) => one.rate))),
          cpuUs: Math.round(median(all.map((one) => one.cpuUs))),
          entry: `${Math.round(median(entries))} ms, ${longest} at most, ${refused} of ${entries.length} refused`,
        };
      };
      const ratio = (from: 'quiet' | 'elsewhere', to: 'elsewhere' | 'attacked') => {
        const ratios = rounds.map((one) => one[to].rate / one[from].rate);
        return `${median(ratios).toFixed(2)} (${Math.min(...ratios).toFixed(2)}-${Math.max(...ratios).toFixed(2)})`;
      };
      const [quiet, elsewhere, attacked] = [of('quiet'), of('elsewhere'), of('attacked')];
      const perSecond = Math.round((1000 * attempts) / attackedMs);
      console.log(`${kind}, ${perSecond} attempts/s in ${Math.round(attackedMs / 1000)} s
  operations/s: quiet ${quiet.rate}, attacker goes elsewhere ${elsewhere.rate}, attacked ${attacked.rate}
  of the throughput while it goes elsewhere: ${ratio('elsewhere', 'attacked')}; that is of the quiet one: ${ratio('quiet', 'elsewhere')}
  server, us of processor an operation: ${quiet.cpuUs}, ${elsewhere.cpuUs}, ${attacked.cpuUs}
  a client that comes: ${quiet.entry}; ${elsewhere.entry}; ${attacked.entry}
  the log tells of ${told.refused} refusals in ${told.lines} lines`);
    }
  } finally {
    session.close();
    server.child.kill();
    attacker.child.kill();
    rmSync(base, { recursive: true, force: true });
  }
}

const [role, ...rest] = process.argv.slice(2);
if (role === 'serve') await serve(rest[0] as string, rest[1] as string);
else if (role === 'attack') attack(rest[0] as string, Number(rest[1]));
else await measure(Number(role ?? 6), Number(rest[0] ?? 4), Number(rest[1] ?? constants.priority.PRIORITY_LOW));
