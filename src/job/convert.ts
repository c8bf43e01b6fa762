/**
 * Converting images: one or several sources, laid end to end, into one target of any format.
 *
 * ```ts
 * const source = await graph.openBackend({ filename: 'a.raw', options: { driver: 'raw' } });
 * await convert({ graph, sources: [source], target: { filename: 'a.qcow2', format: 'qcow2' } });
 * ```
 */
import type { Backend } from '../block/backend.js';
import { createImage, prepareCreate } from '../block/create.js';
import type { NodeOptions, OpenFlags } from '../block/driver.js';
import { BlockError, prepend } from '../block/errors.js';
import type { BlockGraph } from '../block/graph.js';
import { defaultFlags } from '../block/node-options.js';
import type { BlockNode } from '../block/node.js';
import { skipFilters } from '../block/status.js';
import type { CacheMode } from '../block/types.js';
import { Req } from '../block/types.js';
import { Iov } from '../lib/iov.js';
import type { CreateValues } from '../options/create-options.js';
import { copyBitmaps, persistentBitmaps } from './copy-bitmaps.js';
import { SECTOR } from './copy-plan.js';
import { Copy } from './copy.js';
import type { OperationOptions } from './operation.js';
import { ProgressMeter } from './operation.js';
import type { StoreOptions } from './store-runs.js';
import { copyStream } from './stream-in.js';

/** Where a conversion goes to. */
export interface ConvertTarget {
  /** File name, or undefined when `options` say it all. */
  readonly filename?: string | undefined;
  /** Format of the new image; `raw` when not given. */
  readonly format?: string | undefined;
  /** Lists of creation options as in `-o`. */
  readonly optionTexts?: readonly string[];
  readonly values?: CreateValues;
  readonly backingFile?: string | undefined;
  readonly backingFormat?: string | undefined;
  /** The image exists: write into it. Its length must be that of the sources at least. */
  readonly exists?: boolean;
  /** With `exists`: it reads as zeroes now. */
  readonly isZero?: boolean;
  /** With `exists`: options that open it. */
  readonly options?: NodeOptions | undefined;
  /** Default: `unsafe`, as nothing is lost when a conversion is lost. */
  readonly cache?: CacheMode | undefined;
  /** For messages; default: the file name. */
  readonly name?: string | undefined;
}

export interface ConvertOptions extends OperationOptions {
  readonly graph: BlockGraph;
  readonly sources: readonly Backend[];
  /** Instead of `sources`: the bytes of a raw image whose length is not known. */
  readonly stream?: AsyncIterable<Uint8Array> | undefined;
  readonly target: ConvertTarget;
  /** Write compressed clusters. */
  readonly compress?: boolean;
  /** Shortest run of zeroes that becomes a hole, in bytes; 0: none does. Default 4096. */
  readonly minSparse?: number;
  /** Pieces in flight, 1 to 16; default 8. */
  readonly parallel?: number;
  /** Writes may begin in any order. */
  readonly outOfOrder?: boolean;
  /** Let the host copy inside itself (reflink, copy_file_range) where it can. */
  readonly offload?: boolean;
  /** Bytes per second. */
  readonly rate?: number;
  /** What cannot be read becomes zeroes, with a warning. */
  readonly salvage?: boolean;
  /** Persistent bitmaps of the source: leave out, copy, or copy those that are consistent. */
  readonly bitmaps?: 'none' | 'all' | 'consistent';
  readonly onWarning?: (message: string) => void;
}

/** `-t unsafe`. */
const unsafeCache: CacheMode = { writeback: true, direct: false, noFlush: true };
const DEFAULT_SPARSE = 4096;
const DEFAULT_PARALLEL = 8;
/** Longest compressed cluster that is converted. */
const MAX_COMPRESSED_CLUSTER = 2 * 1024 * 1024;

/**
 * Converts. Throws BlockError (texts of qemu-img) or OptionError; the target is then incomplete
 * but consistent, and closed. Sources stay open and unchanged.
 */
