/**
 * The machine's monotonic clock in nanoseconds since a base that all processes of one run share. It is CLOCK_MONOTONIC,
 * so times taken in different processes of one machine compare; a base near the run keeps them exact in a double.
 */

export type MonotonicClock = () => number;

export function monotonicBase(): bigint {
  return process.hrtime.bigint();
}

export function monotonicClock(base: bigint): MonotonicClock {
  return () => Number(process.hrtime.bigint() - base);
}
