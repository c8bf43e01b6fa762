// A reader of FAT disks for tests, written from the specification and sharing no code with src/.
import type { Backend } from '../../../src/index.js';
import { readBytes } from '../../support/index.js';

export interface FatFile {
  /** Path with the long names; a folder's ends with a slash. */
  readonly path: string;
  readonly short: string;
  readonly bytes: Uint8Array;
}

interface Volume {
  readonly disk: Backend;
  readonly bits: 12 | 16 | 32;
  readonly fat: DataView;
  readonly rootAt: number;
  readonly rootBytes: number;
  readonly rootCluster: number;
  readonly dataAt: number;
  readonly clusterBytes: number;
  /** What follows a file in its last cluster must be zeroes. */
  readonly isClean: boolean;
  /** Clusters that a file has: none may be used twice. */
  readonly taken: Set<number>;
}

const latin = (bytes: Uint8Array): string => String.fromCharCode(...bytes);

async function view(disk: Backend, at: number, bytes: number): Promise<DataView> {
  return new DataView((await readBytes(disk, at, bytes)).buffer);
}

/** The volume of a floppy, or of the first partition of a hard disk. */
async function openVolume(disk: Backend, isFloppy: boolean, isClean: boolean): Promise<Volume> {
  let start = 0;
  if (!isFloppy) start = (await view(disk, 0, 512)).getUint32(0x1be + 8, true) * 512;
  const boot = await view(disk, start, 512);
  const u16 = (at: number): number => boot.getUint16(at, true);
  const clusterBytes = boot.getUint8(13) * 512;
  const fatSectors = u16(22) === 0 ? boot.getUint32(36, true) : u16(22);
  const sectors = u16(19) === 0 ? boot.getUint32(32, true) : u16(19);
  const rootBytes = u16(17) * 32;
  const fatAt = start + u16(14) * 512;
  const rootAt = fatAt + 2 * fatSectors * 512;
  const dataAt = rootAt + rootBytes;
  const clusters = Math.floor((start + sectors * 512 - dataAt) / clusterBytes);
  const bits = clusters < 4085 ? 12 : clusters < 65525 ? 16 : 32;
  const fat = await view(disk, fatAt, fatSectors * 512);
  const second = await readBytes(disk, fatAt + fatSectors * 512, fatSectors * 512);
  if (Buffer.compare(Buffer.from(fat.buffer), second) !== 0) throw new Error('FATs differ');
  const rootCluster = bits === 32 ? boot.getUint32(44, true) : 0;
  const taken = new Set<number>();
  return { disk, bits, fat, rootAt, rootBytes, rootCluster, dataAt, clusterBytes, isClean, taken };
}

function entryOf({ bits, fat }: Volume, cluster: number): number {
  if (bits === 32) return fat.getUint32(cluster * 4, true) & 0x0fff_ffff;
  if (bits === 16) return fat.getUint16(cluster * 2, true);
  const both = fat.getUint16(Math.floor(cluster * 1.5), true);
  return cluster % 2 === 0 ? both & 0xfff : both >> 4;
}

/** Clusters of the chain that begins with `first`; throws where it is broken. */
function chainOf(volume: Volume, first: number): number[] {
  const end = 2 ** Math.min(28, volume.bits) - 8;
  const chain: number[] = [];
  for (let at = first; at < end; at = entryOf(volume, at)) {
    if (at < 2 || volume.taken.has(at)) throw new Error(`cluster ${at} is free or used twice`);
    volume.taken.add(at);
    chain.push(at);
  }
  return chain;
}

async function content(volume: Volume, chain: readonly number[]): Promise<Uint8Array> {
  const { disk, dataAt, clusterBytes } = volume;
  const parts: Uint8Array[] = [];
  for (let i = 0; i < chain.length;) {
    const first = chain[i] ?? 0;
    let n = 1;
    while (chain[i + n] === first + n) n++;
    parts.push(await readBytes(disk, dataAt + (first - 2) * clusterBytes, n * clusterBytes));
    i += n;
  }
  return new Uint8Array(Buffer.concat(parts));
}

function checkSum(short: Uint8Array): number {
  let sum = 0;
  for (const c of short) sum = (((sum & 1) << 7) + (sum >> 1) + c) & 0xff;
  return sum;
}

async function walk(
  volume: Volume,
  bytes: Uint8Array,
  path: string,
  out: FatFile[],
): Promise<void> {
  const table = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let long: { text: string; sum: number } | undefined;
  for (let at = 0; at < bytes.length && bytes[at] !== 0; at += 32) {
    const attributes = table.getUint8(at + 11);
    if (attributes === 0x0f) {
      const units = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
      const text = units.map((o) => String.fromCharCode(table.getUint16(at + o, true))).join('');
      const before = (table.getUint8(at) & 0x40) === 0 ? (long?.text ?? '') : '';
      long = { text: text + before, sum: table.getUint8(at + 13) };
      continue;
    }
    const short = latin(bytes.subarray(at, at + 11));
    const name = long?.text.split('\0')[0]?.replace(/\uffff+$/, '');
    if (long !== undefined && long.sum !== checkSum(bytes.subarray(at, at + 11))) {
      throw new Error(`wrong sum of the long name before ${short}`);
    }
    long = undefined;
    if ((attributes & 0x08) !== 0 || short.startsWith('.')) continue;
    if (name === undefined) throw new Error(`no long name before ${short}`);
    const first = table.getUint16(at + 20, true) * 0x1_0000 + table.getUint16(at + 26, true);
    const size = table.getUint32(at + 28, true);
    const isFolder = (attributes & 0x10) !== 0;
    const chain = first === 0 ? [] : chainOf(volume, first);
    const stored = await content(volume, chain);
    if (isFolder) {
      out.push({ path: `${path}${name}/`, short, bytes: new Uint8Array(0) });
      await walk(volume, stored, `${path}${name}/`, out);
    } else {
      const tail = stored.subarray(size);
      if (volume.isClean && tail.some((b) => b !== 0)) throw new Error(`bytes behind ${name}`);
      out.push({ path: `${path}${name}`, short, bytes: stored.subarray(0, size) });
    }
  }
}

/** All files and folders of a disk, sorted by path; the type that its clusters tell. */
export async function readFat(
  disk: Backend,
  isFloppy = false,
  isClean = true,
): Promise<{ bits: number; files: FatFile[] }> {
  const volume = await openVolume(disk, isFloppy, isClean);
  const files: FatFile[] = [];
  const isLarge = volume.bits === 32;
  const root = isLarge
    ? await content(volume, chainOf(volume, volume.rootCluster))
    : await readBytes(disk, volume.rootAt, volume.rootBytes);
  await walk(volume, root, '', files);
  files.sort((a, b) => (a.path < b.path ? -1 : 1));
  return { bits: volume.bits, files };
}
