/** Beginning a run: which clusters, where in the file, and what their unwritten parts hold. */
import type { MetaTable } from './cache.js';
import type { L2Entry } from './entry.js';
import {
  clusterKind,
  countEmpty,
  entryOffset,
  hasHostCluster,
  isCompressed,
  isContradiction,
  isCopied,
  Kind,
  readEntry,
} from './entry.js';
import type { Qcow2Image } from './image.js';
import { hex, invalidEntry, NO_HOST } from './mapping.js';
import { Run, Source } from './run.js';
import { tryWritableSlice, useWritableSlice } from './tables.js';
import type { GuestOffset, HostOffset } from './units.js';

/** What the old entry of a cluster means for one that is written now. */
interface Plan {
  /** Place that the cluster has already and may use alone; NO_HOST: allocate one. */
  readonly reuse: HostOffset;
  /** The unwritten rest must be copied (else it is zeroes). */
  readonly copies: boolean;
  /** Must not be joined with other clusters: it has `must` or `present` parts. */
  readonly single: boolean;
}

/**
 * Begins a run at the cluster of `guest`, with room up to `wantEnd` if neighbours are alike and
 * space allows. `after`: host place to continue when it is free (NO_HOST: anywhere). Called with
 * `image.lock` held; no run may exist at `guest`. Throws BlockError; then nothing is allocated.
 */
export async function makeRun(
  image: Qcow2Image,
  guest: GuestOffset,
  wantEnd: GuestOffset,
  after: HostOffset,
): Promise<Run> {
  const { g, mapping } = image;
  const first = Math.floor(guest / g.clusterSize);
  const found = await useWritableSlice(image, guest, (table, index): Found | string => {
    const most = Math.min(Math.ceil(wantEnd / g.clusterSize) - first, mapping.sliceEntries - index);
    return findAlike(image, table, index, first, most);
  });
  if (typeof found === 'string') throw await image.corrupt(true, found);
  const { entry, plan } = found;
  const place = await findPlace(image, first, found.count, plan, after);
  return newRun(image, { ...place, first }, plan, entry);
}

function newRun(
  image: Qcow2Image,
  place: Place & { readonly first: number },
  plan: Plan,
  entry: L2Entry,
): Run {
  const { g, crypto } = image;
  const { first, count, host, isNew } = place;
  // What the file was never given does not decrypt to zeroes.
  const fresh = place.fresh && crypto === undefined;
  return new Run({
    first,
    count,
    host,
    clusterSize: g.clusterSize,
    isNew,
    source: plan.copies ? Source.copy : fresh ? Source.none : Source.zero,
    unit: g.subclusterSize,
    must: mustRanges(image, entry, first),
    present: plan.reuse === NO_HOST ? [] : storedRanges(image, entry, first),
  });
}

/** The first cluster's entry, what to do with it, and how many clusters are alike. */
interface Found {
  readonly entry: L2Entry;
  readonly plan: Plan;
  readonly count: number;
}

/** Looks at up to `most` entries from `index` on; a text says what is wrong with the first. */
function findAlike(
  image: Qcow2Image,
  table: MetaTable,
  index: number,
  first: number,
  most: number,
): Found | string {
  const { g, writes } = image;
  const { view } = table;
  const entry = readEntry(g, view, index);
  if (isContradiction(entry, image.hasDataFile)) return invalidEntry(table.offset, index);
  const plan = tryPlan(image, entry, first);
  if (typeof plan === 'string') return plan;
  let count = 1;
  const next = (first + 1) * g.clusterSize;
  const isNew = !plan.single && !plan.copies && plan.reuse === NO_HOST;
  if (isNew && most > 1 && !isBacked(image, next)) {
    // Mostly nothing is there, as far as the write goes.
    const bytes = (most - 1) * g.clusterSize;
    const free = writes.runs.firstIn(next, bytes) === undefined;
    if (free) count += countEmpty(g, view, index + 1, most - 1);
  }
  while (!plan.single && count < most && writes.runs.at(first + count) === undefined) {
    const following = readEntry(g, view, index + count);
    if (isContradiction(following, image.hasDataFile)) break;
    const other = tryPlan(image, following, first + count);
    if (typeof other === 'string' || !alike(plan, other, count * g.clusterSize)) break;
    count++;
  }
  return { entry, plan, count };
}

function alike(plan: Plan, next: Plan, distance: number): boolean {
  if (next.single || next.copies !== plan.copies) return false;
  if (plan.reuse === NO_HOST) return next.reuse === NO_HOST;
  return next.reuse === plan.reuse + distance;
}

