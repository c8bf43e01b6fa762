/** The chunks of an image: found in its property list or resource fork, checked and ordered. */
import { BlockError } from '../../block/errors.js';
import { tryFromBase64 } from '../../lib/base64.js';
import { decodeFields } from '../../lib/fields.js';
import {
  CHUNK_BYTES,
  chunkFields,
  ChunkType,
  Limit,
  packings,
  SECTOR,
  TABLE_HEAD_BYTES,
  TABLE_MAGIC,
  tableFields,
} from './layout.js';

/** A run of the disk that is stored in one way; all in bytes. */
export interface Chunk {
  readonly type: number;
  readonly start: number;
  readonly bytes: number;
  /** Where it is in the file. */
  readonly host: number;
  /** Stored bytes. */
  readonly packed: number;
}

function invalid(text: string): BlockError {
  return new BlockError('EINVAL', text);
}

/** What must stay exact: 53 bits. Throws EINVAL. */
function bounded(value: number, what: string, index: number): number {
  if (value <= Number.MAX_SAFE_INTEGER / SECTOR / 2) return value;
  throw invalid(`DMG chunk ${String(index)}: the ${what} is ${String(value)}, which is too large`);
}

/**
 * The block tables in a property list: what stands between `<data>` and `</data>` and begins as a
 * block table does.
 */
export function* tablesOfList(text: string): Generator<Uint8Array> {
  for (let at = 0; ;) {
    const from = text.indexOf('<data>', at);
    if (from < 0) return;
    const to = text.indexOf('</data>', from);
    if (to < 0) throw invalid('The property list of the DMG is cut in its data');
    const bytes = tryFromBase64(text.slice(from + 6, to).replaceAll(/\s/gu, ''));
    if (bytes === undefined) throw invalid('The property list of the DMG holds no valid base64');
    if (isTable(bytes)) yield bytes;
    at = to;
  }
}

/** The block tables in the data of a resource fork: each resource has its length before it. */
export function* tablesOfFork(fork: Uint8Array): Generator<Uint8Array> {
  const view = new DataView(fork.buffer, fork.byteOffset, fork.byteLength);
  if (fork.byteLength < 16) throw invalid('The resource fork of the DMG is too short');
  const start = view.getUint32(0);
  const end = start + view.getUint32(8);
  if (start < 16 || end > fork.byteLength) {
    throw invalid('The resource fork of the DMG has data past its end');
  }
  for (let at = start; at + 4 <= end;) {
    const bytes = view.getUint32(at);
    if (bytes === 0 || at + 4 + bytes > end) {
      throw invalid('The resource fork of the DMG has a resource past its end');
    }
    const resource = fork.subarray(at + 4, at + 4 + bytes);
    if (isTable(resource)) yield resource;
    at += 4 + bytes;
  }
}

function isTable(bytes: Uint8Array): boolean {
  return hasMagic(bytes, 0, TABLE_MAGIC);
}

/** Whether ASCII text stands at `at`. */
export function hasMagic(bytes: Uint8Array, at: number, magic: string): boolean {
  for (let i = 0; i < magic.length; i++) {
    if (bytes[at + i] !== magic.charCodeAt(i)) return false;
  }
  return true;
}

/** Adds the chunks of a block table; `dataFork`: where the data fork begins. Throws EINVAL. */
export function addChunks(table: Uint8Array, dataFork: number, chunks: Chunk[]): void {
  const head = decodeFields(tableFields, table);
  const room = Math.floor((table.byteLength - TABLE_HEAD_BYTES) / CHUNK_BYTES);
  if (head.chunkCount > room) {
    const count = String(head.chunkCount);
    const text = `A block table of the DMG has ${count} chunks, expected at most `;
    throw invalid(`${text}${String(Math.max(0, room))}, for which it has room`);
  }
  for (let i = 0; i < head.chunkCount; i++) {
    const fields = decodeFields(chunkFields, table, TABLE_HEAD_BYTES + i * CHUNK_BYTES);
    const { type } = fields;
    if (type === ChunkType.comment || type === ChunkType.end) continue;
    const index = chunks.length;
    const first =
      bounded(head.sectorNumber, 'first sector of its table', index) +
      bounded(fields.sectorNumber, 'first sector', index);
    const sectors = bounded(fields.sectorCount, 'number of sectors', index);
    if (sectors === 0) continue;
    const chunk = {
      type,
      start: first * SECTOR,
      bytes: sectors * SECTOR,
      host:
        dataFork +
        bounded(head.dataOffset, 'data offset of its table', index) +
        bounded(fields.offset, 'offset', index),
      packed: bounded(fields.length, 'length', index),
    };
    checkChunk(chunk, index);
    chunks.push(chunk);
  }
}

function checkChunk({ type, start, bytes, packed }: Chunk, index: number): void {
  if (start + bytes > Number.MAX_SAFE_INTEGER) throw invalid(`DMG chunk ${index} is past 2^53`);
  if (type === ChunkType.zero || type === ChunkType.ignored) return;
  if (type === ChunkType.raw) {
    if (packed >= bytes) return;
    throw invalid(`DMG chunk ${index}: its length is ${packed}, expected at least ${bytes}`);
  }
  if (!packings.has(type)) {
    const hex = `0x${type.toString(16).padStart(8, '0')}`;
    throw new BlockError('ENOTSUP', `DMG chunk ${index} is of the type ${hex}, which is not known`);
  }
  if (bytes > Limit.chunkBytes) {
    const most = String(Limit.chunkBytes / SECTOR);
    const text = `sector count ${String(bytes / SECTOR)} for chunk ${index} is larger than max`;
    throw invalid(`${text} (${most})`);
  }
  if (packed > Limit.chunkBytes) {
    const most = String(Limit.chunkBytes);
    throw invalid(`length ${String(packed)} for chunk ${index} is larger than max (${most})`);
  }
}

/** In the order of the disk. Throws EINVAL where two tell of one sector. */
export function ordered(chunks: Chunk[]): readonly Chunk[] {
  chunks.sort((a, b) => a.start - b.start);
  let end = 0;
  for (const { start, bytes } of chunks) {
    if (start < end) {
      throw invalid(`Two chunks of the DMG tell of sector ${String(start / SECTOR)}`);
    }
    end = start + bytes;
  }
  return chunks;
}

/** Index of the last chunk that begins at `offset` or before; -1: there is none. */
export function chunkAt(chunks: readonly Chunk[], offset: number): number {
  let low = 0;
  let high = chunks.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (chunks[middle]!.start <= offset) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}
