/** QMP's types of removable media and limits. */
import { t } from '../../options/schema.js';

/** How most commands name a device. */
export const deviceName = {
  device: t.optional(t.str({ doc: 'name of the drive' })),
  id: t.optional(t.str({ doc: 'id of the device' })),
};

export const readOnlyMode = t.enumOf('retain', 'read-only', 'read-write', {
  name: 'BlockdevChangeReadOnlyMode',
  doc: 'what the new medium may be written; default: as the last one',
});

const rate = t.int();
const burst = t.optional(t.int());

export const blockIoThrottle = t.struct('BlockIOThrottle', {
  ...deviceName,
  bps: rate,
  bps_rd: rate,
  bps_wr: rate,
  iops: rate,
  iops_rd: rate,
  iops_wr: rate,
  bps_max: burst,
  bps_rd_max: burst,
  bps_wr_max: burst,
  iops_max: burst,
  iops_rd_max: burst,
  iops_wr_max: burst,
  bps_max_length: burst,
  bps_rd_max_length: burst,
  bps_wr_max_length: burst,
  iops_max_length: burst,
  iops_rd_max_length: burst,
  iops_wr_max_length: burst,
  iops_size: t.optional(t.int({}, { doc: 'bytes that count as one operation' })),
  group: t.optional(t.str({ doc: 'group that shares the limits; default: of its own' })),
});

const bounds = t.optional(t.arrayOf(t.uint(), { doc: 'nanoseconds, rising' }));

export const latencyHistogram = t.struct('q_obj_block-latency-histogram-set-arg', {
  id: t.str({ doc: 'id of the device' }),
  boundaries: bounds,
  'boundaries-read': bounds,
  'boundaries-write': bounds,
  'boundaries-zap': bounds,
  'boundaries-flush': bounds,
});
