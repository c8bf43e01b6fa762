/**
 * Driver `snapshot-access`: a disk as it was when the copy-before-write filter below was put in.
 * Reading is all that can be done with it, and discarding what is not needed any more.
 *
 * It takes no permissions of its file: that one sees to it that the snapshot stays.
 */
import { genericFormat } from '../block/blockdev-types.js';
import type { Driver, SnapshotAccess } from '../block/driver.js';
import { BlockError } from '../block/errors.js';
import { Perm, Role } from '../block/types.js';

export const snapshotAccessDriver: Driver = {
  name: 'snapshot-access',
  kind: 'format',
  needsFile: true,
  optionNames: [],
  blockdev: genericFormat,
  async open(context) {
    const file = await context.openChild('file', { role: Role.data | Role.primary });
    const snapshot = (): SnapshotAccess => {
      const access = file.node.instance.snapshotAccess;
      if (access === undefined) throw new BlockError('ENOTSUP');
      return access;
    };
    return {
      length: () => file.size,
      read: async (offset, iov) => snapshot().read(offset, iov),
      write: async () => Promise.reject(new BlockError('ENOTSUP')),
      writeZeroes: async () => Promise.reject(new BlockError('ENOTSUP')),
      discard: async (offset, bytes) => snapshot().discard(offset, bytes),
      blockStatus: async (offset, bytes, wantZero) =>
        snapshot().blockStatus(offset, bytes, wantZero),
      childPerm: () => ({ perm: 0, shared: Perm.all }),
      close: async () => undefined,
    };
  },
};
