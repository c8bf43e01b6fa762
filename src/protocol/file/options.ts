/** Options of the drivers for files and devices of the host. */
import { preallocMode } from '../../block/blockdev-types.js';
import type { BlockdevCreate } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import type { Infer } from '../../options/schema.js';
import { t } from '../../options/schema.js';

/** QMP's BlockdevOptionsFile; `file`, `host_device` and `host_cdrom` share it. */
export const fileOptions = t.struct('BlockdevOptionsFile', {
  filename: t.str({ doc: 'path of the file or device' }),
  'pr-manager': t.optional(t.str({ doc: 'id of a persistent reservation helper; refused here' })),
  locking: t.enumOf('auto', 'on', 'off', {
    default: 'auto',
    doc: 'image locks: auto takes them where the system has open-file-description locks',
  }),
  aio: t.optional(
    t.enumOf('threads', 'native', 'io_uring', {
      doc: 'I/O engine; the fastest that works when absent; native needs cache.direct=on',
    }),
  ),
  'aio-max-batch': t.int(
    { bits: 64 },
    {
      default: 0,
      doc: 'most requests handed to the kernel at once; 0: the engine decides',
    },
  ),
  'drop-cache': t.bool({
    default: true,
    doc: 'drop the page cache when another host may have changed the file (after migration)',
  }),
  'x-check-cache-dropped': t.bool({
    default: false,
    doc: 'check that the page cache is empty after dropping it (for tests)',
    reopen: true,
  }),
});

export type FileOptions = Infer<typeof fileOptions>;

export const fileOptionNames: readonly string[] = [
  'filename',
  'pr-manager',
  'locking',
  'aio',
  'aio-max-batch',
  'drop-cache',
  'x-check-cache-dropped',
];

/** What blockdev-create takes. */
export const fileBlockdevCreate: BlockdevCreate = {
  decl: t.struct('BlockdevCreateOptionsFile', {
    filename: t.str({ doc: 'path of the file' }),
    size: t.size({ doc: 'length in bytes' }),
    preallocation: t.optional(preallocMode),
    nocow: t.optional(t.bool({ doc: 'no copy-on-write of the file system (btrfs)' })),
    'extent-size-hint': t.optional(t.size({ doc: 'hint to the file system' })),
  }),
  values: ({ preallocation }) => {
    if (preallocation !== 'metadata') return {};
    throw new BlockError('ENOTSUP', 'Unsupported preallocation mode: metadata');
  },
};
