/** What local programs change of leased inodes is noticed, and what the server itself changes is not taken for it. */
import { execFileSync } from 'node:child_process';
import * as fs from 'node:fs';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { LeaseManager } from '../../server/leases/lease-manager.ts';
import { LocalChanges } from '../../server/leases/local-changes.ts';
import { DirectoryStore } from '../../server/store/directory-store.ts';
import type { Inode, LeaseHolder } from '../../server/store/inode.ts';
import { HandleSigner } from '../../server/store/inode-handle.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { limits } from '../../shared/limits.ts';
import { O } from '../../shared/linux/constants.ts';
import { deferred, KEY, silent, TemporaryDirectory } from '../support/fixture.ts';

const b = (text: string) => Buffer.from(text);
const root = { uid: 0, gid: 0, groups: [] };
const SOON = { timeout: 50, interval: 1 };
const DESCRIPTORS = 8;

/** Gives back at once, and remembers what. */
class Holder implements LeaseHolder {
  readonly blockFiles = new Set<Inode>();
  heldBlocks = 0;
  readonly earlierLeases = undefined;
  readonly client = 'test';
  readonly absentSinceMs = undefined;
  readonly heard = 0;
  readonly isClosed = false;
  readonly leases = new Set<Inode>();
  readonly recalled: Inode[] = [];
  get leaseCount() {
    return this.leases.size;
  }
  get oldestLease() {
    return [...this.leases][0];
  }
  holdLease(inode: Inode) {
    this.leases.add(inode);
  }
  dropLease(inode: Inode) {
    this.leases.delete(inode);
  }
  leaseSinceMs(): undefined {}
  holdsLease(inode: Inode) {
    return this.leases.has(inode);
  }
  enter(): boolean {
    return true;
  }

  share(): Promise<void> {
    return Promise.resolve();
  }
  recallBlocks(): Promise<void> {
    throw new Error('it holds none');
  }

  recall(inodes: readonly Inode[]) {
    this.recalled.push(...inodes);
    return Promise.resolve();
  }
  revokeLeases() {
    throw new Error('it answers');
  }
}

let directory: TemporaryDirectory;
let store: DirectoryStore;
let local: LocalChanges;
let manager: LeaseManager;
let holder: Holder;
let d: Inode;
let f: Inode;
const { maxWatches, maxWatchedNames } = limits;

/** What the lookup of a name in `parent` does: grants, and says. */
function lookUp(parent: Inode, name: string): Inode | null {
  const leased = manager.grantNames(holder, parent);
  if (store.find(parent, b(name)) === null) {
    manager.saidName(parent, b(name), null);
    return null;
  }
  const { inode, attributes } = store.lookup(root, parent, b(name));
  manager.saidName(parent, b(name), inode);
  const both = leased && manager.grantAttributes(holder, inode, attributes);
  expect(both).toBe(true);
  return inode;
}

beforeEach(() => {
  directory = new TemporaryDirectory();
  fs.mkdirSync(directory.join('d'));
  fs.writeFileSync(directory.join('d', 'f'), 'text');
  fs.mkdirSync(directory.join('d', 'sub'));
  fs.symlinkSync('f', directory.join('d', 'l'));
  store = new DirectoryStore(directory.path, new HandleSigner(KEY, 'test'), DESCRIPTORS);
  local = new LocalChanges(store, silent);
  manager = new LeaseManager(store, local, silent);
  holder = new Holder();
  d = lookUp(store.root, 'd') as Inode;
  f = lookUp(d, 'f') as Inode;
});
afterEach(() => {
  Object.assign(limits, { maxWatches, maxWatchedNames });
  manager.close();
  store.close();
  directory[Symbol.dispose]();
});

const names = (inodes: readonly Inode[]) =>
  [...new Set(inodes)]
    .map((inode) => (inode === d ? 'd' : inode === f ? 'f' : inode === store.root ? 'top' : '?'))
    .sort();

/** A local change that is always noticed, after everything that was made before it. */
async function everythingIsRead(): Promise<void> {
  fs.chmodSync(directory.path, 0o700);
  fs.chmodSync(directory.path, 0o711);
  await vi.waitFor(() => expect(holder.recalled).toContain(store.root), { timeout: 1000, interval: 1 });
}

