/**
 * The child's end of a WatchedChild: takes the task, reports, and ends with the parent.
 */
import type { FailedMessage } from './watched-child.ts';

/** Resolves when the message is on its way: awaited on, a slow parent slows its children down. */
export function sendToParent(message: object): Promise<void> {
  return new Promise((resolve, reject) => {
    if (!process.send) throw new Error('this module runs as a forked process only');
    process.send(message, (error: Error | null) => (error ? reject(error) : resolve()));
  });
}

export function nextFromParent<T>(): Promise<T> {
  return new Promise((resolve) => process.once('message', (message) => resolve(message as T)));
}

/** Carries out the task that the parent sends, and exits: 0, or 1 after telling the parent why. */
export async function serveParent<Task>(carryOut: (task: Task) => Promise<void>): Promise<void> {
  // Ctrl-C reaches the whole process group: the parent decides, and ends its children by closing the channel.
  for (const signal of ['SIGINT', 'SIGHUP'] as const) process.on(signal, () => {});
  process.on('disconnect', () => process.exit(1));
  try {
    await carryOut(await nextFromParent<Task>());
    process.exit(0);
  } catch (error) {
    const failure: FailedMessage = { kind: 'failed', reason: error instanceof Error ? error.message : String(error) };
    if (process.connected) await sendToParent(failure);
    process.exit(1);
  }
}
