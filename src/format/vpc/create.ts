/**
 * Writing new images. The disk gets the size of the smallest geometry that holds what was asked
 * for, unless `force_size` is on or no geometry is large enough.
 */
import type { Backend } from '../../block/backend.js';
import type { CreateContext } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { filePreallocation } from '../../block/truncate.js';
import { Iov } from '../../lib/iov.js';
import { typedValues } from '../../options/create-options.js';
import { vpcCreateOptions } from './create-options.js';
import { encodeDynamicHeader, encodeFooter } from './footer.js';
import type { Geometry } from './geometry.js';
import { geometryFor, geometrySectors, MAX_GEOMETRY } from './geometry.js';
import {
  BLOCK_SIZE,
  CREATOR_VERSION,
  DiskType,
  FEATURES,
  FILE_FORMAT_VERSION,
  FOOTER_BYTES,
  FOOTER_COOKIE,
  HEADER_AT,
  HEADER_COOKIE,
  Limit,
  NOWHERE,
  SECTOR,
  TABLE_AT,
} from './layout.js';

/** Start of time for VHD: 2000-01-01 UTC, in seconds since 1970. */
const EPOCH = 946_684_800;

/** Throws EFBIG above 2040 GiB, OptionError for an unknown sub-format. */
export async function createVpc(context: CreateContext): Promise<void> {
  const values = typedValues(vpcCreateOptions, context.values);
  const isFixed = values.subformat === 'fixed';
  const { geometry, sectors } = sizeOf(values.size ?? 0, values.force_size === true);
  const bytes = sectors * SECTOR;
  if (bytes > Limit.diskBytes) throw new BlockError('EFBIG');
  const footer = makeFooter(context, {
    bytes,
    geometry,
    isFixed,
    app: values.force_size === true ? 'qem2' : 'qemu',
  });
  filePreallocation(context.values['preallocation']);
  const file = await context.createFile(0);
  try {
    if (isFixed) await writeFixed(file, bytes, footer);
    else await writeDynamic(file, bytes, footer);
  } finally {
    await file.close();
  }
}

function sizeOf(wanted: number, exact: boolean): { geometry: Geometry; sectors: number } {
  const sectors = Math.ceil(wanted / SECTOR);
  if (exact || sectors > Limit.geometrySectors) return { geometry: MAX_GEOMETRY, sectors };
  if (sectors === 0) return { geometry: { cylinders: 0, heads: 0, sectorsPerTrack: 0 }, sectors };
  const geometry = geometryFor(sectors);
  return { geometry, sectors: geometrySectors(geometry) };
}

interface FooterInit {
  readonly bytes: number;
  readonly geometry: Geometry;
  readonly isFixed: boolean;
  /** Readers go by the geometry for `qemu`, by the size for `qem2`. */
  readonly app: string;
}

function makeFooter(context: CreateContext, init: FooterInit): Uint8Array {
  const { host } = context;
  const { geometry, bytes, isFixed, app } = init;
  const id = new Uint8Array(16);
  host.random.fill(id);
  id[6] = ((id[6] ?? 0) & 0x0f) | 0x40;
  id[8] = ((id[8] ?? 0) & 0x3f) | 0x80;
  return encodeFooter({
    cookie: text(FOOTER_COOKIE),
    features: FEATURES,
    version: FILE_FORMAT_VERSION,
    data_offset: isFixed ? NOWHERE : BigInt(HEADER_AT),
    timestamp: Math.max(0, Math.floor(host.clock.now() / 1000) - EPOCH) >>> 0,
    creator_app: text(app),
    creator_version: CREATOR_VERSION,
    creator_os: text('Wi2k'),
    original_size: bytes,
    current_size: bytes,
    cylinders: geometry.cylinders,
    heads: geometry.heads,
    sectors_per_track: geometry.sectorsPerTrack,
    disk_type: isFixed ? DiskType.fixed : DiskType.dynamic,
    unique_id: id,
    saved_state: 0,
  });
}

async function writeFixed(file: Backend, bytes: number, footer: Uint8Array): Promise<void> {
  const stale = file.size;
  await file.truncate(bytes + FOOTER_BYTES, { exact: false });
  // A device keeps what was on it, which no new disk shows.
  if (stale > 0) await file.writeZeroes(0, Math.min(stale, bytes));
  await file.write(bytes, Iov.of(footer));
}

/** Footer copy, header, table without blocks, footer. */
async function writeDynamic(file: Backend, bytes: number, footer: Uint8Array): Promise<void> {
  const entries = Math.ceil(bytes / BLOCK_SIZE);
  const tableBytes = Math.ceil((entries * 4) / SECTOR) * SECTOR;
  const header = encodeDynamicHeader({
    cookie: text(HEADER_COOKIE),
    data_offset: NOWHERE,
    table_offset: TABLE_AT,
    header_version: FILE_FORMAT_VERSION,
    max_table_entries: entries,
    block_size: BLOCK_SIZE,
    parent_unique_id: new Uint8Array(16),
    parent_timestamp: 0,
    parent_unicode_name: new Uint8Array(512),
  });
  const table = new Uint8Array(tableBytes).fill(0xff);
  const image = Iov.from([footer, header, table, footer]);
  await file.truncate(image.bytes, { exact: false });
  await file.write(0, image);
}

function text(ascii: string): Uint8Array {
  return new TextEncoder().encode(ascii);
}
