/** Requests without a reply: as many in flight as there are slots, the others in their order. */
import { expect, test } from 'vitest';
import { RequestTable } from '../../client-fuse/transport/request-table.ts';
import { limits } from '../../shared/limits.ts';

const { maxRequestsInFlight } = limits;
const request = (seq: number) => ({ seq, slot: -1 });

function filled() {
  const table = new RequestTable<ReturnType<typeof request>>();
  const requests = Array.from({ length: maxRequestsInFlight + 3 }, (_, seq) => request(seq));
  const isInFlight = requests.map((one) => table.add(one));
  return { table, requests, isInFlight };
}

test('no slot is used twice, and those without one wait', () => {
  const { table, requests, isInFlight } = filled();
  expect(isInFlight.filter((one) => !one)).toHaveLength(3);
  expect(new Set(requests.slice(0, maxRequestsInFlight).map(({ slot }) => slot)).size).toBe(maxRequestsInFlight);
  expect([table.size, [...table.inFlight].length]).toEqual([maxRequestsInFlight + 3, maxRequestsInFlight]);
  expect([table.find(0), table.find(maxRequestsInFlight)]).toEqual([requests[0], undefined]);
});

test('the longest waiting has its turn in the slot of one that has ended', () => {
  const { table, requests } = filled();
  const [first, second, third] = requests.slice(maxRequestsInFlight) as [Slotted, Slotted, Slotted];
  const ended = requests[7] as Slotted;
  expect(table.withdraw(second)).toBe(true);
  expect([table.end(ended), first.slot]).toEqual([first, ended.slot]);
  expect([table.withdraw(first), table.find(first.seq), table.find(ended.seq)]).toEqual([false, first, undefined]);
  expect([table.end(first), third.slot, table.end(third)]).toEqual([third, ended.slot, undefined]);
  const next = request(1_000_000);
  expect([table.add(next), next.slot]).toEqual([true, ended.slot]);
});

test('after the end of all of them all slots are free', () => {
  const { table, requests } = filled();
  expect(table.clear()).toEqual(requests);
  expect(table.size).toBe(0);
  const again = requests.slice(0, maxRequestsInFlight).map(({ seq }) => request(seq));
  expect(again.every((one) => table.add(one))).toBe(true);
  expect(new Set(again.map(({ slot }) => slot)).size).toBe(maxRequestsInFlight);
});

type Slotted = ReturnType<typeof request>;
