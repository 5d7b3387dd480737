/** The list of clients in the state directory: what is there after a crash, and to whom it belongs. */
import { readdirSync, statSync, writeFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { ClientList } from '../../server/session/client-list.ts';
import { ClientListFile } from '../../server/session/client-list-file.ts';
import { GracePeriod } from '../../server/state/grace-period.ts';
import { TemporaryDirectory } from '../support/fixture.ts';
import { KeptClients } from '../support/kept-state.ts';

const one = { id: '01', export: '/', client: 'here:1', credential: 'anyone', writes: true, locks: true };
const two = { ...one, id: '02' };

describe('the file', () => {
  test('has what was written last, for nobody else to read', () => {
    using directory = new TemporaryDirectory();
    const file = ClientListFile.open(directory.path);
    expect(file?.read()).toEqual([]);
    file?.write([one, two]);
    file?.write([two]);
    expect(file?.read()).toEqual([two]);
    expect(readdirSync(directory.path).sort()).toEqual(['clients.json', 'clients.lock']);
    expect(statSync(directory.join('clients.json')).mode & 0o777).toBe(0o600);
  });

  test('of an earlier release names those only that wrote, or had locks', () => {
    using directory = new TemporaryDirectory();
    const { writes: _, ...before } = { ...one, locks: false };
    writeFileSync(directory.join('clients.json'), JSON.stringify({ version: 1, clients: [before] }));
    expect(ClientListFile.open(directory.path)?.read()).toEqual([{ ...before, writes: true }]);
  });

  test('belongs to one server', () => {
    using directory = new TemporaryDirectory();
    expect(ClientListFile.open(directory.path)).toBeDefined();
    expect(ClientListFile.open(directory.path)).toBeUndefined();
  });

  test.each(['', '{', 'null', '[]', '{"version":2,"clients":[]}'])('damaged (%j), it is named', (text) => {
    using directory = new TemporaryDirectory();
    writeFileSync(directory.join('clients.json'), text);
    expect(() => ClientListFile.open(directory.path)?.read()).toThrow(/clients\.json is damaged: remove it/);
  });
});

test('what could not be written is as it was', () => {
  const kept = new KeptClients();
  const list = new ClientList(kept);
  expect(list.add(one)).toBe(true);
  kept.isFull = true;
  expect([list.add(two), list.remove([one.id]), list.remove(['unknown'])]).toEqual([false, false, true]);
  expect([...list.all]).toEqual([one]);
  kept.isFull = false;
  expect([list.remove([one.id]), kept.clients]).toEqual([true, []]);
});

test('what a client is in the list for is added up, and written when it is news', () => {
  const kept = new KeptClients();
  const list = new ClientList(kept);
  const holder = { ...one, writes: false, locks: false };
  list.add(holder);
  list.add({ ...holder, writes: true });
  list.add({ ...holder, locks: true });
  for (const again of [holder, { ...holder, locks: true }, { ...holder, writes: true }])
    expect(list.add(again)).toBe(true);
  expect([kept.clients, kept.writes]).toEqual([[one], 3]);
});

describe('the grace period', () => {
  const ENDS_MS = 1000;
  const LAST_MS = 1500;
  const graceOf = (...ids: string[]) => new GracePeriod(ids, ENDS_MS, LAST_MS);

  test('of nobody is over', () => {
    expect([graceOf().isOver, graceOf().isDue(LAST_MS)]).toEqual([true, false]);
  });

  test('is due when everybody is done, whether back or gone, and not before', () => {
    const grace = graceOf('a', 'b');
    grace.returned('a');
    grace.done('a');
    expect(grace.isDue(0)).toBe(false);
    grace.done('b');
    expect([grace.isDue(0), grace.isOver]).toEqual([true, false]);
    grace.end();
    expect([grace.isDue(LAST_MS), grace.isOver]).toEqual([false, true]);
  });

  test('waits for those that are away until its end, and longer for those that are back', () => {
    const grace = graceOf('a', 'b');
    expect([grace.isDue(ENDS_MS - 1), grace.isDue(ENDS_MS)]).toEqual([false, true]);
    grace.returned('b');
    expect([grace.isDue(LAST_MS - 1), grace.isDue(LAST_MS)]).toEqual([false, true]);
    expect(grace.awaited).toEqual(['a', 'b']);
  });

  test('lets those reclaim that are back and not done, and lets nobody come back twice', () => {
    const grace = graceOf('a');
    expect([grace.mayReclaim('a'), grace.mayReturn('a')]).toEqual([false, true]);
    grace.returned('a');
    grace.returned('stranger');
    expect([grace.mayReclaim('a'), grace.mayReturn('a'), grace.mayReclaim('stranger')]).toEqual([true, false, false]);
    grace.done('a');
    expect(grace.mayReclaim('a')).toBe(false);
  });
});