export async function convert(options: ConvertOptions): Promise<void> {
  const { graph, target } = options;
  const meter = new ProgressMeter(graph.host.clock, options);
  const bitmaps = options.bitmaps ?? 'none';
  if (bitmaps !== 'none' && options.sources.length > 1) {
    throw new BlockError('EINVAL', 'Copying bitmaps only possible with single source');
  }
  if (bitmaps !== 'none') persistentBitmaps(options.sources[0]!, bitmaps === 'all');
  const made = target.exists === true ? existing(options) : await makeTarget(options);
  const backend = await openTarget(options, made.openOptions);
  try {
    await convertInto(options, backend, made.hasBacking, meter);
    if (bitmaps !== 'none') {
      const warn = options.onWarning;
      await copyBitmaps(options.sources[0]!, backend, bitmaps === 'all', warn);
    }
  } finally {
    await backend.close();
  }
  meter.finish();
}

/** How to open the target, and whether it has a backing file. */
interface Made {
  readonly openOptions: NodeOptions;
  readonly hasBacking: boolean;
}

function existing(options: ConvertOptions): Made {
  const { target } = options;
  const hasBacking = target.backingFile !== undefined;
  if (hasBacking) checkOneSource(options);
  if (target.isZero === true && hasBacking) {
    throw new BlockError(
      'EINVAL',
      'Cannot use --target-is-zero when the destination image has a backing file',
    );
  }
  const driver = target.options === undefined ? { driver: target.format ?? 'raw' } : {};
  return { openOptions: { ...driver, ...target.options }, hasBacking };
}

/** Creates the target. */
async function makeTarget(options: ConvertOptions): Promise<Made> {
  const { graph, target, sources } = options;
  const { filename = '', format = 'raw' } = target;
  let size = 0;
  for (const source of sources) size += Math.ceil(source.size / SECTOR) * SECTOR;
  const prepared = await prepareCreate(graph, {
    filename,
    format,
    optionTexts: target.optionTexts ?? [],
    // A size among the options does not count.
    values: { ...target.values, size },
    backingFile: target.backingFile,
    backingFormat: target.backingFormat,
    // It is looked at when the target is opened.
    backing: 'ignore',
  });
  const { values, driver } = prepared;
  const hasBacking = values['backing_file'] !== undefined;
  if (hasBacking) checkOneSource(options);
  if (hasBacking && values['backing_fmt'] === undefined) {
    throw new BlockError('EINVAL', 'Use of backing file requires explicit backing format');
  }
  if (options.stream !== undefined) checkStream(values);
  if (options.compress === true) checkCompression(driver.compresses === true, values);
  if ((options.bitmaps ?? 'none') !== 'none' && driver.storesBitmaps !== true) {
    throw new BlockError('ENOTSUP', `Format driver '${driver.name}' does not support bitmaps`);
  }
  try {
    await createImage(graph, prepared);
  } catch (e) {
    throw prepend(`${filename}: error while converting ${format}: `, e);
  }
  const openOptions: Record<string, unknown> = { driver: format };
  for (const [name, value] of Object.entries(values)) {
    if (name.endsWith('key-secret') && value !== undefined) openOptions[name] = value;
  }
  return { openOptions, hasBacking };
}

/** What a target has on top of its backing file can come from one source only. */
function checkOneSource({ sources }: ConvertOptions): void {
  if (sources.length <= 1) return;
  throw new BlockError(
    'EINVAL',
    'Having a backing file for the target makes no sense when concatenating multiple input images',
  );
}

/** The image grows while it is written. */
function checkStream(values: CreateValues): void {
  if (values['backing_file'] !== undefined) {
    throw new BlockError('EINVAL', 'A stream cannot be compared with a backing file');
  }
  const preallocation = values['preallocation'] ?? 'off';
  if (preallocation !== 'off') {
    throw new BlockError(
      'EINVAL',
      `Cannot preallocate ('${String(preallocation)}') for a stream: its length is not known`,
    );
  }
}

function checkCompression(can: boolean, values: CreateValues): void {
  if (!can) throw new BlockError('ENOTSUP', 'Compression not supported for this file format');
  if (values['encryption'] === true || values['encrypt.format'] !== undefined) {
    throw new BlockError('EINVAL', 'Compression and encryption not supported at the same time');
  }
  const preallocation = values['preallocation'] ?? 'off';
  if (preallocation !== 'off') {
    throw new BlockError('EINVAL', 'Compression and preallocation not supported at the same time');
  }
}