describe('local programs', () => {
  const at = (name: string) => directory.join('d', name);
  const changes: [what: string, recalled: string[], change: () => void][] = [
    ['create', ['d'], () => fs.writeFileSync(at('new'), '')],
    [
      'create and remove',
      ['d'],
      () => {
        fs.writeFileSync(at('new'), '');
        fs.unlinkSync(at('new'));
      },
    ],
    ['mkdir', ['d'], () => fs.mkdirSync(at('new'))],
    ['rmdir', ['d'], () => fs.rmdirSync(at('sub'))],
    ['unlink', ['d', 'f'], () => fs.unlinkSync(at('f'))],
    ['rename', ['d', 'f'], () => fs.renameSync(at('f'), at('g'))],
    [
      'rename there and back',
      ['d', 'f'],
      () => {
        fs.renameSync(at('f'), at('g'));
        fs.renameSync(at('g'), at('f'));
      },
    ],
    ['rename away', ['d', 'f', 'top'], () => fs.renameSync(at('f'), directory.join('g'))],
    [
      'replace',
      ['d', 'f'],
      () => {
        fs.writeFileSync(at('n'), 'x');
        fs.renameSync(at('n'), at('f'));
      },
    ],
    [
      'replace by a symbolic link',
      ['d', 'f'],
      () => {
        fs.renameSync(at('f'), at('t'));
        fs.renameSync(at('l'), at('f'));
      },
    ],
    ['chmod', ['f'], () => fs.chmodSync(at('f'), 0o600)],
    ['utimes', ['f'], () => fs.utimesSync(at('f'), 1, 1)],
    ['chmod of the directory', ['d'], () => fs.chmodSync(at(''), 0o700)],
    ['write', ['f'], () => fs.appendFileSync(at('f'), 'more')],
    ['write of the same size', ['f'], () => fs.writeFileSync(at('f'), 'TEXT')],
    ['truncate', ['f'], () => fs.truncateSync(at('f'), 1)],
    ['link beside it', ['d', 'f'], () => fs.linkSync(at('f'), at('g'))],
    ['link where nobody looks', ['f'], () => fs.linkSync(at('f'), at('sub/g'))],
    ['xattr', ['f'], () => execFileSync('setfattr', ['-n', 'user.x', '-v', '1', at('f')])],
    ['move of the directory', ['d', 'top'], () => fs.renameSync(at(''), directory.join('e'))],
  ];
  test.each(changes)('%s: %j are recalled within 50 ms', async (_what, recalled, change) => {
    change();
    await vi.waitFor(() => expect(names(holder.recalled)).toEqual(recalled), SOON);
    await everythingIsRead();
    expect(names(holder.recalled)).toEqual([...new Set([...recalled, 'top'])].sort());
  });

  test('through a name that nobody looked up, in a directory that nobody looked at', async () => {
    fs.linkSync(at('f'), directory.join('d', 'sub', 'other'));
    await vi.waitFor(() => expect(names(holder.recalled)).toEqual(['f']), SOON);
    await new Promise((resolve) => setTimeout(resolve, 110)); // the back-off
    lookUp(d, 'f');
    holder.recalled.length = 0;
    fs.appendFileSync(directory.join('d', 'sub', 'other'), 'x');
    await vi.waitFor(() => expect(names(holder.recalled)).toEqual(['f']), SOON);
  });

  test('a name made after it was said to be absent, before another client asks for it: who was told is told', async () => {
    expect(lookUp(d, 'new')).toBeNull();
    fs.writeFileSync(at('new'), '');
    const { inode } = store.lookup(root, d, b('new')); // the event is not read yet
    manager.saidName(d, b('new'), inode);
    await vi.waitFor(() => expect(names(holder.recalled)).toEqual(['d']), SOON);
  });

  test('the same for attributes', async () => {
    fs.appendFileSync(at('f'), 'x');
    manager.grantAttributes(new Holder(), f, store.attributes(f));
    await vi.waitFor(() => expect(names(holder.recalled)).toEqual(['f']), SOON);
  });

  test('a symbolic link is watched itself, not what it points to', async () => {
    const l = lookUp(d, 'l') as Inode;
    fs.lutimesSync(at('l'), 5, 5);
    await vi.waitFor(() => expect(holder.recalled).toEqual([l]), SOON);
  });

  test('a directory that is removed takes its watch with it', async () => {
    const sub = lookUp(d, 'sub') as Inode;
    fs.rmdirSync(at('sub'));
    await vi.waitFor(() => expect(names(holder.recalled)).toContain('d'), SOON);
    expect(holder.recalled).toContain(sub);
    store.close(); // whatever held it
    await vi.waitFor(() => expect(sub.watch).toBeUndefined(), SOON);
  });

  test('many changes at once: whatever inotify could not queue', async () => {
    const most = Number(fs.readFileSync('/proc/sys/fs/inotify/max_queued_events', 'latin1'));
    const fd = fs.openSync(at('f'), 'r+');
    // Events that are alike and follow each other are one: two files by turns.
    const other = fs.openSync(at('other'), 'w');
    const second = lookUp(d, 'other') as Inode;
    for (let count = 0; count <= most; count++) fs.ftruncateSync(count % 2 ? fd : other, count % 7);
    const all = [store.root, d, f, second];
    await vi.waitFor(() => expect(new Set(holder.recalled)).toEqual(new Set(all)), { timeout: 2000, interval: 1 });
    fs.closeSync(fd);
    fs.closeSync(other);
  });
});

