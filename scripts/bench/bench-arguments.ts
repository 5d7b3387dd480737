/**
 * Sizes, durations and counts as they are typed on the command line. A value that makes no sense is a UsageError, which
 * the command line turns into one line and exit status 2.
 */
import { InvalidArgumentError } from 'commander';

export class UsageError extends InvalidArgumentError {
  override readonly name = 'UsageError';
}

const UNITS: Readonly<Record<string, number>> = { '': 1, K: 1024, M: 1024 ** 2, G: 1024 ** 3 };

/** `64K`, `1M`, `1MiB`, `65536` in bytes. */
export function parseSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)?$/i.exec(text.trim());
  const size = match ? Number(match[1]) * (UNITS[(match[2] ?? '').toUpperCase()] as number) : NaN;
  if (!Number.isSafeInteger(size) || size <= 0)
    throw new UsageError(`"${text}" is not a size (examples: 65536, 64K, 1M)`);
  return size;
}

/** `64K,256K,1M` in bytes. */
export function parseSizes(text: string): number[] {
  return text.split(',').map(parseSize);
}

/** `5`, `5s`, `2m`, `500ms` in milliseconds. */
export function parseDuration(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*(ms|s|m|h)?$/.exec(text.trim());
  const scale = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 }[match?.[2] ?? 's'] as number;
  const duration = match ? Number(match[1]) * scale : NaN;
  if (!(duration > 0)) throw new UsageError(`"${text}" is not a duration (examples: 5, 30s, 2m)`);
  return duration;
}

/** A whole number from `least` on. */
export function parseCount(least: number): (text: string) => number {
  return (text) => {
    const count = Number(text);
    if (!Number.isSafeInteger(count) || count < least)
      throw new UsageError(`"${text}" is not a whole number from ${least} on`);
    return count;
  };
}
