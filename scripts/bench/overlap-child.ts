/**
 * One process of an overlap run on a directory, forked by ProcessDriver: makes the file, is one caller, or inspects the
 * file at the end. Everything that may hang in the kernel happens here, so that the parent can tell and kill it.
 */
import { DirectoryTarget } from './directory-target.ts';
import { monotonicClock } from './monotonic-clock.ts';
import { type CallerReport, runCaller } from './overlap-caller.ts';
import type { CallerPlan, OverlapFileSetup } from './overlap-driver.ts';
import { type FileInspection, fillFile, inspectFile } from './overlap-file.ts';
import type { OverlapFile } from './overlap-target.ts';
import { nextFromParent, sendToParent, serveParent } from './parent-channel.ts';

/** A file made through one mount may take a moment to appear on another (NFS, sshfs). At the end it has been seen. */
const APPEAR_MS = { call: 5_000, inspect: 1_000 };
const APPEAR_STEP_MS = 50;

export type ChildTask = { readonly directory: string; readonly clockBase: bigint; readonly setup: OverlapFileSetup } & (
  | { readonly kind: 'prepare' | 'inspect' | 'remove' }
  | { readonly kind: 'call'; readonly plan: CallerPlan }
);

export interface ChildStart {
  readonly endNs: number;
}

export type ChildMessage =
  | { readonly kind: 'ready' }
  | { readonly kind: 'report'; readonly report: CallerReport }
  | { readonly kind: 'inspection'; readonly inspection: FileInspection };

function send(message: ChildMessage): Promise<void> {
  return sendToParent(message);
}

async function openWhenVisible(
  target: DirectoryTarget,
  setup: OverlapFileSetup,
  access: 'read' | 'write',
  appearMs: number,
): Promise<OverlapFile> {
  const untilMs = Date.now() + appearMs;
  for (;;) {
    try {
      return await target.openFile(setup.fileName, access, setup.direct);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
      if (Date.now() > untilMs) {
        throw new Error(
          `${setup.fileName} is not in ${target.label}, even after ${appearMs / 1000} s: not the same files`,
        );
      }
      await new Promise((resolve) => setTimeout(resolve, APPEAR_STEP_MS));
    }
  }
}

async function carryOut(task: ChildTask): Promise<void> {
  const target = new DirectoryTarget(task.directory);
  const { setup } = task;
  const clock = monotonicClock(task.clockBase);
  switch (task.kind) {
    case 'prepare': {
      await target.createFile(setup.fileName);
      const file = await target.openFile(setup.fileName, 'write', false);
      await fillFile(file, setup.fileUnits, setup.runNonce);
      await file.close();
      return;
    }
    case 'inspect': {
      const file = await openWhenVisible(target, { ...setup, direct: false }, 'read', APPEAR_MS.inspect);
      await send({ kind: 'inspection', inspection: await inspectFile(file, setup.fileUnits, setup.runNonce, clock) });
      await file.close();
      return;
    }
    case 'remove':
      await target.removeFile(setup.fileName);
      return;
    case 'call': {
      const { job } = task.plan;
      const file = await openWhenVisible(target, setup, job.role, APPEAR_MS.call);
      await send({ kind: 'ready' });
      const { endNs } = await nextFromParent<ChildStart>();
      await runCaller({ ...job, endNs }, file, clock, (report) => send({ kind: 'report', report }));
      await file.close();
    }
  }
}

await serveParent(carryOut);
