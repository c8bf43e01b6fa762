/** Opening and reading a compressed loop image. */
import type { Child } from '../../block/child.js';
import type { DriverInstance, OpenContext } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import type { BlockLimits } from '../../block/types.js';
import { Role } from '../../block/types.js';
import type { Compression } from '../../host/compression.js';
import { CompressionError } from '../../host/compression.js';
import { ByteGate } from '../../lib/byte-gate.js';
import { Iov } from '../../lib/iov.js';
import { begun } from '../../lib/settle-all.js';
import type { CloopHeader } from './header.js';
import { HEADER_BYTES, parseHeader, parseOffsets } from './header.js';

const SECTOR = 512;
/** Bytes of blocks, before and after, that are unpacked at once: one of the largest. */
const UNPACKING_BYTES = 192 * 1024 * 1024;

/** Throws EACCES where writing is asked for, EINVAL for a bad header. */
export async function openCloop(context: OpenContext): Promise<DriverInstance> {
  if (context.flags.writable) {
    if (!context.flags.autoReadOnly) throw new BlockError('EACCES', 'Image is read-only');
    context.node.readOnly = true;
  }
  const file = await context.openChild('file', { role: Role.image });
  const head = new Uint8Array(HEADER_BYTES);
  await file.read(0, Iov.of(head));
  const header = parseHeader(head, file.size);
  const table = new Uint8Array((header.blocks + 1) * 8);
  await file.read(HEADER_BYTES, Iov.of(table));
  return new CloopInstance(file, header, parseOffsets(table), context.host.compression);
}

class CloopInstance implements DriverInstance {
  readonly #file: Child;
  readonly #header: CloopHeader;
  readonly #offsets: Float64Array;
  readonly #compression: Compression;
  /** The block that was read last, for small reads in order. */
  #kept: { readonly index: number; readonly data: Promise<Uint8Array> } | undefined;
  readonly #gate = new ByteGate(UNPACKING_BYTES);

  constructor(file: Child, header: CloopHeader, offsets: Float64Array, compression: Compression) {
    this.#file = file;
    this.#header = header;
    this.#offsets = offsets;
    this.#compression = compression;
  }

  length(): number {
    return this.#header.blocks * this.#header.blockBytes;
  }

  limits(): Partial<BlockLimits> {
    return { requestAlignment: SECTOR };
  }

  async read(offset: number, iov: Iov): Promise<void> {
    const { blockBytes } = this.#header;
    for (let at = 0; at < iov.bytes;) {
      const index = Math.floor((offset + at) / blockBytes);
      const inside = offset + at - index * blockBytes;
      const length = Math.min(iov.bytes - at, blockBytes - inside);
      const block = await this.#block(index);
      iov.copyFrom(block.subarray(inside, inside + length), at);
      at += length;
    }
  }

  #block(index: number): Promise<Uint8Array> {
    if (this.#kept?.index === index) return this.#kept.data;
    const { start, bytes } = this.#place(index);
    const taken = bytes + this.#header.blockBytes;
    const data = this.#gate.run(taken, () => this.#inflate(start, bytes));
    this.#kept = { index, data: begun(data) };
    return data;
  }

  /** Where a block is stored. */
  #place(index: number): { start: number; bytes: number } {
    const start = this.#offsets[index] ?? 0;
    return { start, bytes: (this.#offsets[index + 1] ?? start) - start };
  }

  async #inflate(start: number, bytes: number): Promise<Uint8Array> {
    if (start + bytes > this.#file.size) throw new BlockError('EIO');
    const packed = new Uint8Array(bytes);
    if (bytes > 0) await this.#file.read(start, Iov.of(packed));
    const block = new Uint8Array(this.#header.blockBytes);
    try {
      await this.#compression.inflate(packed, block);
    } catch (e) {
      if (!(e instanceof CompressionError)) throw e;
      throw new BlockError('EIO', undefined, { op: 'read', cause: e });
    }
    return block;
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}
