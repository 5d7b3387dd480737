/**
 * When to try again: at once, then after a time that grows with the time that has gone by, up to what a person is willing
 * to wait. An outage is felt a quarter longer than it is: a pause as long as the outage (doubling) misses a server that is
 * there for two seconds at a time again and again. Pure.
 */

const FIRST_MS = 20;
const LONGEST_MS = 2_000;
const GROWTH = 1.25;

/** The pause after the failed attempt number `attempt`, counted from 0. */
export function reconnectDelayMs(attempt: number): number {
  return Math.min(LONGEST_MS, FIRST_MS * GROWTH ** attempt);
}
