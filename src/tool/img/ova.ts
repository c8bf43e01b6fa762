/**
 * The disk inside an .ova: a tar archive (POSIX.1-1988 ustar, with GNU's and POSIX's extensions
 * for long names and great sizes) that holds a description (.ovf, DSP0243) and the disk's file.
 */
import { readSync } from 'node:fs';
import { Failure } from '../program.js';

const BLOCK = 512;
/** Longest description that is read. */
const MAX_OVF = 4 * 1024 * 1024;

/** A file in the archive: where its content is, in bytes. */
export interface TarEntry {
  readonly name: string;
  readonly offset: number;
  readonly bytes: number;
}

/** Whether a file begins as a tar archive does. */
export function isTar(head: Uint8Array): boolean {
  return head.byteLength >= BLOCK && text(head, 257, 5) === 'ustar';
}

/** The one disk of the archive at `fd`; throws Failure when there is none, or more than one. */
export function findOvaDisk(fd: number, name: string): TarEntry {
  const entries = tarEntries(fd, name);
  const ovf = entries.find((entry) => entry.name.toLowerCase().endsWith('.ovf'));
  if (ovf === undefined) throw new Failure(`'${name}' is an archive without a description (.ovf)`);
  const wanted = diskFiles(Buffer.from(read(fd, ovf.offset, Math.min(ovf.bytes, MAX_OVF))));
  const disks = wanted.map((href) => {
    const entry = entries.find((each) => plain(each.name) === plain(href));
    if (entry !== undefined) return entry;
    throw new Failure(`'${name}' does not hold '${href}', the disk that its description names`);
  });
  const [disk, other] = disks;
  if (disk === undefined) throw new Failure(`The description in '${name}' names no disk`);
  if (other !== undefined) {
    const names = disks.map((each) => each.name).join(', ');
    throw new Failure(
      `'${name}' holds more than one disk: ${names}. Unpack it with tar, and convert each`,
    );
  }
  return disk;
}

const plain = (name: string): string => name.replace(/^\.\//, '');

/** Files of the disks that an OVF description declares, in its order. */
export function diskFiles(xml: Buffer): string[] {
  const source = xml.toString('utf8').replace(/<!--.*?-->/gs, '');
  const files = new Map<string, string>();
  for (const [element] of source.matchAll(/<(?:\w+:)?File\b[^>]*>/g)) {
    const [id, href] = [attribute(element, 'id'), attribute(element, 'href')];
    if (id !== undefined && href !== undefined) files.set(id, href);
  }
  const found: string[] = [];
  for (const [element] of source.matchAll(/<(?:\w+:)?Disk\b[^>]*>/g)) {
    const href = files.get(attribute(element, 'fileRef') ?? '');
    if (href !== undefined) found.push(href);
  }
  return found;
}

function attribute(element: string, name: string): string | undefined {
  const match = new RegExp(`\\s(?:\\w+:)?${name}\\s*=\\s*(?:"([^"]*)"|'([^']*)')`).exec(element);
  const value = match?.[1] ?? match?.[2];
  return value
    ?.replaceAll('&lt;', '<')
    .replaceAll('&gt;', '>')
    .replaceAll('&quot;', '"')
    .replaceAll('&apos;', "'")
    .replaceAll('&amp;', '&');
}

function read(fd: number, offset: number, bytes: number): Uint8Array {
  const out = new Uint8Array(bytes);
  let filled = 0;
  while (filled < bytes) {
    const n = readSync(fd, out, filled, bytes - filled, offset + filled);
    if (n === 0) break;
    filled += n;
  }
  return out.subarray(0, filled);
}

/** The files of an archive. Throws Failure where a header is damaged. */
function tarEntries(fd: number, archive: string): TarEntry[] {
  const found: TarEntry[] = [];
  let longName: string | undefined;
  let longSize: number | undefined;
  for (let at = 0; ;) {
    const header = read(fd, at, BLOCK);
    if (header.byteLength < BLOCK || header.every((byte) => byte === 0)) return found;
    if (!hasRightSum(header)) throw new Failure(`'${archive}' is damaged at byte ${String(at)}`);
    const type = String.fromCharCode(header[156] ?? 0);
    const bytes = longSize ?? number(header, 124, 12);
    const offset = at + BLOCK;
    at = offset + Math.ceil(bytes / BLOCK) * BLOCK;
    if (type === 'x') {
      const records = paxRecords(read(fd, offset, Math.min(bytes, MAX_OVF)));
      longName = records.get('path') ?? longName;
      const size = records.get('size');
      if (size !== undefined) longSize = Number(size);
      continue;
    }
    if (type === 'L') {
      longName = text(read(fd, offset, Math.min(bytes, MAX_OVF)), 0, bytes);
      continue;
    }
    if (type === '0' || type === '\0') {
      const prefix = text(header, 345, 155);
      const short = text(header, 0, 100);
      const full = prefix === '' ? short : `${prefix}/${short}`;
      found.push({ name: longName ?? full, offset, bytes });
    }
    longName = undefined;
    longSize = undefined;
  }
}

/** The sum of the header's bytes, with blanks in the field that holds it. */
function hasRightSum(header: Uint8Array): boolean {
  let sum = 0;
  for (let i = 0; i < BLOCK; i++) sum += i >= 148 && i < 156 ? 32 : (header[i] ?? 0);
  return sum === number(header, 148, 8);
}

/** A field in octal digits, or, with the first bit set, in base 256. */
function number(header: Uint8Array, at: number, width: number): number {
  const first = header[at] ?? 0;
  if ((first & 0x80) === 0) return parseInt(text(header, at, width).trim() || '0', 8);
  let value = first & 0x7f;
  for (let i = 1; i < width; i++) value = value * 256 + (header[at + i] ?? 0);
  return value;
}

/** Text up to a NUL. */
function text(b: Uint8Array, at: number, width: number): string {
  const field = Buffer.from(b.subarray(at, at + width));
  const end = field.indexOf(0);
  return field.toString('utf8', 0, end < 0 ? field.length : end);
}

/** Records `LENGTH KEY=VALUE\n` of a POSIX extended header. */
function paxRecords(b: Uint8Array): Map<string, string> {
  const records = new Map<string, string>();
  const buffer = Buffer.from(b);
  for (let at = 0; at < buffer.length;) {
    const blank = buffer.indexOf(32, at);
    const length = blank < 0 ? 0 : Number(buffer.toString('latin1', at, blank));
    if (!(length > 0)) break;
    const record = buffer.toString('utf8', blank + 1, at + length - 1);
    const equals = record.indexOf('=');
    records.set(record.slice(0, equals), record.slice(equals + 1));
    at += length;
  }
  return records;
}
