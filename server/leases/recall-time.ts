/** How long a holder of leases may take to answer a recall. */
import { limits } from '../../shared/limits.ts';
import type { LeaseHolder } from '../store/inode.ts';

/** False: the holder is silent, or has been slow for too long. How long it was away already counts. */
export async function isInTime(holder: LeaseHolder, answered: Promise<void>): Promise<boolean> {
  let periodMs = limits.recallMs;
  if (holder.absentSinceMs !== undefined) periodMs -= performance.now() - holder.absentSinceMs;
  for (let period = 0; period < limits.maxRecallPeriods; period++, periodMs = limits.recallMs) {
    const { heard } = holder;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<'late'>((resolve) => {
      timer = setTimeout(() => resolve('late'), Math.max(0, periodMs));
    });
    const outcome = await Promise.race([answered, late]);
    clearTimeout(timer);
    if (outcome !== 'late') return true;
    if (holder.heard === heard) return false;
  }
  return false;
}
