/**
 * Names and attributes under leases: whatever arrives when, nobody is answered from memory with what was before a change
 * that its author, or anybody else, knows to be done. Client and server are the real ones, see support/lease-world.ts.
 */
import fc from 'fast-check';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { limits } from '../../shared/limits.ts';
import { RENAME } from '../../shared/linux/constants.ts';
import { type Client, NAMES, openLink, useFakeClock, World } from '../support/lease-world.ts';

vi.mock('../../client-fuse/transport/link.ts', async (original) => ({
  ...(await original<object>()),
  Link: { open: (...args: Parameters<typeof openLink>) => openLink(...args) },
}));

const name = fc.constantFrom(...NAMES);
const pick = fc.nat();
const client = fc.nat(2);
const step = fc.oneof(
  { weight: 10, arbitrary: fc.record({ kind: fc.constant('lookup' as const), client, pick, name }) },
  { weight: 7, arbitrary: fc.record({ kind: fc.constant('getattr' as const), client, pick }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('mknod' as const), client, pick, name }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('mkdir' as const), client, pick, name }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('unlink' as const), client, pick, name }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('link' as const), client, pick, to: pick, name }) },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant('rename' as const),
      client,
      pick,
      name,
      to: pick,
      newName: name,
      flags: fc.constantFrom(0, 0, RENAME.EXCHANGE),
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      kind: fc.constant('setattr' as const),
      client,
      pick,
      isWrite: fc.boolean(),
      slow: fc.boolean(),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('finish' as const) }) },
  {
    weight: 26,
    arbitrary: fc.record({
      kind: fc.constant('deliver' as const),
      client,
      lane: fc.constantFrom('small' as const, 'small' as const, 'small' as const, 'bulk' as const),
      toServer: fc.boolean(),
      count: fc.integer({ min: 1, max: 4 }),
    }),
  },
  { weight: 12, arbitrary: fc.record({ kind: fc.constant('deliverAll' as const), client }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('forget' as const), client, pick }) },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant('cut' as const),
      client,
      lane: fc.constantFrom('small' as const, 'bulk' as const),
      arriving: fc.nat(3),
      away: fc.boolean(),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('comeBack' as const) }) },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant('wait' as const), ms: fc.constantFrom(10, 150, 1000, 2500, 5100) }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('local' as const), pick, name, what: fc.nat(3) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('event' as const) }) },
);
type Step = typeof step extends fc.Arbitrary<infer S> ? S : never;

function inosOf(world: World, who: Client): number[] {
  return [world.rootIno, ...who.nodes.keys()];
}

function directoriesOf(world: World, who: Client): number[] {
  const isDirectory = new Map([...world.store.items].map((item) => [Number(item.inode.ino), item.isDirectory]));
  return inosOf(world, who).filter((ino) => isDirectory.get(ino));
}

const at = <T>(list: readonly T[], index: number) => list[index % list.length] as T;

