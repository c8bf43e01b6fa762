/**
 * The snapshot table: reading it entry by entry, and its bytes when it is written. No state.
 *
 * See "Snapshots" of the specification. Entries have a variable length, so the only bounds are
 * those of QEMU: 65536 snapshots, 64 MiB of table, 1 KiB of extra data for each entry. Extra data
 * that vdisk does not know is kept as it is.
 */
import { BlockError } from '../../block/errors.js';
import type { SnapshotInfo } from '../../block/driver.js';
import { Iov } from '../../lib/iov.js';
import {
  decodeFields,
  encodeFields,
  Limit,
  SNAPSHOT_EXTRA_FIELDS,
  SNAPSHOT_EXTRA_LENGTH,
  SNAPSHOT_FIELDS,
  SNAPSHOT_FIXED_LENGTH,
} from './layout.js';
import type { HostOffset } from './units.js';
import { roundUp } from './units.js';

/** One internal snapshot; sizes in bytes, `l1Size` counts entries. */
export interface Qcow2Snapshot {
  l1Offset: HostOffset;
  /** The same as read, exact where a number is rounded. */
  readonly l1OffsetRead: bigint;
  l1Size: number;
  readonly id: string;
  readonly name: string;
  /** The same as they are in the image, which need not be UTF-8. */
  readonly idBytes: Uint8Array;
  readonly nameBytes: Uint8Array;
  readonly dateSec: number;
  readonly dateNsec: number;
  readonly vmClockNsec: bigint;
  readonly vmStateSize: number;
  readonly diskSize: number;
  /** Instruction count; -1n when unknown. */
  readonly icount: bigint;
  /** Bytes of extra data that the entry in the image has, known fields included. */
  readonly extraDataSize: number;
  /** Extra data past the fields that vdisk knows. */
  readonly unknownExtra: Uint8Array;
}

/** Where tables are read from; a child of the node, or anything alike. */
export interface TableSource {
  read(offset: number, iov: Iov): Promise<void>;
}

/** What the header says of the table. */
export interface SnapshotTablePlace {
  readonly offset: HostOffset;
  /** Entries to read. */
  readonly count: number;
  /** Virtual size of the image: that of snapshots which do not tell their own. */
  readonly diskSize: number;
}

/** What a reading table found. */
export interface SnapshotTable {
  readonly snapshots: Qcow2Snapshot[];
  /** Length of the table in the file, in bytes. */
  readonly bytes: number;
  /** Entries that were dropped or cut; only with `repair`. */
  readonly discarded: number;
}

/** How damage is met: told and cut away (`check -r all`), or refused. */
export interface TableRepair {
  report(line: string): void;
}

/** Bytes after which the table ends for QEMU, whatever will be cut away. */
const MAX_READ = 0x7fff_ffff;
const utf8 = new TextDecoder();
/** Bytes of an entry of the newest format, without id, name and unknown extra data. */
const FULL_LENGTH = SNAPSHOT_FIXED_LENGTH + SNAPSHOT_EXTRA_LENGTH;
const MINUS_ONE = 0xffff_ffff_ffff_ffffn;

/**
 * Reads the table. Without `repair` throws BlockError EFBIG, with QEMU's advice as a hint, when
 * the table or an entry passes its limit; with it, what is too much is dropped.
 */
export async function readSnapshotTable(
  file: TableSource,
  place: SnapshotTablePlace,
  repair?: TableRepair,
): Promise<SnapshotTable> {
  const snapshots: Qcow2Snapshot[] = [];
  const reader = new EntryReader(file, place.offset);
  let discarded = 0;
  // Bytes of the table as it will be: extra data that is cut away does not count.
  let kept = 0;
  for (let i = 0; i < place.count; i++) {
    const start = reader.position;
    const fixed = (await reader.take(SNAPSHOT_FIXED_LENGTH)).slice();
    const fields = decodeFields(SNAPSHOT_FIELDS, fixed);
    let extraBytes = fields.extra_data_size;
    if (extraBytes > Limit.maxSnapshotExtra) {
      if (repair === undefined) throw tooMuchExtra(i);
      repair.report(
        `Discarding too much extra metadata in snapshot table entry ${i} ` +
          `(${extraBytes} > ${Limit.maxSnapshotExtra})`,
      );
      discarded++;
      extraBytes = Limit.maxSnapshotExtra;
    }
    const extra = await reader.take(extraBytes);
    reader.skip(fields.extra_data_size - extraBytes);
    const id = (await reader.take(fields.id_str_size)).slice();
    const name = (await reader.take(fields.name_size)).slice();
    reader.align(8);
    kept += reader.position - start - (fields.extra_data_size - extraBytes);
    if (kept > Limit.maxSnapshotTableBytes || reader.position - place.offset > MAX_READ) {
      const rest = place.count - i;
      if (repair === undefined) throw tableTooBig(rest);
      repair.report(`Discarding ${rest} overhanging snapshots (snapshot table is too big)`);
      discarded += rest;
      return { snapshots, bytes: start - place.offset, discarded };
    }
    const l1OffsetRead = new DataView(fixed.buffer, fixed.byteOffset).getBigUint64(0);
    snapshots.push({ ...toSnapshot(fields, extra, id, name, place.diskSize), l1OffsetRead });
  }
  return { snapshots, bytes: reader.position - place.offset, discarded };
}

function tooMuchExtra(index: number): BlockError {
  return new BlockError('EFBIG', `Too much extra metadata in snapshot table entry ${index}`, {
    hint: 'You can force-remove this extra metadata with qemu-img check -r all',
  });
}

function tableTooBig(rest: number): BlockError {
  return new BlockError('EFBIG', 'Snapshot table is too big', {
    hint: `You can force-remove all ${rest} overhanging snapshots with qemu-img check -r all`,
  });
}