/** The plan for a cluster, or what is wrong with its entry. */
function tryPlan(image: Qcow2Image, entry: L2Entry, cluster: number): Plan | string {
  const { g, hasDataFile } = image;
  const guest = cluster * g.clusterSize;
  if (isCompressed(entry)) return { reuse: NO_HOST, copies: true, single: g.extendedL2 };
  const hosted = hasHostCluster(entry, hasDataFile);
  const host = hosted ? entryOffset(entry.hi, entry.lo) : NO_HOST;
  const kind = clusterKind(entry, hasDataFile);
  if (hosted && host % g.clusterSize !== 0) {
    const what = kind === Kind.zero ? 'Preallocated zero' : 'Data';
    return `${what} cluster offset ${hex(host)} unaligned (guest offset: ${hex(guest)})`;
  }
  const backed = isBacked(image, guest);
  if (g.extendedL2) {
    const missing = ~(entry.allocated | entry.zeroes) !== 0;
    if (!hosted) return { reuse: NO_HOST, copies: backed && missing, single: false };
    if (isCopied(entry)) return { reuse: host, copies: backed && missing, single: true };
    return { reuse: NO_HOST, copies: true, single: true };
  }
  if (kind === Kind.zero) {
    return { reuse: hosted && isCopied(entry) ? host : NO_HOST, copies: false, single: false };
  }
  if (kind === Kind.data) {
    // With the copied flag this is no allocation at all; a data file's clusters always have it.
    const own = isCopied(entry) || hasDataFile;
    return { reuse: own ? host : NO_HOST, copies: true, single: false };
  }
  return { reuse: NO_HOST, copies: backed, single: false };
}

/** Whether a backing file holds something at the cluster of `guest`. */
function isBacked(image: Qcow2Image, guest: GuestOffset): boolean {
  const { backing } = image;
  return backing !== undefined && guest < Math.min(backing.size, image.size);
}

/** Parts that a new place must hold because the old one is given up. */
function mustRanges(image: Qcow2Image, entry: L2Entry, cluster: number): [number, number][] {
  const { g, hasDataFile } = image;
  const guest = cluster * g.clusterSize;
  if (!g.extendedL2) return [];
  if (isCompressed(entry)) return [[guest, guest + g.clusterSize]];
  if (!hasHostCluster(entry, hasDataFile) || isCopied(entry)) return [];
  return storedRanges(image, entry, cluster);
}

/** Allocated subclusters of an extended entry, as guest ranges. */
function storedRanges(image: Qcow2Image, entry: L2Entry, cluster: number): [number, number][] {
  const { g } = image;
  if (!g.extendedL2) return [];
  const guest = cluster * g.clusterSize;
  const out: [number, number][] = [];
  for (let sc = 0; sc < g.subclustersPerCluster; sc++) {
    if ((entry.allocated & (1 << sc)) === 0) continue;
    const from = guest + sc * g.subclusterSize;
    const last = out[out.length - 1];
    if (last !== undefined && last[1] === from) last[1] += g.subclusterSize;
    else out.push([from, from + g.subclusterSize]);
  }
  return out;
}

/**
 * As makeRun, for the usual case that all tables are in memory and new clusters come from the
 * first free place; undefined otherwise, and then nothing has changed.
 */
export function tryMakeRun(
  image: Qcow2Image,
  guest: GuestOffset,
  wantEnd: GuestOffset,
  after: HostOffset,
): Run | undefined {
  const { g, mapping, alloc, file, overlap, dataGrowth } = image;
  const slice = tryWritableSlice(image, guest);
  if (slice === undefined || image.hasDataFile) return undefined;
  const { table, index } = slice;
  const first = Math.floor(guest / g.clusterSize);
  const most = Math.min(Math.ceil(wantEnd / g.clusterSize) - first, mapping.sliceEntries - index);
  const found = findAlike(image, table, index, first, most);
  if (typeof found === 'string') return undefined;
  const { plan, entry, count } = found;
  if (plan.single || plan.reuse !== NO_HOST) return undefined;
  if (after !== NO_HOST && !alloc.isNext(after)) return undefined;
  if (file.isDebugged) return undefined;
  const host = alloc.tryAllocate(count);
  if (host === undefined) return undefined;
  const bytes = count * g.clusterSize;
  // What is wrong, if it is, the slow way finds out and tells.
  if (!overlap.isSurelyFree(host, bytes)) {
    alloc.unlinkedDurably([{ host, bytes, reason: 'never' }]);
    return undefined;
  }
  const fresh = dataGrowth.take(host, bytes);
  return newRun(image, { first, count, host, isNew: true, fresh }, plan, entry);
}

interface Place {
  readonly host: HostOffset;
  readonly count: number;
  readonly isNew: boolean;
  /** Reads as zeroes as it is. */
  readonly fresh: boolean;
}

async function findPlace(
  image: Qcow2Image,
  first: number,
  count: number,
  plan: Plan,
  after: HostOffset,
): Promise<Place> {
  const { g, alloc, overlap, dataGrowth } = image;
  const bytes = count * g.clusterSize;
  if (plan.reuse !== NO_HOST) {
    await overlap.checkData(plan.reuse, bytes);
    return { host: plan.reuse, count, isNew: false, fresh: false };
  }
  if (image.hasDataFile) {
    const host = first * g.clusterSize;
    return { host, count, isNew: false, fresh: dataGrowth.take(host, bytes) };
  }
  let got = 0;
  let host = after;
  if (after !== NO_HOST) got = await alloc.allocateAt(after, count);
  if (got === 0) {
    host = await alloc.allocate(count);
    got = count;
  }
  await overlap.check(0, host, got * g.clusterSize);
  return { host, count: got, isNew: true, fresh: dataGrowth.take(host, got * g.clusterSize) };
}
