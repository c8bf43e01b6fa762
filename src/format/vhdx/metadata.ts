/** The metadata region: what kind of disk it is. */
import { BlockError } from '../../block/errors.js';
import { decodeFields, readU64 } from '../../lib/fields.js';
import { guidText } from './guid.js';
import { invalid } from './header.js';
import {
  Guid,
  ItemFlag,
  Limit,
  LOCATOR_BYTES,
  LOCATOR_FIELDS,
  LOCATOR_HEADER_BYTES,
  METADATA_BYTES,
  METADATA_FIELDS,
  METADATA_HEADER_BYTES,
  METADATA_HEADER_FIELDS,
  METADATA_SIGNATURE,
  METADATA_TABLE_BYTES,
  ParameterFlag,
} from './layout.js';

/** Where an item stands in the file. */
interface Item {
  readonly offset: number;
  readonly bytes: number;
}

export interface Metadata {
  /** Bytes of a block, of the disk, of a sector. */
  readonly blockSize: number;
  readonly size: number;
  readonly sectorBytes: number;
  readonly hasParent: boolean;
  /** Keys and values of the parent locator; empty without a parent. */
  readonly parent: ReadonlyMap<string, string>;
}

/** Reads bytes [offset, offset + bytes) of the metadata region. */
export type ReadRegion = (offset: number, bytes: number) => Promise<Uint8Array>;

const known = new Set<string>([
  Guid.fileParameters,
  Guid.diskSize,
  Guid.diskId,
  Guid.logicalSector,
  Guid.physicalSector,
  Guid.parentLocator,
]);

/** Reads and checks all items. Throws EINVAL, or ENOTSUP for what is required and unknown. */
export async function readMetadata(read: ReadRegion, regionBytes: number): Promise<Metadata> {
  const items = parseTable(await read(0, METADATA_TABLE_BYTES), regionBytes);
  const number = async (guid: string, name: string, bytes: 4 | 8): Promise<DataView> => {
    const item = items.get(guid);
    if (item === undefined) throw new BlockError('EINVAL', `The VHDX image has no ${name}`);
    if (item.bytes < bytes) throw invalid(`length of the ${name}`, item.bytes, String(bytes));
    const data = await read(item.offset, bytes);
    return new DataView(data.buffer, data.byteOffset, bytes);
  };
  const parameters = await number(Guid.fileParameters, 'file parameters', 8);
  const blockSize = parameters.getUint32(0, true);
  const flags = parameters.getUint32(4, true);
  const size = readU64(await number(Guid.diskSize, 'virtual disk size', 8), 0, true);
  const logical = await number(Guid.logicalSector, 'logical sector size', 4);
  const physical = await number(Guid.physicalSector, 'physical sector size', 4);
  const sectorBytes = logical.getUint32(0, true);
  if (
    blockSize < Limit.minBlock ||
    blockSize > Limit.maxBlock ||
    (blockSize & (blockSize - 1)) !== 0
  ) {
    throw invalid('block size', blockSize, 'a power of two from 1 MiB to 256 MiB');
  }
  for (const [name, bytes] of [
    ['logical sector size', sectorBytes],
    ['physical sector size', physical.getUint32(0, true)],
  ] as const) {
    if (bytes !== 512 && bytes !== 4096) throw invalid(name, bytes, '512 or 4096');
  }
  if (size > Limit.diskBytes) throw invalid('virtual disk size', size, 'at most 64 TiB');
  if (size % sectorBytes !== 0) throw invalid('virtual disk size', size, 'whole sectors');
  const hasParent = (flags & ParameterFlag.hasParent) !== 0;
  const locator = hasParent ? items.get(Guid.parentLocator) : undefined;
  if (hasParent && locator === undefined) {
    throw new BlockError('EINVAL', 'The VHDX image has a parent, but no parent locator');
  }
  const parent =
    locator === undefined
      ? new Map<string, string>()
      : parseLocator(await read(locator.offset, locator.bytes));
  return { blockSize, size, sectorBytes, hasParent, parent };
}

function parseTable(bytes: Uint8Array, regionBytes: number): Map<string, Item> {
  const { signature, entry_count: count } = decodeFields(
    METADATA_HEADER_FIELDS,
    bytes,
    0,
    'little',
  );
  if (signature !== METADATA_SIGNATURE) {
    throw new BlockError('EINVAL', 'The metadata region of the VHDX image has no table');
  }
  if (count > Limit.items) throw invalid('number of metadata items', count, 'at most 2047');
  const items = new Map<string, Item>();
  for (let i = 0; i < count; i++) {
    const at = METADATA_HEADER_BYTES + i * METADATA_BYTES;
    const entry = decodeFields(METADATA_FIELDS, bytes, at, 'little');
    const guid = guidText(entry.item_id);
    if (!known.has(guid) || (entry.flags & ItemFlag.user) !== 0) {
      if ((entry.flags & ItemFlag.required) === 0) continue;
      const text = `The VHDX image needs the metadata item ${guid}, which is unknown`;
      throw new BlockError('ENOTSUP', text);
    }
    const { offset, length } = entry;
    if (offset < METADATA_TABLE_BYTES || offset + length > regionBytes) {
      throw invalid(`offset of metadata item ${guid}`, offset, 'inside the region');
    }
    if (length > Limit.itemBytes) {
      throw invalid(`length of metadata item ${guid}`, length, 'at most 1 MiB');
    }
    items.set(guid, { offset, bytes: length });
  }
  return items;
}

/** Keys and values of a parent locator. Throws EINVAL. */
function parseLocator(bytes: Uint8Array): Map<string, string> {
  const out = new Map<string, string>();
  if (bytes.length < LOCATOR_HEADER_BYTES) {
    throw invalid('length of the parent locator', bytes.length, 'at least 20');
  }
  const type = guidText(bytes.subarray(0, 16));
  if (type !== Guid.vhdxLocator) {
    throw new BlockError('ENOTSUP', `The parent locator has the type ${type}, which is unknown`);
  }
  const count = new DataView(bytes.buffer, bytes.byteOffset).getUint16(18, true);
  const utf16 = new TextDecoder('utf-16le');
  for (let i = 0; i < count; i++) {
    const at = LOCATOR_HEADER_BYTES + i * LOCATOR_BYTES;
    const entry = decodeFields(LOCATOR_FIELDS, bytes, at, 'little');
    const text = (offset: number, length: number): string => {
      if (at + LOCATOR_BYTES > bytes.length || offset + length > bytes.length) {
        throw invalid('end of the parent locator', offset + length, 'inside the item');
      }
      return utf16.decode(bytes.subarray(offset, offset + length));
    };
    const key = text(entry.key_offset, entry.key_length);
    out.set(key.toLowerCase(), text(entry.value_offset, entry.value_length));
  }
  return out;
}
