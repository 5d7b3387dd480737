/** What the checker believes of a call that the end of a server interrupts, and what it does not. */
import { describe, expect, test } from 'vitest';
import { History } from './history.ts';

const NO_NAMES = new Map<string, number>();
const NO_LOG = Buffer.alloc(0);
const both = (tag: number) => [{ file: 'x', tags: [tag, tag] }];
const made = { kind: 'make', name: 'a' } as const;

/** A write whose write(2) has returned. */
function written(history: History, tag: number) {
  const call = history.data(1, { file: 'x', tag });
  history.wrote(call);
  return call;
}

function read(history: History, result: number): void {
  history.end(history.data(2, { file: 'x' }), result);
}

describe('while the server goes on', () => {
  test('a write that is synchronized later was there when write(2) returned', () => {
    const history = new History();
    const call = written(history, 1);
    read(history, 0);
    history.end(call, 'written');
    expect(history.check(NO_NAMES, both(1), 0, NO_LOG)).toEqual(['file x is not linearizable']);
  });

  test('a write that could not be synchronized does not come late', () => {
    const history = new History();
    const call = written(history, 1);
    read(history, 0);
    history.end(call, undefined);
    expect(history.check(NO_NAMES, both(0), 0, NO_LOG)).toEqual([]);
    expect(history.check(NO_NAMES, both(1), 0, NO_LOG)).toEqual(['file x is not linearizable']);
  });

  test('two increments do not read the same', () => {
    const history = new History();
    for (const process of [1, 2]) {
      const call = history.increment(process);
      call.argument.value = 0;
      history.end(call, 0);
    }
    expect(history.check(NO_NAMES, both(0), 1, NO_LOG)).toEqual(['increments under a lock are not linearizable']);
  });
});

describe("the end of the server's process", () => {
  test('a name that was under way may be made twice, and says that it is there, if the journal is gone with the machine', () => {
    const history = new History();
    const call = history.name(1, made);
    history.serverEnded(true);
    history.end(call, 0);
    expect(history.check(new Map([['a', 5]]), both(0), 0, NO_LOG)).toEqual([]);

    const other = new History();
    const once = other.name(1, made);
    other.serverEnded(false);
    other.end(once, 0);
    expect(other.check(new Map([['a', 5]]), both(0), 0, NO_LOG)).toEqual(['names are not linearizable']);
  });

  test('one that was answered before, or asked for after, may not', () => {
    const history = new History();
    history.end(history.name(1, { ...made, name: 'b' }), 3);
    history.serverEnded(true);
    history.end(history.name(1, made), 0);
    expect(history.check(new Map([['b', 3]]), both(0), 0, NO_LOG)).toEqual(['names are not linearizable']);
  });

  test('only a write that was under way is torn', () => {
    const torn = [{ file: 'x', tags: [1, 0] }];
    const history = new History();
    history.data(1, { file: 'x', tag: 1 });
    history.serverEnded(true);
    expect(history.check(NO_NAMES, torn, 0, NO_LOG)).toEqual([]);

    const other = new History();
    other.serverEnded(true);
    other.data(1, { file: 'x', tag: 1 });
    expect(other.check(NO_NAMES, torn, 0, NO_LOG)).toEqual(['file x is not linearizable']);
  });

  test('an append is there once more for each end of the machine, and not oftener', () => {
    const twice = Buffer.from([7, 0, 0, 0, 7, 0, 0, 0]);
    const history = new History();
    history.append(7);
    expect(history.check(NO_NAMES, both(0), 0, twice)).toEqual(['the record 7 was appended 2 times']);
    const other = new History();
    other.append(7);
    other.serverEnded(true);
    expect(other.check(NO_NAMES, both(0), 0, twice)).toEqual([]);
    const journaled = new History();
    journaled.append(7);
    journaled.serverEnded(false);
    expect(journaled.check(NO_NAMES, both(0), 0, twice)).toEqual(['the record 7 was appended 2 times']);
  });
});

test('the end of the machine: what was synchronized is not lost, not by a page', () => {
  const history = new History();
  history.end(written(history, 1), 'written');
  written(history, 2);
  history.serverEnded(true);
  history.machineEnded([{ file: 'x', tags: [2, 1] }], undefined);
  expect(history.check(NO_NAMES, [{ file: 'x', tags: [2, 1] }], 0, NO_LOG)).toEqual([]);

  const other = new History();
  other.end(written(other, 1), 'written');
  written(other, 2);
  other.serverEnded(true);
  other.machineEnded([{ file: 'x', tags: [2, 0] }], undefined);
  expect(other.check(NO_NAMES, [{ file: 'x', tags: [2, 0] }], 0, NO_LOG)).toEqual([
    'the machine ended, and file x lost what was synchronized',
  ]);
});
