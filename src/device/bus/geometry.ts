/**
 * Disk geometry: cylinders, heads and sectors that a disk claims, and the translation that
 * firmware applies to them. Guessed from the partition table, where the one who made it wrote
 * down the geometry that he saw, or else from the length alone.
 */
import type { Backend } from '../../block/backend.js';
import { Iov } from '../../lib/iov.js';

export interface Geometry {
  readonly cylinders: number;
  readonly heads: number;
  readonly sectors: number;
}

/** Translation that firmware applies; the numbers stand so in CMOS byte 0x39. */
export const translations = { none: 0, lba: 1, large: 2, rechs: 3 } as const;

export type Translation = keyof typeof translations;

export interface GeometryGuess extends Geometry {
  readonly translation: Translation;
}

/** Limits of what ATA's IDENTIFY and firmware's tables can say. */
export const MAX_CYLINDERS = 65535;
const MAX_GUESSED_CYLINDERS = 16383;
const MBR_ENTRIES = 0x1be;

/** 16 heads and 63 sectors, and as many cylinders as fit, 2 to 16383. */
export function geometryOfSize(sectors: number): Geometry {
  const cylinders = Math.floor(sectors / (16 * 63));
  const clamped = Math.min(MAX_GUESSED_CYLINDERS, Math.max(2, cylinders));
  return { cylinders: clamped, heads: 16, sectors: 63 };
}

/** What firmware does by itself with a geometry. */
export function usualTranslation({ cylinders, heads, sectors }: Geometry): Translation {
  if (cylinders <= 1024 && heads <= 16 && sectors <= 63) return 'none';
  return cylinders * heads <= 131_072 ? 'large' : 'lba';
}

/** The geometry that the first telling partition of a master boot record ends in. */
export function geometryOfPartitions(mbr: Uint8Array, total: number): Geometry | undefined {
  if (mbr[510] !== 0x55 || mbr[511] !== 0xaa) return undefined;
  const view = new DataView(mbr.buffer, mbr.byteOffset, mbr.byteLength);
  for (let i = 0; i < 4; i++) {
    const at = MBR_ENTRIES + 16 * i;
    const endHead = mbr[at + 5]!;
    if (view.getUint32(at + 12, true) === 0 || endHead === 0) continue;
    const heads = endHead + 1;
    const sectors = mbr[at + 6]! & 63;
    if (sectors === 0) continue;
    const cylinders = Math.floor(total / (heads * sectors));
    if (cylinders >= 1 && cylinders <= MAX_GUESSED_CYLINDERS) return { cylinders, heads, sectors };
  }
  return undefined;
}

/** Guesses from a disk's first sector and its length; an unreadable sector tells nothing. */
export async function guessGeometry(drive: Backend): Promise<GeometryGuess> {
  const total = Math.floor(drive.size / 512);
  const bySize = geometryOfSize(total);
  const mbr = new Uint8Array(512);
  try {
    if (drive.size >= 512) await drive.read(0, Iov.of(mbr));
  } catch {
    return { ...bySize, translation: usualTranslation(bySize) };
  }
  const seen = geometryOfPartitions(mbr, total);
  if (seen === undefined) return { ...bySize, translation: usualTranslation(bySize) };
  // More heads than a disk can have: what the partition's maker saw was translated.
  if (seen.heads > 16) {
    const translation = bySize.cylinders * bySize.heads <= 131_072 ? 'large' : 'lba';
    return { ...bySize, translation };
  }
  return { ...seen, translation: 'none' };
}
