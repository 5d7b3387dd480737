/** The leases on one inode: who is granted one, who must give it back, and for how long only the author is granted it. */
import { describe, expect, test } from 'vitest';
import { InodeLeases } from '../../server/state/inode-leases.ts';
import { limits } from '../../shared/limits.ts';

const holders = (leases: InodeLeases<string>) => [...leases.holders].sort().join('');

describe('grants and changes', () => {
  test('any number of holders; a change asks for it from all but its author', () => {
    const leases = new InodeLeases<string>();
    expect(leases.isIdle).toBe(true);
    for (const who of ['a', 'b', 'c']) expect(leases.grant(who, 0)).toBe(true);
    expect(leases.grant('a', 0)).toBe(true); // once more is nothing new
    expect(leases.beginChange('b', 0)).toEqual(['a', 'c']);
    expect(holders(leases)).toBe('abc'); // until they have answered
    leases.drop('a');
    leases.drop('c');
    leases.drop('c');
    expect(leases.isChanging).toBe(true);
    leases.endChange();
    expect(holders(leases)).toBe('b');
    expect(leases.isIdle).toBe(false);
  });

  test('beyond the bound of holders nobody new is granted it, but who cannot help keeping what it is told', () => {
    const leases = new InodeLeases<number>();
    for (let who = 0; who < limits.maxHolders; who++) expect(leases.grant(who, 0)).toBe(true);
    expect(leases.grant(-1, 0)).toBe(false);
    expect(leases.grant(0, 0)).toBe(true); // a holder stays one
    leases.drop(5);
    expect(leases.grant(-1, 0)).toBe(true);
    expect(leases.grant(5, 0)).toBe(false);
    expect(leases.grant(5, 0, true)).toBe(true);
  });

  test('a local change has no author: all give back', () => {
    const leases = new InodeLeases<string>();
    leases.grant('a', 0);
    expect(leases.beginChange(undefined, 0)).toEqual(['a']);
  });

  test('nothing is granted during a change, its author included, nor between two that overlap', () => {
    const leases = new InodeLeases<string>();
    expect(leases.beginChange('a', 0)).toEqual([]);
    expect(leases.beginChange('b', 0)).toEqual([]);
    expect([leases.grant('a', 0), leases.grant('b', 0), leases.grant('c', 0)]).toEqual([false, false, false]);
    leases.endChange();
    expect([leases.grant('a', 0), leases.grant('c', 0)]).toEqual([false, false]);
    expect(leases.isIdle).toBe(false);
    leases.endChange();
    expect(leases.isIdle).toBe(true);
    expect(leases.grant('c', 0)).toBe(true); // nobody had to give anything back: no back-off
    expect(() => leases.endChange()).toThrow('ends once');
  });
});

describe('back-off', () => {
  /** Somebody else holds the lease, and gives it back for a change by `author`. */
  function contend(leases: InodeLeases<string>, author: string | undefined, nowMs: number): void {
    for (const holder of leases.beginChange(author, nowMs)) leases.drop(holder);
    leases.endChange();
  }

  test('after a recall only the author is granted it for 100 ms; then everybody', () => {
    const leases = new InodeLeases<string>();
    leases.grant('a', 0);
    contend(leases, 'b', 1000);
    expect([leases.grant('a', 1099), leases.grant('b', 1099), leases.grant('a', 1100)]).toEqual([false, true, true]);
  });

  test('after a local change nobody is', () => {
    const leases = new InodeLeases<string>();
    leases.grant('a', 0);
    contend(leases, undefined, 1000);
    expect([leases.grant('a', 1099), leases.grant('a', 1100)]).toEqual([false, true]);
  });

  test('it doubles up to 3.2 s under contention, and is forgiven after ten quiet seconds', () => {
    const leases = new InodeLeases<string>();
    let nowMs = 0;
    const waits: number[] = [];
    const measure = () => {
      leases.grant('a', nowMs);
      contend(leases, 'b', nowMs);
      let waited = 0;
      while (!leases.grant('a', nowMs + waited)) waited += 50;
      waits.push(waited);
      nowMs += waited;
    };
    for (let round = 0; round < 8; round++) measure();
    expect(waits).toEqual([100, 200, 400, 800, 1600, 3200, 3200, 3200]);
    nowMs += 10_000;
    measure();
    expect(waits.at(-1)).toBe(3200);
    nowMs += 10_001;
    measure();
    expect(waits.at(-1)).toBe(100);
  });

  test('changes by the only holder cost nothing', () => {
    const leases = new InodeLeases<string>();
    leases.grant('a', 0);
    for (let round = 0; round < 5; round++) contend(leases, 'a', round);
    expect(leases.grant('b', 5)).toBe(true);
  });
});
