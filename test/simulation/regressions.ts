/** Scenarios that failed once, as `scripts/simulate` printed them; the default tests run them again. */
import type { Scenario } from './scenario.ts';

export const regressions: readonly Scenario[] = [
  // The simulation looked at a write that was under way: its client had crashed.
  {
    seed: 6233,
    clients: 2,
    processes: 2,
    operations: 6,
    hasKernel: false,
    faults: [
      { kind: 'crashClient', atMs: 323, forMs: 7549, client: 0 },
      { kind: 'slowDisk', atMs: 359, forMs: 998, client: 1 },
      { kind: 'crashClient', atMs: 566, forMs: 7641, client: 1 },
    ],
  },
  // A write that was applied before the server was killed came again, over what others had written since.
  {
    seed: 1942,
    clients: 3,
    processes: 2,
    operations: 15,
    hasKernel: false,
    faults: [
      { kind: 'cutToClient', atMs: 170, forMs: 1479, client: 0 },
      { kind: 'crashServer', atMs: 369, forMs: 6887, client: 2 },
    ],
  },
  {
    seed: 2914,
    clients: 3,
    processes: 2,
    operations: 12,
    hasKernel: true,
    faults: [
      { kind: 'slowDisk', atMs: 209, forMs: 7095, client: 0 },
      { kind: 'crashServer', atMs: 570, forMs: 6524, client: 1 },
    ],
  },
  // The end of the grace period overtook the bulk lane's word that there is one, and a lock was waited for for ever.
  {
    seed: 584,
    clients: 2,
    processes: 2,
    operations: 5,
    hasKernel: false,
    faults: [{ kind: 'crashServer', atMs: 229, forMs: 2544, client: 0 }],
  },
  // One mknod, two files: what it had made was removed while its second attempt waited for a lease.
  {
    seed: 3871,
    clients: 3,
    processes: 2,
    operations: 4,
    hasKernel: false,
    faults: [{ kind: 'stopClient', atMs: 280, forMs: 1934, client: 0 }],
    killAtNote: 2,
  },
  // The same, when it was removed in the time of a server that its client never met.
  {
    seed: 319,
    clients: 3,
    processes: 2,
    operations: 2,
    hasKernel: false,
    faults: [
      { kind: 'stopClient', atMs: 200, forMs: 600, client: 319 },
      { kind: 'crashServer', atMs: 803, forMs: 100, client: 0 },
    ],
    killAtNote: 2,
  },
  // A write that the server was killed in came again, over what others had read and written since.
  {
    seed: 652,
    clients: 3,
    processes: 2,
    operations: 10,
    hasKernel: false,
    faults: [],
    killAtNote: 11,
  },
  {
    seed: 383,
    clients: 2,
    processes: 2,
    operations: 10,
    hasKernel: false,
    faults: [{ kind: 'cutToClient', atMs: 243, forMs: 6160, client: 0 }],
    killAtNote: 13,
    lateAfterKillMs: 6827,
  },
];
