/**
 * What the kernel driver and the mount code log through; a pino logger fits. Injected, so that a test can look at it.
 */
export interface Log {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}