async function openTarget(options: ConvertOptions, openOptions: NodeOptions): Promise<Backend> {
  const { graph, target } = options;
  const flags: Partial<OpenFlags> = {
    ...defaultFlags,
    writable: true,
    unmap: (options.minSparse ?? DEFAULT_SPARSE) > 0,
    cache: target.cache ?? unsafeCache,
  };
  const name = target.name ?? target.filename ?? '';
  try {
    return await graph.openBackend({ filename: target.filename, options: openOptions, flags });
  } catch (e) {
    throw prepend(`Could not open '${name}': `, e);
  }
}

async function convertInto(
  options: ConvertOptions,
  target: Backend,
  hasBacking: boolean,
  meter: ProgressMeter,
): Promise<void> {
  const { graph, compress = false } = options;
  const minSparse = options.minSparse ?? DEFAULT_SPARSE;
  const { node } = target;
  const cluster = await clusterBytes(node, compress);
  const store = {
    host: graph.host,
    target,
    targetIsZero: await readsAsZero(options, target, hasBacking),
    minSparse,
    alignment: Math.max(await sparseUnit(options, node), node.limits.requestAlignment, SECTOR),
    compressCluster: cluster,
  };
  if (options.stream === undefined) {
    await copyImages(options, store, hasBacking, meter);
  } else {
    const { stream } = options;
    await copyStream({ ...store, stream, fixed: options.target.exists === true, meter });
  }
  // A stream of compressed clusters may need a trailer.
  if (cluster !== undefined) await target.write(0, Iov.of(new Uint8Array(0)), Req.compressed);
}

async function copyImages(
  options: ConvertOptions,
  store: StoreOptions,
  hasBacking: boolean,
  meter: ProgressMeter,
): Promise<void> {
  const { target } = store;
  const copy = new Copy({
    ...store,
    sources: options.sources,
    targetHasBacking: hasBacking,
    targetBackingBytes: hasBacking ? skipFilters(target.node).backing?.size : undefined,
    parallel: options.parallel ?? DEFAULT_PARALLEL,
    outOfOrder: options.outOfOrder ?? false,
    offload: options.offload ?? false,
    rate: options.rate ?? 0,
    salvage: options.salvage,
    onWarning: options.onWarning,
    meter,
  });
  if (target.size < copy.bytes) {
    throw new BlockError('EINVAL', 'output file is smaller than input file');
  }
  await copy.run();
}

/** Size of the clusters to compress; undefined when nothing is compressed. */
async function clusterBytes(node: BlockNode, compress: boolean): Promise<number | undefined> {
  if (!compress) return undefined;
  if (node.instance.writeCompressed === undefined) {
    throw new BlockError('ENOTSUP', 'Compression not supported for this file format');
  }
  const info = await node.instance.info?.();
  if (info === undefined) throw new BlockError('ENOTSUP', 'could not get block driver info');
  const { clusterSize = 0 } = info;
  if (clusterSize <= 0 || clusterSize > MAX_COMPRESSED_CLUSTER) {
    throw new BlockError('EINVAL', 'invalid cluster size');
  }
  return clusterSize;
}

/**
 * Unit in which zeroes are looked for. What the target allocates as a whole is not worth being
 * taken apart, unless the caller named a size.
 */
async function sparseUnit(options: ConvertOptions, node: BlockNode): Promise<number> {
  const { minSparse, target } = options;
  if (minSparse !== undefined || target.exists === true) {
    return powerBelow(minSparse ?? DEFAULT_SPARSE);
  }
  const info = await node.instance.info?.();
  return Math.max(DEFAULT_SPARSE, info?.subclusterSize ?? info?.clusterSize ?? 0);
}

/** Largest power of two that is not above `bytes`; 1 for less. */
function powerBelow(bytes: number): number {
  let power = 1;
  while (power * 2 <= bytes) power *= 2;
  return power;
}

/** Whether the target reads as zeroes wherever nothing is written. */
async function readsAsZero(
  options: ConvertOptions,
  target: Backend,
  hasBacking: boolean,
): Promise<boolean> {
  if (hasBacking) return false;
  if (options.target.isZero === true) return true;
  return options.target.exists !== true && hasZeroInit(target.node);
}

/** Whether a new image of this kind is known to read as zeroes. */
export async function hasZeroInit(node: BlockNode): Promise<boolean> {
  if (node.backing !== undefined) return false;
  if (node.instance.hasZeroInit !== undefined) return node.instance.hasZeroInit();
  const below = skipFilters(node);
  return below !== node && hasZeroInit(below);
}
