/** Writing new images; in the file: headers, log, block allocation table, metadata, blocks. */
import type { Backend } from '../../block/backend.js';
import type { CreateContext } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { filePreallocation } from '../../block/truncate.js';
import { encodeFields, writeU64 } from '../../lib/fields.js';
import { Iov } from '../../lib/iov.js';
import { typedValues } from '../../options/create-options.js';
import { vhdxCreateOptions } from './create-options.js';
import { guidBytes, newGuid } from './guid.js';
import type { Crc } from './header.js';
import { encodeHeader, seal } from './header.js';
import {
  BAT_ENTRY_BYTES,
  BlockState,
  CREATOR_AT,
  Guid,
  HEADER_SIGNATURE,
  IDENTIFIER,
  ItemFlag,
  Limit,
  METADATA_BYTES,
  METADATA_FIELDS,
  METADATA_HEADER_BYTES,
  METADATA_HEADER_FIELDS,
  METADATA_SIGNATURE,
  METADATA_TABLE_BYTES,
  MiB,
  ParameterFlag,
  Place,
  REGION_BYTES,
  REGION_FIELDS,
  REGION_HEADER_BYTES,
  REGION_HEADER_FIELDS,
  REGION_SIGNATURE,
  REGION_TABLE_BYTES,
} from './layout.js';
import { tableEntries } from './table.js';

const SECTOR = 512;
const GiB = 1024 * MiB;
const CREATOR = 'vdisk';

/** What is asked for, checked. */
interface Plan {
  readonly size: number;
  readonly blockSize: number;
  readonly logBytes: number;
  readonly isFixed: boolean;
  readonly stateZero: boolean;
}

/** Throws EINVAL or OptionError with QEMU's texts. */
export async function createVhdx(context: CreateContext): Promise<void> {
  const plan = planOf(context);
  const { host } = context;
  const crc: Crc = (bytes, seed) => host.hot.crc32c(bytes, seed);
  const layout = layOut(plan);
  filePreallocation(context.values['preallocation']);
  const file = await context.createFile(0);
  try {
    const stale = file.size;
    await file.truncate(layout.fileBytes, { exact: false });
    // A device keeps what was on it, which no new disk shows.
    if (stale > 0) await file.writeZeroes(0, Math.min(stale, layout.fileBytes));
    await writeBat(file, plan, layout);
    await file.write(layout.metadata, Iov.of(metadataTable()));
    const items = metadataItems(plan, newGuid(host.random));
    await file.write(layout.metadata + METADATA_TABLE_BYTES, Iov.of(items));
    const regions = regionTable(layout, crc);
    for (const place of Place.regionTables) await file.write(place, Iov.of(regions));
    await writeHeaders(context, file, plan, crc);
    // The identifier last: before it, the file is no image.
    await file.write(Place.identifier, Iov.of(identifier()));
  } finally {
    await file.close();
  }
}

function planOf(context: CreateContext): Plan {
  const values = typedValues(vhdxCreateOptions, context.values);
  const size = Math.ceil((values.size ?? 0) / SECTOR) * SECTOR;
  if (size > Limit.diskBytes) {
    throw new BlockError('EINVAL', 'Image size too large; max of 64TB');
  }
  const isFixed = values.subformat === 'fixed';
  const logBytes = Math.ceil(values.log_size / MiB) * MiB;
  if (logBytes === 0) throw new BlockError('EINVAL', 'Log size must be a multiple of 1 MB');
  if (logBytes >= 4 * GiB) throw new BlockError('EINVAL', 'Log size must be smaller than 4 GB');
  const asked = values.block_size === 0 ? usualBlock(size) : values.block_size;
  const blockSize = Math.min(Math.ceil(asked / MiB) * MiB, Limit.maxBlock);
  if ((blockSize & (blockSize - 1)) !== 0) {
    throw new BlockError('EINVAL', 'Block size must be a power of two');
  }
  return { size, blockSize, logBytes, isFixed, stateZero: values.block_state_zero !== false };
}

/** As QEMU chooses. */
function usualBlock(size: number): number {
  if (size > 32 * 1024 * GiB) return 64 * MiB;
  if (size > 100 * GiB) return 32 * MiB;
  return size > GiB ? 16 * MiB : 8 * MiB;
}

interface Layout {
  readonly bat: number;
  readonly batBytes: number;
  readonly metadata: number;
  /** Where blocks begin. */
  readonly data: number;
  readonly fileBytes: number;
  readonly blocks: number;
  readonly chunk: number;
  readonly entries: number;
}

function layOut(plan: Plan): Layout {
  const { size, blockSize, logBytes, isFixed } = plan;
  const { blocks, chunk, entries } = tableEntries({
    size,
    blockSize,
    sectorBytes: SECTOR,
    hasParent: false,
  });
  const bat = Place.end + logBytes;
  const batBytes = Math.max(1, Math.ceil((entries * BAT_ENTRY_BYTES) / MiB)) * MiB;
  const metadata = bat + batBytes;
  const data = metadata + MiB;
  const fileBytes = data + (isFixed ? blocks * blockSize : 0);
  return { bat, batBytes, metadata, data, fileBytes, blocks, chunk, entries };
}

