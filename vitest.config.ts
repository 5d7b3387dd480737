import { configDefaults, defineConfig } from 'vitest/config';

/** What runs on real mounts, one file after the other: each has the mounts and processes of its own. */
const onMounts = { testTimeout: 120_000, hookTimeout: 60_000, pool: 'forks', fileParallelism: false } as const;

/**
 * unit: tables of rows, and the server over sockets of 127.0.0.1. model: properties against small references.
 * simulation: server and clients on simulated machines. These three run two files at a time.
 * e2e: real mounts. data: what is written and read under leases. faults: what is killed, cut and waited for. scripts/test runs
 * the last two beside e2e, for they take as long, and much of it is waiting.
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
          exclude: [...configDefaults.exclude, 'test/e2e/{data,faults}/**'],
          ...onMounts,
          sequence: { groupOrder: 1 },
        },
      },
      { test: { name: 'data', include: ['test/e2e/data/**/*.test.ts'], ...onMounts, sequence: { groupOrder: 2 } } },
      { test: { name: 'faults', include: ['test/e2e/faults/**/*.test.ts'], ...onMounts, sequence: { groupOrder: 3 } } },
    ],
  },
});
