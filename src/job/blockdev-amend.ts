/** Job `amend`: other format options for an image that is open. */
import type { BlockdevAmend, NodeOptions } from '../block/driver.js';
import { BlockError } from '../block/errors.js';
import type { BlockNode } from '../block/node.js';
import type { JobWork } from './work.js';

/**
 * How the driver changes options of its images. Throws BlockError when it changes none, or when
 * `options` are of another driver.
 */
export function amendOf({ driver, instance }: BlockNode, options: NodeOptions): BlockdevAmend {
  if (options['driver'] !== driver.name) {
    throw new BlockError('EINVAL', "x-blockdev-amend doesn't support changing the block driver");
  }
  if (driver.blockdevAmend === undefined || instance.amend === undefined) {
    throw new BlockError('ENOTSUP', 'Driver does not support x-blockdev-amend');
  }
  return driver.blockdevAmend;
}

/**
 * The work of `x-blockdev-amend`; `options` are checked BlockdevAmendOptions. Throws BlockError
 * when they are for another driver, or for one whose images cannot be changed.
 */
export function amendWork(node: BlockNode, options: NodeOptions, force: boolean): JobWork {
  const how = amendOf(node, options);
  const { graph } = node;
  node.refs++;
  return {
    type: 'amend',
    run: async (job) => {
      job.progress.total = 1;
      try {
        const values = how.values(options, node.explicitOptions);
        await node.instance.amend?.(values, { force });
      } finally {
        job.progress.done = 1;
      }
    },
    clean: () => graph.release(node),
  };
}
