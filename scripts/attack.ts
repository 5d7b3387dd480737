/**
 * What an attack takes from a client that is in already: `scripts/attack [ROUNDS] [SECONDS] [NICE]` (6 rounds of 4 s by default).
 * Three processes on loopback: a server that asks for tokens, an honest client (4 callers: 4 KiB reads and lookups), and an
 * attacker with several addresses. Rounds without and with the attack alternate; the ratio of each pair is taken. The attacker
 * runs with the lowest priority, unless told otherwise: it would have processors of its own.
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
type Order = { readonly attack: Attack | undefined };

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
  readonly #port: number;
  readonly #token: string;
  readonly #open = new Set<Socket>();
  #timer: NodeJS.Timeout | undefined;
  #next = 0;
  count = 0;

  constructor(port: number, token: string) {
    this.#port = port;
    this.#token = token;
  }

  start(attack: Attack): void {
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

function attack(port: number, token: string, nice: number): void {
  setPriority(nice);
  const attacker = new Attacker(port, token);
  process.on('message', ({ attack: kind }: Order) => {
    if (kind) attacker.start(kind);
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

const median = (numbers: readonly number[]) => [...numbers].sort((a, b) => a - b)[numbers.length >> 1] as number;

async function measure(rounds: number, seconds: number, nice: number): Promise<void> {
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
  const attacker = await start('attack', String(server.said), own.token, String(nice));
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
    const phase = async (kind: Attack | undefined) => {
      // An attack begins while others work, and its begin is the worst of it: it is over when all of that was sent.
      let isOver = false;
      const started = ask<number>(attacker.child, { attack: kind });
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
      const ratios: number[] = [];
      const [quiet, under]: Awaited<ReturnType<typeof phase>>[][] = [[], []];
      let [attempts, attackedMs] = [0, 0];
      const { said: before } = await ask<ServerCounts>(server.child, {});
      for (let round = 0; round < rounds; round++) {
        const one = await phase(undefined);
        const other = await phase(kind);
        attempts += other.attempts + (await ask<number>(attacker.child, { attack: undefined }));
        attackedMs += other.tookMs;
        quiet?.push(one);
        under?.push(other);
        ratios.push(other.rate / one.rate);
      }
      const { said: after } = await ask<ServerCounts>(server.child, {});
      const told = { refused: after.refused - before.refused, lines: after.lines - before.lines };
      const rate = (of: typeof quiet) => Math.round(median((of ?? []).map((one) => one.rate)));
      const cpu = (of: typeof quiet) => Math.round(median((of ?? []).map((one) => one.cpuUs)));
      const entry = (of: typeof quiet) => {
        const all = (of ?? []).flatMap((one) => one.entries);
        const refused = all.filter((ms) => ms === Number.POSITIVE_INFINITY).length;
        return `${Math.round(median(all))} ms, ${Math.round(Math.max(...all.filter(Number.isFinite)))} at most, ${refused} of ${all.length} refused`;
      };
      const spread = `${Math.min(...ratios).toFixed(2)}-${Math.max(...ratios).toFixed(2)}`;
      const perSecond = Math.round((1000 * attempts) / attackedMs);
      console.log(
        `${kind}: ${median(ratios).toFixed(2)} (${spread}) of the quiet throughput; ${rate(quiet)} -> ${rate(under)} operations/s, ${perSecond} attempts/s in ${Math.round(attackedMs / 1000)} s; server ${cpu(quiet)} -> ${cpu(under)} us of processor an operation
  a client that comes: ${entry(quiet)} -> ${entry(under)}; the log tells of ${told.refused} refusals in ${told.lines} lines`,
      );
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
else if (role === 'attack') attack(Number(rest[0]), rest[1] as string, Number(rest[2]));
else await measure(Number(role ?? 6), Number(rest[0] ?? 4), Number(rest[1] ?? constants.priority.PRIORITY_LOW));
