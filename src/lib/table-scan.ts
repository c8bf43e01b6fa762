/**
 * The two inner loops of checking an image with many clusters. Hosts with native code have the
 * same functions in it (see Hot); a test compares both.
 */

/** Numbers that a walk over tables starts from and adds to; in one array for native code. */
export const Scan = {
  /** Number of the cluster that `counts[0]` counts. */
  first: 0,
  /** log2 of the bytes of a cluster. */
  clusterBits: 1,
  /** An entry whose cluster is counted so often already ends the scan. */
  max: 2,
  /** Cluster that comes next when data lies in order; 0: none was seen. */
  next: 3,
  /** Entries counted. */
  allocated: 4,
  /** Those of them that did not point to `next`. */
  fragmented: 5,
  /** Highest cluster counted; -1: none. */
  highest: 6,
  /** 1: some cluster was counted before. */
  shared: 7,
  size: 8,
} as const;

/**
 * Counts the clusters that big-endian 64-bit entries of `table` from index `from` on point to.
 * Entries of 0 are passed. The scan ends at the first one that is not bit 63 and the offset of a
 * cluster that `counts` has a byte for, or whose cluster is counted `max` times; returns its
 * index, or the number of entries.
 */
// hot: bench check
export function countPlain(
  table: Uint8Array,
  from: number,
  counts: Uint8Array,
  scan: Float64Array,
): number {
  const entries = table.byteLength >>> 3;
  const view = new DataView(table.buffer, table.byteOffset, table.byteLength);
  const first = scan[Scan.first]!;
  const clusterBits = scan[Scan.clusterBits]!;
  const max = scan[Scan.max]!;
  const shift = 32 - clusterBits;
  const inCluster = 2 ** clusterBits - 1;
  // Below this the number of the cluster fits 31 bits.
  const hiEnd = 2 ** (clusterBits - 1);
  let next = scan[Scan.next]!;
  let allocated = 0;
  let fragmented = 0;
  let highest = scan[Scan.highest]!;
  let i = from;
  for (; i < entries; i++) {
    // Signed, for such numbers are small integers to V8; negative with bit 63.
    const hi = view.getInt32(i * 8);
    const lo = view.getInt32(i * 8 + 4);
    if ((hi | lo) === 0) continue;
    const high = hi & 0x7fff_ffff;
    if (hi >= 0 || high >= hiEnd || (lo & inCluster) !== 0) break;
    const cluster = (high << shift) | (lo >>> clusterBits);
    const count = cluster === 0 ? max : (counts[cluster - first] ?? max);
    if (count >= max) break;
    counts[cluster - first] = count + 1;
    if (count !== 0) scan[Scan.shared] = 1;
    if (cluster > highest) highest = cluster;
    allocated++;
    if (next !== 0 && cluster !== next) fragmented++;
    next = cluster + 1;
  }
  scan[Scan.next] = next;
  scan[Scan.allocated]! += allocated;
  scan[Scan.fragmented]! += fragmented;
  scan[Scan.highest] = highest;
  return i;
}

/** How many of the first `counts` equal the big-endian 16-bit numbers of `block`. */
// hot: bench check
export function equalCounts(block: Uint8Array, counts: Uint8Array): number {
  const n = Math.min(counts.byteLength, block.byteLength >>> 1);
  let i = 0;
  while (i < n && block[2 * i + 1] === counts[i] && block[2 * i] === 0) i++;
  return i;
}
