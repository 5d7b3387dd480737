/** A result that is there now, or will be: most requests are answered without a trip through the promise queue. */
export type Eventually<T> = T | Promise<T>;

/** `change(value)`, now or when it is there. */
export function mapEventually<T, U>(value: Eventually<T>, change: (value: T) => U): Eventually<U> {
  return value instanceof Promise ? value.then(change) : change(value);
}
