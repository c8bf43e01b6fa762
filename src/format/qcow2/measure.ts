/** How large an image would be: `measure`. */
import type { Backend } from '../../block/backend.js';
import type { MeasureResult } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { chainStatus } from '../../block/status.js';
import type { Preallocation } from '../../block/types.js';
import type { CreateValues } from '../../options/create-options.js';
import { typedValues } from '../../options/create-options.js';
import { OptionError } from '../../options/option-error.js';
import { bitmapTableSize } from './bitmap-directory.js';
import { fullyAllocatedBytes } from './create-layout.js';
import {
  clusterBitsOf,
  luksOptions,
  preallocationOf,
  qcow2CreateOptions,
  refcountOrderOf,
  secretRequired,
  versionOf,
} from './create-options.js';
import { BITMAP_DIR_FIXED_LENGTH, Limit } from './layout.js';
import type { Geometry } from './units.js';
import { geometry, l1EntriesFor, roundUp } from './units.js';

/**
 * Space that an image with `values` needs: for a disk of `values.size` bytes without data, or
 * for what `source` holds. Throws BlockError or OptionError with QEMU's texts.
 */
export async function measureQcow2(
  values: CreateValues,
  source: Backend | undefined,
): Promise<MeasureResult> {
  const { g, version, preallocation, cryptoBytes } = await parse(values);
  const hasBacking = values['backing_file'] !== undefined;
  const asked = source === undefined ? values.size : source.size;
  if (asked === undefined) throw new BlockError('EINVAL', 'Image creation needs a size parameter');
  const size = roundUp(asked, 512);
  if (l1EntriesFor(g, size) * 8 > Limit.maxL1Bytes) {
    throw new BlockError('EINVAL', 'The image size is too large (try using a larger cluster size)');
  }
  const virtual = roundUp(size, g.clusterSize);
  const full = fullyAllocatedBytes(g, size) + roundUp(cryptoBytes, g.clusterSize);
  let data = 0;
  if (preallocation === 'falloc' || preallocation === 'full') data = virtual;
  else if (source !== undefined) {
    // How much of the source is in the backing file is not known here.
    data = hasBacking ? virtual : await allocatedBytes(source, g);
  }
  const bitmaps = source === undefined || version < 3 ? undefined : bitmapsBytes(source, g);
  return {
    required: full - virtual + data,
    fullyAllocated: full,
    ...(bitmaps === undefined ? {} : { bitmaps }),
  };
}

interface Measured {
  readonly version: number;
  readonly g: Geometry;
  readonly preallocation: Preallocation;
  readonly cryptoBytes: number;
}

async function parse(values: CreateValues): Promise<Measured> {
  const o = typedValues(qcow2CreateOptions, values);
  const clusterBits = clusterBitsOf(o.cluster_size, o.extended_l2);
  const version = versionOf(o.compat);
  // Other than creation, this knows the old names only.
  if (version === undefined || o.compat?.startsWith('v') === true) {
    throw new OptionError(`Invalid compatibility level: '${o.compat ?? ''}'`, 'compat');
  }
  const order = refcountOrderOf(o.refcount_bits);
  if (version < 3 && order !== 4) {
    throw new BlockError(
      'EINVAL',
      'Different refcount widths than 16 bits require compatibility level 1.1 or above ' +
        '(use compat=1.1 or greater)',
    );
  }
  const preallocation = preallocationOf(o.preallocation);
  if (preallocation === undefined) {
    throw new OptionError(`invalid parameter value: ${o.preallocation ?? ''}`, 'preallocation');
  }
  const cryptoBytes = o['encrypt.format'] === 'luks' ? await luksBytes(values) : 0;
  return { version, g: geometry(clusterBits, order, o.extended_l2), preallocation, cryptoBytes };
}

async function luksBytes(values: CreateValues): Promise<number> {
  const options = await luksOptions(values);
  if (values['encrypt.key-secret'] === undefined) throw secretRequired();
  const { luksPayloadOffset } = await import('../../block/crypto/luks.js');
  return luksPayloadOffset(options);
}

/** Longest run that is asked about at once. */
const MAX_RUN = 1024 * 1024 * 1024;

/** Bytes in clusters that hold data of the source and its backing files. */
async function allocatedBytes(source: Backend, g: Geometry): Promise<number> {
  let sum = 0;
  let at = 0;
  while (at < source.size) {
    const run = await chainStatus(source.node, undefined, at, Math.min(MAX_RUN, source.size - at));
    if (run.bytes === 0) throw new BlockError('EIO', 'Unable to get block status');
    let { bytes } = run;
    if (!run.zero && run.data && run.allocated) {
      // A cluster counts once, however many runs share it.
      const head = at % g.clusterSize;
      bytes = roundUp(at + bytes, g.clusterSize) - at;
      sum += head + bytes;
    }
    at += bytes;
  }
  return sum;
}

/** What the source's persistent bitmaps would take; undefined where there cannot be any. */
function bitmapsBytes(source: Backend, g: Geometry): number | undefined {
  const { node } = source;
  if (node.instance.hasPersistentBitmaps?.() !== true) return undefined;
  const encoder = new TextEncoder();
  let directory = 0;
  let bytes = 0;
  for (const bitmap of node.dirtyBitmaps.values()) {
    if (!bitmap.persistent) continue;
    const clusters = bitmapTableSize(g, node.size, Math.log2(bitmap.granularity));
    const table = roundUp(clusters * 8, g.clusterSize);
    bytes += table + clusters * g.clusterSize;
    directory += roundUp(BITMAP_DIR_FIXED_LENGTH + encoder.encode(bitmap.name).length, 8);
  }
  return bytes + roundUp(directory, g.clusterSize);
}