async function take(world: World, one: Step): Promise<void> {
  const who = 'client' in one ? at(world.clients, one.client) : (world.clients[0] as Client);
  const { filesystem } = who;
  const directory = 'pick' in one ? at(directoriesOf(world, who), one.pick) : world.rootIno;
  const parent = who.nodeOf(directory) as number;
  switch (one.kind) {
    case 'lookup':
      return world.lookup(who, directory, one.name);
    case 'getattr':
      return world.getattr(who, at(inosOf(world, who), one.pick));
    case 'mknod':
      return world.change(who, `mknod ${directory}/${one.name}`, (caller) =>
        filesystem.mknod(caller, parent, Buffer.from(one.name), 0o100644, 0, 0),
      );
    case 'mkdir':
      return world.change(who, `mkdir ${directory}/${one.name}`, (caller) =>
        filesystem.mkdir(caller, parent, Buffer.from(one.name), 0o755, 0),
      );
    case 'unlink':
      return world.change(who, `unlink ${directory}/${one.name}`, (caller) =>
        filesystem.unlink(caller, parent, Buffer.from(one.name)),
      );
    case 'link': {
      const ino = at(inosOf(world, who), one.to);
      return world.change(who, `link ${ino} ${directory}/${one.name}`, (caller) =>
        filesystem.link(caller, who.nodeOf(ino) as number, parent, Buffer.from(one.name)),
      );
    }
    case 'rename': {
      const to = at(directoriesOf(world, who), one.to);
      const { name, newName, flags } = one;
      return world.change(who, `rename ${directory}/${name} ${to}/${newName} flags ${flags}`, (caller) =>
        filesystem.rename(caller, parent, Buffer.from(name), who.nodeOf(to) as number, Buffer.from(newName), flags),
      );
    }
    case 'setattr':
      return world.setattr(who, at(inosOf(world, who), one.pick), one.isWrite, one.slow);
    case 'finish':
      world.busy.shift()?.();
      return;
    case 'deliver': {
      const pipe = who.lanes.get(one.lane);
      for (let count = 0; count < one.count; count++) {
        if (one.toServer) pipe?.deliverToServer();
        else pipe?.deliverToClient();
      }
      return;
    }
    case 'deliverAll':
      return deliverAll([who], world);
    case 'forget':
      return who.forget(at(inosOf(world, who), one.pick));
    case 'cut':
      who.isAway = one.away;
      return who.cut(one.lane, one.arriving);
    case 'comeBack':
      for (const each of world.clients) each.isAway = false;
      return;
    case 'wait':
      await vi.advanceTimersByTimeAsync(one.ms);
      return;
    case 'local':
      return changeLocally(world, one.pick, one.name, one.what);
    case 'event':
      return world.readEvent();
  }
}

function changeLocally(world: World, index: number, on: string, what: number): void {
  const items = [...world.store.items];
  const item = at(items, index);
  const directory = at(
    items.filter(({ isDirectory }) => isDirectory),
    index,
  ).inode;
  world.changeLocally((as) => {
    if (what === 0) world.store.mknod(as, directory, Buffer.from(on));
    else if (what === 1) world.store.unlink(as, directory, Buffer.from(on));
    else
      world.store.change(as, item.inode, {
        mode: 0o640,
        uid: undefined,
        gid: undefined,
        atime: undefined,
        mtime: undefined,
      });
  });
}

async function deliverAll(clients: readonly Client[], world: World): Promise<void> {
  for (let round = 0; round < 4; round++) {
    for (const { lanes } of clients) {
      for (const pipe of lanes.values()) while (pipe.toServer.length > 0) pipe.deliverToServer();
    }
    await world.turn();
    for (const { lanes } of clients) {
      for (const pipe of lanes.values()) while (pipe.toClient.length > 0) pipe.deliverToClient();
    }
    await world.turn();
  }
}

/** Everything arrives; whoever was away comes back. */
async function calmDown(world: World): Promise<void> {
  for (const each of world.clients) each.isAway = false;
  for (let round = 0; round < 30; round++) {
    world.slowDisk = false;
    while (world.busy.length > 0) world.busy.shift()?.();
    while (world.events.length > 0) world.readEvent();
    await deliverAll(world.clients, world);
    const isQuiet = world.openOperations === 0 && world.events.length === 0 && world.busy.length === 0;
    if (isQuiet && round > 0) break;
    if (!isQuiet) await vi.advanceTimersByTimeAsync(2100);
  }
  expect(world.openOperations).toBe(0);
}

async function explore(steps: readonly Step[], clients: number): Promise<World> {
  const world = await World.open(clients);
  for (const one of steps) {
    await take(world, one);
    await world.turn();
    expect(world.stale).toEqual([]);
  }
  await calmDown(world);
  // All is done and told: whoever answers from memory now has the truth.
  await vi.advanceTimersByTimeAsync(3300); // no back-off any more
  for (const round of [1, 2]) {
    for (const each of world.clients) {
      for (const ino of directoriesOf(world, each)) for (const one of NAMES) world.lookup(each, ino, one);
      for (const ino of inosOf(world, each)) world.getattr(each, ino);
    }
    await calmDown(world);
    expect(world.stale, `round ${round}`).toEqual([]);
  }
  return world;
}

