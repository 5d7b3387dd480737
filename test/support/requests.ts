/** Of a `write` as a program makes it: at its place, not gathered. */
export const PLAIN_WRITE = {
  append: false,
  sync: 'none',
  killSuidgid: false,
  behind: false,
  extents: undefined,
  attributes: undefined,
} as const;
