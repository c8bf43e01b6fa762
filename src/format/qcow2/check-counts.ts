/**
 * References to host clusters, counted by `check`. Memory follows what is referenced, not the
 * size of the file: a byte for each cluster in areas of 65536 clusters that hold any.
 */

/** Clusters of an area; its counts are allocated together. */
const AREA_BITS = 16;
export const AREA = 1 << AREA_BITS;
/** A byte of this value says that the count is in the map of large ones. */
const LARGE = 255;
/** Largest count that is a byte of its area. */
export const MAX_BYTE_COUNT = LARGE - 1;

/** Most clusters that `check` looks at: QEMU's limit, and that of the area list. */
export const MAX_CHECK_CLUSTERS = 0x7fff_ffff;

export class ClusterCounts {
  readonly #areas: (Uint8Array | undefined)[] = [];
  readonly #large = new Map<number, number>();
  /** One past the highest cluster that was counted. */
  end = 0;
  /** Some cluster is counted more than once. */
  hasShared = false;

  /** How often cluster `index` is counted. */
  get(index: number): number {
    const area = this.#areas[index >>> AREA_BITS];
    if (area === undefined) return 0;
    const count = area[index & (AREA - 1)]!;
    return count === LARGE ? (this.#large.get(index) ?? LARGE) : count;
  }

  set(index: number, count: number): void {
    const area = this.#area(index);
    if (count > 1) this.hasShared = true;
    if (count < LARGE) {
      area[index & (AREA - 1)] = count;
      this.#large.delete(index);
    } else {
      area[index & (AREA - 1)] = LARGE;
      this.#large.set(index, count);
    }
    if (index >= this.end) this.end = index + 1;
  }

  /** Adds one reference if the count is below `max`; tells whether it was. */
  increment(index: number, max: number): boolean {
    const count = this.get(index);
    if (count >= max) return false;
    this.set(index, count + 1);
    return true;
  }

  /**
   * The bytes that count the clusters beside `index`, from a multiple of AREA on, for who adds
   * to them up to MAX_BYTE_COUNT and then calls noteScan().
   */
  area(index: number): Uint8Array {
    return this.#area(index);
  }

  /** Bytes of areas were added to: the highest cluster (-1: none), and whether one was shared. */
  noteScan(highest: number, isShared: boolean): void {
    if (highest >= this.end) this.end = highest + 1;
    if (isShared) this.hasShared = true;
  }

  /** First cluster at or after `index` whose area holds any count; Infinity when there is none. */
  nextUsedArea(index: number): number {
    let at = index;
    while (at < this.end && this.#areas[at >>> AREA_BITS] === undefined) {
      at = ((at >>> AREA_BITS) + 1) * AREA;
    }
    return at < this.end ? at : Infinity;
  }

  /** The counts of the area that holds cluster `index`, if they all fit bytes. */
  tryBytes(index: number): Uint8Array | undefined {
    return this.#large.size === 0 ? this.#areas[index >>> AREA_BITS] : undefined;
  }

  #area(index: number): Uint8Array {
    const at = index >>> AREA_BITS;
    return (this.#areas[at] ??= new Uint8Array(AREA));
  }
}

/** A set of clusters, as bits in areas that are allocated when needed. */
export class ClusterSet {
  readonly #areas: (Uint8Array | undefined)[] = [];

  has(index: number): boolean {
    const area = this.#areas[index >>> AREA_BITS];
    return area !== undefined && (area[(index & (AREA - 1)) >>> 3]! & (1 << (index & 7))) !== 0;
  }

  add(index: number): void {
    const area = (this.#areas[index >>> AREA_BITS] ??= new Uint8Array(AREA / 8));
    area[(index & (AREA - 1)) >>> 3]! |= 1 << (index & 7);
  }
}