const { maxLeases } = limits;
beforeEach(() => useFakeClock());
afterEach(() => {
  vi.useRealTimers();
  Object.assign(limits, { maxLeases });
});

const runs = Number(process.env.LEASE_RUNS ?? 250);

test.each([
  { clients: 2, maxLeases: limits.maxLeases },
  { clients: 3, maxLeases: limits.maxLeases },
  { clients: 2, maxLeases: 2 },
])(
  '$clients clients, $maxLeases leases each: no answer is older than what somebody knows',
  async (world) => {
    Object.assign(limits, { maxLeases: world.maxLeases });
    const seen = { cached: 0, recalls: 0, revocations: 0 };
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 20, maxLength: 150, size: 'max' }), async (steps) => {
        const { answersFromCache, leases } = await explore(steps, world.clients);
        seen.cached += answersFromCache;
        seen.recalls += leases.counts.recallsSent;
        seen.revocations += leases.counts.revocations;
      }),
      { numRuns: runs, endOnFailure: process.env.LEASE_NO_SHRINK !== undefined },
    );
    // The model has something to say: leases were used, recalled, and taken away.
    expect(seen.cached).toBeGreaterThan(5 * runs);
    expect(seen.recalls).toBeGreaterThan(runs);
    expect(seen.revocations).toBeGreaterThan(runs / 50);
  },
  900_000,
);

/** A removal is answered before the creation of what it removes, as of two callers of one client. */
test('what is changed before the reply that names it is here, is not believed as that reply says', async () => {
  const steps: Step[] = [
    { kind: 'mknod', client: 0, pick: 0, name: 'b' },
    { kind: 'getattr', client: 1, pick: 0 },
    { kind: 'setattr', client: 0, pick: 0, isWrite: false, slow: true },
    { kind: 'deliver', client: 1, lane: 'small', toServer: true, count: 1 },
    { kind: 'deliverAll', client: 0 },
    { kind: 'deliverAll', client: 1 },
    { kind: 'rename', client: 0, pick: 0, name: 'a', to: 0, newName: 'a', flags: 0 },
    { kind: 'deliver', client: 0, lane: 'small', toServer: false, count: 1 },
    { kind: 'setattr', client: 1, pick: 0, isWrite: false, slow: true },
    { kind: 'lookup', client: 0, pick: 0, name: 'a' },
    { kind: 'deliverAll', client: 0 },
    { kind: 'deliver', client: 0, lane: 'small', toServer: false, count: 1 },
    { kind: 'comeBack' },
    { kind: 'deliver', client: 0, lane: 'small', toServer: false, count: 1 },
    { kind: 'link', client: 0, pick: 0, to: 0, name: 'a' },
    { kind: 'deliver', client: 0, lane: 'small', toServer: false, count: 1 },
    { kind: 'rename', client: 0, pick: 0, name: 'a', to: 0, newName: 'a', flags: 0 },
    { kind: 'lookup', client: 0, pick: 0, name: 'a' },
    { kind: 'deliver', client: 0, lane: 'small', toServer: false, count: 1 },
    { kind: 'deliver', client: 0, lane: 'small', toServer: false, count: 1 },
    { kind: 'deliver', client: 0, lane: 'small', toServer: false, count: 1 },
    { kind: 'deliver', client: 0, lane: 'small', toServer: false, count: 1 },
    { kind: 'unlink', client: 0, pick: 0, name: 'b' },
    { kind: 'getattr', client: 0, pick: 0 },
    { kind: 'deliverAll', client: 0 },
    { kind: 'deliverAll', client: 0 },
  ];
  await explore(steps, 2);
});

