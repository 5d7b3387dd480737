/** A read that comes while the lease on its file is given back, with a real server and a kernel that is pretended. */
import { writeFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { type Caller, ROOT_NODE } from '../../client-fuse/vfs/filesystem.ts';
import { RemoteFilesystem } from '../../client-fuse/vfs/remote-filesystem.ts';
import { limits } from '../../shared/limits.ts';
import { O } from '../../shared/linux/constants.ts';
import { deferred, lookUp, ROOT, TemporaryDirectory, TestServer } from '../support/fixture.ts';

const root: Caller = { uid: 0, gid: 0, pid: 1, groups: [], signal: new AbortController().signal };

// The kernel has attributes and no pages: the recall takes back attributes alone, and must not miss the read's pages.
test('the kernel keeps no page that was read before the change', async () => {
  using directory = new TemporaryDirectory();
  writeFileSync(directory.join('f'), 'x'.repeat(limits.maxFirstBytes + 1)); // too large to come with the open
  await using server = await TestServer.start(directory.path);
  const [session, other] = [await server.connect(), await server.connect()];
  const filesystem = new RemoteFilesystem(session);
  const events: string[] = [];
  const [asked, taken] = [deferred(), deferred()];
  filesystem.attachKernel({
    epochs: true,
    hasMountsInside: () => Promise.resolve(false),
    notifier: {
      async invalidateInode(_node, offset) {
        events.push(offset < 0 ? 'attributes' : 'pages');
        asked.resolve();
        await taken.promise;
        return true;
      },
      invalidateListing: () => Promise.resolve(),
      invalidateEntry: () => Promise.resolve(),
      incrementEpoch: () => Promise.resolve(),
      storePages: () => Promise.resolve(),
    },
  });
  const { node } = await filesystem.lookup(root, ROOT_NODE, Buffer.from('f'));
  await filesystem.getattr(root, node);
  const opened = await filesystem.open(root, node, O.RDONLY, false);
  expect(opened.directIo).toBe(false);
  const where = { parent: other.hello.root.inode, name: Buffer.from('f') };
  const { inode } = await lookUp(other, ROOT, where);
  const none = { mode: undefined, uid: undefined, gid: undefined, atime: undefined, mtime: undefined };
  const truncated = other.call('setattr', ROOT, { inode, handle: 0, ...none, size: 0, killSuidgid: false });
  await asked.promise;
  const read = filesystem.read(root, opened.handle, 0, 4096).then((data) => {
    events.push('reply');
    return Buffer.from(data.subarray(0, 3)).toString();
  });
  const roundTrips = async () => {
    for (let round = 0; round < 5; round++) {
      await session.call('statfs', ROOT, { inode: session.hello.root.inode });
      await new Promise(setImmediate);
    }
  };
  await roundTrips(); // what is read without waiting is there
  taken.resolve();
  await truncated;
  const said = await read;
  await roundTrips();
  const isDropped = events.slice(events.indexOf('reply')).includes('pages');
  session.close();
  other.close();
  expect(said === '' || isDropped).toBe(true);
});
