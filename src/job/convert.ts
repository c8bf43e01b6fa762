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
import type { CheckResult, NodeOptions, OpenFlags } from '../block/driver.js';
import { BlockError, isNotSupported, prepend } from '../block/errors.js';
import type { BlockGraph } from '../block/graph.js';
import { defaultFlags } from '../block/node-options.js';
import type { BlockNode } from '../block/node.js';
import { hasZeroInit, skipFilters } from '../block/status.js';
import type { CacheMode } from '../block/types.js';
import { Req } from '../block/types.js';
import type { HostFiles } from '../host/file.js';
import { Iov } from '../lib/iov.js';
import type { CreateValues } from '../options/create-options.js';
import { clearTail, ConvertJournal, knownFiles, mismatch } from './convert-journal.js';
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
  /** The new image's size becomes a multiple of it, in bytes; what is added reads as zeroes. */
  readonly sizeUnit?: number;
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
  /**
   * Keep a journal at this path, and go on where an earlier conversion stopped if it is there. The
   * target's cache must not be `unsafe`. See convert-journal.ts.
   */
  readonly journal?: string | undefined;
  /** With `journal`: bytes between two records; default: by bytes and time. */
  readonly checkpointBytes?: number | undefined;
  /** With `journal`: what else must be the same for going on (a snapshot that is read). */
  readonly resumeFacts?: string | undefined;
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
  if (options.journal !== undefined) {
    await convertWithJournal(options, options.journal, meter);
    meter.finish();
    return;
  }
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

/** As `convert`, with a journal. */
async function convertWithJournal(
  options: ConvertOptions,
  path: string,
  meter: ProgressMeter,
): Promise<void> {
  checkResumable(options);
  const { graph, target, sources } = options;
  const { files } = graph.host;
  if (files === undefined) throw new BlockError('ENOTSUP');
  const known = await knownFiles(files, sources);
  const asked = resumableOptions(options);
  const identity = async (): Promise<string> => (await files.stat(target.filename ?? '')).identity;
  let journal = await ConvertJournal.tryOpen(files, path);
  try {
    if (journal !== undefined) {
      const file = await identity().catch(() => '');
      const why = mismatch(journal.binding, { sources: known, target: file, options: asked });
      if (why !== undefined) {
        throw new BlockError('EINVAL', `Cannot resume the conversion: ${why}`, {
          hint: `Remove '${path}' to begin anew`,
        });
      }
    }
    const made = await makeTarget(options, journal === undefined);
    if (journal === undefined) await makeDurable(files, target.filename ?? '');
    const backend = await openTarget(options, made.openOptions);
    try {
      if (journal === undefined) {
        const binding = { sources: known, target: await identity(), options: asked };
        journal = await ConvertJournal.create(files, path, binding);
      } else {
        await prepareToResume(options, backend, made.hasBacking, journal.done);
      }
      await convertInto(options, backend, made.hasBacking, meter, journal);
      await backend.flush();
    } finally {
      await backend.close();
    }
  } catch (e) {
    await journal?.close();
    throw e;
  }
  await journal.remove();
}

/** A new image is not flushed by who made it, and its node knows of no writes. */
async function makeDurable(files: HostFiles, path: string): Promise<void> {
  const file = await files.open(path, { writable: true, direct: false, engine: 'auto' });
  try {
    await file.flush();
  } finally {
    await file.close();
  }
}

/** What an interrupted run left behind: leaked clusters, and data that was not flushed (RJ4). */
async function prepareToResume(
  options: ConvertOptions,
  target: Backend,
  hasBacking: boolean,
  done: number,
): Promise<void> {
  const how = { fixLeaks: true, fixErrors: false, report: () => undefined };
  let found: CheckResult | undefined;
  try {
    found = await skipFilters(target.node).instance.check?.(how);
  } catch (e) {
    // A format without a check has no leaks.
    if (!isNotSupported(e)) throw e;
  }
  if ((found?.corruptions ?? 0) + (found?.checkErrors ?? 0) > 0) {
    throw new BlockError('EIO', 'Cannot resume the conversion: the target is damaged');
  }
  if (!(await readsAsZero(options, target, hasBacking))) return;
  const texts = (options.target.optionTexts ?? []).join(',');
  await clearTail(target, done, !texts.includes('preallocation'));
}

