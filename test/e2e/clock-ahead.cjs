/** Loaded into a program under test (`NODE_OPTIONS=--require`): on SIGUSR2 its wall clock goes ahead by a day. */
const DAY_MS = 86_400_000;
const now = Date.now;

process.on('SIGUSR2', () => {
  Date.now = () => now() + DAY_MS;
});