/** Interleavings that random steps meet seldom; each was a planted fault that they missed. */
test('answers on the bulk lane prolong no lease: recalls come on the small one', async () => {
  const world = await World.open(2);
  const [holder, author] = world.clients as [Client, Client];
  const { rootIno } = world;
  world.change(author, 'mknod f', (caller) => author.filesystem.mknod(caller, 1, Buffer.from('f'), 0o100644, 0, 0));
  await calmDown(world);
  world.lookup(holder, rootIno, 'f');
  world.lookup(holder, rootIno, 'a');
  await calmDown(world);
  world.change(author, 'mknod a', (caller) => author.filesystem.mknod(caller, 1, Buffer.from('a'), 0o100644, 0, 0));
  await deliverAll([author], world); // the recall is sent, and stuck
  const [f] = [...holder.nodes.keys()];
  // It goes on speaking, so it is given more time.
  const seconds = (limits.recallMs * limits.maxRecallPeriods) / 1000 + 1;
  for (let second = 0; second < seconds; second++) {
    world.setattr(holder, f as number, true, false);
    holder.lanes.get('bulk')?.deliverToServer();
    await world.turn();
    await vi.advanceTimersByTimeAsync(1000);
    holder.lanes.get('bulk')?.deliverToClient();
    await deliverAll([author], world);
  }
  expect(world.leases.counts.revocations).toBe(1);
  world.lookup(holder, rootIno, 'a');
  await calmDown(world);
  expect(world.stale).toEqual([]);
});

test('what was asked during a write, and answered before it, is not learned after it', async () => {
  const world = await World.open(1);
  const [client] = world.clients as [Client];
  world.change(client, 'mknod f', (caller) => client.filesystem.mknod(caller, 1, Buffer.from('f'), 0o100644, 0, 0));
  await calmDown(world);
  const [f] = [...client.nodes.keys()] as [number];
  world.setattr(client, f, true, false);
  world.getattr(client, f);
  const [small, bulk] = [client.lanes.get('small'), client.lanes.get('bulk')];
  for (const pipe of [small, bulk]) {
    pipe?.deliverToServer();
    await world.turn();
  }
  for (const pipe of [bulk, small]) {
    pipe?.deliverToClient();
    await world.turn();
  }
  world.getattr(client, f);
  await calmDown(world);
  expect(world.stale).toEqual([]);
});

test('what came on the bulk lane while the lane of recalls was away is not believed when that is back', async () => {
  await explore(
    [
      { kind: 'mknod', client: 0, pick: 0, name: 'c' },
      { kind: 'deliverAll', client: 0 },
      { kind: 'cut', client: 0, lane: 'small', arriving: 0, away: true },
      { kind: 'setattr', client: 0, pick: 1, isWrite: true, slow: false },
      { kind: 'unlink', client: 1, pick: 0, name: 'c' },
      { kind: 'deliverAll', client: 0 },
    ],
    2,
  );
});

test('a client whose leases were taken while it was away is told when it is back, once it has said so no more', async () => {
  const world = await World.open(2);
  const [holder, author] = world.clients as [Client, Client];
  const onRecall = vi.spyOn(holder.session, 'onRecall');
  const revocations = () => onRecall.mock.calls.filter(([inodes]) => inodes === null).length;
  world.lookup(holder, world.rootIno, 'a');
  await calmDown(world);
  world.change(author, 'mknod a', (caller) => author.filesystem.mknod(caller, 1, Buffer.from('a'), 0o100644, 0, 0));
  await deliverAll([author], world); // the recall is sent, and stuck
  holder.isAway = true;
  await vi.advanceTimersByTimeAsync(limits.recallMs * (limits.maxRecallPeriods + 1));
  expect(world.leases.counts.revocations).toBe(1);
  holder.cut('small', 0);
  expect(revocations()).toBe(0);
  await calmDown(world);
  expect(revocations()).toBe(1);
  holder.cut('small', 0);
  await calmDown(world);
  expect(revocations()).toBe(1);
});
