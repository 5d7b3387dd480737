/** Another client removes a tree: what goes back before it is asked for. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { KernelAccess } from '../../client-fuse/leases/kernel-caches.ts';
import { LeaseCache } from '../../client-fuse/leases/lease-cache.ts';
import { RemovalWalks } from '../../client-fuse/leases/removal-walks.ts';
import type { Caller, NodeId } from '../../client-fuse/vfs/filesystem.ts';
import type { Node, OpenHandle } from '../../client-fuse/vfs/node.ts';
import { NodeTable } from '../../client-fuse/vfs/node-table.ts';
import type { Attributes } from '../../shared/attributes.ts';
import { O } from '../../shared/linux/constants.ts';
import { AskingClient } from '../support/asking-client.ts';
import { FORGETFUL_KERNEL, ROOT, TemporaryDirectory } from '../support/fixture.ts';

const b = (text: string) => Buffer.from(text);
const root: Caller = { uid: 0, gid: 0, pid: 1, groups: [], signal: new AbortController().signal };

describe('of what is known', () => {
  let table: NodeTable;
  let cache: LeaseCache;
  let nowMs: number;

  beforeEach(() => {
    table = new NodeTable(b('root'));
    nowMs = 1_000;
    cache = new LeaseCache(() => true, new RemovalWalks(() => nowMs));
    for (let index = 0; index < 12; index++) for (const name of ['a', 'b']) at(`t/${index}/${name}`);
  });

  /** The node of a path; what is not known yet is learned, names and attributes. */
  function at(path: string): Node {
    let node = table.root;
    let walked = '';
    for (const name of path.split('/')) {
      walked += `/${name}`;
      const child = table.found(b(walked));
      cache.learnName(node, name, child, true, cache.clock);
      cache.learnAttributes(child, { size: 1 } as Attributes, true, cache.clock);
      node = child;
    }
    return node;
  }

  const pathOf = (node: Node) => node.inode.toString().slice(1);

  /** It is asked for as another client removes it; what follows is given back at once. Returns that, group by group. */
  function remove(path: string): string[][] {
    const node = at(path);
    const asked = [node.foundIn, node].filter((one) => one?.known?.isHeld) as Node[];
    const groups = cache.removedNext(asked);
    cache.gaveBack(cache.recall(asked).nodes);
    const given = groups.map((group) => cache.giveUp(group));
    for (const nodes of given) cache.gaveBack(nodes);
    return given.filter((nodes) => nodes.length > 0).map((nodes) => nodes.map(pathOf));
  }

  test('after the first directory nothing, after the second two more with their files, then four', () => {
    expect(remove('t/0/a')).toEqual([]);
    expect(remove('t/1/a')).toEqual([['t/2', 't/2/a', 't/2/b', 't/3', 't/3/a', 't/3/b']]);
    expect(remove('t/4/a').flat()).toEqual([5, 6, 7, 8].flatMap((d) => [`t/${d}`, `t/${d}/a`, `t/${d}/b`]));
    expect(cache.isHeld(at('t/9'))).toBe(true);
  });

  test('no more than 32, four at once', () => {
    for (let index = 0; index < 200; index++) at(`u/${index}/file`);
    const counts = [0, 1, 4, 9, 18, 35, 68, 101].map((index) => remove(`u/${index}/file`));
    expect(counts.map((groups) => groups.flat().length / 2)).toEqual([0, 2, 4, 8, 16, 32, 32, 32]);
    for (const groups of counts) for (const group of groups) expect(group.length).toBeLessThanOrEqual(8);
  });

  test('the directory that it is in comes first, then what is beside it, and what is above', () => {
    for (const path of ['z/file', 'x/0/file', 'x/1/below/file', 'x/2/file', 'y/file']) at(`v/${path}`);
    remove('v/z/file');
    expect(remove('v/x/0/file').flat()).toEqual(['v/x', 'v/x/1']);
    const [more = []] = cache.removedNext(
      ['v/x/1/below', 'v/x/1/below/file'].map((path) => table.found(b(`/${path}`))),
    );
    expect(more.map(pathOf)).toEqual(['v/x/2', 'v/x/2/file', 'v/y', 'v/y/file']);
  });

  test('and before all of these what is below', () => {
    for (const path of ['x/file', 'y/file', 'y/below/deep/file', 'z/file']) at(`v/${path}`);
    remove('v/x/file');
    expect(remove('v/y/file').flat()).toEqual(['v/y/below', 'v/y/below/deep', 'v/y/below/deep/file']);
  });

  test('clients that remove in a directory each take nothing, nor does who goes about at random', () => {
    for (const index of [3, 9, 1, 7, 5, 11, 8, 2, 10, 6, 4, 0]) expect(remove(`t/${index}/a`)).toEqual([]);
    for (const index of [0, 11]) expect(cache.isHeld(at(`t/${index}/b`))).toBe(true);
  });

  test('what is removed while it is being given back goes on, and takes nothing more meanwhile', () => {
    remove('t/0/a');
    remove('t/1/a'); // 2 and 3 go
    const asked = (path: string) => [at(path), at(`${path}/a`)];
    expect(cache.removedNext(asked('t/4'), true)).toEqual([]);
    expect(cache.removedNext(asked('t/5')).flat().map(pathOf)).toContain('t/6/b');
  });

  test('nothing outside of what all that were recalled have in common', () => {
    for (const name of ['0', '1', '2', '3']) at(`v/in/${name}/file`);
    for (const name of ['0', '1', '2', '3']) at(`v/${name}/file`);
    remove('v/in/0/file');
    remove('v/in/1/file');
    expect(remove('v/in/1/another')).toEqual([]);
    expect(at('v/0').known?.isHeld).toBe(true);
  });

  test('beside a directory that was given back itself, too', () => {
    remove('t/0/a');
    const top = at('t');
    cache.gaveBack(cache.recall([top]).nodes);
    expect(cache.isHeld(top)).toBe(false);
    const asked = ['t/1', 't/1/a'].map((path) => table.found(b(`/${path}`)));
    const groups = cache.removedNext(asked);
    expect(groups.flat().map(pathOf)).toContain('t/2/b');
  });

  test('a second later it is not a walk any more', () => {
    remove('t/0/a');
    nowMs += 1_000;
    expect(remove('t/1/a')).toEqual([]);
    nowMs += 999;
    expect(remove('t/2/a')).not.toEqual([]);
  });

  test('removals in one directory alone are none, nor are creations', () => {
    expect([remove('t/0/a'), remove('t/0/b'), remove('t/0/c')]).toEqual([[], [], []]);
    for (const path of ['t/1', 't/2', 't/3']) expect(cache.removedNext([at(path)])).toEqual([]);
  });

  test('not what is open, gathers writes, or is being changed; not even if that begins after it was chosen', () => {
    const handle = {} as OpenHandle;
    at('t/2/a').cached = new Set([handle]);
    at('t/2/b').gatherer = handle;
    cache.beginChange(at('t/3'));
    remove('t/0/a');
    expect(remove('t/1/a').flat()).toEqual(['t/2', 't/3/a', 't/3/b', 't/4', 't/4/a', 't/4/b']);
    const chosen = ['t/5', 't/6'].map(at);
    at('t/5').unopened = new Set([handle]);
    expect(cache.giveUp(chosen)).toEqual([at('t/6')]);
  });

  test('nothing is learned of it while it goes, nor of what was asked before it was gone', () => {
    const [file] = ['t/7/a'].map(at) as [Node];
    const given = cache.giveUp([file]);
    const asOf = cache.clock;
    cache.learnAttributes(file, { size: 2 } as Attributes, true, asOf);
    expect(cache.isHeld(file)).toBe(false);
    cache.gaveBack(given);
    cache.learnAttributes(file, { size: 2 } as Attributes, true, asOf);
    expect(cache.isHeld(file)).toBe(false);
    cache.learnAttributes(file, { size: 3 } as Attributes, true, cache.clock);
    expect(cache.attributes(file)?.size).toBe(3);
  });

  test('directories that seem to go round are no endless way', () => {
    at('w/x/file').foundIn = at('w/x');
    at('w').foundIn = at('w/x');
    remove('w/x/file');
    expect(() => remove('w/file')).not.toThrow();
  });
});

