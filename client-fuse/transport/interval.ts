/** Times that others wait to be over. */
import type { Lane } from './link.ts';

export class Interval {
  end: () => void = () => {};
  readonly over = new Promise<void>((resolve) => {
    this.end = resolve;
  });
}

/** The server has refused this client's credential: one lane asks now and then whether it still does, for both. */
export class Denial extends Interval {
  readonly lane: Lane;

  constructor(lane: Lane) {
    super();
    this.lane = lane;
  }
}
