/**
 * The forked process of `bench io` and `bench meta`: synchronous calls are measured here, and the parent stays able to
 * draw, to hear Ctrl-C, and to end a process that hangs.
 */
import fs from 'node:fs';
import path from 'node:path';
import { type IoOptions, measureIo } from './io-measurements.ts';
import { type Measurement, Meter } from './measurement.ts';
import { appearance, measureMeta } from './meta-measurements.ts';
import { sendToParent, serveParent } from './parent-channel.ts';

export type MeasureTask = { readonly directories: readonly string[]; readonly scratchName: string } & (
  | { readonly kind: 'io'; readonly options: IoOptions }
  | { readonly kind: 'meta'; readonly files: number }
);

export type MeasureMessage =
  | { readonly kind: 'alive'; readonly text: string }
  | { readonly kind: 'measurement'; readonly measurement: Measurement };

function send(message: MeasureMessage): Promise<void> {
  return sendToParent(message);
}

await serveParent<MeasureTask>(async (task) => {
  const [made, seen = made] = task.directories.map((directory) => path.join(directory, task.scratchName)) as [
    string,
    string?,
  ];
  fs.mkdirSync(made, { mode: 0o700 });
  await appearance(seen);
  const meter = new Meter((text) => send({ kind: 'alive', text }));
  const steps =
    task.kind === 'io' ? measureIo(meter, made, seen, task.options) : measureMeta(meter, made, seen, task.files);
  for await (const measurement of steps) await send({ kind: 'measurement', measurement });
});
