/** The command line of `weft`: one file a verb in commands/. Errors that a person can mend are one line, without a stack. */
import { readFileSync } from 'node:fs';
import { Command } from 'commander';
import { addBenchCommand } from './commands/bench.ts';
import { addDoctorCommand } from './commands/doctor.ts';
import { addMountCommand } from './commands/mount.ts';
import { addServeCommand } from './commands/serve.ts';
import { addStatusCommand } from './commands/status.ts';
import { addTokenCommand } from './commands/token.ts';
import { addUmountCommand } from './commands/umount.ts';

export function version(): string {
  const file = new URL('../../package.json', import.meta.url);
  return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version;
}

export async function main(argv: readonly string[]): Promise<void> {
  const program = new Command('weft')
    .description('Mount a remote directory: several clients write the same pages at once and never tangle.')
    .version(version())
    .showHelpAfterError('(`weft --help` and `weft VERB --help` show what there is)');
  addServeCommand(program);
  addMountCommand(program);
  addUmountCommand(program);
  addTokenCommand(program);
  addStatusCommand(program);
  addBenchCommand(program);
  addDoctorCommand(program);
  try {
    await program.parseAsync(argv);
  } catch (error) {
    const { message, stack } = error as Error;
    console.error(`weft: ${process.env.WEFT_DEBUG ? stack : message}`);
    process.exitCode = 1;
  }
}
