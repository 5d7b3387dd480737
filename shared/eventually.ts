/** A result that is there now, or will be: most requests are answered without a trip through the promise queue. */
export type Eventually<T> = T | Promise<T>;
