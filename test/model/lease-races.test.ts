/**
 * The race that NFSv4 delegations had: a lease that is granted into a rename or unlink in progress. Four clients; in each
 * round one changes a name (rename, rename over another, unlink, link, creation) while the others ask for that very name,
 * for those beside it and for attributes, at every point of the change, since what travels arrives in random order.
 * Nobody is ever answered, from memory or by the server, with what was before a change that somebody knows to be done.
 * Client and server are the real ones (support/lease-world.ts). WEFT_LEASE_RACES rounds, from WEFT_SEED.
 */
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import type { KernelAccess } from '../../client-fuse/leases/kernel-caches.ts';
import { Random } from '../simulation/random.ts';
import { type Client, NAMES, openLink, type Pipe, useFakeClock, World } from '../support/lease-world.ts';

vi.mock('../../client-fuse/transport/link.ts', async (original) => ({
  ...(await original<object>()),
  Link: { open: (...args: Parameters<typeof openLink>) => openLink(...args) },
}));

const ROUNDS = Number(process.env.WEFT_LEASE_RACES ?? 1_000);
const SEED = Number(process.env.WEFT_SEED ?? Math.floor(Math.random() * 2 ** 31));
const CLIENTS = 4;
/** A world remembers all that ever was. */
const ROUNDS_A_WORLD = 250;
/** Between rounds: back-offs end (0.1 s at first), and sometimes all of it is forgiven, or leases run out. */
const PAUSES_MS = [0, 120, 250, 500, 14_000];
/** During one: a back-off ends before its change is done. */
const DELAYS_MS = [20, 120, 120, 1_000];

beforeEach(() => useFakeClock());
afterEach(() => vi.useRealTimers());

class Races {
  readonly #random: Random;
  /** Rounds in which a request of another client reached the server while recalls for the change were pending. */
  racing = 0;
  answersFromCache = 0;
  recalls = 0;

  constructor(random: Random) {
    this.#random = random;
  }

