/**
 * Filter `compress`: every write is stored compressed by the format below.
 *
 * Requests are aligned to the format's clusters, for those are what can be compressed; a
 * smaller write becomes a read-modify-write of its clusters.
 */
import { genericFormat } from '../block/blockdev-types.js';
import type { Driver } from '../block/driver.js';
import { BlockError } from '../block/errors.js';
import { passThrough, unchangedReopen } from '../block/pass-through.js';
import { skipFilters } from '../block/status.js';
import { Req, Role } from '../block/types.js';

export const compressDriver: Driver = {
  name: 'compress',
  kind: 'filter',
  needsFile: true,
  optionNames: [],
  blockdev: genericFormat,
  async open(context) {
    const file = await context.openChild('file', { role: Role.filtered | Role.primary });
    if (skipFilters(file.node).instance.writeCompressed === undefined) {
      throw new BlockError(
        'ENOTSUP',
        `Compression is not supported for underlying format: ${file.node.driver.name}`,
      );
    }
    const pass = passThrough(file);
    const { clusterSize } = (await pass.info?.()) ?? {};
    return {
      ...pass,
      limits: () => (clusterSize === undefined ? {} : { requestAlignment: clusterSize }),
      reopenPrepare: unchangedReopen,
      writeFlags: 0,
      write: (offset, iov) => file.write(offset, iov, Req.compressed),
    };
  },
};
