/** The simulation can fail: each defect that is planted is found within 1,000 seeds. */
import { expect, test } from 'vitest';
import { GatheredAttributes } from '../../client-fuse/vfs/gathered-attributes.ts';
import { SharedBlocks } from '../../client-fuse/vfs/shared-blocks.ts';
import { ExclusiveLeases } from '../../server/leases/exclusive-leases.ts';
import { Change, type LeaseManager } from '../../server/leases/lease-manager.ts';
import { LeasedBlocks } from '../../server/leases/leased-blocks.ts';
import type { Server } from '../../server/server.ts';
import { Session } from '../../server/session/session.ts';
import { PageRangeLockQueue } from '../../server/state/page-range-lock-queue.ts';
import type { OpenFile } from '../../server/store/open-file.ts';
import { ALL_BYTES } from '../../shared/range-map.ts';
import { type Scenario, scenarioOf } from './scenario.ts';
import { type Sabotage, simulate } from './simulation.ts';

const SEEDS = 1_000;

const readingOnce = (seed: number): Scenario => ({ ...scenarioOf(seed), readsAgain: false, looksAgain: false });
const lookingAgain = (seed: number): Scenario => ({ ...scenarioOf(seed), readsAgain: false, looksAgain: true });
const readingAgain = (seed: number): Scenario => ({ ...scenarioOf(seed), readsAgain: true, looksAgain: false });

async function firstViolation(
  sabotage: Sabotage,
  ofSeed: (seed: number) => Scenario = readingOnce,
): Promise<{ seed: number; violations: string[] } | undefined> {
  for (let seed = 1; seed <= SEEDS; seed++) {
    const { violations } = await simulate(ofSeed(seed), sabotage);
    if (violations.length > 0) return { seed, violations };
  }
  return undefined;
}

/** What others are told during the wait for recalls stays with them while the change is made. */
function grantsDuringChanges(_server: Server, leases: LeaseManager): void {
  leases.during = (author, inodes, work) => {
    const begun = leases.change(author, inodes);
    if (!(begun instanceof Promise)) begun[Symbol.dispose]();
    else void begun.then((change) => change[Symbol.dispose]());
    return new Promise((resolve, reject) => {
      setTimeout(() => {
        try {
          resolve(work(new Change(inodes, true)));
        } catch (error) {
          reject(error);
        }
      }, 300);
    });
  };
}

test('a lease that is granted while a name or a mode is changed', async () => {
  const found = await firstViolation(grantsDuringChanges, lookingAgain);
  expect(found?.violations.join()).toMatch(/names are not|mode of . is not/);
});

test('replies that are not kept for a client that asks again', async () => {
  const { end } = Session.prototype;
  Session.prototype.end = function (slot, seq, _keep, outcome) {
    end.call(this, slot, seq, undefined, outcome);
  };
  try {
    const found = await firstViolation(() => {});
    expect(found?.violations.join()).toMatch(/not linearizable|was appended/);
  } finally {
    Session.prototype.end = end;
  }
});

test('a journal that is not looked at: what was applied before a crash is applied again', async () => {
  const found = await firstViolation((server) => {
    const dispatch = server.dispatcher.dispatch.bind(server.dispatcher);
    server.dispatcher.dispatch = (request) => {
      request.request.earlier = undefined;
      return dispatch(request);
    };
  });
  expect(found?.violations.join()).toMatch(/not linearizable|was appended/);
});

test('an interrupted write that is finished without having kept others away since', async () => {
  const { acquire } = PageRangeLockQueue.prototype;
  const nothing = { [Symbol.dispose]: () => {} } as Awaited<ReturnType<typeof acquire>>;
  // Whoever waits for requests can be interrupted: these are taken at the start, and nobody waits.
  PageRangeLockQueue.prototype.acquire = function (mode, range, cancellable) {
    return cancellable ? acquire.call(this, mode, range, cancellable) : nothing;
  };
  try {
    const isLate = { clients: 3, processes: 2, operations: 15, hasKernel: false, faults: [], lateAfterKillMs: 1_500 };
    const found = await firstViolation(
      () => {},
      (seed) => ({ ...isLate, seed, killAtNote: 1 + (seed % 24) }),
    );
    expect(found?.violations.join()).toMatch(/file . is not linearizable/);
  } finally {
    PageRangeLockQueue.prototype.acquire = acquire;
  }
});

test('a torn write: page-range locks that are granted to everybody', async () => {
  const { acquire } = PageRangeLockQueue.prototype;
  const everybody = { [Symbol.dispose]: () => {} } as Awaited<ReturnType<typeof acquire>>;
  PageRangeLockQueue.prototype.acquire = () => everybody;
  try {
    const found = await firstViolation(() => {});
    expect(found?.violations.join()).toMatch(/file . is not linearizable/);
  } finally {
    PageRangeLockQueue.prototype.acquire = acquire;
  }
});

test('locks that are released with a connection, not with the session', async () => {
  const { detachLane } = Session.prototype;
  Session.prototype.detachLane = function (connection) {
    detachLane.call(this, connection);
    for (const { lock, isWaiting } of [...this.locks.all()]) {
      if (isWaiting) continue;
      for (const table of lock.owner.holds) this.locks.unlock(table, lock.owner.key, ALL_BYTES);
    }
  };
  try {
    const found = await firstViolation(() => {});
    expect(found?.violations).toContain('increments under a lock are not linearizable');
  } finally {
    Session.prototype.detachLane = detachLane;
  }
});

