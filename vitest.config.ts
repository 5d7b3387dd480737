import { defineConfig } from 'vitest/config';

/**
 * unit: tables of rows, and the server over sockets of 127.0.0.1. model: properties against small references.
 * simulation: server and clients on simulated machines.
 * e2e: real mounts, after the others: their servers and mounts want the processors. Two files at a time, for most of it is waiting.
 */
export default defineConfig({
  test: {
    maxWorkers: 2,
    projects: [
      { test: { name: 'unit', include: ['test/unit/**/*.test.ts'], testTimeout: 20_000, pool: 'forks' } },
      { test: { name: 'model', include: ['test/model/**/*.test.ts'], testTimeout: 30_000, pool: 'forks' } },
      {
        test: { name: 'simulation', include: ['test/simulation/**/*.test.ts'], testTimeout: 60_000, pool: 'forks' },
      },
      {
        test: {
          name: 'e2e',
          include: ['test/e2e/**/*.test.ts'],
          testTimeout: 120_000,
          hookTimeout: 60_000,
          pool: 'forks',
          sequence: { groupOrder: 1 },
        },
      },
    ],
  },
});
