/** Which start of this machine it is: what was in its memory goes with the next one. */
import { readFileSync } from 'node:fs';

/** 16 bytes, others after each start. Source: random(4), /proc/sys/kernel/random/boot_id. */
export function bootId(): Buffer {
  return Buffer.from(readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').replace(/[^0-9a-f]/g, ''), 'hex');
}
