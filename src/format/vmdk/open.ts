/** Opening a disk: its descriptor, its extents, its parent. */
import type { Child } from '../../block/child.js';
import type { DriverInstance, OpenContext } from '../../block/driver.js';
import { BlockError, errorText, messageOf, prepend } from '../../block/errors.js';
import { FileGrowth } from '../../block/file-growth.js';
import { Role } from '../../block/types.js';
import { Iov } from '../../lib/iov.js';
import type { Descriptor, ExtentLine } from './descriptor.js';
import {
  descriptorText,
  isDescriptor,
  NO_PARENT,
  parseDescriptor,
  parseExtents,
} from './descriptor.js';
import type { Extent } from './extent.js';
import { FlatExtent, ZeroExtent } from './extent.js';
import { extentPath } from './extent-path.js';
import type { SparseGeometry } from './header.js';
import { cowdGeometry, hostedGeometry, seSparseGeometry, sparseFields } from './header.js';
import type { Identity } from './instance.js';
import { VmdkInstance } from './instance.js';
import { COWD_MAGIC, GD_AT_END, Limit, Marker, SECTOR, SPARSE_MAGIC } from './layout.js';
import { SparseExtent } from './sparse.js';
import { GrainTables, readDirectory } from './tables.js';

const HEADER_BYTES = 512;

/** Opens the disk that `context` describes. Throws BlockError. */
export async function openVmdk(context: OpenContext): Promise<DriverInstance> {
  const file = await context.openChild('file', { role: Role.image });
  const head = new Uint8Array(HEADER_BYTES);
  await file.read(0, Iov.of(head));
  const magic = new DataView(head.buffer).getUint32(0, true);
  const opener = new Opener(context, file);
  if (magic === SPARSE_MAGIC) return opener.openHosted(head);
  if (magic === COWD_MAGIC) return opener.openCowd(head);
  return opener.openDescriptor(0, Math.min(file.size, Limit.maxDescriptor));
}

class Opener {
  readonly #context: OpenContext;
  readonly #file: Child;
  /** Entries of the grain directories of the extents so far. */
  #directoryEntries = 0;

  constructor(context: OpenContext, file: Child) {
    this.#context = context;
    this.#file = file;
  }

  /** A sparse extent that is a disk of its own, with an embedded descriptor where it has one. */
  async openHosted(head: Uint8Array): Promise<VmdkInstance> {
    const fields = sparseFields(head);
    const room = Math.min(fields.descriptorSize * SECTOR, Limit.maxDescriptor);
    const at = fields.descriptorOffset * SECTOR;
    const named = fields.descriptorOffset > 0;
    // A hosted header without capacity only carries the descriptor of other extents.
    if (fields.capacity === 0 && named) return this.openDescriptor(at, room);
    const text = named && room > 0 && at < this.#file.size ? await this.#text(at, room) : '';
    let identity: Identity = { cid: 0, parentCid: NO_PARENT, createType: '' };
    let hint: string | undefined;
    if (text !== '') {
      const descriptor = this.#parse(text);
      identity = this.#identity(descriptor, at);
      hint = descriptor.parentHint;
    }
    const geometry = await this.#hosted(this.#file, head);
    this.#checkVersion(geometry);
    const info = { filename: this.#file.node.filename, type: '' };
    const extent = await this.#sparse(this.#file, geometry, 0, geometry.sectors * SECTOR, info);
    return this.#finish([extent], identity, hint);
  }

  /** A single ESX sparse extent. */
  async openCowd(head: Uint8Array): Promise<VmdkInstance> {
    const geometry = cowdGeometry(head, this.#file.size);
    const info = { filename: this.#file.node.filename, type: '' };
    const bytes = geometry.sectors * SECTOR;
    const extent = await this.#sparse(this.#file, geometry, 0, bytes, info);
    const identity = { cid: 0, parentCid: NO_PARENT, createType: '' };
    return this.#finish([extent], identity, undefined);
  }

  async openDescriptor(at: number, bytes: number): Promise<VmdkInstance> {
    if (this.#file.size < 4) {
      throw new BlockError('EINVAL', 'File is too small, not a valid image');
    }
    const text = await this.#text(at, bytes);
    if (!/^createType="/m.test(text)) {
      throw new BlockError('EINVAL', 'invalid VMDK image descriptor');
    }
    const descriptor = this.#parse(text);
    const type = descriptor.createType ?? '';
    if (!describedTypes.includes(type)) {
      throw new BlockError('ENOTSUP', `Unsupported image type '${type.slice(0, 60)}'`);
    }
    const extents: Extent[] = [];
    try {
      let start = 0;
      for (const line of parseExtents(text)) {
        const extent = await this.#open(line, extents.length, start);
        extents.push(extent);
        start += extent.bytes;
        if (start > Limit.maxSectors * SECTOR) {
          throw new BlockError('EFBIG', 'Could not refresh total sector count: File too large');
        }
      }
    } catch (e) {
      for (const each of extents) await each.close().catch(() => undefined);
      throw e;
    }
    return this.#finish(extents, this.#identity(descriptor, at), descriptor.parentHint);
  }

  async #text(at: number, bytes: number): Promise<string> {
    const room = Math.max(0, Math.min(bytes, this.#file.size - at));
    const raw = new Uint8Array(room);
    if (room > 0) await this.#file.read(at, Iov.of(raw));
    return descriptorText(raw);
  }

  #parse(text: string): Descriptor {
    try {
      return parseDescriptor(text);
    } catch (e) {
      const name = this.#file.node.filename;
      throw new BlockError('EINVAL', `Could not open '${name}': ${errorText(e)}`, { cause: e });
    }
  }

  #identity(d: Descriptor, at: number): Identity {
    return {
      cid: d.cid,
      parentCid: d.parentCid,
      createType: d.createType ?? '',
      place: { offset: at + d.cidAt, digits: d.cidDigits },
    };
  }

  /** Opens the extent of a line. */
  async #open(line: ExtentLine, n: number, start: number): Promise<Extent> {
    const { type, filename } = line;
    const bytes = line.sectors * SECTOR;
    if (filename === undefined) return new ZeroExtent(start, bytes);
    const isFlat = type === 'FLAT' || type === 'VMFS';
    const full = await extentPath(this.#context, this.#file.node.filename, filename, n);
    let child: Child;
    try {
      child = await this.#context.openChild(`extents.${String(n)}`, {
        role: isFlat ? Role.data : Role.data | Role.metadata,
        defaultFilename: full,
      });
    } catch (e) {
      const own = messageOf(e);
      throw own.startsWith('Could not open') ? e : prepend(`Could not open '${full}': `, e);
    }
    const name = child.node.filename;
    if (isFlat) {
      const info = { 'virtual-size': bytes, filename: name, format: type };
      return new FlatExtent(start, bytes, child, line.offset * SECTOR, info);
    }
    const geometry = await this.#geometry(child, type);
    this.#checkVersion(geometry);
    const before = this.#directoryEntries;
    this.#directoryEntries += geometry.directoryEntries;
    if (before > 0 && this.#directoryEntries > Limit.maxDirectories) {
      const text =
        `The grain directories of all extents have ${String(this.#directoryEntries)} entries, ` +
        `expected at most ${String(Limit.maxDirectories)}`;
      throw new BlockError('EFBIG', text);
    }
    return this.#sparse(child, geometry, start, bytes, { filename: name, type });
  }

