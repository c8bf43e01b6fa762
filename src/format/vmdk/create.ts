/** Writing new disks: extents first, the descriptor of a disk that has it in a file last. */
import type { Backend } from '../../block/backend.js';
import type { CreateContext } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { completePath } from '../../block/filename.js';
import { MadeFiles } from '../../block/made-files.js';
import { filePreallocation } from '../../block/truncate.js';
import type { Preallocation } from '../../block/types.js';
import { encodeFields } from '../../lib/fields.js';
import { Iov } from '../../lib/iov.js';
import { OptionError } from '../../options/option-error.js';
import { typedValues } from '../../options/create-options.js';
import { adapterTypes, subformats, vmdkCreateOptions } from './create-options.js';
import { formatDescriptor, NO_PARENT } from './descriptor.js';
import type { SparseFields } from './layout.js';
import { Limit, New, SECTOR, SPARSE_FIELDS, SPARSE_MAGIC, SparseFlag } from './layout.js';

type Subformat = (typeof subformats)[number];

interface Plan {
  readonly sectors: number;
  readonly subformat: Subformat;
  readonly isFlat: boolean;
  /** Extents of at most 2 GiB in files of their own. */
  readonly isSplit: boolean;
  readonly zeroedGrain: boolean;
  readonly adapterType: string;
  readonly hwVersion: string;
  readonly toolsVersion: string;
  readonly backingFile: string | undefined;
  readonly prealloc: Preallocation;
}

/** Creates a disk. Throws BlockError or OptionError; files that were made are removed then. */
export async function createVmdk(context: CreateContext): Promise<void> {
  const plan = planOf(context);
  const names = splitName(context.filename);
  const parentCid = plan.backingFile === undefined ? NO_PARENT : await cidOf(context, plan);
  const cid = randomCid(context);
  const made = new MadeFiles(context);
  try {
    if (plan.isFlat || plan.isSplit) {
      const lines = await makeExtents(made, plan, names);
      const text = descriptor(plan, cid, parentCid, lines);
      const file = await made.create();
      await file.truncate(text.length, { exact: false });
      await file.write(0, Iov.of(text));
    } else {
      const line = extentLine(plan.sectors, 'SPARSE', names.base);
      const text = descriptor(plan, cid, parentCid, [line]);
      await writeSparse(await made.create(), plan.sectors, plan, text);
    }
    await made.flush();
    await made.close();
  } catch (e) {
    await made.remove();
    throw e;
  }
}

function planOf({ values }: CreateContext): Plan {
  const o = typedValues(vmdkCreateOptions, values);
  const subformat = subformats.find((each) => each === (o.subformat ?? 'monolithicSparse'));
  const adapterType = adapterTypes.find((each) => each === (o.adapter_type ?? 'ide'));
  if (adapterType === undefined) throw badValue(o.adapter_type);
  const hasHwVersion = o.hwversion !== 'undefined';
  if (o.compat6 && hasHwVersion) {
    throw new OptionError('compat6 cannot be enabled with hwversion set');
  }
  if (subformat === undefined) throw badValue(o.subformat);
  const isFlat = subformat.endsWith('Flat');
  if (isFlat && o.backing_file !== undefined) {
    throw new BlockError('ENOTSUP', "Flat image can't have backing file");
  }
  if (isFlat && o.zeroed_grain === true) {
    throw new BlockError('ENOTSUP', "Flat image can't enable zeroed grain");
  }
  const hwVersion = hasHwVersion ? o.hwversion : o.compat6 ? '6' : '4';
  const toolsVersion = o.toolsversion ?? '2147483647';
  for (const word of [hwVersion, toolsVersion, o.backing_file ?? '']) checkWord(word);
  return {
    sectors: Math.ceil((o.size ?? 0) / SECTOR),
    subformat,
    isFlat,
    isSplit: subformat.startsWith('twoGb'),
    zeroedGrain: o.zeroed_grain === true,
    adapterType,
    hwVersion,
    toolsVersion,
    backingFile: o.backing_file,
    prealloc: filePreallocation(values['preallocation']),
  };
}

