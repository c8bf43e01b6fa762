/** Opening a VHD: footer, header, block allocation table, parent. */
import type { Child } from '../../block/child.js';
import type { DriverInstance, NodeOptions, OpenContext } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { Role } from '../../block/types.js';
import { readU64 } from '../../lib/fields.js';
import { Iov } from '../../lib/iov.js';
import { parseValue, t } from '../../options/schema.js';
import { DifferencingInstance } from './differencing.js';
import { BlockTable } from './table.js';
import { DynamicInstance } from './dynamic.js';
import { FixedInstance } from './fixed.js';
import type { SizeRule } from './footer.js';
import { diskBytes, hasCookie, parseDynamicHeader, parseFooter } from './footer.js';
import type { Footer } from './layout.js';
import { DiskType, FOOTER_BYTES, FOOTER_COOKIE, HEADER_BYTES, SECTOR } from './layout.js';
import { parentName } from './parent.js';

/** Options of a vpc node besides `file`. */
export const vpcOptions = t.struct('BlockdevOptionsVpc', {
  force_size_calc: t.optional(
    t.str({ doc: 'take the size from the geometry (chs) or the footer (current_size)' }),
  ),
});

function sizeRule(options: NodeOptions): SizeRule {
  const own = { force_size_calc: options['force_size_calc'] };
  const { force_size_calc: rule } = parseValue(vpcOptions, own, { from: 'opts' });
  if (rule === undefined) return 'auto';
  if (rule === 'chs' || rule === 'current_size') return rule;
  throw new BlockError('EINVAL', `Invalid size calculation mode: '${rule}'`);
}

/** Throws BlockError: EINVAL or EFBIG for a bad image, in QEMU's words where it has some. */
export async function openVpc(context: OpenContext): Promise<DriverInstance> {
  const rule = sizeRule(context.options);
  const file = await context.openChild('file', { role: Role.image });
  const { footer, raw, isFixed } = await readFooter(file);
  if (isFixed) {
    refuseBacking(context);
    return new FixedInstance(file, diskBytes(footer, rule), footer, context.options);
  }
  const size = diskBytes(footer, rule);
  const headerBytes = await readHeader(file, footer);
  const header = parseDynamicHeader(headerBytes, size);
  const table = await readTable(file, header.table_offset, Math.ceil(size / header.block_size));
  const shape = { size, blockSize: header.block_size, tableOffset: header.table_offset };
  const blocks = new BlockTable(table, shape);
  const end = Math.max(
    Number(footer.data_offset) + HEADER_BYTES,
    header.table_offset + header.max_table_entries * 4,
    blocks.end,
  );
  if (end > file.size) {
    const text =
      'block-vpc: free_data_block_offset points after the end of file. ' +
      'The image has been truncated.';
    throw new BlockError('EINVAL', text);
  }
  if (footer.disk_type === DiskType.differencing) {
    checkReadOnly(context);
    const { flags, node } = context;
    if (!flags.noBacking && node.explicitOptions['backing'] === undefined) {
      node.setBackingHint(await parentName(context, file, header, headerBytes), 'vpc');
    }
    const parentId = header.parent_unique_id;
    return new DifferencingInstance({ file, node, blocks, footer, parentId }, context.options);
  }
  refuseBacking(context);
  const used = Math.max(end, await batmapEnd(file, header.table_offset, header.max_table_entries));
  return new DynamicInstance(context, { file, footer: raw, blocks, end: used });
}

interface FoundFooter {
  readonly footer: Footer;
  readonly raw: Uint8Array;
  readonly isFixed: boolean;
}

/**
 * The footer: the copy of it at the start of the file, or, of a fixed disk, the last sector. A
 * fixed disk may hold anything in its first sector, a footer too; so a last sector that is the
 * footer of a fixed disk of just this length comes first.
 */
async function readFooter(file: Child): Promise<FoundFooter> {
  const fixed = await tryFixed(file);
  if (fixed?.fits === true) return fixed;
  const raw = new Uint8Array(FOOTER_BYTES);
  if (file.size > 0) await file.read(0, Iov.of(raw));
  if (hasCookie(raw, FOOTER_COOKIE)) {
    const footer = parseFooter(raw);
    if (footer.disk_type !== DiskType.fixed) return { footer, raw, isFixed: false };
  }
  if (fixed !== undefined) return fixed;
  if (file.size < FOOTER_BYTES) throw new BlockError('EINVAL', 'File too small for a VHD header');
  throw new BlockError('EINVAL', 'invalid VPC image');
}

/** The last sector as the footer of a fixed disk; undefined: it is none. */
async function tryFixed(file: Child): Promise<(FoundFooter & { fits: boolean }) | undefined> {
  const at = file.size - FOOTER_BYTES;
  if (at < 0) return undefined;
  const raw = new Uint8Array(FOOTER_BYTES);
  await file.read(at, Iov.of(raw));
  if (!hasCookie(raw, FOOTER_COOKIE)) return undefined;
  const footer = parseFooter(raw);
  if (footer.disk_type !== DiskType.fixed) return undefined;
  return { footer, raw, isFixed: true, fits: footer.current_size === at };
}

async function readHeader(file: Child, footer: Footer): Promise<Uint8Array> {
  const offset = Number(footer.data_offset);
  const bytes = new Uint8Array(HEADER_BYTES);
  // What lies past the end reads as zeroes, which are no header.
  if (offset < file.size) await file.read(offset, Iov.of(bytes));
  return bytes;
}

/** The first `entries` entries of the block allocation table. */
async function readTable(file: Child, offset: number, entries: number): Promise<Uint32Array> {
  if (offset > Number.MAX_SAFE_INTEGER) throw new BlockError('EINVAL', 'Error reading pagetable');
  // Before memory is taken: the whole table has to be there.
  if (offset + entries * 4 > file.size) {
    const text =
      'block-vpc: free_data_block_offset points after the end of file. ' +
      'The image has been truncated.';
    throw new BlockError('EINVAL', text);
  }
  const bytes = new Uint8Array(entries * 4);
  if (entries > 0) await file.read(offset, Iov.of(bytes));
  const view = new DataView(bytes.buffer);
  const table = new Uint32Array(entries);
  for (let i = 0; i < entries; i++) table[i] = view.getUint32(i * 4);
  return table;
}

const BATMAP_COOKIE = 'tdbatmap';

/** End of the batmap that XenServer puts behind the table; 0: there is none. It is not used. */
async function batmapEnd(file: Child, tableOffset: number, entries: number): Promise<number> {
  const at = Math.ceil((tableOffset + entries * 4) / SECTOR) * SECTOR;
  if (at + SECTOR > file.size) return 0;
  const bytes = new Uint8Array(SECTOR);
  await file.read(at, Iov.of(bytes));
  if (!hasCookie(bytes, BATMAP_COOKIE)) return 0;
  const view = new DataView(bytes.buffer);
  const end = readU64(view, 8) + view.getUint32(16) * SECTOR;
  return end <= file.size ? Math.max(end, at + SECTOR) : 0;
}

function checkReadOnly({ flags, node }: OpenContext): void {
  if (!flags.writable) return;
  if (!flags.autoReadOnly) {
    throw new BlockError('ENOTSUP', 'Differencing VHD images can only be opened read-only');
  }
  node.readOnly = true;
}

function refuseBacking({ node }: OpenContext): void {
  const given = node.explicitOptions['backing'];
  if (given === undefined || given === null || given === '') return;
  const text = "Block format 'vpc' does not support the option 'backing' for this image";
  throw new BlockError('EINVAL', `${text}, which is no differencing disk`);
}