function checkResumable({ target, ...options }: ConvertOptions): void {
  const texts = (target.optionTexts ?? []).join(',');
  const useless: [boolean, string][] = [
    [texts.includes('data_file'), 'to an external data file'],
    [options.stream !== undefined, 'from a stream'],
    [target.exists === true, 'into an image that exists'],
    [(options.bitmaps ?? 'none') !== 'none', 'with bitmaps'],
    [options.salvage === true, 'in salvaging mode'],
    [
      options.compress === true && target.backingFile !== undefined,
      'compressed over a backing file',
    ],
    [(target.cache ?? unsafeCache).noFlush, 'with the cache mode unsafe'],
  ];
  const [, how] = useless.find(([is]) => is) ?? [];
  if (how !== undefined) {
    throw new BlockError('EINVAL', `A conversion ${how} cannot be resumed`);
  }
}

/** What must be the same when a conversion goes on, as text. */
function resumableOptions({ target, sources, ...options }: ConvertOptions): string {
  const { format, optionTexts, values, backingFile, backingFormat } = target;
  const { compress, minSparse, resumeFacts } = options;
  const shapes = sources.map(({ node, size }) => [node.driver.name, size]);
  return JSON.stringify([
    [format, optionTexts, values, backingFile, backingFormat, compress, minSparse],
    [shapes, resumeFacts],
  ]);
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

/** Creates the target, unless it is there already. */
async function makeTarget(options: ConvertOptions, create = true): Promise<Made> {
  const { graph, target, sources } = options;
  const { filename = '', format = 'raw' } = target;
  let size = 0;
  for (const source of sources) size += Math.ceil(source.size / SECTOR) * SECTOR;
  const { sizeUnit = 1 } = target;
  if (sizeUnit > 1 && options.stream !== undefined) {
    throw new BlockError('EINVAL', 'The size of a stream cannot be rounded: it is not known');
  }
  size = Math.ceil(size / sizeUnit) * sizeUnit;
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
    const { noFlush } = target.cache ?? unsafeCache;
    if (create) await createImage(graph, prepared, { noFlush });
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
  journal?: ConvertJournal,
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
    await copyImages(options, store, hasBacking, meter, journal);
    await zeroAdded(options, store);
  } else {
    const { stream } = options;
    await copyStream({ ...store, stream, fixed: options.target.exists === true, meter });
  }
  // A stream of compressed clusters may need a trailer.
  if (cluster !== undefined) await target.write(0, Iov.of(new Uint8Array(0)), Req.compressed);
}

/** What rounding added reads as zeroes. */
async function zeroAdded(options: ConvertOptions, store: StoreOptions): Promise<void> {
  const { target, targetIsZero } = store;
  if ((options.target.sizeUnit ?? 1) <= 1 || targetIsZero) return;
  let end = 0;
  for (const source of options.sources) end += Math.ceil(source.size / SECTOR) * SECTOR;
  if (end < target.size) await target.writeZeroes(end, target.size - end, Req.mayUnmap);
}

async function copyImages(
  options: ConvertOptions,
  store: StoreOptions,
  hasBacking: boolean,
  meter: ProgressMeter,
  journal?: ConvertJournal,
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
    from: journal?.done,
    checkpointBytes: options.checkpointBytes,
    checkpoint:
      journal === undefined
        ? undefined
        : async (offset) => {
            await target.flush();
            await journal.save(offset);
          },
    meter,
  });
  if (target.size < copy.bytes) {
    throw new BlockError('EINVAL', 'output file is smaller than input file');
  }
  await copy.run();
}

/** Size of the clusters to compress; undefined when nothing is compressed. */
async function clusterBytes(node: BlockNode, compress: boolean): Promise<number | undefined> {
  if (!compress && (await node.instance.info?.())?.needsCompressedWrites !== true) return undefined;
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
