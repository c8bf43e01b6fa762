/** Opening and reading a growing disk of Bochs. */
import type { Child } from '../../block/child.js';
import type { DriverInstance, OpenContext } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import type { BlockLimits } from '../../block/types.js';
import { Role } from '../../block/types.js';
import { Iov } from '../../lib/iov.js';
import type { BochsHeader } from './header.js';
import { HEADER_BYTES, parseBochsHeader } from './header.js';

const SECTOR = 512;
/** Entry of the catalog: no such extent. */
const UNUSED = 0xffff_ffff;

/** Throws EACCES where writing is asked for, EINVAL or EFBIG for a bad header. */
export async function openBochs(context: OpenContext): Promise<DriverInstance> {
  if (context.flags.writable) {
    if (!context.flags.autoReadOnly) throw new BlockError('EACCES', 'Image is read-only');
    context.node.readOnly = true;
  }
  const file = await context.openChild('file', { role: Role.image });
  const head = new Uint8Array(HEADER_BYTES);
  await file.read(0, Iov.of(head));
  const header = parseBochsHeader(head);
  const bytes = new Uint8Array(header.catalogEntries * 4);
  if (bytes.byteLength > 0) await file.read(header.catalogOffset, Iov.of(bytes));
  const fields = new DataView(bytes.buffer);
  const catalog = new Uint32Array(header.catalogEntries);
  for (let i = 0; i < catalog.length; i++) catalog[i] = fields.getUint32(i * 4, true);
  return new BochsInstance(file, header, catalog);
}

class BochsInstance implements DriverInstance {
  readonly #file: Child;
  readonly #header: BochsHeader;
  readonly #catalog: Uint32Array;

  constructor(file: Child, header: BochsHeader, catalog: Uint32Array) {
    this.#file = file;
    this.#header = header;
    this.#catalog = catalog;
  }

  length(): number {
    return this.#header.size;
  }

  limits(): Partial<BlockLimits> {
    return { requestAlignment: SECTOR };
  }

  async read(offset: number, iov: Iov): Promise<void> {
    const { extentBytes } = this.#header;
    for (let at = 0; at < iov.bytes;) {
      const inside = (offset + at) % extentBytes;
      const length = Math.min(iov.bytes - at, extentBytes - inside);
      const index = Math.floor((offset + at) / extentBytes);
      await this.#readExtent(index, inside, iov.slice(at, length));
      at += length;
    }
  }

  /** Fills `iov` from bytes [inside, inside + iov.bytes) of one extent, run by run (B2). */
  async #readExtent(index: number, inside: number, iov: Iov): Promise<void> {
    const { catalogOffset, catalogEntries, bitmapBytes, extentBytes } = this.#header;
    const entry = this.#catalog[index] ?? UNUSED;
    if (entry === UNUSED) {
      iov.fill(0);
      return;
    }
    const start = catalogOffset + catalogEntries * 4 + entry * (bitmapBytes + extentBytes);
    if (start + bitmapBytes + extentBytes > Number.MAX_SAFE_INTEGER) throw new BlockError('EIO');
    const first = inside / SECTOR;
    const count = iov.bytes / SECTOR;
    const firstByte = first >> 3;
    const bits = new Uint8Array(((first + count - 1) >> 3) + 1 - firstByte);
    await this.#file.read(start + firstByte, Iov.of(bits));
    const isStored = (sector: number): boolean =>
      ((bits[(sector >> 3) - firstByte] ?? 0) & (1 << (sector & 7))) !== 0;
    for (let at = 0; at < count;) {
      const stored = isStored(first + at);
      let n = 1;
      while (at + n < count && isStored(first + at + n) === stored) n++;
      const run = iov.slice(at * SECTOR, n * SECTOR);
      if (stored) await this.#file.read(start + bitmapBytes + (first + at) * SECTOR, run);
      else run.fill(0);
      at += n;
    }
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}
