/**
 * Ctrl-C and SIGTERM during a benchmark: the first one cleans up and exits with the usual status (128 + signal); a
 * second one exits at once.
 */

const SIGNALS = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;

/** Runs `work`, then `cleanUp`, whatever happened, a signal included. */
export async function withCleanUp<T>(work: () => Promise<T>, cleanUp: () => Promise<void>): Promise<T> {
  let interrupted = false;
  const onSignal = (signal: NodeJS.Signals) => {
    const status = SIGNALS[signal as keyof typeof SIGNALS];
    if (interrupted) process.exit(status);
    interrupted = true;
    process.stderr.write(`\n${signal}: cleaning up\n`);
    void cleanUp().finally(() => process.exit(status));
  };
  for (const signal of Object.keys(SIGNALS)) process.on(signal, onSignal);
  try {
    return await work();
  } finally {
    // Interrupted: the clean-up runs already, and ends the process.
    if (interrupted) await new Promise(() => {});
    await cleanUp();
    for (const signal of Object.keys(SIGNALS)) process.off(signal, onSignal);
  }
}
