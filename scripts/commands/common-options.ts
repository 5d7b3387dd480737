/** Options that several verbs share. The log: JSON lines on standard error, for journald and people with `jq`. Nothing per request by default. */
import { availableParallelism } from 'node:os';
import { InvalidArgumentError, Option } from 'commander';
import pino, { type Logger } from 'pino';

const LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'silent'] as const;

export const logLevelOption = new Option('--log-level <LEVEL>', 'what goes to the log on standard error')
  .choices(LEVELS)
  .default('info');

export function openLog(level: string, name: string): Logger {
  return pino({ level, name, base: { pid: process.pid } }, pino.destination({ dest: 2, sync: true }));
}

/**
 * Bridges the gap between two requests of one caller on a local network, its own work included. On two or three processors, shared by
 * the programs, a client and maybe the server, only one may stay awake, or they keep each other and the programs from
 * running: the client, which nearly every request wakes twice (measured: docs/benchmarks.md).
 */
function defaultPollUs(end: 'server' | 'client'): number {
  const processors = availableParallelism();
  if (processors >= 4) return 500;
  return end === 'client' && processors > 1 ? 200 : 0;
}

export const pollOption = (end: 'server' | 'client') =>
  new Option('--poll-us <N>', 'while requests follow each other quickly: stay awake this long (microseconds); 0: never')
    .argParser(wholeNumber(0, 10_000))
    .default(defaultPollUs(end));

/** Parses a whole number for commander. */
export function wholeNumber(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (Number.isInteger(value) && value >= min && value <= max) return value;
    throw new InvalidArgumentError(`a whole number from ${min} to ${max} is needed.`);
  };
}
