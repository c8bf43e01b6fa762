/**
 * A longer refcount table: written to a new place, with blocks that count it, before the header
 * names it. Rare (first at 16 TiB of 64 KiB clusters), so it is done at once and not batched.
 */
import { Iov } from '../../lib/iov.js';
import { BlockError } from '../../block/errors.js';
import { switchHeader } from './header-switch.js';
import type { Qcow2Image } from './image.js';
import { Limit } from './layout.js';
import type { Geometry } from './units.js';

interface Plan {
  /** First host cluster of the new area: blocks first, then the table. */
  readonly first: number;
  /** Blocks of the area, and the index of the first. */
  readonly blocks: number;
  readonly firstIndex: number;
  readonly entries: number;
  readonly tableClusters: number;
}

/**
 * Grows the table so that it reaches past cluster `from`. The new area begins with the first block
 * that counts only clusters from there on, where nothing is counted yet. The old table is free
 * afterwards. Called with `image.lock` held.
 *
 * If it throws, the image on disk still has its old table, and at most clusters leaked.
 */
export async function growRefcountTable(image: Qcow2Image, from: number): Promise<void> {
  await image.writeback.alone(() => grow(image, from));
}

async function grow(image: Qcow2Image, from: number): Promise<void> {
  const { g, refcounts, file, growth, overlap } = image;
  const event = file.debugEvent('reftable_grow');
  if (event !== undefined) await event;
  const plan = planArea(image, from);
  const areaBytes = (plan.blocks + plan.tableClusters) * g.clusterSize;
  const start = plan.first * g.clusterSize;
  await overlap.check(0, start, areaBytes);
  growth.take(start, areaBytes);

  const table = refcounts.copyTable(plan.entries);
  const old = { offset: refcounts.tableOffset, bytes: refcounts.size * 8 };
  const blocks = makeBlocks(image, plan);
  blocks.forEach((block, i) => {
    table[plan.firstIndex + i] = block.offset;
  });
  // Whatever the new table names must be on disk before the header names the table.
  await image.writeback.refcountBlocks();
  const writing = file.debugEvent('refblock_alloc_write_blocks');
  if (writing !== undefined) await writing;
  for (const block of blocks) await image.writeMeta(block.offset, Iov.of(block.bytes));
  const tableOffset = start + plan.blocks * g.clusterSize;
  const writingTable = file.debugEvent('refblock_alloc_write_table');
  if (writingTable !== undefined) await writingTable;
  await image.writeMeta(tableOffset, Iov.of(encode(table)));
  await file.flush();
  const switching = file.debugEvent('refblock_alloc_switch_table');
  if (switching !== undefined) await switching;
  await switchHeader(image, {
    refcount_table_offset: tableOffset,
    refcount_table_clusters: plan.tableClusters,
  });
  refcounts.replaceTable(tableOffset, table);
  for (const block of blocks) refcounts.cache.add(block.offset, block.bytes);
  // The header is durable: nothing names the old table any more.
  await image.alloc.releaseUnlinked(old.offset, old.bytes, 'other');
}

/**
 * As QEMU lays it out: the blocks count all that lies before the area, the area itself, and half
 * as much again as the table takes; the table has room for half as many blocks more.
 */
function planArea(image: Qcow2Image, from: number): Plan {
  const { g } = image;
  const firstIndex = Math.ceil(from / g.refcountBlockEntries);
  const first = firstIndex * g.refcountBlockEntries;
  const exact = countedBlocks(g, first);
  const total = countedBlocks(g, first + Math.ceil(exact.tableClusters / 2)).blocks;
  const blocks = total - firstIndex;
  const tableClusters = Math.ceil((total + Math.ceil(total / 2)) / g.reftableClusterEntries);
  if (tableClusters * g.clusterSize > Limit.maxReftableBytes) {
    image.graph.warn(
      'qcow2: This operation would make the refcount table grow beyond the maximum size ' +
        'supported by QEMU, aborting',
    );
    throw new BlockError('EFBIG');
  }
  const entries = tableClusters * g.reftableClusterEntries;
  return { first, blocks, firstIndex, entries, tableClusters };
}

/** Refcount blocks that count `clusters` clusters, themselves and their table; its clusters. */
function countedBlocks(g: Geometry, clusters: number): { blocks: number; tableClusters: number } {
  let blocks = 0;
  let tableClusters = 0;
  while (true) {
    const needed = Math.ceil((clusters + tableClusters + blocks) / g.refcountBlockEntries);
    const table = Math.ceil(needed / g.reftableClusterEntries);
    if (needed === blocks && table === tableClusters) return { blocks, tableClusters };
    blocks = needed;
    tableClusters = table;
  }
}

interface NewBlock {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

function makeBlocks(image: Qcow2Image, plan: Plan): NewBlock[] {
  const { g, refcounts } = image;
  const out: NewBlock[] = [];
  const end = plan.first + plan.blocks + plan.tableClusters;
  for (let i = 0; i < plan.blocks; i++) {
    const bytes = new Uint8Array(g.clusterSize);
    const view = new DataView(bytes.buffer);
    const base = (plan.firstIndex + i) * g.refcountBlockEntries;
    const to = Math.min(end, base + g.refcountBlockEntries);
    for (let c = Math.max(plan.first, base); c < to; c++) refcounts.codec.set(view, c - base, 1);
    out.push({ offset: (plan.first + i) * g.clusterSize, bytes });
  }
  return out;
}

function encode(table: Float64Array): Uint8Array {
  const bytes = new Uint8Array(table.length * 8);
  const view = new DataView(bytes.buffer);
  table.forEach((offset, i) => {
    view.setUint32(i * 8, Math.floor(offset / 0x1_0000_0000));
    view.setUint32(i * 8 + 4, offset % 0x1_0000_0000);
  });
  return bytes;
}
