/** Reading ahead against a file that changes under it: what a reader gets is never older than its call. */
import fc from 'fast-check';
import { beforeEach, describe, expect, test } from 'vitest';
import { ReadAhead, ReadAheadBudget, type VersionedData } from '../../client-fuse/vfs/read-ahead.ts';

const SIZE = 64 * 1024;
const READ = 4096;

/** A server with one file. A request is answered when the test says so, with the file as it is at that moment. */
class ModelServer {
  content = Buffer.alloc(SIZE, 1);
  version = 1;
  requests = 0;
  bytesSent = 0;
  readonly #waiting: (() => void)[] = [];

  readonly fetch = (offset: number, size: number, known: number): Promise<VersionedData> => {
    this.requests++;
    return new Promise((resolve) => {
      this.#waiting.push(() => {
        const unchanged = known === this.version;
        const data = unchanged ? Buffer.alloc(0) : Buffer.from(this.content.subarray(offset, offset + size));
        this.bytesSent += data.length;
        resolve({ version: this.version, unchanged, data });
      });
    });
  };

  change(tag: number, length: number): void {
    this.content = Buffer.alloc(length, tag);
    this.version++;
  }

  /** Answers the request that came as the `index`-th of those that wait. */
  answer(index: number): void {
    const [one] = this.#waiting.splice(index % Math.max(1, this.#waiting.length), 1);
    one?.();
  }

  get waiting(): number {
    return this.#waiting.length;
  }
}

const action = fc.oneof(
  { weight: 8, arbitrary: fc.constant({ kind: 'read next' as const }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('read at' as const), page: fc.nat(SIZE / READ + 2) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('change' as const), pages: fc.nat(SIZE / READ) }) },
  { weight: 9, arbitrary: fc.record({ kind: fc.constant('answer' as const), index: fc.nat(5) }) },
);

async function settle(): Promise<void> {
  for (let turn = 0; turn < 10; turn++) await Promise.resolve();
}

test('every read returns the file as it was at some moment between its call and its answer', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(action, { maxLength: 60 }), fc.boolean(), async (actions, tight) => {
      const server = new ModelServer();
      const ahead = new ReadAhead(server.fetch, new ReadAheadBudget(tight ? 1 << 20 : 16 << 20));
      /** What the file was, by version. */
      const history = [server.content];
      let next = 0;
      let tag = 1;
      let open = 0;
      const read = (offset: number) => {
        const since = history.length - 1;
        // The caller that gets no answer from here asks the server itself, as FileData does.
        const answer = ahead.read(offset, READ) ?? server.fetch(offset, READ, 0).then(({ data }) => data);
        next = offset + READ;
        open++;
        void answer.then((data) => {
          open--;
          const possible = history.slice(since).map((content) => content.subarray(offset, offset + READ));
          expect(possible.some((one) => one.equals(data))).toBe(true);
        });
      };
      for (const one of actions) {
        if (one.kind === 'read next') read(next);
        else if (one.kind === 'read at') read(one.page * READ);
        else if (one.kind === 'answer') server.answer(one.index);
        else {
          server.change(++tag % 256, one.pages * READ + (one.pages % 3));
          history.push(server.content);
        }
        await settle();
      }
      while (server.waiting > 0) {
        server.answer(0);
        await settle();
      }
      expect(open).toBe(0);
    }),
    { numRuns: 500 },
  );
});

/** Answers everything, and returns what the read gave. */
async function finish<T>(server: ModelServer, answer: Promise<T> | undefined): Promise<T> {
  let done = false;
  const marked = answer?.finally(() => {
    done = true;
  });
  while (!done) {
    server.answer(0);
    await settle();
  }
  return marked as Promise<T>;
}

test('reading from front to back asks for each byte once, and confirms', async () => {
  const server = new ModelServer();
  const ahead = new ReadAhead(server.fetch, new ReadAheadBudget(64 << 20));
  expect(ahead.read(0, READ)).toBeUndefined();
  expect(ahead.read(READ, READ)).toBeUndefined(); // the second in a row starts it
  expect(server.requests).toBeGreaterThan(0);
  for (let offset = 2 * READ; offset < SIZE; offset += READ) {
    const data = await finish(server, ahead.read(offset, READ));
    expect(Buffer.from(data).equals(server.content.subarray(offset, offset + READ))).toBe(true);
  }
  expect(server.bytesSent).toBeLessThanOrEqual(SIZE);
});

