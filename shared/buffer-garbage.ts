/**
 * Has the buffers of received data freed cheaply. To V8 they are small objects with much external memory, which counts
 * towards the limit of the whole heap: a heap of 10 MiB is marked and swept for every 8 MiB that come from a socket, at full
 * speed thirty times a second and a third of all processor time. Nearly all of them die young, and collecting the
 * young generation takes less than a millisecond; so that is done at times of our own, and the heap's limit leaves room
 * for what comes in between.
 */
import { getHeapStatistics, setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { MiB } from './limits.ts';

/** Not much more often: what is still in use at two collections grows old, and only the whole heap's frees it. */
const COLLECTED_BYTES = 12 * MiB;
/** What a small heap may grow by before it is collected. A large one grows as V8 sees fit. */
const ROOM_BYTES = 64 * MiB;

type Collect = (options: { readonly type: 'minor' | 'major' }) => void;

let collect: Collect | undefined;
let madeBytes = 0;

/** So many bytes of buffers were made for what came from a socket. */
export function buffersMade(bytes: number): void {
  madeBytes += bytes;
  if (madeBytes < COLLECTED_BYTES) return;
  madeBytes = 0;
  collect ??= collector();
  collect({ type: 'minor' });
  const heapBytes = getHeapStatistics().used_heap_size;
  const percent = heapBytes < ROOM_BYTES ? Math.round((100 * ROOM_BYTES) / heapBytes) : 0;
  setFlagsFromString(`--heap-growing-percent=${percent}`);
}

/** All generations: some 60 ms for a heap of 100 MiB. */
export function collectAll(): void {
  collect ??= collector();
  collect({ type: 'major' });
}

/** V8's own function, which a new context has while the flag is set. */
function collector(): Collect {
  setFlagsFromString('--expose-gc');
  const gc = runInNewContext('gc') as Collect;
  setFlagsFromString('--no-expose-gc');
  return gc;
}
