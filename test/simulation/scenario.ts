/** What one run does, from its seed: who there is, how much they do, and what goes wrong when. */
import { Random } from './random.ts';

export const faultKinds = [
  'loseConnection',
  'partition',
  'cutToServer',
  'cutToClient',
  'stopClient',
  'crashClient',
  'crashServer',
  'crashMachine',
  'slowDisk',
  'fullDisk',
  'clockJump',
] as const;
export type FaultKind = (typeof faultKinds)[number];

export interface Fault {
  readonly kind: FaultKind;
  readonly atMs: number;
  readonly forMs: number;
  /** Which client it meets, where it meets one. */
  readonly client: number;
}

export interface Scenario {
  readonly seed: number;
  readonly clients: number;
  readonly processes: number;
  /** Of each process. */
  readonly operations: number;
  /** A kernel is attached that keeps nothing: leases are used in full, writes are gathered. */
  readonly hasKernel: boolean;
  readonly faults: readonly Fault[];
  /** The server's process is killed at this note of its journal: right before it, of those before and after a change or a write. */
  readonly killAtNote?: number;
  /** The client whose request it notes is cut off for so long then, and back later than the others. */
  readonly lateAfterKillMs?: number;
  /** So many files are made by one more process of each client (stamps.ts). */
  readonly stamps?: number;
  /** Files are read again and again by one handle, from pages that the server's machine has; one of them where two blocks meet. */
  readonly readsAgain?: boolean;
  /** Names, listings and modes are looked at again and again, and modes are changed. */
  readonly looksAgain?: boolean;
}

/** Longer than a session waits for its client. */
const LONG_MS = 150_000;

/** Now and then: a client that is cut off does not know that the server has ended, and uses its leases while there is another one. */
function cutOffBeforeKill(seed: number, clients: number): Fault[] {
  const random = new Random(seed ^ 0xc0ff);
  if (random.chance(0.8)) return [];
  const [client, atMs] = [random.below(clients), 100 + random.below(800)];
  return [
    { kind: 'partition', atMs, forMs: 300 + random.below(8_000), client },
    { kind: 'crashServer', atMs: atMs + 1 + random.below(20), forMs: 50 + random.below(500), client },
  ];
}

export function scenarioOf(seed: number): Scenario {
  const random = new Random(seed ^ 0x5eed);
  const clients = 2 + random.below(2);
  const fault = (): Fault => ({
    kind: random.pick(faultKinds),
    atMs: random.below(800),
    forMs: 50 + random.below(random.chance(0.1) ? LONG_MS : 8_000),
    client: random.below(clients),
  });
  const kill = new Random(seed ^ 0xc2a5);
  const killAtNote = kill.chance(0.25) ? { killAtNote: 1 + kill.below(24) } : {};
  const isLate = 'killAtNote' in killAtNote && kill.chance(0.7);
  const lateAfterKill = isLate ? { lateAfterKillMs: 300 + kill.below(kill.chance(0.2) ? LONG_MS : 8_000) } : {};
  const more = new Random(seed ^ 0x57a4);
  const stamps = more.chance(0.3) ? { stamps: 1 + more.below(8) } : {};
  const again = new Random(seed ^ 0xb10c);
  const readsAgain = again.chance(0.5) ? { readsAgain: true } : {};
  const looks = new Random(seed ^ 0x100c);
  const looksAgain = looks.chance(0.4) ? { looksAgain: true } : {};
  const faults = [...Array.from({ length: random.below(5) }, fault), ...cutOffBeforeKill(seed, clients)];
  return {
    seed,
    clients,
    processes: 2,
    operations: 6 + random.below(10),
    hasKernel: random.chance(0.5),
    faults: faults.sort((one, other) => one.atMs - other.atMs),
    ...killAtNote,
    ...lateAfterKill,
    ...stamps,
    ...readsAgain,
    ...looksAgain,
  };
}
