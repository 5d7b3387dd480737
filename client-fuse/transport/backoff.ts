/** When to try again: at once, then after a time that doubles, up to what a person is willing to wait. Pure. */

const FIRST_MS = 20;
const LONGEST_MS = 2_000;

/** The pause after the failed attempt number `attempt`, counted from 0. */
export function reconnectDelayMs(attempt: number): number {
  return Math.min(LONGEST_MS, FIRST_MS * 2 ** Math.min(attempt, 20));
}