function badValue(value: string | undefined): OptionError {
  return new OptionError(`invalid parameter value: ${value ?? ''}`);
}

/** What stands between quotes in the descriptor. */
function checkWord(word: string): void {
  if (!/["\r\n\0]/.test(word)) return;
  throw new BlockError('EINVAL', `The descriptor cannot hold the text '${word.slice(0, 80)}'`);
}

interface Names {
  /** Folder with its slash, name, and name without and with what stands behind the last dot. */
  readonly folder: string;
  readonly base: string;
  readonly stem: string;
  readonly ending: string;
}

function splitName(filename: string): Names {
  const slash = filename.lastIndexOf('/') + 1;
  const base = filename.slice(slash);
  const dot = base.lastIndexOf('.');
  const cut = dot < 0 ? base.length : dot;
  checkWord(base);
  return {
    folder: filename.slice(0, slash),
    base,
    stem: base.slice(0, cut),
    ending: base.slice(cut),
  };
}

/** The CID of the backing file, which must be a VMDK. */
async function cidOf(context: CreateContext, { backingFile = '' }: Plan): Promise<number> {
  const { graph, filename, values } = context;
  const format = values['backing_fmt'];
  const mustBe = (): BlockError => new BlockError('EINVAL', 'backing_file must be a vmdk image');
  if (format !== undefined && format !== 'vmdk') throw mustBe();
  const full = completePath(graph.files, filename, backingFile);
  const options = { 'force-share': true };
  const node = await graph.open({ filename: full, options, flags: { noBacking: true } });
  try {
    if (node.driver.name !== 'vmdk') throw mustBe();
    const cid = (await node.instance.info?.())?.formatSpecific?.data['cid'];
    if (typeof cid !== 'number') throw mustBe();
    return cid;
  } finally {
    await graph.release(node);
  }
}

function randomCid({ host }: CreateContext): number {
  const bytes = new Uint8Array(4);
  host.random.fill(bytes);
  // NO_PARENT is no CID, and all digits are there for later ones.
  return (0x1000_0000 + (new DataView(bytes.buffer).getUint32(0) % 0xe000_0000)) >>> 0;
}

function extentLine(sectors: number, type: string, name: string): string {
  return `RW ${String(sectors)} ${type} "${name}"${type === 'FLAT' ? ' 0' : ''}`;
}

function descriptor(
  plan: Plan,
  cid: number,
  parentCid: number,
  extents: readonly string[],
): Uint8Array {
  return new TextEncoder().encode(
    formatDescriptor({
      cid,
      parentCid,
      createType: plan.subformat,
      parentHint: plan.backingFile,
      extents,
      hwVersion: plan.hwVersion,
      adapterType: plan.adapterType,
      toolsVersion: plan.toolsVersion,
      sectors: plan.sectors,
    }),
  );
}

/** The files of the extents; their lines. */
async function makeExtents(made: MadeFiles, plan: Plan, names: Names): Promise<string[]> {
  const most = plan.isSplit ? New.extentBytes / SECTOR : Infinity;
  const count = Math.max(1, Math.ceil(plan.sectors / most));
  if (count > Limit.maxExtents) throw new BlockError('EFBIG');
  const lines: string[] = [];
  for (let i = 0; i < count; i++) {
    const sectors = Math.min(most, plan.sectors - i * (plan.isSplit ? most : 0));
    const name = names.stem + suffix(plan, i) + names.ending;
    const file = await made.create(names.folder + name);
    if (plan.isFlat) {
      await file.truncate(sectors * SECTOR, { exact: false, prealloc: plan.prealloc });
    } else await writeSparse(file, sectors, plan, new Uint8Array(0));
    lines.push(extentLine(sectors, plan.isFlat ? 'FLAT' : 'SPARSE', name));
  }
  return lines;
}

function suffix({ isFlat, isSplit }: Plan, index: number): string {
  if (!isSplit) return '-flat';
  return `-${isFlat ? 'f' : 's'}${String(index + 1).padStart(3, '0')}`;
}

/** Most bytes of a directory's copy that are made at once. */
const PIECE = 1024 * 1024;

/**
 * Header, descriptor, and both copies of directory and tables, all of which are there from the
 * start: the tables read as zeroes.
 */
async function writeSparse(
  file: Backend,
  sectors: number,
  plan: Plan,
  text: Uint8Array,
): Promise<void> {
  const header = newHeader(sectors, plan);
  if (text.length > New.descriptorSectors * SECTOR) {
    const room = String(New.descriptorSectors * SECTOR);
    throw new BlockError('EINVAL', `The descriptor needs more than ${room} bytes`);
  }
  const old = file.size;
  await file.truncate(header.overHead * SECTOR, { exact: false, prealloc: plan.prealloc });
  // A device keeps its length and what was on it.
  if (old > 0) await file.writeZeroes(0, Math.min(old, header.overHead * SECTOR));
  const tables = tableCount(sectors);
  await writeDirectory(file, header.rgdOffset, tables);
  await writeDirectory(file, header.gdOffset, tables);
  if (text.length > 0) await file.write(New.descriptorOffset * SECTOR, Iov.of(text));
  const bytes = new Uint8Array(SECTOR);
  encodeFields(SPARSE_FIELDS, header, bytes, 0, 'little');
  await file.write(0, Iov.of(bytes));
}

const tableSectors = (New.tableEntries * 4) / SECTOR;
const tableCount = (sectors: number): number =>
  Math.ceil(sectors / New.grainSectors / New.tableEntries);
const directorySectors = (tables: number): number => Math.ceil((tables * 4) / SECTOR);

function newHeader(sectors: number, plan: Plan): SparseFields {
  const isStream = plan.subformat === 'streamOptimized';
  const tables = tableCount(sectors);
  const copy = directorySectors(tables) + tables * tableSectors;
  const rgdOffset = New.descriptorOffset + New.descriptorSectors;
  const gdOffset = rgdOffset + copy;
  const overHead = Math.ceil((gdOffset + copy) / New.grainSectors) * New.grainSectors;
  let flags = SparseFlag.validNewLine | SparseFlag.redundantDirectory;
  if (isStream) flags |= SparseFlag.compressed | SparseFlag.markers;
  if (plan.zeroedGrain) flags |= SparseFlag.zeroedGrain;
  return {
    magicNumber: SPARSE_MAGIC,
    version: isStream ? 3 : plan.zeroedGrain ? 2 : 1,
    flags,
    capacity: sectors,
    grainSize: New.grainSectors,
    descriptorOffset: New.descriptorOffset,
    descriptorSize: New.descriptorSectors,
    numGTEsPerGT: New.tableEntries,
    rgdOffset,
    gdOffset,
    overHead,
    uncleanShutdown: 0,
    singleEndLineChar: 0x0a,
    nonEndLineChar: 0x20,
    doubleEndLineChar1: 0x0d,
    doubleEndLineChar2: 0x0a,
    compressAlgorithm: isStream ? 1 : 0,
  };
}

/** A directory at sector `at`, whose tables follow it. */
async function writeDirectory(file: Backend, at: number, tables: number): Promise<void> {
  const first = at + directorySectors(tables);
  for (let i = 0; i < tables; i += PIECE / 4) {
    const view = new DataView(new ArrayBuffer(Math.min(PIECE, (tables - i) * 4)));
    for (let k = 0; k * 4 < view.byteLength; k++) {
      view.setUint32(k * 4, first + (i + k) * tableSectors, true);
    }
    await file.write(at * SECTOR + i * 4, Iov.of(new Uint8Array(view.buffer)));
  }
}
