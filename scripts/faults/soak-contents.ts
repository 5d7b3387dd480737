/** What is in the callers' directories of a soak, and what all of them have left in the shared one. */
import { createHash } from 'node:crypto';
import fs from 'node:fs/promises';
import path from 'node:path';
import { BOARD_BYTES, type CallerCounts, LOCK_KINDS, SHARED, TOKEN_PLACES, TOKENS } from './soak-caller.ts';

/** Digests by caller and file name. */
export type Contents = Readonly<Record<string, Readonly<Record<string, string>>>>;

export function digest(content: Buffer): string {
  return `${content.length} ${createHash('sha256').update(content).digest('hex')}`;
}

export async function contentsOf(root: string, callers: readonly string[]): Promise<Contents> {
  const contents: Record<string, Record<string, string>> = {};
  for (const caller of callers) {
    const files: Record<string, string> = {};
    for (const name of (await fs.readdir(path.join(root, caller))).sort()) {
      files[name] = digest(await fs.readFile(path.join(root, caller, name)));
    }
    contents[caller] = files;
  }
  return contents;
}

/** In words, what of `seen` is not as it must be. */
export function differences(where: string, seen: Contents, expected: Contents): string[] {
  return Object.entries(seen).flatMap(([caller, files]) => {
    const must = expected[caller] ?? {};
    const names = [...new Set([...Object.keys(files), ...Object.keys(must)])];
    const wrong = names.filter((name) => files[name] !== must[name]);
    return wrong.map(
      (name) => `${where}: ${caller}/${name} is ${files[name] ?? 'absent'}, not ${must[name] ?? 'absent'}`,
    );
  });
}

/** What the callers work on together, in the exported directory. */
export async function prepareShared(root: string): Promise<void> {
  const at = (...names: string[]) => path.join(root, SHARED, ...names);
  await fs.mkdir(at());
  await fs.writeFile(at('log'), '');
  await fs.writeFile(at('board'), Buffer.alloc(BOARD_BYTES));
  for (const kind of LOCK_KINDS) await fs.writeFile(at(`counter-${kind}`), '');
  for (const place of TOKEN_PLACES) await fs.mkdir(at(place));
  for (let token = 0; token < TOKENS; token++) await fs.writeFile(at(TOKEN_PLACES[0], `token-${token}`), '');
}

/** Every acknowledged record is there once and in its caller's order, every increment counted, no token lost. */
export async function sharedFaults(root: string, counts: readonly CallerCounts[]): Promise<string[]> {
  const faults: string[] = [];
  const at = (...names: string[]) => path.join(root, SHARED, ...names);
  const last = new Map<string, number>();
  for (const line of (await fs.readFile(at('log'), 'latin1')).split('\n').slice(0, -1)) {
    const [caller = '', number] = line.split(' ');
    const before = last.get(caller) ?? 0;
    if (Number(number) !== before + 1) faults.push(`log: "${line}" comes after record ${before} of its caller`);
    last.set(caller, Number(number));
  }
  for (const { caller, records } of counts) {
    const found = last.get(caller) ?? 0;
    if (found !== records) faults.push(`log: ${found} records of ${caller}, who appended ${records}`);
  }
  for (const kind of LOCK_KINDS) {
    const counted = Number(await fs.readFile(at(`counter-${kind}`), 'latin1'));
    const made = counts.reduce((sum, { increments }) => sum + (increments[kind] ?? 0), 0);
    if (counted !== made) faults.push(`counter-${kind} is ${counted} after ${made} increments`);
  }
  const tokens = (await Promise.all(TOKEN_PLACES.map((place) => fs.readdir(at(place))))).flat();
  if (tokens.length !== TOKENS || new Set(tokens).size !== TOKENS)
    faults.push(`${tokens.length} tokens, not ${TOKENS}`);
  const left = (await fs.readdir(at())).filter((name) => name.endsWith('.link') || name === 'exclusion');
  if (left.length > 0) faults.push(`left behind: ${left.join(', ')}`);
  return faults;
}
