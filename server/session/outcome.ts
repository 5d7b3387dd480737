/** How a request ended, in the wire's form: what is sent, kept for a client that asks again, and freed when it has left. */
export interface Outcome {
  /** 0, or why it failed. */
  readonly errno: number;
  /** The reply's wire form; text or null beside an errno. */
  readonly result: unknown;
  readonly bulk?: Uint8Array;
  /** Called once the bulk data have left. They are sent to one connection only. */
  readonly flushed?: () => void;
}
