/**
 * The clock of a simulated world: timers fire in the order of their times, and everything that promises do because of one
 * is done before the next. Nothing in the world waits for anything real, so one seed gives one run.
 */
import { install } from '@sinonjs/fake-timers';

const realImmediate = setImmediate;
const FAKED = ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval', 'setImmediate', 'clearImmediate'] as const;

export class VirtualTime implements Disposable {
  readonly #clock: ReturnType<typeof install>;

  constructor() {
    this.#clock = install({ now: 1_700_000_000_000, toFake: [...FAKED, 'Date', 'performance'] });
  }

  /** Fires the next timer, and lets promises go on. */
  async step(): Promise<void> {
    this.#clock.next();
    await settle();
  }

  /** The wall clock is set; time that passes is not changed by it. */
  jump(byMs: number): void {
    this.#clock.setSystemTime(Date.now() + byMs);
  }

  [Symbol.dispose](): void {
    this.#clock.uninstall();
  }
}

/** All promises that can go on have done so. */
export function settle(): Promise<void> {
  return new Promise((resolve) => realImmediate(resolve));
}
