/**
 * Where everything lies in a new image: arithmetic only, for `create` and `measure`. Pure.
 *
 * Clusters of a new image, in this order:
 *   header | refcount table | refcount blocks | L1 table | encryption header
 *   then, when clusters are preallocated, each L2 table followed by the data it maps.
 * Small images have one refcount block, so that the L1 table is cluster 3, where other programs
 * put it too.
 */
import type { Geometry } from './units.js';
import { clustersFor, l1EntriesFor, roundUp } from './units.js';

/** Sizes of the refcount structures that cover some clusters and themselves. */
export interface RefcountArea {
  readonly blocks: number;
  readonly tableClusters: number;
}

/**
 * Refcount structures for `clusters` other clusters, their own included: the smallest solution,
 * found by adding what the structures themselves need until nothing changes.
 */
export function refcountArea(g: Geometry, clusters: number): RefcountArea {
  let blocks = 0;
  let tableClusters = 0;
  for (;;) {
    const total = clusters + blocks + tableClusters;
    const needBlocks = Math.ceil(total / g.refcountBlockEntries);
    const needTable = Math.ceil(needBlocks / g.reftableClusterEntries);
    if (needBlocks === blocks && needTable === tableClusters) return { blocks, tableClusters };
    blocks = needBlocks;
    tableClusters = needTable;
  }
}

/** What a new image is to hold. */
export interface LayoutRequest {
  readonly size: number;
  /** Allocate L2 tables and, without `dataFile`, data clusters for the whole disk. */
  readonly preallocate: boolean;
  readonly dataFile: boolean;
  /** Bytes of the encryption header; 0: none. */
  readonly cryptoBytes: number;
}

/** A new image; counts are clusters unless the name says otherwise, offsets bytes. */
export interface NewLayout {
  readonly reftableOffset: number;
  readonly reftableClusters: number;
  readonly refblockOffset: number;
  readonly refblocks: number;
  readonly l1Offset: number;
  readonly l1Entries: number;
  readonly cryptoOffset: number;
  /** First L2 table; the next one follows after `l2Stride` bytes. */
  readonly l2Offset: number;
  readonly l2Tables: number;
  readonly l2Stride: number;
  /** Guest clusters that are preallocated. */
  readonly dataClusters: number;
  /** All clusters that are in use, from 0 on. */
  readonly clusters: number;
  /** Length that the file must at least have. */
  readonly fileBytes: number;
}

/** Lays a new image out. */
export function newLayout(g: Geometry, request: LayoutRequest): NewLayout {
  const l1Entries = l1EntriesFor(g, request.size);
  const l1Clusters = clustersFor(g, l1Entries * 8);
  const cryptoClusters = clustersFor(g, request.cryptoBytes);
  const dataClusters = request.preallocate ? clustersFor(g, request.size) : 0;
  const l2Tables = Math.ceil(dataClusters / g.l2Entries);
  const stored = request.dataFile ? 0 : dataClusters;
  const rest = 1 + l1Clusters + cryptoClusters + l2Tables + stored;
  const area = refcountArea(g, rest);
  const refblockOffset = (1 + area.tableClusters) * g.clusterSize;
  const l1Offset = refblockOffset + area.blocks * g.clusterSize;
  const cryptoOffset = l1Offset + l1Clusters * g.clusterSize;
  const clusters = rest + area.blocks + area.tableClusters;
  // The last cluster of the L1 table need not be there in full.
  const isEmpty = dataClusters === 0 && cryptoClusters === 0;
  return {
    reftableOffset: g.clusterSize,
    reftableClusters: area.tableClusters,
    refblockOffset,
    refblocks: area.blocks,
    l1Offset,
    l1Entries,
    cryptoOffset,
    l2Offset: cryptoOffset + cryptoClusters * g.clusterSize,
    l2Tables,
    l2Stride: (1 + (request.dataFile ? 0 : g.l2Entries)) * g.clusterSize,
    dataClusters,
    clusters,
    fileBytes: isEmpty ? l1Offset + l1Entries * 8 : clusters * g.clusterSize,
  };
}

/**
 * Bytes of an image whose guest clusters are all allocated, as `measure` tells: header, L1 and L2
 * tables of a disk of `size` bytes, refcount structures for all of it, and the data.
 */
export function fullyAllocatedBytes(g: Geometry, size: number): number {
  const data = roundUp(size, g.clusterSize);
  const l2Entries = roundUp(data / g.clusterSize, g.l2Entries);
  const l2Bytes = l2Entries * g.l2EntrySize;
  const l1Bytes = roundUp(l2Bytes / g.clusterSize, g.clusterSize / 8) * 8;
  const meta = g.clusterSize + l2Bytes + l1Bytes;
  const area = refcountArea(g, (meta + data) / g.clusterSize);
  return meta + data + (area.blocks + area.tableClusters) * g.clusterSize;
}