  async rounds(count: number): Promise<void> {
    const world = await World.open(CLIENTS);
    // Half of them have a kernel to take things back from, so that their answers to recalls come later.
    for (const each of world.clients.slice(CLIENTS / 2)) each.filesystem.attachKernel(slowKernel(world));
    const [first] = world.clients as [Client];
    this.#make(world, first, world.rootIno, 'mkdir', 'd');
    await this.#deliverAll(world, () => {});
    for (const each of world.clients) this.#lookAround(world, each);
    await this.#deliverAll(world, () => {});
    for (let round = 0; round < count; round++) {
      await this.#round(world);
      expect(world.stale, `round ${round}`).toEqual([]);
      await vi.advanceTimersByTimeAsync(this.#random.pick(PAUSES_MS));
    }
    this.answersFromCache += world.answersFromCache;
    this.recalls += world.leases.counts.recallsSent;
  }

  async #round(world: World): Promise<void> {
    const author = this.#random.pick(world.clients);
    for (const each of world.clients) if (each !== author && this.#random.chance(0.4)) this.#lookAround(world, each);
    await this.#deliverAll(world, () => {});
    const places = this.#change(world, author);
    for (const each of world.clients) if (each !== author && this.#random.chance(0.5)) this.#look(world, each, places);
    let isRacing = false;
    await this.#deliverAll(world, (toServer) => {
      if (toServer !== undefined && toServer !== author && world.leases.counts.recallsPending > 0) isRacing = true;
      if (this.#random.chance(0.2)) this.#look(world, this.#random.pick(world.clients), places);
    });
    if (isRacing) this.racing++;
    // It is done, and its author knows: whoever looks now, at once and in any order, sees it.
    for (const each of world.clients) for (const [parent, name] of places) world.lookup(each, parent, name);
    await this.#deliverAll(world, () => {});
  }

  /** Returns the names that it is about. */
  #change(world: World, author: Client): [parent: number, name: string][] {
    const [parent, newParent] = [this.#directory(world), this.#directory(world)];
    const [name, newName] = [this.#random.pick(NAMES), this.#random.pick(NAMES)];
    const [from, to] = [author.nodeOf(parent) as number, author.nodeOf(newParent) as number];
    const { filesystem } = author;
    const kind = this.#random.pick(['rename', 'rename', 'rename', 'unlink', 'unlink', 'link', 'mknod'] as const);
    const what = `${kind} ${parent}/${name} ${newParent}/${newName}`;
    if (kind === 'mknod') this.#make(world, author, parent, 'mknod', name);
    else if (kind === 'unlink')
      world.change(author, what, (caller) => filesystem.unlink(caller, from, Buffer.from(name)));
    else if (kind === 'rename') {
      world.change(author, what, (caller) =>
        filesystem.rename(caller, from, Buffer.from(name), to, Buffer.from(newName), 0),
      );
    } else {
      const node = author.nodeOf(this.#random.pick([...author.nodes.keys()])) as number;
      world.change(author, what, (caller) => filesystem.link(caller, node, to, Buffer.from(newName)));
    }
    // What a rename needs to be one, and to be one over another.
    if (this.#random.chance(0.5)) this.#make(world, this.#random.pick(world.clients), parent, 'mknod', name);
    return [
      [parent, name],
      [newParent, newName],
    ];
  }

  #make(world: World, who: Client, directory: number, kind: 'mknod' | 'mkdir', name: string): void {
    const parent = who.nodeOf(directory) as number;
    const { filesystem } = who;
    world.change(who, `${kind} ${directory}/${name}`, (caller) =>
      kind === 'mknod'
        ? filesystem.mknod(caller, parent, Buffer.from(name), 0o100644, 0, 0)
        : filesystem.mkdir(caller, parent, Buffer.from(name), 0o755, 0),
    );
  }

  /** Asks for leases on most of what there is. */
  #lookAround(world: World, who: Client): void {
    world.lookup(who, world.rootIno, 'd');
    for (const parent of this.#directories(world, who)) {
      for (const name of NAMES) if (this.#random.chance(0.7)) world.lookup(who, parent, name);
    }
  }

  #look(world: World, who: Client, places: readonly (readonly [number, string])[]): void {
    const [parent, name] = this.#random.pick(places);
    const kind = this.#random.below(4);
    if (kind < 2) world.lookup(who, parent, name);
    else if (kind === 2) world.lookup(who, this.#directory(world), this.#random.pick(NAMES));
    else world.getattr(who, this.#random.pick([world.rootIno, ...who.nodes.keys()]));
  }

  #directories(world: World, who: Client): number[] {
    return [...world.store.items]
      .filter(({ inode, isDirectory }) => isDirectory && who.nodeOf(Number(inode.ino)) !== undefined)
      .map(({ inode }) => Number(inode.ino));
  }

  /** One that everybody knows. */
  #directory(world: World): number {
    return this.#random.pick(this.#directories(world, world.clients[0] as Client));
  }

  /** Of any lane in any direction, some at once, and sometimes after a while, until everybody has an answer. */
  async #deliverAll(world: World, between: (toServer: Client | undefined) => void): Promise<void> {
    for (let delivered = 0; delivered < 5_000; delivered++) {
      const waiting = world.clients.flatMap((client) =>
        [...client.lanes.values()].flatMap((pipe) => waitingIn(client, pipe)),
      );
      if (waiting.length === 0 && world.openOperations === 0) return;
      if (waiting.length === 0) {
        await vi.advanceTimersByTimeAsync(10); // somebody waits for that
      } else {
        const { client, pipe, toServer } = this.#random.pick(waiting);
        // Those that arrive together are handled without a turn of the event loop in between.
        for (let count = 1 + this.#random.below(4); count > 0; count--) {
          if (toServer) pipe.deliverToServer();
          else pipe.deliverToClient();
        }
        between(toServer ? client : undefined);
      }
      if (this.#random.chance(0.06)) await vi.advanceTimersByTimeAsync(this.#random.pick(DELAYS_MS));
      await world.turn();
    }
    throw new Error(`${world.openOperations} operations have no answer`);
  }
}

function slowKernel(world: World): KernelAccess {
  const done = () => world.turn();
  const notifier = {
    invalidateInode: () => done().then(() => true),
    invalidateListing: done,
    invalidateEntry: done,
    incrementEpoch: done,
    storePages: done,
  };
  return { notifier, epochs: true, hasMountsInside: () => Promise.resolve(false) };
}

function waitingIn(client: Client, pipe: Pipe) {
  const directions = [];
  if (pipe.toServer.length > 0) directions.push({ client, pipe, toServer: true });
  if (pipe.toClient.length > 0) directions.push({ client, pipe, toServer: false });
  return directions;
}

test(`grants against renames, unlinks and rename-overs, ${ROUNDS} rounds (seed ${SEED})`, async () => {
  const races = new Races(new Random(SEED));
  for (let done = 0; done < ROUNDS; done += ROUNDS_A_WORLD) await races.rounds(Math.min(ROUNDS_A_WORLD, ROUNDS - done));
  if (process.env.WEFT_LEASE_RACES)
    console.log(races.racing, 'races', races.recalls, 'recalls', races.answersFromCache, 'answers from memory');
  // There were races, and leases to race for.
  expect(races.racing).toBeGreaterThan(ROUNDS / 4);
  expect(races.recalls).toBeGreaterThan(ROUNDS / 2);
  expect(races.answersFromCache).toBeGreaterThan(ROUNDS);
}, 3_600_000);