function toSnapshot(
  fields: ReturnType<typeof decodeFields<typeof SNAPSHOT_FIELDS>>,
  extra: Uint8Array,
  id: Uint8Array,
  name: Uint8Array,
  diskSize: number,
): Omit<Qcow2Snapshot, 'l1OffsetRead'> {
  const known = decodeFields(SNAPSHOT_EXTRA_FIELDS, extra);
  const icount = extra.length >= 24 ? known.icount : MINUS_ONE;
  return {
    l1Offset: fields.l1_table_offset,
    l1Size: fields.l1_size,
    id: cString(id),
    name: cString(name),
    idBytes: id,
    nameBytes: name,
    dateSec: fields.date_sec,
    dateNsec: fields.date_nsec,
    vmClockNsec: fields.vm_clock_nsec,
    vmStateSize: extra.length >= 8 ? known.vm_state_size_large : fields.vm_state_size,
    diskSize: extra.length >= 16 ? known.disk_size : diskSize,
    icount: BigInt.asIntN(64, icount),
    extraDataSize: fields.extra_data_size,
    unknownExtra: extra.slice(SNAPSHOT_EXTRA_LENGTH),
  };
}

/** Text up to the first zero byte. */
function cString(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return utf8.decode(end < 0 ? bytes : bytes.subarray(0, end));
}

/** Reads ahead in pieces, so that thousands of small entries do not cost a request each. */
class EntryReader {
  static readonly #PIECE = 64 * 1024;
  position: number;
  readonly #file: TableSource;
  #buffer: Uint8Array = new Uint8Array(0);
  #start = 0;

  constructor(file: TableSource, offset: number) {
    this.#file = file;
    this.position = offset;
  }

  /** The next `bytes` bytes; what lies past the end of the file reads as zeroes. */
  async take(bytes: number): Promise<Uint8Array> {
    if (bytes === 0) return new Uint8Array(0);
    let at = this.position - this.#start;
    if (at < 0 || at + bytes > this.#buffer.length) {
      this.#buffer = new Uint8Array(Math.max(EntryReader.#PIECE, bytes));
      this.#start = this.position;
      at = 0;
      await this.#file.read(this.#start, Iov.of(this.#buffer));
    }
    this.position += bytes;
    return this.#buffer.subarray(at, at + bytes);
  }

  skip(bytes: number): void {
    this.position += bytes;
  }

  align(unit: number): void {
    this.position = roundUp(this.position, unit);
  }
}

/** Bytes of one entry as it is written. */
export function snapshotEntryBytes(snapshot: Qcow2Snapshot): number {
  const { unknownExtra, idBytes, nameBytes } = snapshot;
  return roundUp(FULL_LENGTH + unknownExtra.length + idBytes.length + nameBytes.length, 8);
}

/**
 * The bytes of the table; each entry gets the extra data that version 3 asks for. Throws
 * BlockError EFBIG when it passes 64 MiB or there are more than 65536 snapshots.
 */
export function encodeSnapshotTable(snapshots: readonly Qcow2Snapshot[]): Uint8Array {
  if (snapshots.length > Limit.maxSnapshots) throw new BlockError('EFBIG');
  let bytes = 0;
  for (const snapshot of snapshots) bytes += snapshotEntryBytes(snapshot);
  if (bytes > Limit.maxSnapshotTableBytes) throw new BlockError('EFBIG');
  const out = new Uint8Array(bytes);
  let at = 0;
  for (const snapshot of snapshots) {
    encodeEntry(snapshot, out, at);
    at += snapshotEntryBytes(snapshot);
  }
  return out;
}

function encodeEntry(snapshot: Qcow2Snapshot, out: Uint8Array, start: number): void {
  const { vmStateSize, idBytes, nameBytes } = snapshot;
  const fields = {
    l1_table_offset: snapshot.l1Offset,
    l1_size: snapshot.l1Size,
    id_str_size: idBytes.length,
    name_size: nameBytes.length,
    date_sec: snapshot.dateSec,
    date_nsec: snapshot.dateNsec,
    vm_clock_nsec: snapshot.vmClockNsec,
    vm_state_size: vmStateSize > 0xffff_ffff ? 0 : vmStateSize,
    extra_data_size: SNAPSHOT_EXTRA_LENGTH + snapshot.unknownExtra.length,
  };
  encodeFields(SNAPSHOT_FIELDS, fields, out, start);
  const extra = {
    vm_state_size_large: vmStateSize,
    disk_size: snapshot.diskSize,
    icount: BigInt.asUintN(64, snapshot.icount),
  };
  encodeFields(SNAPSHOT_EXTRA_FIELDS, extra, out, start + SNAPSHOT_FIXED_LENGTH);
  let at = start + FULL_LENGTH;
  for (const part of [snapshot.unknownExtra, idBytes, nameBytes]) {
    out.set(part, at);
    at += part.length;
  }
}

/** The snapshot as it is in the image once it was written. */
export function asWritten(snapshot: Qcow2Snapshot): Qcow2Snapshot {
  const extraDataSize = SNAPSHOT_EXTRA_LENGTH + snapshot.unknownExtra.length;
  return { ...snapshot, extraDataSize, l1OffsetRead: BigInt(snapshot.l1Offset) };
}

/** The public face of a snapshot. */
export function snapshotInfo(snapshot: Qcow2Snapshot): SnapshotInfo {
  const { id, name, vmStateSize, dateSec, dateNsec, vmClockNsec, icount, diskSize } = snapshot;
  return { id, name, vmStateSize, dateSec, dateNsec, vmClockNsec, icount, diskSize };
}
