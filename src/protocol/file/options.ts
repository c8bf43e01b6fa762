/** Options of the drivers for files and devices of the host. */
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
