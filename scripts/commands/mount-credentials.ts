/** As whom a mount of this machine speaks to its server, so that the server can be asked about it in the same way. */
import { readFileSync, readlinkSync, statSync } from 'node:fs';
import { parseMountOptions } from '../../client-fuse/mount/mount-options.ts';
import { askMount } from '../../client-fuse/mount/mount-status.ts';
import type { Mount } from '../../client-fuse/mount/mount-table.ts';
import type { Credentials } from '../../client-fuse/transport/server-address.ts';

/**
 * Names of files and a fingerprint, from the command line of the mount's client; nothing for a token of WEFT_TOKEN. Whoever
 * mounts chooses the address that the mount table shows, and could answer for the client: a file of ours goes there only
 * when a program of root's or of this user's was told to send it to that very address.
 */
export async function mountCredentials({ device, source }: Mount): Promise<Credentials> {
  try {
    const { pid } = await askMount(device);
    const { uid } = statSync(`/proc/${pid}`);
    if (uid !== 0 && uid !== process.geteuid?.()) return {};
    // Not a program that changes the user, such as sudo(8), with words of somebody else's.
    if (readlinkSync(`/proc/${pid}/exe`) !== readlinkSync('/proc/self/exe')) return {};
    const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
    const client = words.indexOf('mount-client');
    if (client < 0 || words[client + 1] !== source) return {};
    return parseMountOptions(words.filter((_, index) => index > client && words[index - 1] === '-o')).credentials;
  } catch {
    return {};
  }
}
