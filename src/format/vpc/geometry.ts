/** Cylinders, heads and sectors: "CHS Calculation" in the appendix of the specification. */
import { BlockError } from '../../block/errors.js';
import { Limit } from './layout.js';

export interface Geometry {
  readonly cylinders: number;
  readonly heads: number;
  readonly sectorsPerTrack: number;
}

/** The geometry that says "too large for a geometry". */
export const MAX_GEOMETRY: Geometry = { cylinders: 65535, heads: 16, sectorsPerTrack: 255 };

export function geometrySectors({ cylinders, heads, sectorsPerTrack }: Geometry): number {
  return cylinders * heads * sectorsPerTrack;
}

/** The geometry of a disk of at most so many sectors; it may hold fewer. */
export function geometryOf(totalSectors: number): Geometry {
  const total = Math.min(totalSectors, Limit.geometrySectors);
  const shape = (sectorsPerTrack: number, heads: number): Geometry => ({
    cylinders: Math.floor(Math.floor(total / sectorsPerTrack) / heads),
    heads,
    sectorsPerTrack,
  });
  if (total >= 65535 * 16 * 63) return shape(255, 16);
  const tracks = Math.floor(total / 17);
  const heads = Math.max(4, Math.ceil(tracks / 1024));
  if (heads <= 16 && tracks < heads * 1024) return shape(17, heads);
  if (Math.floor(total / 31) < 16 * 1024) return shape(31, 16);
  return shape(63, 16);
}

/**
 * The smallest geometry with at least so many sectors. Throws EINVAL where there is none; that is
 * beyond {@link Limit.geometrySectors}.
 */
export function geometryFor(totalSectors: number): Geometry {
  if (totalSectors > Limit.geometrySectors) {
    throw notRepresentable();
  }
  // The distance to the next geometry is below one cylinder.
  for (let wanted = totalSectors; ; wanted++) {
    const geometry = geometryOf(wanted);
    if (geometrySectors(geometry) >= totalSectors) return geometry;
  }
}

export function notRepresentable(): BlockError {
  const text = 'The requested image size cannot be represented in CHS geometry';
  return new BlockError('EINVAL', text);
}
