/**
 * The descriptor: text that says what a disk consists of. Pure.
 *
 * Lines end with LF or CR LF. What is looked for are `CID`, `parentCID`, `createType`,
 * `parentFileNameHint` and the extent lines.
 */
import { BlockError } from '../../block/errors.js';
import { Limit } from './layout.js';

/** One extent line. */
export interface ExtentLine {
  readonly sectors: number;
  readonly type: string;
  /** As it is written; absent for `ZERO`. */
  readonly filename: string | undefined;
  /** Where a flat extent begins in its file, in sectors. */
  readonly offset: number;
}

export interface Descriptor {
  readonly cid: number;
  readonly parentCid: number;
  readonly createType: string | undefined;
  readonly parentHint: string | undefined;
  /** Where the digits of the CID stand in the text, for changing it in place. */
  readonly cidAt: number;
  readonly cidDigits: number;
}

/** The parent CID of a disk that has no parent. */
export const NO_PARENT = 0xffff_ffff;

/** The text of a descriptor, one character for each byte, so that offsets are bytes. */
export function descriptorText(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return new TextDecoder('latin1').decode(end < 0 ? bytes : bytes.subarray(0, end));
}

/** A name or hint as people write it: the bytes behind the text are UTF-8. */
function utf8(text: string): string {
  return new TextDecoder().decode(Uint8Array.from(text, (c) => latin1(c)));
}

/** The decoder calls some bytes of 0x80 to 0x9f by their Windows names. */
const windows = new Map(
  Array.from({ length: 32 }, (_, i) => i + 0x80).map((b) => [
    new TextDecoder('latin1').decode(Uint8Array.of(b)),
    b,
  ]),
);
const latin1 = (c: string): number => windows.get(c) ?? c.charCodeAt(0);

/** Whether a file that begins with `head` is a descriptor. */
export function isDescriptor(head: Uint8Array): boolean {
  const lines = descriptorText(head).split('\n', 64);
  for (const line of lines) {
    if (line.startsWith('#') || /^ *\r?$/.test(line)) continue;
    return /^version=[123]\r?$/.test(line);
  }
  return false;
}

/** Parses a descriptor without its extents. Throws EINVAL when it has no CIDs. */
export function parseDescriptor(text: string): Descriptor {
  const cid = /^CID=([0-9a-fA-F]{1,8})/m.exec(text);
  const parent = /^parentCID=([0-9a-fA-F]{1,8})/m.exec(text);
  if (cid?.[1] === undefined || parent?.[1] === undefined) throw new BlockError('EINVAL');
  const hint = /^parentFileNameHint="([^"\r\n]*)"/m.exec(text)?.[1];
  return {
    cid: parseInt(cid[1], 16),
    parentCid: parseInt(parent[1], 16),
    createType: /^createType="([^"\r\n]*)"/m.exec(text)?.[1],
    parentHint: hint === undefined ? undefined : utf8(hint),
    cidAt: cid.index + 'CID='.length,
    cidDigits: cid[1].length,
  };
}

const extentLine =
  /^(RW|RDONLY|NOACCESS)[ \t]+(-?\d+)[ \t]+(\S+)(?:[ \t]+"([^"]*)"(?:[ \t]+(\S+))?)?/;

/** The extent lines. Throws EINVAL for one that cannot be, or is of a kind that is not there. */
export function parseExtents(text: string): ExtentLine[] {
  const out: ExtentLine[] = [];
  for (const raw of text.split('\n')) {
    const line = raw.replace(/\s+$/, '');
    if (!/^(?:RW|RDONLY|NOACCESS)\s/.test(line)) continue;
    const found = extentLine.exec(line);
    if (found === null) throw invalidLine(line);
    if (out.length >= Limit.maxExtents) {
      throw new BlockError('EINVAL', `More than ${String(Limit.maxExtents)} extents`);
    }
    out.push(parseLine(line, found));
  }
  if (out.length === 0) throw new BlockError('EINVAL', 'The descriptor names no extent');
  return out;
}

function invalidLine(line: string): BlockError {
  return new BlockError('EINVAL', `Invalid extent line: ${utf8(line).slice(0, 600)}`);
}

function parseLine(line: string, found: RegExpExecArray): ExtentLine {
  const [, access = '', count = '', type = '', name, where] = found;
  if (access !== 'RW') throw new BlockError('ENOTSUP', `Unsupported extent access '${access}'`);
  const sectors = Number(count);
  if (sectors <= 0) throw invalidLine(line);
  if (sectors > Limit.maxSectors) {
    throw new BlockError('EFBIG', 'Could not refresh total sector count: File too large');
  }
  if (type === 'ZERO') return { sectors, type, filename: undefined, offset: 0 };
  const isFlat = type === 'FLAT';
  if (!isFlat && !['VMFS', 'SPARSE', 'VMFSSPARSE', 'SESPARSE'].includes(type)) {
    throw new BlockError('ENOTSUP', `Unsupported extent type '${type.slice(0, 40)}'`);
  }
  if (name === undefined || name === '' || isFlat !== (where !== undefined))
    throw invalidLine(line);
  const offset = where === undefined ? 0 : Number(where);
  if (!Number.isInteger(offset) || offset < 0) throw invalidLine(line);
  if (offset > Limit.maxSectors) throw invalidLine(line);
  return { sectors, type, filename: utf8(name), offset };
}

/** Facts of a new descriptor. */
export interface NewDescriptor {
  readonly cid: number;
  readonly parentCid: number;
  readonly createType: string;
  readonly parentHint: string | undefined;
  /** Complete lines. */
  readonly extents: readonly string[];
  readonly hwVersion: string;
  readonly adapterType: string;
  readonly toolsVersion: string;
  /** Virtual size in sectors, for the geometry. */
  readonly sectors: number;
}

const hex8 = (value: number): string => value.toString(16).padStart(8, '0');

/** The text of a new descriptor. */
export function formatDescriptor(d: NewDescriptor): string {
  const isIde = d.adapterType === 'ide';
  const heads = isIde ? 16 : 255;
  const cylinders = Math.floor(d.sectors / (63 * heads));
  const hint = d.parentHint === undefined ? '' : `parentFileNameHint="${d.parentHint}"\n`;
  return `# Disk DescriptorFile
version=1
CID=${hex8(d.cid)}
parentCID=${hex8(d.parentCid)}
createType="${d.createType}"
${hint}
# Extent description
${d.extents.join('\n')}

# The Disk Data Base
#DDB

ddb.virtualHWVersion = "${d.hwVersion}"
ddb.geometry.cylinders = "${String(cylinders)}"
ddb.geometry.heads = "${String(heads)}"
ddb.geometry.sectors = "63"
ddb.adapterType = "${d.adapterType}"
ddb.toolsVersion = "${d.toolsVersion}"
`;
}