describe('of a server and two clients', () => {
  const DIRECTORIES = 60;
  let directory: TemporaryDirectory;
  let client: AskingClient;
  /** In the order in which they are listed. */
  let names: string[];
  let forgotten: Set<NodeId>;
  /** Of this one the kernel forgets nothing before. */
  let stuck: { readonly node: NodeId; readonly released: Promise<void> } | undefined;

  /** It has forgotten a node a while after it was asked to. */
  const slowKernel = (): KernelAccess => {
    const forget = async (node: NodeId) => {
      await new Promise((resolve) => setTimeout(resolve, 2));
      if (node === stuck?.node) await stuck.released;
      forgotten.add(node);
    };
    const { notifier } = FORGETFUL_KERNEL;
    return {
      ...FORGETFUL_KERNEL,
      notifier: {
        ...notifier,
        invalidateInode: (node) => forget(node).then(() => true),
        invalidateListing: forget,
        invalidateEntry: forget,
      },
    };
  };

  /** What a program of the client sees. */
  async function listed(...path: string[]): Promise<string[]> {
    const { handle } = await client.filesystem.opendir(root, await client.nodeOf(root, path));
    const entries = await client.filesystem.readdir(root, handle, 0, 32_768, true);
    client.filesystem.releasedir(handle);
    return entries.map(({ name }) => String(name)).filter((name) => !name.startsWith('.'));
  }

  async function find(parent: Uint8Array, name: string): Promise<Uint8Array> {
    return (await client.other.call('lookup', ROOT, { parent, name: b(name) })).found?.inode as Uint8Array;
  }

  beforeEach(async () => {
    directory = new TemporaryDirectory();
    for (let index = 0; index < DIRECTORIES; index++) {
      mkdirSync(directory.join('t', `d${index}`), { recursive: true });
      for (const name of ['a', 'b', 'c']) writeFileSync(directory.join('t', `d${index}`, name), name);
    }
    client = await AskingClient.start(directory);
    forgotten = new Set();
    stuck = undefined;
    client.filesystem.attachKernel(slowKernel());
    names = await listed('t');
    for (const name of names) await listed('t', name);
    await client.quiet();
    expect(client.filesystem.counts.leases).toBeGreaterThanOrEqual(4 * DIRECTORIES);
  });
  afterEach(async () => {
    await client[Symbol.asyncDispose]();
    directory[Symbol.dispose]();
  });

  /** The other client removes all of it. */
  async function removeAll(): Promise<void> {
    const { other } = client;
    const t = await find(other.hello.root.inode, 't');
    for (const name of names) {
      const d = await find(t, name);
      for (const file of ['a', 'b', 'c']) {
        await other.call('unlink', ROOT, { parent: d, name: b(file) });
        // As a real one does other things besides.
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
      await other.call('rmdir', ROOT, { parent: t, name: b(name) });
    }
  }

  test('a tree that one removes and the other knows is asked for a few times, and is gone for both', async () => {
    await removeAll();
    expect(client.filesystem.counts.recalls).toBeLessThan(DIRECTORIES / 3);
    await vi.waitFor(() => expect(client.filesystem.counts.leases).toBeLessThan(4));
    for (const name of [names[0], names.at(-1)] as string[]) {
      await expect(client.nodeOf(root, ['t', name, 'a'])).rejects.toThrow();
    }
  });

  test('what is given back unasked the kernel has forgotten before', async () => {
    const nodes = new Map<string, NodeId>();
    const t = await find(client.other.hello.root.inode, 't');
    for (const name of names) {
      const inode = Buffer.from(await find(t, name)).toString('hex');
      nodes.set(inode, await client.nodeOf(root, ['t', name]));
    }
    const early: NodeId[] = [];
    let directories = 0;
    // And it is not said: the server asks for each, and is answered.
    vi.spyOn(client.session, 'gaveBack').mockImplementation((inodes) => {
      for (const inode of inodes) {
        const node = nodes.get(Buffer.from(inode).toString('hex'));
        if (node === undefined) continue;
        directories++;
        if (!forgotten.has(node)) early.push(node);
      }
    });
    await removeAll();
    expect(directories).toBeGreaterThan(DIRECTORIES / 3);
    expect(early).toEqual([]);
  });

  test('a file that is opened to write meanwhile goes on gathering', async () => {
    const [first = '', second = '', third = ''] = names;
    let release = () => {};
    const released = new Promise<void>((resolve) => {
      release = resolve;
    });
    stuck = { node: await client.nodeOf(root, ['t', third]), released };
    const gaveBack = vi.spyOn(client.session, 'gaveBack');
    const { other } = client;
    const t = await find(other.hello.root.inode, 't');
    for (const name of [first, second]) {
      await other.call('unlink', ROOT, { parent: await find(t, name), name: b('a') });
    }
    await vi.waitFor(() => expect(client.filesystem.counts.leases).toBeLessThanOrEqual(4 * (DIRECTORIES - 3)));
    expect(gaveBack).not.toHaveBeenCalled();
    const node = await client.nodeOf(root, ['t', third, 'a']);
    const { handle } = await client.filesystem.open(root, node, O.WRONLY, false);
    await client.filesystem.write(root, handle, 0, b('gathered'), 0, false);
    release();
    await vi.waitFor(() => expect(gaveBack).toHaveBeenCalled());
    await client.filesystem.fsync(root, handle, false);
    client.filesystem.release(handle);
  });

  test('nor does one take its lease that goes with a directory which is recalled', async () => {
    const [name = ''] = names;
    let release = () => {};
    const released = new Promise<void>((resolve) => {
      release = resolve;
    });
    stuck = { node: await client.nodeOf(root, ['t', name]), released };
    const node = await client.nodeOf(root, ['t', name, 'a']);
    const { other } = client;
    const t = await find(other.hello.root.inode, 't');
    const parent = await find(t, name);
    const made = other.call('mkdir', ROOT, { parent, name: b('new'), mode: 0o755, umask: 0, wantsAlone: false });
    await vi.waitFor(() => expect(client.filesystem.counts.recalls).toBe(1));
    const { handle } = await client.filesystem.open(root, node, O.WRONLY, false);
    await client.filesystem.write(root, handle, 0, b('gathered'), 0, false);
    release();
    await made;
    await client.filesystem.fsync(root, handle, false);
    client.filesystem.release(handle);
  });
});