/** Entries are written by the MiB; those of sector bitmaps stay zero. */
async function writeBat(file: Backend, plan: Plan, layout: Layout): Promise<void> {
  const { isFixed, stateZero, blockSize } = plan;
  if (!isFixed && !stateZero) return;
  const perPiece = MiB / BAT_ENTRY_BYTES;
  for (let first = 0; first < layout.entries; first += perPiece) {
    const count = Math.min(perPiece, layout.entries - first);
    const view = new DataView(new ArrayBuffer(count * BAT_ENTRY_BYTES));
    for (let i = 0; i < count; i++) {
      const entry = first + i;
      if (entry % (layout.chunk + 1) === layout.chunk) continue;
      const block = entry - Math.floor(entry / (layout.chunk + 1));
      const at = i * BAT_ENTRY_BYTES;
      if (!isFixed) view.setUint32(at, BlockState.zero, true);
      else writeU64(view, at, layout.data + block * blockSize + BlockState.fullyPresent, true);
    }
    const bytes = new Uint8Array(view.buffer);
    await file.write(layout.bat + first * BAT_ENTRY_BYTES, Iov.of(bytes));
  }
}

/** The items, as they follow each other behind the table: name, bytes, flags. */
const items = [
  { guid: Guid.fileParameters, bytes: 8, flags: ItemFlag.required },
  { guid: Guid.diskSize, bytes: 8, flags: ItemFlag.required | ItemFlag.disk },
  { guid: Guid.diskId, bytes: 16, flags: ItemFlag.required | ItemFlag.disk },
  { guid: Guid.logicalSector, bytes: 4, flags: ItemFlag.required | ItemFlag.disk },
  { guid: Guid.physicalSector, bytes: 4, flags: ItemFlag.required | ItemFlag.disk },
] as const;

function metadataTable(): Uint8Array {
  const table = new Uint8Array(METADATA_HEADER_BYTES + items.length * METADATA_BYTES);
  const header = { signature: METADATA_SIGNATURE, entry_count: items.length };
  encodeFields(METADATA_HEADER_FIELDS, header, table, 0, 'little');
  let offset = METADATA_TABLE_BYTES;
  items.forEach(({ guid, bytes, flags }, i) => {
    const entry = { item_id: guidBytes(guid), offset, length: bytes, flags };
    encodeFields(
      METADATA_FIELDS,
      entry,
      table,
      METADATA_HEADER_BYTES + i * METADATA_BYTES,
      'little',
    );
    offset += bytes;
  });
  return table;
}

function metadataItems(plan: Plan, id: Uint8Array): Uint8Array {
  const view = new DataView(new ArrayBuffer(40));
  view.setUint32(0, plan.blockSize, true);
  view.setUint32(4, plan.isFixed ? ParameterFlag.leaveBlocksAllocated : 0, true);
  writeU64(view, 8, plan.size, true);
  const bytes = new Uint8Array(view.buffer);
  bytes.set(id, 16);
  view.setUint32(32, SECTOR, true);
  view.setUint32(36, SECTOR, true);
  return bytes;
}

function regionTable(layout: Layout, crc: Crc): Uint8Array {
  const table = new Uint8Array(REGION_TABLE_BYTES);
  const header = { signature: REGION_SIGNATURE, checksum: 0, entry_count: 2 };
  encodeFields(REGION_HEADER_FIELDS, header, table, 0, 'little');
  const regions = [
    { guid: guidBytes(Guid.bat), file_offset: layout.bat, length: layout.batBytes, required: 1 },
    { guid: guidBytes(Guid.metadata), file_offset: layout.metadata, length: MiB, required: 1 },
  ];
  regions.forEach((region, i) => {
    encodeFields(REGION_FIELDS, region, table, REGION_HEADER_BYTES + i * REGION_BYTES, 'little');
  });
  return seal(table, crc);
}

/** Both headers are valid; the second is the current one. */
async function writeHeaders(
  { host }: CreateContext,
  file: Backend,
  plan: Plan,
  crc: Crc,
): Promise<void> {
  const file_write_guid = newGuid(host.random);
  const data_write_guid = newGuid(host.random);
  const start = new Uint8Array(4);
  host.random.fill(start);
  let sequence = BigInt(new DataView(start.buffer).getUint32(0));
  for (const place of Place.headers) {
    const header = {
      signature: HEADER_SIGNATURE,
      checksum: 0,
      sequence_number: sequence++,
      file_write_guid,
      data_write_guid,
      log_guid: new Uint8Array(16),
      log_version: 0,
      version: 1,
      log_length: plan.logBytes,
      log_offset: Place.end,
    };
    await file.write(place, Iov.of(encodeHeader(header, crc)));
  }
}

function identifier(): Uint8Array {
  const bytes = new Uint8Array(SECTOR);
  for (let i = 0; i < IDENTIFIER.length; i++) bytes[i] = IDENTIFIER.charCodeAt(i);
  for (let i = 0; i < CREATOR.length; i++) bytes[CREATOR_AT + 2 * i] = CREATOR.charCodeAt(i);
  return bytes;
}
