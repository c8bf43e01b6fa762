/**
 * `amend -o refcount_bits=…`: new refcount structures of another width beside the old ones.
 *
 *  AR1  The new table and blocks lie in clusters that nothing uses; the old structures count them
 *       in memory only, so a crash leaves the image as it was.
 *  AR2  They count everything that is in use, themselves and the old structures included, and are
 *       durable before one sector of the header names them, together with the width.
 *  AR3  The old structures are given back after that; a crash before leaks them.
 */
import type { AmendContext } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { Iov } from '../../lib/iov.js';
import { MetaCache } from './cache.js';
import { switchHeader } from './header-switch.js';
import type { Qcow2Image } from './image.js';
import { Limit } from './layout.js';
import { countFree, refcountCodec } from './refcount-codec.js';
import type { Geometry } from './units.js';
import { clustersFor, geometry } from './units.js';

/** Where the new structures go. */
interface Plan {
  readonly g: Geometry;
  /** Host offset of each new block, by its index. */
  readonly blocks: Map<number, number>;
  tableOffset: number;
  tableClusters: number;
}

/**
 * Gives the image refcounts of `1 << order` bits. Throws BlockError: EINVAL where a count does not
 * fit, EFBIG where the new table would be too long; nothing has changed then.
 */
export async function changeRefcountOrder(
  image: Qcow2Image,
  order: number,
  context: AmendContext,
): Promise<void> {
  await image.exclusive(async () => {
    const { clusterBits, extendedL2 } = image.g;
    const g = geometry(clusterBits, order, extendedL2);
    await checkCounts(image, g);
    const plan: Plan = { g, blocks: new Map(), tableOffset: 0, tableClusters: 0 };
    try {
      const passes = await place(image, plan, context);
      await write(image, plan);
      context.onProgress?.(passes + 1, passes + 1);
      await image.file.flush();
      await switchHeader(image, {
        refcount_order: order,
        refcount_table_offset: plan.tableOffset,
        refcount_table_clusters: plan.tableClusters,
      });
    } catch (e) {
      if (!image.unusable) await giveUp(image, plan);
      throw e;
    }
    await takeOver(image, plan);
  });
}

/** Refuses a width in which some count has no room. */
async function checkCounts(image: Qcow2Image, g: Geometry): Promise<void> {
  const { refcounts } = image;
  if (g.refcountMax >= image.g.refcountMax) return;
  const { refcountBlockEntries: entries, clusterSize } = image.g;
  for (let index = 0; index < refcounts.size; index++) {
    const block = await refcounts.block(index);
    if (block === null) continue;
    for (let i = 0; i < entries; i++) {
      const count = refcounts.codec.get(block.view, i);
      if (count <= g.refcountMax) continue;
      const offset = (index * entries + i) * clusterSize;
      throw new BlockError(
        'EINVAL',
        `Cannot decrease refcount entry width to ${g.refcountBits} bits: ` +
          `Cluster at offset 0x${offset.toString(16)} has a refcount of ${count}`,
      );
    }
  }
}

/**
 * Allocates blocks and table until they have room for what they count, themselves included.
 * Returns the passes that it took.
 */
async function place(image: Qcow2Image, plan: Plan, context: AmendContext): Promise<number> {
  const { alloc, growth } = image;
  const { clusterSize, reftableClusterEntries } = plan.g;
  // Known so far: a pass that allocates, one that finds nothing missing, and one that writes.
  let total = 3;
  for (let passes = 1; ; passes++) {
    const missing = (await usedBlocks(image, plan.g)).filter((i) => !plan.blocks.has(i));
    for (const index of missing) {
      const host = await alloc.allocate(1);
      growth.take(host, clusterSize);
      plan.blocks.set(index, host);
    }
    let entries = 0;
    for (const index of plan.blocks.keys()) entries = Math.max(entries, index + 1);
    const clusters = Math.ceil(entries / reftableClusterEntries);
    if (clusters * clusterSize > Limit.maxReftableBytes) throw new BlockError('EFBIG');
    context.onProgress?.(passes, total);
    if (missing.length === 0 && clusters === plan.tableClusters) return passes;
    if (passes + 1 >= total) context.onProgress?.(passes, ++total);
    if (clusters === plan.tableClusters) continue;
    if (plan.tableClusters > 0) {
      await alloc.releaseNow(plan.tableOffset, plan.tableClusters * clusterSize);
      plan.tableClusters = 0;
    }
    plan.tableOffset = await alloc.allocate(clusters);
    plan.tableClusters = clusters;
    growth.take(plan.tableOffset, clusters * clusterSize);
  }
}

