/** QMP's types of nodes, images and statistics that queries return. */
import type { Decl, Fields } from '../../options/schema.js';
import { t } from '../../options/schema.js';
import { blockPermission } from '../../block/blockdev-types.js';
import { blockDirtyInfo } from './bitmap.js';

export const snapshotInfo = t.struct('SnapshotInfo', {
  id: t.str(),
  name: t.str(),
  'vm-state-size': t.int(),
  'date-sec': t.int(),
  'date-nsec': t.int(),
  'vm-clock-sec': t.int(),
  'vm-clock-nsec': t.int(),
  icount: t.optional(t.int()),
});

const bitmapFlags = t.enumOf('in-use', 'auto', { name: 'Qcow2BitmapInfoFlags' });

const qcow2Specific = t.struct('ImageInfoSpecificQCow2', {
  compat: t.str(),
  'data-file': t.optional(t.str()),
  'data-file-raw': t.optional(t.bool()),
  'extended-l2': t.optional(t.bool()),
  'lazy-refcounts': t.optional(t.bool()),
  corrupt: t.optional(t.bool()),
  'refcount-bits': t.int(),
  encrypt: t.optional(t.any()),
  bitmaps: t.optional(
    t.arrayOf(
      t.struct('Qcow2BitmapInfo', {
        name: t.str(),
        granularity: t.uint({ bits: 32 }),
        flags: t.arrayOf(bitmapFlags),
      }),
    ),
  ),
  'compression-type': t.enumOf('zlib', 'zstd', { name: 'Qcow2CompressionType' }),
});

const wrap = (name: string, of: ReturnType<typeof t.any>) => t.struct(name, { data: of });

/** QMP's ImageInfoSpecific; LUKS headers are told as they come. */
export const imageInfoSpecific = t.union('ImageInfoSpecific', 'type', {
  qcow2: t.struct('ImageInfoSpecificQCow2Wrapper', { data: qcow2Specific }),
  luks: wrap('ImageInfoSpecificLUKSWrapper', t.any()),
  file: t.struct('ImageInfoSpecificFileWrapper', {
    data: t.struct('ImageInfoSpecificFile', {
      'extent-size-hint': t.optional(t.size()),
    }),
  }),
});

const nodeInfoFields = {
  filename: t.str(),
  format: t.str(),
  'dirty-flag': t.optional(t.bool()),
  'actual-size': t.optional(t.int()),
  'virtual-size': t.int(),
  'cluster-size': t.optional(t.int()),
  encrypted: t.optional(t.bool()),
  compressed: t.optional(t.bool()),
  'backing-filename': t.optional(t.str()),
  'full-backing-filename': t.optional(t.str()),
  'backing-filename-format': t.optional(t.str()),
  snapshots: t.optional(t.arrayOf(snapshotInfo)),
  'format-specific': t.optional(imageInfoSpecific),
} satisfies Fields;

export const imageInfo = t.struct('ImageInfo', {
  ...nodeInfoFields,
  'backing-image': t.optional(t.ref('ImageInfo')),
});

const limit = t.int();
const optionalLimit = t.optional(t.int());

/** QMP's BlockDeviceInfo. */
export const blockDeviceInfo = t.struct('BlockDeviceInfo', {
  file: t.str(),
  'node-name': t.optional(t.str()),
  ro: t.bool(),
  drv: t.str(),
  backing_file: t.optional(t.str()),
  backing_file_depth: t.int(),
  active: t.bool(),
  encrypted: t.bool(),
  detect_zeroes: t.enumOf('off', 'on', 'unmap', { name: 'BlockdevDetectZeroesOptions' }),
  bps: limit,
  bps_rd: limit,
  bps_wr: limit,
  iops: limit,
  iops_rd: limit,
  iops_wr: limit,
  image: imageInfo,
  bps_max: optionalLimit,
  bps_rd_max: optionalLimit,
  bps_wr_max: optionalLimit,
  iops_max: optionalLimit,
  iops_rd_max: optionalLimit,
  iops_wr_max: optionalLimit,
  bps_max_length: optionalLimit,
  bps_rd_max_length: optionalLimit,
  bps_wr_max_length: optionalLimit,
  iops_max_length: optionalLimit,
  iops_rd_max_length: optionalLimit,
  iops_wr_max_length: optionalLimit,
  iops_size: optionalLimit,
  group: t.optional(t.str()),
  cache: t.struct('BlockdevCacheInfo', {
    writeback: t.bool(),
    direct: t.bool(),
    'no-flush': t.bool(),
  }),
  write_threshold: t.int(),
  'dirty-bitmaps': t.optional(t.arrayOf(blockDirtyInfo)),
});

