/** Opening and reading an Apple disk image. */
import type { Child } from '../../block/child.js';
import type { DriverInstance, OpenContext } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import type { BlockLimits, DriverStatus } from '../../block/types.js';
import { Role } from '../../block/types.js';
import type { Compression } from '../../host/compression.js';
import { CompressionError } from '../../host/compression.js';
import type { FileRun } from '../../host/file.js';
import { ByteGate } from '../../lib/byte-gate.js';
import { decodeFields } from '../../lib/fields.js';
import { Iov } from '../../lib/iov.js';
import { begun } from '../../lib/settle-all.js';
import { adcDecode } from './adc.js';
import type { Chunk } from './chunks.js';
import { addChunks, chunkAt, hasMagic, ordered, tablesOfFork, tablesOfList } from './chunks.js';
import type { Trailer } from './layout.js';
import { ChunkType, Limit, packings, SECTOR, TRAILER_BYTES, TRAILER_MAGIC } from './layout.js';
import { trailerFields } from './layout.js';
import { lzfseDecode } from './lzfse.js';

/** Unpacked chunks that are kept for the next reads, and their bytes; the last one always is. */
const KEPT = 8;
const KEPT_BYTES = 16 * 1024 * 1024;

/** Throws EACCES where writing is asked for, EINVAL for a bad image. */
export async function openDmg(context: OpenContext): Promise<DriverInstance> {
  if (context.flags.writable) {
    if (!context.flags.autoReadOnly) throw new BlockError('EACCES', 'Image is read-only');
    context.node.readOnly = true;
  }
  const file = await context.openChild('file', { role: Role.image });
  const trailer = await readTrailer(file);
  const chunks = ordered(await readChunks(file, trailer));
  return new DmgInstance(file, chunks, context.host.compression);
}

async function readAt(file: Child, offset: number, bytes: number): Promise<Uint8Array> {
  const out = new Uint8Array(bytes);
  await file.read(offset, Iov.of(out));
  return out;
}

/** The trailer is the last sector; a file whose length was rounded up may have some bytes more. */
async function readTrailer(file: Child): Promise<Trailer> {
  const at = Math.max(0, file.size - 2 * TRAILER_BYTES + 1);
  const tail = await readAt(file, at, Math.min(file.size, 2 * TRAILER_BYTES - 1));
  for (let i = tail.length - TRAILER_BYTES; i >= 0; i--) {
    if (!hasMagic(tail, i, TRAILER_MAGIC)) continue;
    const trailer = decodeFields(trailerFields, tail, i);
    if (trailer.segmentCount > 1) {
      const text = `The DMG has ${String(trailer.segmentCount)} files, which is not supported`;
      throw new BlockError('ENOTSUP', text);
    }
    return trailer;
  }
  const head = await readAt(file, 0, Math.min(file.size, 8));
  if (hasMagic(head, 0, 'encrcdsa')) {
    throw new BlockError('ENOTSUP', 'Encrypted DMG images are not supported');
  }
  throw new BlockError('EINVAL', 'Could not locate UDIF trailer in dmg file');
}

/** By the property list; old images have a resource fork only. */
async function readChunks(file: Child, trailer: Trailer): Promise<Chunk[]> {
  const chunks: Chunk[] = [];
  const { xmlOffset, xmlLength, rsrcForkOffset, rsrcForkLength, dataForkOffset } = trailer;
  if (!(dataForkOffset <= file.size)) {
    throw new BlockError('EINVAL', 'The data fork of the DMG begins past the end of the file');
  }
  if (xmlLength > 0) {
    const bytes = await readList(file, 'property list', xmlOffset, xmlLength);
    const text = new TextDecoder('latin1').decode(bytes);
    for (const table of tablesOfList(text)) addChunks(table, dataForkOffset, chunks);
  } else if (rsrcForkLength > 0) {
    const bytes = await readList(file, 'resource fork', rsrcForkOffset, rsrcForkLength);
    for (const table of tablesOfFork(bytes)) addChunks(table, dataForkOffset, chunks);
  } else {
    throw new BlockError('EINVAL', 'The DMG has neither a property list nor a resource fork');
  }
  return chunks;
}

async function readList(
  file: Child,
  what: string,
  offset: number,
  bytes: number,
): Promise<Uint8Array> {
  if (bytes > Limit.listBytes) {
    const text = `The ${what} of the DMG has ${String(bytes)} bytes, expected at most `;
    throw new BlockError('EINVAL', text + String(Limit.listBytes));
  }
  if (!(offset + bytes <= file.size)) {
    throw new BlockError('EINVAL', `The ${what} of the DMG lies past the end of the file`);
  }
  return readAt(file, offset, bytes);
}

class DmgInstance implements DriverInstance {
  readonly #file: Child;
  readonly #chunks: readonly Chunk[];
  readonly #compression: Compression;
  /** Chunks that were unpacked last, the latest at the end. */
  readonly #kept = new Map<number, Promise<Uint8Array>>();
  #keptBytes = 0;
  readonly #gate = new ByteGate(Limit.unpackingBytes);

  constructor(file: Child, chunks: readonly Chunk[], compression: Compression) {
    this.#file = file;
    this.#chunks = chunks;
    this.#compression = compression;
  }

