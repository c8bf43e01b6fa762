/** Opening a VHDX: headers, log, regions, metadata, block allocation table, parent. */
import type { Child } from '../../block/child.js';
import type { DriverInstance, OpenContext } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { Role } from '../../block/types.js';
import { Iov } from '../../lib/iov.js';
import { DifferencingInstance } from './differencing.js';
import { DynamicInstance } from './dynamic.js';
import { isZeroGuid } from './guid.js';
import type { Extent, Regions } from './header.js';
import { currentHeader, invalid, tryHeader, tryRegions } from './header.js';
import type { HeaderRecord } from './layout.js';
import {
  BAT_ENTRY_BYTES,
  HEADER_BYTES,
  IDENTIFIER,
  Limit,
  MiB,
  Place,
  REGION_TABLE_BYTES,
} from './layout.js';
import type { Metadata } from './metadata.js';
import { readMetadata } from './metadata.js';
import { parentName } from './parent.js';
import { LogReader } from './replay.js';
import { Session } from './session.js';
import { Bat, tableEntries } from './table.js';

/** Throws BlockError: EINVAL, ENOTSUP or EFBIG for a bad image. */
export async function openVhdx(context: OpenContext): Promise<DriverInstance> {
  const { host, flags, node } = context;
  const file = await context.openChild('file', { role: Role.image });
  const crc = (bytes: Uint8Array, seed?: number): number => host.hot.crc32c(bytes, seed);
  await checkIdentifier(file);
  const headers: (HeaderRecord | undefined)[] = [];
  for (const place of Place.headers) {
    headers.push(tryHeader(await readAt(file, place, HEADER_BYTES), crc));
  }
  const { header, index } = currentHeader(headers);
  const session = new Session({ file, header, index, crc, random: host.random });
  const replayed = await replayLog(context, file, header, session);
  const regions = await readRegions(file, header, crc);
  const metadata = await readMetadata(
    (offset, bytes) => readAt(file, regions.metadata.offset + offset, bytes),
    regions.metadata.bytes,
  );
  const bat = await readBat(file, regions.bat, metadata);
  if (!flags.check) {
    bat.check(regions.taken, file.size, (e) => {
      throw e;
    });
  }
  if (!metadata.hasParent) {
    refuseBacking(context);
    return new DynamicInstance(context, { file, bat, session, taken: regions.taken, replayed });
  }
  checkReadOnly(context);
  if (!flags.noBacking && node.explicitOptions['backing'] === undefined) {
    node.setBackingHint(await parentName(context, file, metadata.parent), 'vhdx');
  }
  const dataWriteGuid = header.data_write_guid;
  return new DifferencingInstance({ file, node, bat, metadata, dataWriteGuid });
}

/** Past the end of the file there are zeroes. */
async function readAt(file: Child, offset: number, bytes: number): Promise<Uint8Array> {
  const out = new Uint8Array(bytes);
  await file.read(offset, Iov.of(out));
  return out;
}

async function checkIdentifier(file: Child): Promise<void> {
  const bytes = await readAt(file, Place.identifier, IDENTIFIER.length);
  if (isIdentifier(bytes)) return;
  // In QEMU's words: it has none of its own for this.
  const { filename } = file.node;
  throw new BlockError('EINVAL', `Could not open '${filename}': Invalid argument`);
}

export function isIdentifier(bytes: Uint8Array): boolean {
  for (let i = 0; i < IDENTIFIER.length; i++) {
    if (bytes[i] !== IDENTIFIER.charCodeAt(i)) return false;
  }
  return true;
}

/** Applies what the log holds; returns whether there was something. Throws where it may not. */
async function replayLog(
  context: OpenContext,
  file: Child,
  header: HeaderRecord,
  session: Session,
): Promise<boolean> {
  if (isZeroGuid(header.log_guid)) return false;
  const { host, node } = context;
  const log = new LogReader(file, header, (bytes, seed) => host.hot.crc32c(bytes, seed));
  const sequence = await log.active();
  if (sequence.length === 0) return false;
  if (node.readOnly) {
    const name = file.node.filename;
    throw new BlockError(
      'EPERM',
      `VHDX image file '${name}' opened read-only, but contains a log that needs to be replayed`,
      { hint: `To replay the log, run:\nqemu-img check -r all '${name}'` },
    );
  }
  await log.apply(sequence);
  await session.clearLog();
  return true;
}

async function readRegions(
  file: Child,
  header: HeaderRecord,
  crc: (bytes: Uint8Array, seed?: number) => number,
): Promise<Regions> {
  for (const place of Place.regionTables) {
    const bytes = await readAt(file, place, REGION_TABLE_BYTES);
    const regions = tryRegions(bytes, header, crc);
    if (regions !== undefined) return regions;
  }
  throw new BlockError('EINVAL', 'No valid VHDX region table found');
}

async function readBat(file: Child, region: Extent, metadata: Metadata): Promise<Bat> {
  const { entries } = tableEntries(metadata);
  if (entries > Limit.tableEntries) {
    const text = `Cannot open the VHDX image: its BAT has ${entries} entries, expected at most `;
    throw new BlockError('EFBIG', text + String(Limit.tableEntries));
  }
  const bytes = entries * BAT_ENTRY_BYTES;
  if (bytes > region.bytes) throw invalid('length of the BAT region', region.bytes, `${bytes}`);
  if (region.offset + bytes > file.size) {
    throw invalid('end of the BAT', region.offset + bytes, `inside the file (${file.size})`);
  }
  const bat = new Bat(metadata, region.offset);
  for (let at = 0; at < bytes; at += MiB) {
    const piece = await readAt(file, region.offset + at, Math.min(MiB, bytes - at));
    bat.load(piece, at / BAT_ENTRY_BYTES);
  }
  return bat;
}

function checkReadOnly({ flags, node }: OpenContext): void {
  if (!flags.writable) return;
  if (!flags.autoReadOnly) {
    throw new BlockError('ENOTSUP', 'Differencing VHDX images can only be opened read-only');
  }
  node.readOnly = true;
}

function refuseBacking({ node }: OpenContext): void {
  const given = node.explicitOptions['backing'];
  if (given === undefined || given === null || given === '') return;
  const text = "Block format 'vhdx' does not support the option 'backing' for this image";
  throw new BlockError('EINVAL', `${text}, which is no differencing disk`);
}
