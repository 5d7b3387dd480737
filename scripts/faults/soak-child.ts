/**
 * One process of a soak, forked by the parent: some callers through one mount, side by side, until the parent says stop. It
 * tells every second what they do, so that a call that hangs has a name. Then it says what the directories must hold, and
 * what it sees in those that the parent names.
 */
import { nextFromParent, sendToParent, serveParent } from '../bench/parent-channel.ts';
import { type CallerCounts, SoakCaller } from './soak-caller.ts';
import { type Contents, contentsOf, digest } from './soak-contents.ts';

const TELL_EVERY_MS = 1_000;

export interface SoakTask {
  readonly root: string;
  readonly callers: readonly string[];
  readonly seed: number;
}

export type SoakMessage =
  | { readonly kind: 'ready' }
  | {
      readonly kind: 'progress';
      readonly operations: number;
      /** The call that is under way for the longest time. */
      readonly oldest: { readonly caller: string; readonly what: string; readonly ageMs: number } | undefined;
    }
  | { readonly kind: 'error'; readonly text: string }
  | { readonly kind: 'finished'; readonly counts: readonly CallerCounts[]; readonly expected: Contents }
  | { readonly kind: 'seen'; readonly contents: Contents };

export interface LookOrder {
  readonly callers: readonly string[];
}

const send = (message: SoakMessage) => sendToParent(message);

async function tell(callers: readonly SoakCaller[]): Promise<void> {
  const nowMs = performance.now();
  const [oldest] = callers
    .flatMap(({ name, now }) => (now ? [{ caller: name, what: now.what, ageMs: nowMs - now.sinceMs }] : []))
    .sort((a, b) => b.ageMs - a.ageMs);
  const operations = callers.reduce((sum, one) => sum + one.operations, 0);
  await send({ kind: 'progress', operations, oldest });
}

async function finish(callers: readonly SoakCaller[]): Promise<void> {
  const expected: Record<string, Record<string, string>> = {};
  for (const caller of callers) {
    const files = [...(await caller.finish())].sort(([a], [b]) => (a < b ? -1 : 1));
    expected[caller.name] = Object.fromEntries(files.map(([name, content]) => [name, digest(content)]));
  }
  await send({ kind: 'finished', counts: callers.map(({ counts }) => counts), expected });
}

await serveParent<SoakTask>(async ({ root, callers: names, seed }) => {
  const callers = names.map((name, index) => new SoakCaller(root, name, seed + index));
  for (const caller of callers) await caller.prepare();
  const stop = nextFromParent<object>();
  let isStopping = false;
  void stop.then(() => {
    isStopping = true;
  });
  await send({ kind: 'ready' });
  const telling = setInterval(() => void tell(callers), TELL_EVERY_MS);
  // A caller that met an error does not know any more what there must be: it stops, the others go on.
  const work = async (caller: SoakCaller) => {
    try {
      while (!isStopping) await caller.step();
    } catch (error) {
      await send({ kind: 'error', text: (error as Error).message });
    }
  };
  await Promise.all(callers.map(work));
  await stop;
  const order = nextFromParent<LookOrder>();
  await finish(callers);
  const contents = await contentsOf(root, (await order).callers);
  clearInterval(telling);
  await send({ kind: 'seen', contents });
});
