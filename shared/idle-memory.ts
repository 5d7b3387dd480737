/**
 * Gives memory back after a busy time. Of a process that does nothing, V8 does not collect what has become garbage, nor does
 * malloc(3) return what was freed: a client kept 395 MiB after some minutes of other people's test suites. One for a process,
 * which looks now and then how much was done since.
 */
import { collectAll } from './buffer-garbage.ts';
import { trimMemory } from './linux/libc.ts';

const LOOK_MS = 10_000;
/** In so many milliseconds: more is worth a collection afterwards. */
const BUSY_ACTIVITIES = 2_000;
/** Fewer are renewals, heartbeats, and who asks for the status: nobody waits for the tenth of a second that it takes. */
const IDLE_ACTIVITIES = 50;

/** Owner: `giveBackWhenIdle`. Pure. */
export class IdleMemory {
  #last = 0;
  #wasBusy = false;

  /** `activities` so far. True, once after each busy time: nothing is going on any more. */
  look(activities: number): boolean {
    const count = activities - this.#last;
    this.#last = activities;
    if (count > BUSY_ACTIVITIES) this.#wasBusy = true;
    if (!this.#wasBusy || count > IDLE_ACTIVITIES) return false;
    this.#wasBusy = false;
    return true;
  }
}

/** For as long as the process lives, which it does not keep from ending. */
export function giveBackWhenIdle(activities: () => number): void {
  const memory = new IdleMemory();
  const look = () => {
    if (!memory.look(activities())) return;
    collectAll();
    trimMemory();
  };
  setInterval(look, LOOK_MS).unref();
}