  async #geometry(child: Child, type: string): Promise<SparseGeometry> {
    const head = new Uint8Array(HEADER_BYTES);
    await child.read(0, Iov.of(head));
    if (type === 'SESPARSE') {
      const { flags, node } = this.#context;
      if (flags.writable && !flags.autoReadOnly) {
        throw new BlockError('EACCES', 'seSparse extents can only be read');
      }
      node.readOnly = true;
      const volatile = new Uint8Array(HEADER_BYTES);
      await child.read(SECTOR, Iov.of(volatile));
      return seSparseGeometry(head, volatile, child.size);
    }
    const magic = new DataView(head.buffer).getUint32(0, true);
    if (magic === SPARSE_MAGIC) return this.#hosted(child, head);
    if (magic === COWD_MAGIC) return cowdGeometry(head, child.size);
    throw new BlockError('EINVAL', 'Image not in VMDK format');
  }

  /** A hosted header may leave its directory to a copy at the end of the file, the footer. */
  async #hosted(child: Child, head: Uint8Array): Promise<SparseGeometry> {
    let fields = sparseFields(head);
    if (fields.gdOffset >= GD_AT_END - 1) {
      const end = new Uint8Array(3 * SECTOR);
      const at = child.size - end.length;
      if (at > 0) await child.read(at, Iov.of(end));
      fields = sparseFields(end.subarray(SECTOR));
      const isFooter =
        isMarker(end, 0, 1, Marker.footer) &&
        isMarker(end, 2 * SECTOR, 0, Marker.endOfStream) &&
        fields.magicNumber === SPARSE_MAGIC &&
        fields.gdOffset < GD_AT_END - 1;
      if (!isFooter) throw new BlockError('EINVAL', 'Invalid footer');
    }
    return hostedGeometry(fields, child.size);
  }

  /** Version 3 has features that only readers can ignore, unless it is a stream. */
  #checkVersion({ version, isCompressed }: SparseGeometry): void {
    const { flags, node } = this.#context;
    if (version !== 3 || isCompressed || !flags.writable) return;
    if (!flags.autoReadOnly) {
      throw new BlockError('EINVAL', 'VMDK version 3 must be read only');
    }
    node.readOnly = true;
  }

  async #sparse(
    file: Child,
    geometry: SparseGeometry,
    start: number,
    bytes: number,
    info: { filename: string; type: string },
  ): Promise<SparseExtent> {
    const directory = await readDirectory(file, geometry, geometry.directoryOffset);
    const redundant =
      geometry.redundantOffset === undefined ||
      geometry.redundantOffset + geometry.directoryEntries * 4 > file.size
        ? undefined
        : await readDirectory(file, geometry, geometry.redundantOffset);
    const tables = new GrainTables(file, geometry, directory, redundant);
    const growsZeroed = (await file.node.instance.hasZeroInit?.()) ?? false;
    const growth = new FileGrowth(file, growsZeroed);
    const { node } = this.#context;
    // What the line promises beyond the extent's own size reads as unallocated.
    return new SparseExtent({ node, file, geometry, tables, growth, info, start, bytes });
  }

  #finish(extents: Extent[], identity: Identity, hint: string | undefined): VmdkInstance {
    const { node } = this.#context;
    if (hint !== undefined && identity.parentCid !== NO_PARENT) node.setBackingHint(hint, 'vmdk');
    return new VmdkInstance(node, this.#file, extents, identity);
  }
}

/** What a descriptor in a file of its own may describe. */
const describedTypes: readonly string[] = [
  'monolithicFlat',
  'vmfs',
  'vmfsSparse',
  'seSparse',
  'twoGbMaxExtentSparse',
  'twoGbMaxExtentFlat',
];

function isMarker(bytes: Uint8Array, at: number, value: number, type: number): boolean {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  return (
    view.getUint32(at, true) === value &&
    view.getUint32(at + 4, true) === 0 &&
    view.getUint32(at + 8, true) === 0 &&
    view.getUint32(at + 12, true) === type
  );
}

export { isDescriptor };