/** Indexes of blocks of the new width in which some count is not 0, ascending. */
async function usedBlocks(image: Qcow2Image, g: Geometry): Promise<number[]> {
  const { refcounts } = image;
  const per = image.g.refcountBlockEntries;
  const out: number[] = [];
  for (let index = 0; index < refcounts.size; index++) {
    const block = await refcounts.block(index);
    if (block === null) continue;
    const end = (index + 1) * per;
    for (let at = index * per; at < end;) {
      const next = Math.floor(at / g.refcountBlockEntries);
      const to = Math.min(end, (next + 1) * g.refcountBlockEntries);
      const from = at - index * per;
      const length = to - at;
      const isUsed = countFree(refcounts.codec, block.view, from, from + length) < length;
      if (isUsed && out[out.length - 1] !== next) out.push(next);
      at = to;
    }
  }
  return out;
}

/** Writes the new blocks and the table that names them. */
async function write(image: Qcow2Image, plan: Plan): Promise<void> {
  const { overlap } = image;
  const { clusterSize } = plan.g;
  const table = new DataView(new ArrayBuffer(plan.tableClusters * clusterSize));
  for (const [index, host] of plan.blocks) {
    const bytes = await newBlock(image, plan.g, index);
    await overlap.check(0, host, clusterSize);
    await image.writeMeta(host, Iov.of(bytes));
    table.setUint32(index * 8, Math.floor(host / 0x1_0000_0000));
    table.setUint32(index * 8 + 4, host % 0x1_0000_0000);
  }
  await overlap.check(0, plan.tableOffset, table.byteLength);
  await image.writeMeta(plan.tableOffset, Iov.of(new Uint8Array(table.buffer)));
}

/** Counts of block `index` of the new width. */
async function newBlock(image: Qcow2Image, g: Geometry, index: number): Promise<Uint8Array> {
  const { refcounts } = image;
  const per = image.g.refcountBlockEntries;
  const codec = refcountCodec(g.refcountOrder);
  const bytes = new Uint8Array(g.clusterSize);
  const view = new DataView(bytes.buffer);
  const first = index * g.refcountBlockEntries;
  const end = first + g.refcountBlockEntries;
  for (let at = first; at < end;) {
    const old = Math.floor(at / per);
    const to = Math.min(end, (old + 1) * per);
    const block = await refcounts.block(old);
    if (block !== null) {
      for (let c = at; c < to; c++) {
        const count = refcounts.codec.get(block.view, c - old * per);
        if (count !== 0) codec.set(view, c - first, count);
      }
    }
    at = to;
  }
  return bytes;
}

async function giveUp(image: Qcow2Image, plan: Plan): Promise<void> {
  const { clusterSize } = plan.g;
  for (const host of plan.blocks.values()) await image.alloc.releaseNow(host, clusterSize);
  if (plan.tableClusters === 0) return;
  await image.alloc.releaseNow(plan.tableOffset, plan.tableClusters * clusterSize);
}

/** The header names the new structures: so does memory, and the old ones are given back (AR3). */
async function takeOver(image: Qcow2Image, plan: Plan): Promise<void> {
  const { refcounts, alloc, settings, writeback } = image;
  const old = {
    offset: refcounts.tableOffset,
    bytes: clustersFor(image.g, refcounts.size * 8) * image.g.clusterSize,
    blocks: [...refcounts.blockOffsets()],
  };
  const table = new Float64Array(plan.tableClusters * plan.g.reftableClusterEntries);
  for (const [index, host] of plan.blocks) table[index] = host;
  image.g = plan.g;
  const read = (offset: number, into: Iov): Promise<void> => image.readMeta(offset, into);
  refcounts.resizeCache(new MetaCache(plan.g.clusterSize, settings.refcountBlocks, read));
  refcounts.replaceTable(plan.tableOffset, table);
  for (const offset of old.blocks) alloc.free(offset, plan.g.clusterSize, 'other');
  alloc.free(old.offset, old.bytes, 'other');
  await writeback.everything();
  await image.file.flush();
}