  length(): number {
    const last = this.#chunks.at(-1);
    return last === undefined ? 0 : last.start + last.bytes;
  }

  limits(): Partial<BlockLimits> {
    return { requestAlignment: SECTOR };
  }

  async read(offset: number, iov: Iov): Promise<void> {
    for (let at = 0; at < iov.bytes;) {
      const { index, chunk, bytes } = this.#runAt(offset + at, iov.bytes - at);
      await this.#readRun(index, chunk, offset + at, iov.slice(at, bytes));
      at += bytes;
    }
  }

  /** The chunk that holds `offset`; undefined: none tells of it. */
  #runAt(offset: number, bytes: number): { index: number; chunk?: Chunk; bytes: number } {
    const index = chunkAt(this.#chunks, offset);
    const chunk = this.#chunks[index];
    if (chunk !== undefined && offset < chunk.start + chunk.bytes) {
      return { index, chunk, bytes: Math.min(bytes, chunk.start + chunk.bytes - offset) };
    }
    const next = this.#chunks[index + 1];
    return { index, bytes: next === undefined ? bytes : Math.min(bytes, next.start - offset) };
  }

  async #readRun(index: number, chunk: Chunk | undefined, offset: number, iov: Iov): Promise<void> {
    if (chunk === undefined) {
      const text = `No chunk of the DMG tells of sector ${String(Math.floor(offset / SECTOR))}`;
      throw new BlockError('EIO', text);
    }
    const inside = offset - chunk.start;
    if (isZero(chunk)) {
      iov.fill(0);
    } else if (chunk.type === ChunkType.raw) {
      this.#checkInFile(chunk);
      await this.#file.read(chunk.host + inside, iov);
    } else {
      const data = await this.#unpacked(index, chunk);
      iov.copyFrom(data.subarray(inside, inside + iov.bytes));
    }
  }

  #checkInFile({ host, packed, start }: Chunk): void {
    if (host + packed <= this.#file.size) return;
    const sector = String(start / SECTOR);
    throw new BlockError('EIO', `The chunk of the DMG at sector ${sector} is past the end of it`);
  }

  #unpacked(index: number, chunk: Chunk): Promise<Uint8Array> {
    const found = this.#kept.get(index);
    const data =
      found ?? begun(this.#gate.run(chunk.packed + chunk.bytes, () => this.#unpack(chunk)));
    this.#forget(index);
    this.#kept.set(index, data);
    this.#keptBytes += chunk.bytes;
    // What failed is tried again.
    if (found === undefined) data.catch(() => void this.#forget(index));
    for (const old of this.#kept.keys()) {
      if (old === index) break;
      if (this.#kept.size <= KEPT && this.#keptBytes <= KEPT_BYTES) break;
      this.#forget(old);
    }
    return data;
  }

  #forget(index: number): void {
    if (this.#kept.delete(index)) this.#keptBytes -= this.#chunks[index]?.bytes ?? 0;
  }

  async #unpack(chunk: Chunk): Promise<Uint8Array> {
    this.#checkInFile(chunk);
    const packed = await readAt(this.#file, chunk.host, chunk.packed);
    const out = new Uint8Array(chunk.bytes);
    try {
      await this.#decode(chunk.type, packed, out);
    } catch (e) {
      if (!(e instanceof CompressionError)) throw e;
      throw new BlockError('EIO', undefined, { op: 'read', cause: e });
    }
    return out;
  }

  async #decode(type: number, packed: Uint8Array, out: Uint8Array): Promise<void> {
    const compression = this.#compression;
    if (type === ChunkType.zlib) await compression.inflate(packed, out);
    else if (type === ChunkType.adc) adcDecode(packed, out);
    else if (type === ChunkType.lzfse) lzfseDecode(packed, out);
    else if (compression.unpack === undefined) {
      const name = packings.get(type) ?? '';
      throw new BlockError('ENOTSUP', `Chunks of ${name} cannot be read on this host`);
    } else await compression.unpack(type === ChunkType.bzip2 ? 'bzip2' : 'xz', packed, out);
  }

  /** Only of chunks that are stored as they are; nobody writes to them. */
  tryFileRun(offset: number, bytes: number): FileRun | undefined {
    const { chunk, bytes: length } = this.#runAt(offset, bytes);
    if (chunk?.type !== ChunkType.raw || length < bytes) return undefined;
    return this.#file.node.tryFileRun(chunk.host + offset - chunk.start, bytes);
  }

  async blockStatus(offset: number, bytes: number): Promise<DriverStatus> {
    const { chunk, bytes: length } = this.#runAt(offset, bytes);
    if (chunk !== undefined && isZero(chunk)) {
      return { bytes: length, data: false, zero: true, allocated: true };
    }
    const data = { bytes: length, data: true, zero: false, allocated: true };
    if (chunk?.type !== ChunkType.raw) {
      return chunk === undefined ? data : { ...data, compressed: true };
    }
    return { ...data, offset: chunk.host + offset - chunk.start, file: this.#file.node };
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

function isZero({ type }: Chunk): boolean {
  return type === ChunkType.zero || type === ChunkType.ignored;
}
