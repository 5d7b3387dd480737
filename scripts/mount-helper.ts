/**
 * `mount.weft`, which mount(8) calls for `mount -t weft` and fstab lines. Its command line is fixed by mount(8) "EXTERNAL
 * HELPERS": what is not part of it is refused, so that nothing is mounted in another way than was asked for.
 */
import { Command, Option } from 'commander';
import { isKnownMountOption } from '../client-fuse/mount/mount-options.ts';

interface HelperOptions {
  readonly sloppy?: true;
  readonly fake?: true;
  readonly namespace?: string;
  readonly options?: string[];
}

/** Calls `mount` with what `weft` is to be called with; not at all for mount(8)'s `--fake`. */
export async function mountHelper(args: readonly string[], mount: (args: string[]) => Promise<void>): Promise<void> {
  const run = async (source: string, directory: string, given: HelperOptions) => {
    if (given.namespace !== undefined) {
      // Node has several threads, and so cannot enter one.
      throw new Error(`-N is not supported: \`nsenter --mount=${given.namespace} weft mount ${source} ${directory}\``);
    }
    if (given.fake) return;
    const all = (given.options ?? []).flatMap((list) => list.split(','));
    const options = given.sloppy ? all.filter(isKnownMountOption) : all;
    await mount(['mount', source, directory, ...(options.length > 0 ? ['-o', options.join(',')] : [])]);
  };
  await new Command('mount.weft')
    .description('Called by mount(8) and /etc/fstab; `weft mount` is for people.')
    .usage('SOURCE DIR [-sfnv] [-N NAMESPACE] [-t TYPE] [-o OPTIONS]')
    .argument('<SOURCE>', 'ws://HOST:PORT/ or wss://HOST:PORT/EXPORT')
    .argument('<DIR>', 'an empty directory')
    .option('-s, --sloppy', 'pass over mount options that are not known')
    .option('-f, --fake', 'do all but mount: nothing')
    .addOption(new Option('-n, --no-mtab', 'nothing: there is no /etc/mtab to write').default(undefined))
    .option('-v, --verbose', 'nothing more to say')
    .option('-N, --namespace <NAMESPACE>', 'refused: run `weft mount` in that namespace')
    .option('-t, --type <TYPE>', 'nothing: it is always weft')
    .option('-o, --options <OPTIONS>', 'as for `weft mount`', (text, all: string[] = []) => [...all, text])
    .addHelpText('after', '\nExample:\n  mount -t weft ws://127.0.0.1:7333/ /mnt/projects -o allow_other')
    .showHelpAfterError('(`mount.weft --help` says more)')
    .action(run)
    .parseAsync(args, { from: 'user' });
}
