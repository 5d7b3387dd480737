/**
 * Whether a history of concurrent calls could have happened one after the other: the algorithm of Wing and Gong ("Testing
 * and Verifying Concurrent Objects", 1993) as Lowe improved it ("Testing for Linearizability", 2017): a search over the
 * orders that real time allows, which remembers each pair of (calls carried out, state) and does not come back to it.
 * A history of several objects is linearizable when each object's is (Herlihy and Wing, 1990), so each is checked alone.
 */

export interface Call<Argument, Result> {
  readonly process: number;
  readonly argument: Argument;
  /** Places in the order of all events of the run: the call happened between the two. */
  readonly began: number;
  readonly ended: number;
  /** It may not have happened at all. Implied by an `ended` of Infinity: nobody was told. */
  readonly isUncertain?: boolean;
  readonly result: Result | undefined;
}

/** What an object may answer. `State` is immutable. */
export interface SequentialObject<State, Argument, Result> {
  readonly initial: State;
  /** The state after the call if it could have this result (undefined: whatever it was); undefined when it could not. */
  apply(state: State, argument: Argument, result: Result | undefined): State | undefined;
  /** Equal keys: equal states. */
  keyOf(state: State): string;
}

const isCertain = ({ ended, isUncertain }: Call<unknown, unknown>) =>
  ended !== Number.POSITIVE_INFINITY && isUncertain !== true;

export function isLinearizable<State, Argument, Result>(
  object: SequentialObject<State, Argument, Result>,
  calls: readonly Call<Argument, Result>[],
): boolean {
  const ordered = [...calls].sort((one, other) => one.began - other.began);
  const done = new Uint8Array(ordered.length);
  const seen = new Set<string>();
  let certain = ordered.filter(isCertain).length;

  /** `latest`: the last beginning of a call that is carried out. */
  const search = (state: State, latest: number): boolean => {
    // What is uncertain need not have happened.
    if (certain === 0) return true;
    const key = `${done.join('')} ${object.keyOf(state)}`;
    if (seen.has(key)) return false;
    seen.add(key);
    // Nothing that began after the end of a call that is not carried out yet may come before it.
    let deadline = Number.POSITIVE_INFINITY;
    for (const [index, call] of ordered.entries()) {
      if (!done[index] && isCertain(call)) deadline = Math.min(deadline, call.ended);
    }
    for (const [index, call] of ordered.entries()) {
      if (call.began > deadline) break;
      if (done[index] || call.ended < latest) continue;
      const next = object.apply(state, call.argument, call.result);
      if (next === undefined) continue;
      // What need not have happened, and would have changed nothing: it would only double the ways to look at.
      if (!isCertain(call) && object.keyOf(next) === object.keyOf(state)) continue;
      const counts = isCertain(call) ? 1 : 0;
      done[index] = 1;
      certain -= counts;
      if (search(next, Math.max(latest, call.began))) return true;
      done[index] = 0;
      certain += counts;
    }
    return false;
  };
  return search(object.initial, Number.NEGATIVE_INFINITY);
}

/** The keys whose part of the history is not linearizable. */
export function violations<State, Argument, Result>(
  object: SequentialObject<State, Argument, Result>,
  calls: readonly Call<Argument, Result>[],
  keyOf: (argument: Argument) => string,
): string[] {
  const byKey = new Map<string, Call<Argument, Result>[]>();
  for (const call of calls) {
    const key = keyOf(call.argument);
    const same = byKey.get(key);
    if (same) same.push(call);
    else byKey.set(key, [call]);
  }
  return [...byKey].filter(([, history]) => !isLinearizable(object, history)).map(([key]) => key);
}