test('a name that cannot be looked at may be anything: its directory is recalled', async () => {
  vi.spyOn(store, 'find').mockImplementation(() => {
    throw new FsError(errno.EMFILE, 'openat');
  });
  fs.writeFileSync(directory.join('d', 'new'), '');
  await vi.waitFor(() => expect(names(holder.recalled)).toEqual(['d']), { timeout: 1000, interval: 1 });
});

describe('what a local program removes, or replaces, takes no space', () => {
  const at = (name: string) => directory.join('d', name);
  const isClosed = () => vi.waitFor(() => expect(f.descriptor).toBe(-1), { timeout: 1000, interval: 1 });
  const replace = () => {
    fs.writeFileSync(at('new'), '');
    fs.renameSync(at('new'), at('f'));
  };
  const ways: [what: string, work: () => void][] = [
    ['unlink', () => fs.unlinkSync(at('f'))],
    ['rename over it', replace],
  ];

  describe.each(ways)('%s', (_what, remove) => {
    test.each([true, false])('held by a client: %s', async (isHeld) => {
      if (!isHeld) for (const inode of holder.leases) manager.drop(holder, inode);
      expect(f.descriptor).toBeGreaterThanOrEqual(0);
      remove();
      await isClosed();
    });

    test('after the last client has closed it', async () => {
      store.pin(f);
      remove();
      await vi.waitFor(() => expect(f.isRemoved).toBe(true), { timeout: 1000, interval: 1 });
      expect(f.descriptor).toBeGreaterThanOrEqual(0);
      store.unpin(f);
      expect(f.descriptor).toBe(-1);
    });
  });

  test('what a local program has made, and no client knows: whoever removes it', async () => {
    fs.writeFileSync(at('new'), '');
    const { ino } = fs.statSync(at('new'), { bigint: true });
    await vi.waitFor(() => expect(store.numbered(ino)).toHaveLength(1), { timeout: 1000, interval: 1 });
    expect(store.numbered(ino).map(({ descriptor }) => descriptor)).toEqual([-1]);
  });

  test('a directory is known to be removed, though somebody may be in it', async () => {
    const sub = lookUp(d, 'sub') as Inode;
    fs.rmdirSync(at('sub'));
    await vi.waitFor(() => expect(sub.isRemoved).toBe(true), { timeout: 1000, interval: 1 });
    expect(store.attributes(sub)).toMatchObject({ nlink: 0 });
  });

  test('not so what has another name, or is given one', async () => {
    const { inode, fd } = store.tmpfile(root, d, 0o600, 0, O.RDWR);
    store.pin(inode);
    store.nameRemoved(inode);
    expect(inode.isRemoved).toBe(true);
    store.link(root, inode, d, b('named'));
    expect(inode.isRemoved).toBe(false);
    fs.closeSync(fd);
    fs.linkSync(at('f'), at('other'));
    fs.unlinkSync(at('f'));
    await everythingIsRead();
    expect([f.isRemoved, f.descriptor >= 0]).toEqual([false, true]);
  });
});

