/** Grants that cannot be read: who is let in meanwhile, and afterwards. */
import { beforeEach, describe, expect, it, vi } from 'vitest';
import { AccessControl } from '../../server/access/access-control.ts';
import type { Grant } from '../../server/access/grant-file.ts';
import { silent } from '../support/fixture.ts';

const file = vi.hoisted(() => ({ stamp: '1', grants: [] as unknown[], error: undefined as Error | undefined }));
vi.mock('../../server/access/grant-file.ts', async (original) => {
  const unlessBroken = <T>(value: () => T) => {
    return () => {
      if (file.error) throw file.error;
      return value();
    };
  };
  return {
    ...(await original<object>()),
    grantFileStamp: unlessBroken(() => file.stamp),
    readGrants: unlessBroken(() => file.grants),
  };
});

const laptop: Grant = {
  id: '1',
  name: 'laptop',
  certificate: 'laptop',
  readOnly: false,
  identity: { kind: 'trusted' },
  createdMs: 0,
};
const broken = (code: string) => Object.assign(new Error(`it cannot be read: ${code}`), { code });

describe('grants that cannot be read', () => {
  let access: AccessControl;
  const isIn = () => 'credential' in access.admit({ certificate: 'laptop' }, 1);
  const stays = () => access.stillHolds(laptop, 1);

  beforeEach(() => {
    Object.assign(file, { stamp: '1', grants: [laptop], error: undefined });
    access = new AccessControl('grants.json', silent);
  });

  it.each(['EMFILE', 'ENFILE', 'ENOMEM'])('for the moment (%s): those of before hold', (code) => {
    file.error = broken(code);
    expect([isIn(), stays()]).toEqual([true, true]);
    file.grants = [];
    file.stamp = '2';
    expect([isIn(), stays()]).toEqual([true, true]);
    file.error = undefined;
    expect([isIn(), stays()]).toEqual([false, false]);
  });

  it.each(['EACCES', 'EIO', ''])(
    'for another reason (%j): nobody is let in until they are read, changed or not',
    (code) => {
      file.error = broken(code);
      expect([isIn(), stays()]).toEqual([false, false]);
      file.error = undefined;
      expect([isIn(), stays()]).toEqual([true, true]);
    },
  );
});