test('late writes of a client whose lease was revoked, taken as if it still held it', async () => {
  const { take, end } = ExclusiveLeases.prototype;
  const files = new Map<OpenFile['inode'], OpenFile>();
  ExclusiveLeases.prototype.take = function (file) {
    files.set(file.inode, file);
    return take.call(this, file);
  };
  ExclusiveLeases.prototype.end = function (inode) {
    const file = files.get(inode);
    const wasExclusive = file?.isExclusive === true;
    end.call(this, inode);
    if (file && wasExclusive) file.isExclusive = true;
  };
  try {
    const found = await firstViolation(() => {});
    expect(found?.violations.join()).toMatch(/file . is not linearizable|increments under a lock/);
  } finally {
    Object.assign(ExclusiveLeases.prototype, { take, end });
  }
});

test('a time that was set, and stays when the file is written after it', async () => {
  const { wrote } = GatheredAttributes.prototype;
  GatheredAttributes.prototype.wrote = () => {};
  try {
    const found = await firstViolation(() => {});
    expect(found?.violations.join()).toMatch(/attributes of a closed file/);
  } finally {
    GatheredAttributes.prototype.wrote = wrote;
  }
});

test('attributes that are applied before the data that they came after', async () => {
  const found = await firstViolation((server) => {
    const dispatch = server.dispatcher.dispatch.bind(server.dispatcher);
    server.dispatcher.dispatch = (request) => {
      const { operation, body, bulk } = request;
      // In two halves, as two requests would come that overtake each other.
      const attributes = operation === 'write' && Array.isArray(body) && body.at(-1);
      if (!attributes || bulk.length === 0) return dispatch(request);
      const first = dispatch({ ...request, bulk: bulk.subarray(0, 0) });
      const second = { ...request, body: [...(body as unknown[]).slice(0, -1), null] };
      return Promise.resolve(first).then(() => dispatch(second));
    };
  });
  expect(found?.violations.join()).toMatch(/attributes of a closed file/);
});

test('blocks that clients keep, and that are not recalled before they are written', async () => {
  const { begin } = LeasedBlocks.prototype;
  LeasedBlocks.prototype.begin = () => undefined;
  try {
    const found = await firstViolation(() => {}, readingAgain);
    expect(found?.violations.join()).toMatch(/file . is not linearizable/);
  } finally {
    LeasedBlocks.prototype.begin = begin;
  }
});

test('blocks that are recalled, and written before they have been given back', async () => {
  const { begin } = LeasedBlocks.prototype;
  LeasedBlocks.prototype.begin = function (author, inode, blocks) {
    const change = begin.call(this, author, inode, blocks);
    return change && { waits: [], end: change.end };
  };
  try {
    const found = await firstViolation(() => {}, readingAgain);
    expect(found?.violations.join()).toMatch(/file . is not linearizable/);
  } finally {
    LeasedBlocks.prototype.begin = begin;
  }
});

test('blocks that a client keeps as they were before its own write', async () => {
  const { beginWrite } = SharedBlocks.prototype;
  SharedBlocks.prototype.beginWrite = function (node) {
    return beginWrite.call(this, node, -2, -1);
  };
  try {
    const found = await firstViolation(() => {}, readingAgain);
    expect(found?.violations.join()).toMatch(/not linearizable/);
  } finally {
    SharedBlocks.prototype.beginWrite = beginWrite;
  }
});

/** A client is cut off, and then the server's process killed: it goes on using its leases while there is another one. */
const cutOffBefore = (more: Partial<Scenario>) => (seed: number) => ({
  seed,
  clients: 3,
  processes: 2,
  operations: 20,
  hasKernel: false,
  faults: [
    { kind: 'partition', atMs: 295, forMs: 6_000, client: 0 } as const,
    { kind: 'crashServer', atMs: 300, forMs: 100, client: 1 } as const,
  ],
  ...more,
});
const looking = cutOffBefore({ looksAgain: true });
const reading = cutOffBefore({ operations: 40, readsAgain: true });

test('data that are changed while a client does not know that the server which let it keep them has ended', async () => {
  const found = await firstViolation(({ sessions }) => sessions.endEarlierLeases(), reading);
  expect(found?.violations.join()).toMatch(/file . is not linearizable/);
});

test('names and modes that are; only changes of data wait for such clients', async () => {
  const found = await firstViolation((_server, leases) => {
    const during = leases.during.bind(leases);
    leases.during = (author, inodes, work, blocks) =>
      blocks ? during(author, inodes, work, blocks) : leases.duringReclaim(author, inodes, work);
  }, looking);
  expect(found?.violations.join()).toMatch(/names are not|mode of . is not/);
});

test('leases that are granted to clients which the next process will not know of', async () => {
  const { enter } = Session.prototype;
  Session.prototype.enter = () => true;
  try {
    const found = await firstViolation(() => {}, looking);
    expect(found?.violations.join()).toMatch(/names are not|mode of . is not/);
  } finally {
    Session.prototype.enter = enter;
  }
});
