/** Where things lie on the disk: the geometry, as QEMU's, and the sizes that follow from it. */
import { BlockError } from '../../block/errors.js';

export const SECTOR = 512;
/** Entries of the root folder of FAT12 and FAT16, as long as they suffice. */
const ROOT_ENTRIES = 512;
/** BPB_RootEntCnt has 16 bits, and the root has whole sectors. */
const MOST_ROOT_ENTRIES = 65_520;
const ENTRIES_PER_SECTOR = 16;
/** Sectors before the partition of a hard disk: one track. */
const PARTITION_START = 63;
/** Clusters that are numbered but are none ("FAT Data Structure"). */
const RESERVED_CLUSTERS = 2;
/** The disk's sectors are counted in 32 bits. */
const MOST_SECTORS = 0xffff_ffff;

export type FatBits = 12 | 16 | 32;

/** What the options ask for. */
export interface DiskShape {
  readonly bits: FatBits;
  readonly isFloppy: boolean;
  /** The type was not asked for: a floppy is one of 2.88 MB then. */
  readonly isDefault: boolean;
}

export interface Geometry {
  readonly cylinders: number;
  readonly heads: number;
  readonly sectorsPerTrack: number;
}

/** All in sectors, counted from the start of the disk, unless the name says otherwise. */
export interface Layout extends DiskShape {
  readonly geometry: Geometry;
  readonly totalSectors: number;
  /** Where the volume begins: 0 on a floppy. */
  readonly volumeStart: number;
  readonly volumeSectors: number;
  readonly sectorsPerCluster: number;
  readonly clusterBytes: number;
  readonly fatStart: number;
  readonly fatSectors: number;
  /** 0 with FAT32, whose root is a chain of clusters. */
  readonly rootEntries: number;
  readonly rootStart: number;
  /** Where cluster 2 begins. */
  readonly dataStart: number;
  /** Clusters that there are. */
  readonly clusters: number;
}

/** What the tree needs. */
export interface Need {
  /** Clusters of so many bytes that all files and folders take, without the root's. */
  clusters(clusterBytes: number): number;
  /** Bytes of the root folder's entries. */
  readonly rootBytes: number;
}

/** Throws BlockError EINVAL, with QEMU's text, where the tree does not fit. */
export function planLayout(shape: DiskShape, need: Need): Layout {
  const { bits } = shape;
  if (bits === 32) return planLarge(shape, need);
  const layout = place(shape, fixedGeometry(shape), clusterSectors(shape), need);
  if (need.clusters(layout.clusterBytes) > layout.clusters) throw doesNotFit(layout);
  return layout;
}

function fixedGeometry({ bits, isFloppy, isDefault }: DiskShape): Geometry {
  if (isFloppy) {
    return { cylinders: 80, heads: 2, sectorsPerTrack: bits === 12 && !isDefault ? 18 : 36 };
  }
  return { cylinders: bits === 12 ? 64 : 1024, heads: 16, sectorsPerTrack: PARTITION_START };
}

/**
 * 8 KiB, as in QEMU. The number of clusters tells readers the type ("FAT Type Determination"), so a
 * floppy with FAT16 needs small ones: with QEMU's it would be read as FAT12.
 */
function clusterSectors({ bits, isFloppy }: DiskShape): number {
  return isFloppy && bits !== 12 ? 1 : 16;
}

/** FAT32 on a hard disk: as large as the tree needs, at least 504 MiB. */
function planLarge(shape: DiskShape, need: Need): Layout {
  const { cylinders, ...rest } = fixedGeometry(shape);
  const perCylinder = rest.heads * rest.sectorsPerTrack;
  // Table of "FAT Volume Initialization": 4 KiB up to 8 GiB, then twice as much at each doubling.
  let sectorsPerCluster = 8;
  while (sectorsPerCluster < 64 && bytesOf(need, sectorsPerCluster) > sectorsPerCluster * 2 ** 30) {
    sectorsPerCluster *= 2;
  }
  const clusters = allClusters(need, sectorsPerCluster * SECTOR);
  const fat = fatLength(32, clusters + RESERVED_CLUSTERS);
  const sectors = PARTITION_START + 32 + 2 * (fat + 1) + clusters * sectorsPerCluster;
  const most = Math.floor(MOST_SECTORS / perCylinder);
  const wanted = Math.max(cylinders, Math.ceil(sectors / perCylinder) + 1);
  const geometry = { ...rest, cylinders: Math.min(wanted, most) };
  const layout = place(shape, geometry, sectorsPerCluster, need);
  if (allClusters(need, layout.clusterBytes) > layout.clusters) throw doesNotFit(layout);
  return layout;
}

function bytesOf(need: Need, sectorsPerCluster: number): number {
  return allClusters(need, sectorsPerCluster * SECTOR) * sectorsPerCluster * SECTOR;
}

/** With the root's. */
function allClusters(need: Need, clusterBytes: number): number {
  return need.clusters(clusterBytes) + Math.ceil(need.rootBytes / clusterBytes);
}

/** Sectors of one FAT of `entries` entries. */
function fatLength(bits: FatBits, entries: number): number {
  return Math.ceil((entries * bits) / 8 / SECTOR);
}

function place(
  shape: DiskShape,
  geometry: Geometry,
  sectorsPerCluster: number,
  need: Need,
): Layout {
  const { bits, isFloppy } = shape;
  const totalSectors = geometry.cylinders * geometry.heads * geometry.sectorsPerTrack;
  const volumeStart = isFloppy ? 0 : PARTITION_START;
  const volumeSectors = totalSectors - volumeStart;
  // Room for the clusters that there would be if all of the volume were clusters, as in QEMU.
  const fatSectors = fatLength(bits, Math.floor(volumeSectors / sectorsPerCluster) + 2);
  const rootEntries = bits === 32 ? 0 : rootLength(need.rootBytes / 32);
  const fatStart = volumeStart + (bits === 32 ? 32 : 1);
  const rootStart = fatStart + 2 * fatSectors;
  const dataStart = rootStart + rootEntries / ENTRIES_PER_SECTOR;
  return {
    ...shape,
    geometry,
    totalSectors,
    volumeStart,
    volumeSectors,
    sectorsPerCluster,
    clusterBytes: sectorsPerCluster * SECTOR,
    fatStart,
    fatSectors,
    rootEntries,
    rootStart,
    dataStart,
    clusters: Math.max(0, Math.floor((totalSectors - dataStart) / sectorsPerCluster)),
  };
}

function rootLength(entries: number): number {
  if (entries > MOST_ROOT_ENTRIES) {
    const most = `expected at most ${MOST_ROOT_ENTRIES}; FAT32 has no such limit`;
    throw new BlockError(
      'EINVAL',
      `Too many entries in root directory: it takes ${entries}, ${most}`,
    );
  }
  const whole = Math.ceil(entries / ENTRIES_PER_SECTOR) * ENTRIES_PER_SECTOR;
  return Math.max(ROOT_ENTRIES, whole);
}

function doesNotFit({ bits, volumeSectors }: Layout): BlockError {
  const capacity = (volumeSectors / 2000).toFixed(2);
  return new BlockError('EINVAL', `Directory does not fit in FAT${bits} (capacity ${capacity} MB)`);
}
