/** The second part of compacting: what lies at the end of the file moves into holes (CM3-CM6). */
import type { CompactContext } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { Iov } from '../../lib/iov.js';
import { ClusterCounts, ClusterSet } from './check-counts.js';
import { rebuildRefcounts } from './check-rebuild.js';
import { CheckRun } from './check-run.js';
import { readReftable } from './check-tables.js';
import { CompactPlan } from './compact-plan.js';
import type { Move } from './compact-plan.js';
import { walkReferences } from './compact-references.js';
import type { Walk } from './compact-references.js';
import type { Qcow2Image } from './image.js';
import { refcountCodec } from './refcount-codec.js';
import { roundDown, roundUp } from './units.js';

/** Bytes that are copied at a time; at least a cluster. */
const PIECE = 2 * 1024 * 1024;
/** Rounds: each makes the file shorter or is the last. */
const MAX_ROUNDS = 16;
const SECTOR = 512;

export class Relocation {
  readonly #image: Qcow2Image;
  readonly #context: CompactContext;
  readonly #run: CheckRun;
  #plan: CompactPlan;
  /** Bytes that were moved. */
  moved = 0;

  constructor(image: Qcow2Image, context: CompactContext) {
    this.#image = image;
    this.#context = context;
    const { file, header, g } = image;
    const writeFields = async (): Promise<void> => {
      await image.writeFields();
      await image.file.flush();
    };
    this.#run = new CheckRun(
      { file, header, g, hot: image.host.hot, writeFields },
      { fixLeaks: false, fixErrors: false, report: () => undefined },
    );
    this.#plan = new CompactPlan(g, new ClusterCounts(), () => false);
  }

  /** Moves until the end of the file cannot come nearer, then cuts it. */
  async run(): Promise<void> {
    for (let round = 0; round < MAX_ROUNDS; round++) {
      await this.#analyse();
      const before = this.#plan.highest();
      for (;;) {
        this.#context.check();
        const moves = this.#plan.next();
        if (moves.length === 0) break;
        await this.#batch(moves);
      }
      await this.#remakeRefcounts();
      if (this.#plan.highest() >= before) break;
    }
    await this.#cut();
  }

  /** Counts all references and finds what belongs together. */
  async #analyse(): Promise<void> {
    const { g } = this.#image;
    this.#run.beginPass();
    await readReftable(this.#run);
    const { reftable } = this.#run;
    const isCounted = (cluster: number): boolean => {
      const at = Math.floor(cluster / g.refcountBlockEntries) * 8;
      if (at >= reftable.byteLength) return false;
      return (reftable.getUint32(at) | reftable.getUint32(at + 4)) !== 0;
    };
    const plan = new CompactPlan(g, this.#run.counts, isCounted);
    this.#plan = plan;
    this.#markRefcounts();
    await walkReferences(this.#image, {
      use: (use, host, bytes, times) => {
        if (bytes > 0) plan.use(use, host, bytes, times);
      },
      place: (host) => host,
    });
  }

  /** The refcount structures in force occupy their clusters, but are in no move. */
  #markRefcounts(): void {
    const { g, header } = this.#image;
    const { reftable } = this.#run;
    const { refcount_table_offset: table, refcount_table_clusters: clusters } = header.fields;
    this.#plan.structures = new ClusterSet();
    this.#plan.structuresEnd = 0;
    for (let i = 0; i < clusters; i++) this.#plan.addStructure(table / g.clusterSize + i);
    for (let at = 0; at < reftable.byteLength; at += 8) {
      const offset = blockOffset(reftable, at);
      if (offset !== 0) this.#plan.addStructure(offset / g.clusterSize);
    }
  }

  async #batch(moves: readonly Move[]): Promise<void> {
    const { file } = this.#image;
    const to = moves.map((move) => ({ first: move.to, count: move.count }));
    const from = moves.map((move) => ({ first: move.from, count: move.count }));
    try {
      await this.#storeCounts([...to], (cluster) => this.#plan.counts.get(cluster), true);
      await this.#copy(moves);
      await file.flush();
    } catch (e) {
      this.#plan.undo(moves);
      // Leaks, if that fails as well.
      await this.#storeCounts([...to], () => 0, false).catch(() => undefined);
      throw e;
    }
    await walkReferences(this.#image, rewriting(this.#image, moves));
    await file.flush();
    this.#plan.moved(moves);
    await this.#storeCounts([...from], () => 0, false);
    await file.flush();
  }

  /** Copies content; guest data is encrypted anew where its place is part of the cipher. */
  async #copy(moves: readonly Move[]): Promise<void> {
    const { g, file, crypto } = this.#image;
    const most = Math.max(1, Math.floor(PIECE / g.clusterSize));
    const ciphers = crypto?.hostOffsets === true ? crypto : undefined;
    for (const piece of this.#plan.pieces(moves, most)) {
      this.#context.check();
      const bytes = new Uint8Array(piece.count * g.clusterSize);
      const [from, to] = [piece.from * g.clusterSize, piece.to * g.clusterSize];
      await file.read(from, Iov.of(bytes));
      if (ciphers !== undefined && this.#plan.isGuest(piece.from)) {
        await ciphers.decryptSectors(from, bytes);
        await ciphers.encryptSectors(to, bytes);
      }
      await file.write(to, Iov.of(bytes));
      this.moved += bytes.length;
      this.#context.done(bytes.length);
    }
  }

  /**
   * Writes the refcounts of runs of clusters, which change from 0 (`expectFree`) to what `value`
   * says, or the other way round. EIO where they are not what they should be.
   */
  async #storeCounts(
    runs: { first: number; count: number }[],
    value: (cluster: number) => number,
    expectFree: boolean,
  ): Promise<void> {
    const { g, file } = this.#image;
    const codec = refcountCodec(g.refcountOrder);
    const { reftable } = this.#run;
    const clusters = runs.sort((a, b) => a.first - b.first);
    for (let i = 0; i < clusters.length;) {
      const index = Math.floor(clusters[i]!.first / g.refcountBlockEntries);
      const base = index * g.refcountBlockEntries;
      const offset = blockOffset(reftable, index * 8);
      const block = new Uint8Array(g.clusterSize);
      await file.read(offset, Iov.of(block));
      const view = new DataView(block.buffer);
      let low = Infinity;
      let high = 0;
      for (; i < clusters.length && clusters[i]!.first < base + g.refcountBlockEntries;) {
        const run = clusters[i]!;
        const end = Math.min(run.first + run.count, base + g.refcountBlockEntries);
        for (let c = run.first; c < end; c++) {
          if (expectFree && codec.get(view, c - base) !== 0) {
            throw new BlockError(
              'EIO',
              `Cluster ${String(c)} is counted, but nothing refers to it`,
            );
          }
          codec.set(view, c - base, value(c));
        }
        low = Math.min(low, run.first - base);
        high = end - base;
        if (end === run.first + run.count) i++;
        else clusters[i] = { first: end, count: run.first + run.count - end };
        if (end === base + g.refcountBlockEntries) break;
      }
      const from = roundDown(Math.floor((low * g.refcountBits) / 8), SECTOR);
      const to = roundUp(Math.ceil((high * g.refcountBits) / 8), SECTOR);
      await file.write(offset + from, Iov.of(block.subarray(from, to)));
    }
  }

  /** CM6, when a refcount structure is what keeps the file long. */
  async #remakeRefcounts(): Promise<void> {
    if (this.#plan.structuresEnd <= this.#plan.highestUsed()) return;
    if (!this.#plan.hasRoomForStructures()) return;
    this.#context.check();
    await rebuildRefcounts(this.#run);
    await this.#image.file.flush();
    await this.#analyse();
  }

  async #cut(): Promise<void> {
    const { file, g, growth, graph } = this.#image;
    const end = (this.#plan.highest() + 1) * g.clusterSize;
    if (end >= file.size) return;
    await growth.settled();
    try {
      await file.truncate(end, { exact: false });
      growth.shrunk(end);
      await file.flush();
    } catch (e) {
      // A device keeps its length.
      if (e instanceof BlockError && e.code === 'ENOTSUP') return;
      graph.warn(`Failed to truncate the tail of the image: ${(e as Error).message}`);
    }
  }
}

function blockOffset(reftable: DataView, at: number): number {
  return (
    reftable.getUint32(at) * 0x1_0000_0000 + ((reftable.getUint32(at + 4) & 0xffff_fe00) >>> 0)
  );
}

/** A walk that changes references to what `moves` moved. */
function rewriting({ g }: Qcow2Image, moves: readonly Move[]): Walk {
  const places = new Map<number, number>();
  for (const { from, to, count } of moves) {
    for (let i = 0; i < count; i++) places.set(from + i, to + i);
  }
  return {
    use: () => undefined,
    place(host) {
      const cluster = Math.floor(host / g.clusterSize);
      const now = places.get(cluster);
      return now === undefined ? host : now * g.clusterSize + (host - cluster * g.clusterSize);
    },
  };
}
