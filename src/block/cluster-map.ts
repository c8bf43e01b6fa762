/**
 * What a format that stores whole clusters, each at a place of its own in the file, tells the data
 * path (cluster-disk.ts) about where they are.
 */

/** What an entry says when it names no place in the file; else it is an offset in bytes. */
export const Place = {
  /** Never written: zeroes, or what the backing file holds. */
  unallocated: -1,
  /** Zeroes, whatever the backing file holds. */
  zero: -2,
  /** Names what cannot be; reads and writes fail. */
  damaged: -3,
  /** This and all below: stored compressed, see {@link packedAt}. */
  packed: -16,
} as const;

/** The entry of a cluster whose compressed bytes begin at `host`. */
export function packedPlace(host: number): number {
  return Place.packed - host;
}

/** Where the compressed bytes of such an entry begin. */
export function packedAt(place: number): number {
  return Place.packed - place;
}

/** Clusters of the file that were given out. */
export interface Taken {
  readonly host: number;
  /** At least one, at most as many as were asked for. */
  readonly clusters: number;
  /** They read as zeroes as they are. */
  readonly isFresh: boolean;
}

/**
 * The map of an open image: tables of entries, some of them in memory. A table that is there is an
 * array of places, which is read while nothing else runs and never kept.
 */
export interface ClusterMap {
  readonly clusterBytes: number;
  /** Entries of a table. */
  readonly perTable: number;
  /** The table if it is in memory; null: there is none, all of it is unallocated. */
  tryTable(index: number): Float64Array | null | undefined;
  /** The same, read when it must be. Throws what reading throws, EINVAL or EIO for damage. */
  table(index: number): Promise<Float64Array | null>;
  /**
   * Changes entries [entry, entry + count): `place`, and where it is one, those after it. The table
   * is in memory, or there is none and it is made. Throws EFBIG where the file is full.
   */
  set(index: number, entry: number, place: number, count: number): void;
  /** Before the first change: undefined when there is nothing to wait for. */
  prepare(): Promise<void> | undefined;
  /** Place for up to `clusters` clusters. Throws EFBIG where entries cannot name it. */
  take(clusters: number): Taken;
  /** Nothing was stored in these after all. */
  giveBack(host: number, clusters: number): void;
  /**
   * Entries [entry, entry + count) hold nothing any more; their places are not given out again
   * while requests may reach them. Absent: clusters keep their place.
   */
  free?(index: number, entry: number, count: number): void;
  /** So much has changed that it should be stored before more does. */
  readonly isFull: boolean;
  /** Stores what changed, in the format's order. Throws; it is tried again then. */
  store(): Promise<void>;
}