test('random reads are left alone, and backward ones', () => {
  const server = new ModelServer();
  const ahead = new ReadAhead(server.fetch, new ReadAheadBudget(64 << 20));
  for (const page of [3, 9, 1, 14, 13, 12, 11, 2]) expect(ahead.read(page * READ, READ)).toBeUndefined();
  expect(server.requests).toBe(0);
});

test('at the end of the file nothing is read ahead any more', async () => {
  const server = new ModelServer();
  const ahead = new ReadAhead(server.fetch, new ReadAheadBudget(64 << 20));
  for (let offset = 0; offset < SIZE; offset += READ) {
    const answer = ahead.read(offset, READ);
    if (answer) await finish(server, answer);
    else await settle();
  }
  const before = server.requests;
  const end = await finish(server, ahead.read(SIZE, READ) ?? server.fetch(SIZE, READ, 0).then(({ data }) => data));
  expect(end.length).toBe(0);
  expect(server.requests - before).toBeLessThanOrEqual(2);
});

test('the budget bounds all handles together, and is given back', async () => {
  const budget = new ReadAheadBudget(6 << 20);
  const server = new ModelServer();
  const handles = Array.from({ length: 4 }, () => new ReadAhead(server.fetch, budget));
  for (const ahead of handles) {
    ahead.read(0, READ);
    ahead.read(READ, READ);
  }
  expect(server.requests).toBe(6); // of 1 MiB each: four for the first, two for the second, none for the others
  expect(budget.take(1)).toBe(false);
  for (const ahead of handles) ahead.drop();
  expect(budget.take(6 << 20)).toBe(true);
  budget.giveBack(6 << 20);
  const [first] = handles as [ReadAhead];
  first.read(0, READ);
  first.read(READ, READ);
  first.read(512 * READ, READ); // elsewhere: what was read ahead is dropped
  expect(budget.take(6 << 20)).toBe(true);
  while (server.waiting > 0) server.answer(0);
  await settle();
});

describe('under a lease, with two reads under way as the kernel makes them by its own reading ahead', () => {
  const CHUNK = 1 << 20;
  let isLeased = true;
  let asked: { offset: number; answer: () => void }[] = [];
  let ahead: ReadAhead;
  const fetch = (offset: number, size: number) =>
    new Promise<VersionedData>((resolve) => {
      const data = Buffer.alloc(size, offset / CHUNK);
      asked.push({ offset: offset / CHUNK, answer: () => resolve({ version: 0, unchanged: false, data }) });
    });
  const read = (index: number) => ahead.read(index * CHUNK, CHUNK);
  const answerAll = async () => {
    for (const { answer } of asked.splice(0)) answer();
    await settle();
  };

  beforeEach(() => {
    isLeased = true;
    asked = [];
    ahead = new ReadAhead(fetch, new ReadAheadBudget(64 << 20), () => isLeased);
    expect([read(0), read(1)]).toEqual([undefined, undefined]);
    expect(asked.map(({ offset }) => offset)).toEqual([2, 3, 4, 5]);
  });

  test('each is asked for once, also when the next read comes before its answer', async () => {
    const [second, third] = [read(2), read(3)];
    await answerAll();
    expect([(await second)?.[0], (await third)?.[0]]).toEqual([2, 3]);
    expect([read(4), read(5)].every((one) => one instanceof Promise)).toBe(true);
    await settle();
    expect(asked.map(({ offset }) => offset)).toEqual([8, 9]);
  });

  test('what was on its way when the lease was recalled is asked for again, passed by the next read or not', async () => {
    const reads = [read(2), read(3)];
    isLeased = false;
    ahead.drop();
    isLeased = true;
    await answerAll();
    expect(asked.map(({ offset }) => offset)).toEqual([2, 3]);
    await answerAll();
    expect((await Promise.all(reads)).map((data) => data?.[0])).toEqual([2, 3]);
  });
});

test("a fetch that fails is the reader's own, told to the reader that needs it", async () => {
  let fail = true;
  const content = Buffer.alloc(SIZE, 3);
  const ahead = new ReadAhead(
    async (offset, size) => {
      if (fail) throw new Error('lost');
      return { version: 1, unchanged: false, data: content.subarray(offset, offset + size) };
    },
    new ReadAheadBudget(64 << 20),
  );
  ahead.read(0, READ);
  ahead.read(READ, READ);
  await settle();
  fail = false;
  expect(await ahead.read(2 * READ, READ)).toEqual(content.subarray(2 * READ, 3 * READ));
});
