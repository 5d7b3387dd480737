/**
 * The token of `WEFT_TOKEN`. A process's environment can be read under /proc for as long as it runs, and is handed to every
 * program that it starts. So each process of a mount takes the token out of its own, at once, and gives it to none but the
 * next of them.
 */
import { takeFromEnvironment } from '../../shared/linux/libc.ts';

const NAME = 'WEFT_TOKEN';

let token: string | undefined;

/** Empty: there is none. From the first call on the environment does not have it any more. */
export function environmentToken(): string {
  token ??= takeFromEnvironment(NAME) ?? '';
  return token;
}

/** The environment of a program that is part of this mount too. */
export function environmentWithToken(): NodeJS.ProcessEnv {
  const value = environmentToken();
  return value === '' ? { ...process.env } : { ...process.env, [NAME]: value };
}