describe("the server's own changes", () => {
  const during = (inodes: readonly Inode[], work: () => unknown) => manager.during(holder, inodes, work);
  /** Pinned, as by an open handle. */
  const unlinkOpen = () => {
    store.pin(f);
    during([d, f], () => {
      store.unlink(root, d, b('f'));
      manager.madeName(d, b('f'), null);
    });
    expect(f.isRemoved).toBe(true);
  };
  const changes: [what: string, change: () => unknown][] = [
    ['mkdir', () => during([d], () => manager.madeName(d, b('new'), store.mkdir(root, d, b('new'), 0o755, 0).inode))],
    [
      'unlink',
      () =>
        during([d, f], () => {
          store.unlink(root, d, b('f'));
          manager.madeName(d, b('f'), null);
        }),
    ],
    [
      'unlink of what is open, which is closed then',
      () => {
        unlinkOpen();
        store.unpin(f);
      },
    ],
    [
      'unlink of what there was no descriptor of',
      () => {
        during([d, f], () => {
          for (let count = 0; count < 2 * DESCRIPTORS; count++) {
            fs.mkdirSync(directory.join(`${count}`));
            store.find(store.root, b(`${count}`));
          }
          // As when it was known to the server before its last look at the name.
          fs.unlinkSync(directory.join('d', 'f'));
          manager.madeName(d, b('f'), null);
        });
        expect([f.descriptor, f.isRemoved]).toEqual([-1, false]);
      },
    ],
    [
      'chmod',
      () =>
        during([f], () =>
          store.change(root, f, { mode: 0o600, uid: undefined, gid: undefined, atime: undefined, mtime: undefined }),
        ),
    ],
    [
      'chmod of the directory',
      () =>
        during([d], () =>
          store.change(root, d, { mode: 0o700, uid: undefined, gid: undefined, atime: undefined, mtime: undefined }),
        ),
    ],
    [
      'a write that takes its time',
      () =>
        during([f], async () => {
          fs.appendFileSync(directory.join('d', 'f'), 'x');
          await new Promise((resolve) => setTimeout(resolve, 5));
          fs.appendFileSync(directory.join('d', 'f'), 'y');
        }),
    ],
    [
      'rename',
      () =>
        during([d, f], () => {
          store.rename(root, d, b('f'), d, b('g'), 0);
          manager.madeName(d, b('f'), null);
          manager.madeName(d, b('g'), f);
        }),
    ],
  ];
  test.each(changes)('%s recalls nothing', async (_what, change) => {
    await change();
    await everythingIsRead();
    expect(names(holder.recalled)).toEqual(['top']);
  });

  test('of what is gone after them nobody holds a lease', async () => {
    unlinkOpen();
    expect(holder.holdsLease(f)).toBe(true);
    store.unpin(f);
    await everythingIsRead();
    expect(holder.holdsLease(f)).toBe(false);
  });

  const makeNew = () =>
    during([d], () => manager.madeName(d, b('new'), store.mkdir(root, d, b('new'), 0o755, 0).inode));

  test('of names are not looked at again', async () => {
    const find = vi.spyOn(store, 'find');
    await makeNew();
    await everythingIsRead();
    expect(find).not.toHaveBeenCalled();
  });

  const local: [what: string, before: () => void, after: () => void][] = [
    ['undone', () => {}, () => fs.rmdirSync(directory.join('d', 'new'))],
    [
      'undone and done again',
      () => {},
      () => {
        fs.rmdirSync(directory.join('d', 'new'));
        fs.mkdirSync(directory.join('d', 'new'));
      },
    ],
    [
      'made and removed before, and moved away after',
      () => {
        fs.mkdirSync(directory.join('d', 'new'));
        fs.rmdirSync(directory.join('d', 'new'));
      },
      () => fs.renameSync(directory.join('d', 'new'), directory.join('elsewhere')),
    ],
  ];
  test.each(local)('are not taken for those of a local program at the same time: %s', async (_what, before, after) => {
    before();
    await makeNew();
    after();
    await everythingIsRead();
    expect(names(holder.recalled)).toContain('d');
  });
});

describe('limits', () => {
  test('inodes that nobody holds a lease on make room for others; without such there is no lease', () => {
    Object.assign(limits, { maxWatches: 3 }); // top, d and f
    const sub = store.find(d, b('sub')) as Inode;
    const l = store.find(d, b('l')) as Inode;
    expect(manager.grantAttributes(holder, sub, store.attributes(sub))).toBe(false);
    f.leases.drop(holder);
    expect(manager.grantAttributes(holder, sub, store.attributes(sub))).toBe(true);
    expect(f.watch).toBeUndefined();
    expect(manager.grantAttributes(holder, l, store.attributes(l))).toBe(false);
  });

  test('a directory of which too many names were said starts over', async () => {
    Object.assign(limits, { maxWatchedNames: 10 });
    for (let count = 0; count < 15; count++) {
      manager.grantNames(holder, d);
      manager.saidName(d, b(`${count}`), null);
    }
    expect(d.watch?.names?.size).toBeLessThanOrEqual(10);
    await vi.waitFor(() => expect(names(holder.recalled)).toEqual(['d']), SOON);
    await new Promise((resolve) => setTimeout(resolve, 110)); // the back-off
    expect(manager.grantNames(holder, d)).toBe(true);
  });

  test('while a lease is taken back because there are too many, a local change reaches the other holders', async () => {
    const slow = new Holder();
    const answer = deferred();
    slow.recall = () => answer.promise;
    expect(manager.grantAttributes(slow, f, store.attributes(f))).toBe(true);
    Object.assign(limits, { maxLeases: 1 });
    manager.grantNames(slow, d); // f is taken back
    Object.assign(limits, { maxLeases: 50_000 });
    expect(manager.grantAttributes(slow, f, store.attributes(f))).toBe(false);
    fs.appendFileSync(directory.join('d', 'f'), 'x');
    await vi.waitFor(() => expect(names(holder.recalled)).toEqual(['f']), SOON);
    answer.resolve();
  });
});