/** QMP's BlockInfo, what query-block tells of a device. */
export const blockInfo = t.struct('BlockInfo', {
  device: t.str(),
  qdev: t.optional(t.str()),
  type: t.str(),
  removable: t.bool(),
  locked: t.bool(),
  inserted: t.optional(blockDeviceInfo),
  tray_open: t.optional(t.bool()),
  'io-status': t.optional(t.enumOf('ok', 'failed', 'nospace', { name: 'BlockDeviceIoStatus' })),
});

/** Members of BlockDeviceStats that are counts. */
export const statsCounters = [
  'rd_bytes',
  'wr_bytes',
  'zone_append_bytes',
  'unmap_bytes',
  'rd_operations',
  'wr_operations',
  'zone_append_operations',
  'flush_operations',
  'unmap_operations',
  'rd_total_time_ns',
  'wr_total_time_ns',
  'zone_append_total_time_ns',
  'flush_total_time_ns',
  'unmap_total_time_ns',
  'wr_highest_offset',
  'rd_merged',
  'wr_merged',
  'zone_append_merged',
  'unmap_merged',
  'failed_rd_operations',
  'failed_wr_operations',
  'failed_zone_append_operations',
  'failed_flush_operations',
  'failed_unmap_operations',
  'invalid_rd_operations',
  'invalid_wr_operations',
  'invalid_zone_append_operations',
  'invalid_flush_operations',
  'invalid_unmap_operations',
] as const;

const counterFields = Object.fromEntries(statsCounters.map((name) => [name, t.int()])) as Readonly<
  Record<(typeof statsCounters)[number], Decl<number, 'required'>>
>;

const fileStats = t.struct('BlockStatsSpecificFile', {
  'discard-nb-ok': t.uint(),
  'discard-nb-failed': t.uint(),
  'discard-bytes-ok': t.uint(),
});

const timedStats = t.struct('BlockDeviceTimedStats', {
  interval_length: t.int(),
  ...Object.fromEntries(
    ['rd', 'wr', 'zone_append', 'flush'].flatMap((kind) =>
      ['min', 'max', 'avg'].map((what) => [`${what}_${kind}_latency_ns`, t.int()]),
    ),
  ),
  avg_rd_queue_depth: t.number(),
  avg_wr_queue_depth: t.number(),
  avg_zone_append_queue_depth: t.number(),
});

const histogram = t.optional(
  t.struct('BlockLatencyHistogramInfo', {
    boundaries: t.arrayOf(t.uint()),
    bins: t.arrayOf(t.uint()),
  }),
);

export const blockStats = t.struct('BlockStats', {
  device: t.optional(t.str()),
  qdev: t.optional(t.str()),
  'node-name': t.optional(t.str()),
  stats: t.struct('BlockDeviceStats', {
    ...counterFields,
    idle_time_ns: t.optional(t.int()),
    account_invalid: t.bool(),
    account_failed: t.bool(),
    timed_stats: t.arrayOf(timedStats),
    rd_latency_histogram: histogram,
    wr_latency_histogram: histogram,
    zone_append_latency_histogram: histogram,
    flush_latency_histogram: histogram,
  }),
  'driver-specific': t.optional(
    t.union('BlockStatsSpecific', 'driver', { file: fileStats, host_device: fileStats }),
  ),
  parent: t.optional(t.ref('BlockStats')),
  backing: t.optional(t.ref('BlockStats')),
});

export const blockGraph = t.struct('XDbgBlockGraph', {
  nodes: t.arrayOf(
    t.struct('XDbgBlockGraphNode', {
      id: t.uint(),
      type: t.enumOf('block-backend', 'block-job', 'block-driver', {
        name: 'XDbgBlockGraphNodeType',
      }),
      name: t.str(),
    }),
  ),
  edges: t.arrayOf(
    t.struct('XDbgBlockGraphEdge', {
      parent: t.uint(),
      child: t.uint(),
      name: t.str(),
      perm: t.arrayOf(blockPermission),
      'shared-perm': t.arrayOf(blockPermission),
    }),
  ),
});
