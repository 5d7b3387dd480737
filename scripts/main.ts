/** The command line of `weft`: one file a verb in commands/. Errors that a person can mend are one line, without a stack. */
import { Command } from 'commander';
import { version } from './commands/version.ts';

type Add = (program: Command) => void;

/** What each verb needs is loaded when it is asked for: a mount is three starts of this program, one after the other. */
const verbs: Readonly<Record<string, () => Promise<Add>>> = {
  serve: async () => (await import('./commands/serve.ts')).addServeCommand,
  mount: async () => (await import('./commands/mount.ts')).addMountCommand,
  umount: async () => (await import('./commands/umount.ts')).addUmountCommand,
  token: async () => (await import('./commands/token.ts')).addTokenCommand,
  status: async () => (await import('./commands/status.ts')).addStatusCommand,
  bench: async () => (await import('./commands/bench.ts')).addBenchCommand,
  doctor: async () => (await import('./commands/doctor.ts')).addDoctorCommand,
};

/** `mount-client` belongs to `mount`; whatever names no verb is told of all of them. */
function asked(argv: readonly string[]): (() => Promise<Add>)[] {
  const verb = verbs[(argv[2] ?? '').replace(/-client$/, '')];
  return verb ? [verb] : Object.values(verbs);
}

export async function main(argv: readonly string[]): Promise<void> {
  const program = new Command('weft')
    .description('Mount a remote directory: several clients write the same pages at once and never tangle.')
    .version(version())
    .showHelpAfterError('(`weft --help` and `weft VERB --help` show what there is)');
  for (const verb of asked(argv)) (await verb())(program);
  await saying('weft', () => program.parseAsync(argv));
}

/** `mount.weft`. */
export async function mainOfHelper([node = '', script = '', ...args]: readonly string[]): Promise<void> {
  const { mountHelper } = await import('./mount-helper.ts');
  await saying('mount.weft', () => mountHelper(args, (mount) => main([node, script, ...mount])));
}

async function saying(name: string, work: () => Promise<unknown>): Promise<void> {
  try {
    await work();
  } catch (error) {
    const { message, stack } = error as Error;
    console.error(`${name}: ${process.env.WEFT_DEBUG ? stack : message}`);
    process.exitCode = 1;
  }
}
