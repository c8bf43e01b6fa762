/**
 * The data path of formats that store whole clusters, each at a place of its own in the file (QED,
 * qcow, Parallels): reading, writing and giving clusters their place. Where clusters are is the
 * format's {@link ClusterMap}.
 *
 * Invariants
 *  C1  A cluster that has no place, and whose new place reads as it did, gets it at once, so that
 *      several writers fill it side by side. Any other is written whole first and named then; who
 *      comes to the same cluster meanwhile waits.
 *  C2  Data is in the file before the map that names it is: `store` flushes in between.
 */
import { Iov } from '../lib/iov.js';
import { begun, settleAll } from '../lib/settle-all.js';
import type { Child } from './child.js';
import type { ClusterMap } from './cluster-map.js';
import { packedAt, Place } from './cluster-map.js';
import { BlockError } from './errors.js';
import type { FileGrowth } from './file-growth.js';
import type { BlockNode } from './node.js';
import type { DriverStatus } from './types.js';

/** What the map says of a run of the disk; `place`: in the file, or a value of {@link Place}. */
export interface ClusterRun {
  readonly place: number;
  readonly bytes: number;
}

/** How data is stored other than byte by byte. */
export interface ClusterCodec {
  /** Reads [inside, inside + iov.bytes) of the compressed cluster at `host`. */
  readonly unpack?: (host: number, offset: number, iov: Iov) => Promise<void>;
  /** In place; `offset` is the guest's, everything a multiple of 512. */
  readonly encrypt?: (data: Uint8Array, offset: number) => Promise<void>;
  readonly decrypt?: (data: Uint8Array, offset: number) => Promise<void>;
}

export interface ClusterDiskInit {
  readonly node: BlockNode;
  readonly file: Child;
  readonly map: ClusterMap;
  readonly growth: FileGrowth;
  /** Lowest byte of the file where data may stand. */
  readonly dataStart: number;
  readonly codec?: ClusterCodec;
  /** Entries can say that a cluster is zero. */
  readonly hasZero?: boolean;
}

export class ClusterDisk {
  readonly #node: BlockNode;
  readonly #file: Child;
  readonly #map: ClusterMap;
  readonly #growth: FileGrowth;
  readonly #dataStart: number;
  readonly #codec: ClusterCodec;
  readonly #hasZero: boolean;
  readonly #cluster: number;
  readonly #perTable: number;
  /** Clusters that get their place now, and when that has ended (C1). */
  readonly #pending = new Map<number, Promise<void>>();

  constructor(init: ClusterDiskInit) {
    this.#node = init.node;
    this.#file = init.file;
    this.#map = init.map;
    this.#growth = init.growth;
    this.#dataStart = init.dataStart;
    this.#codec = init.codec ?? {};
    this.#hasZero = init.hasZero ?? false;
    this.#cluster = init.map.clusterBytes;
    this.#perTable = init.map.perTable * init.map.clusterBytes;
  }

  /** Looks in tables that are in memory; undefined: one has to be read. */
  tryRun(offset: number, bytes: number): ClusterRun | undefined {
    const index = Math.floor(offset / this.#perTable);
    const table = this.#map.tryTable(index);
    return table === undefined ? undefined : this.#runIn(table, index, offset, bytes);
  }

  /** The run that begins at `offset`, at most `bytes` long, within one table. */
  async runAt(offset: number, bytes: number): Promise<ClusterRun> {
    const index = Math.floor(offset / this.#perTable);
    return this.#runIn(await this.#map.table(index), index, offset, bytes);
  }

  #runIn(table: Float64Array | null, index: number, offset: number, bytes: number): ClusterRun {
    const inTable = offset - index * this.#perTable;
    const most = Math.min(bytes, this.#perTable - inTable);
    if (table === null) return { place: Place.unallocated, bytes: most };
    const size = this.#cluster;
    let entry = Math.floor(inTable / size);
    const inside = inTable - entry * size;
    const first = table[entry] ?? Place.damaged;
    let length = size - inside;
    if (first <= Place.packed) return { place: first, bytes: Math.min(length, most) };
    const step = first < 0 ? 0 : size;
    let next = first + step;
    while (length < most && table[++entry] === next) {
      length += size;
      next += step;
    }
    return { place: first < 0 ? first : first + inside, bytes: Math.min(length, most) };
  }

  // hot: bench/formats
  read(offset: number, iov: Iov): Promise<void> {
    const run = this.tryRun(offset, iov.bytes);
    if (run?.bytes === iov.bytes) return this.#readRun(run, offset, iov);
    return this.#readRuns(offset, iov);
  }

  async #readRuns(offset: number, iov: Iov): Promise<void> {
    const parts: Promise<void>[] = [];
    try {
      for (let at = 0; at < iov.bytes;) {
        const left = iov.bytes - at;
        const run = this.tryRun(offset + at, left) ?? (await this.runAt(offset + at, left));
        parts.push(begun(this.#readRun(run, offset + at, iov.slice(at, run.bytes))));
        at += run.bytes;
      }
    } catch (e) {
      // The parts under way use the caller's memory.
      await Promise.allSettled(parts);
      throw e;
    }
    await settleAll(parts);
  }

  #readRun({ place }: ClusterRun, offset: number, iov: Iov): Promise<void> {
    if (place >= 0) return this.#readData(place, offset, iov);
    if (place <= Place.packed) {
      const unpacked = this.#codec.unpack?.(packedAt(place), offset, iov);
      return unpacked ?? Promise.reject(this.#damaged(offset));
    }
    if (place === Place.damaged) return Promise.reject(this.#damaged(offset));
    const { backing } = this.#node;
    if (place === Place.unallocated && backing !== undefined) {
      const event = this.#file.debugEvent('read_backing_aio');
      if (event === undefined) return backing.read(offset, iov);
      return event.then(() => backing.read(offset, iov));
    }
    iov.fill(0);
    return Promise.resolve();
  }

  #readData(host: number, offset: number, iov: Iov): Promise<void> {
    const event = this.#file.debugEvent('read_aio');
    const { decrypt } = this.#codec;
    if (event === undefined && decrypt === undefined) return this.#file.read(host, iov);
    return (async () => {
      await event;
      await this.#file.read(host, iov);
      if (decrypt === undefined) return;
      const data = iov.flatten();
      await decrypt(data, offset);
      if (iov.tryContiguous() === undefined) iov.copyFrom(data);
    })();
  }

  #damaged(offset: number): BlockError {
    const cluster = String(Math.floor(offset / this.#cluster));
    return new BlockError('EIO', `The table entry of cluster ${cluster} cannot be; run check`);
  }

  // hot: bench/formats
  write(offset: number, iov: Iov): Promise<void> {
    const run = this.tryRun(offset, iov.bytes);
    if (run?.bytes === iov.bytes && run.place >= 0) {
      return this.#writeData(run.place, offset, iov);
    }
    return this.#writeRuns(offset, iov);
  }

  #writeData(host: number, offset: number, iov: Iov): Promise<void> {
    if (host < this.#dataStart) {
      const text = `A table entry names byte ${String(host)}, where metadata stands; run check`;
      return Promise.reject(new BlockError('EIO', text));
    }
    const growing = this.#growth.before(host + iov.bytes, iov.bytes);
    const event = this.#file.debugEvent('write_aio');
    const { encrypt } = this.#codec;
    if (growing === undefined && event === undefined && encrypt === undefined) {
      return this.#file.write(host, iov);
    }
    return (async () => {
      await growing;
      await event;
      if (encrypt === undefined) return this.#file.write(host, iov);
      const data = new Uint8Array(iov.bytes);
      iov.copyTo(data);
      await encrypt(data, offset);
      await this.#file.write(host, Iov.of(data));
    })();
  }

  async #writeRuns(offset: number, iov: Iov): Promise<void> {
    await this.#map.prepare();
    const parts: Promise<void>[] = [];
    try {
      for (let at = 0; at < iov.bytes;) {
        const run = this.#tryFreeRun(offset + at, iov.bytes - at);
        if (run === undefined) {
          await this.#settle(offset + at);
          continue;
        }
        if (run.place >= 0) {
          parts.push(begun(this.#writeData(run.place, offset + at, iov.slice(at, run.bytes))));
          at += run.bytes;
        } else {
          const { bytes, work } = this.#allocate(run, offset + at, iov.slice(at, run.bytes));
          parts.push(begun(work));
          at += bytes;
        }
      }
    } catch (e) {
      await Promise.allSettled(parts);
      throw e;
    }
    await settleAll(parts);
    if (this.#map.isFull) await this.#map.store();
  }

  /**
   * The run at `offset`, up to the first cluster that gets its place just now; undefined where that
   * is the first, or where the table has to be read. What is done with it must begin at once:
   * anybody may give it a place meanwhile.
   */
  #tryFreeRun(offset: number, bytes: number): ClusterRun | undefined {
    if (this.#pending.has(Math.floor(offset / this.#cluster))) return undefined;
    const run = this.tryRun(offset, bytes);
    if (run === undefined || run.place >= 0) return run;
    if (run.place === Place.damaged) throw this.#damaged(offset);
    return { place: run.place, bytes: this.#untilPending(offset, run.bytes) };
  }

  /** Waits for what `#tryFreeRun` could not. */
  async #settle(offset: number): Promise<void> {
    const busy = this.#pending.get(Math.floor(offset / this.#cluster));
    if (busy !== undefined) await busy;
    else await this.#map.table(Math.floor(offset / this.#perTable));
  }

  #untilPending(offset: number, bytes: number): number {
    if (this.#pending.size === 0) return bytes;
    const size = this.#cluster;
    for (let at = size - (offset % size); at < bytes; at += size) {
      if (this.#pending.has(Math.floor((offset + at) / size))) return at;
    }
    return bytes;
  }

  /**
   * Gives the clusters at the front of a run within one table their place and writes there;
   * `bytes`: how much of `iov`.
   */
  #allocate(
    run: ClusterRun,
    offset: number,
    iov: Iov,
  ): { readonly bytes: number; readonly work: Promise<void> } {
    const size = this.#cluster;
    const index = Math.floor(offset / this.#perTable);
    const first = Math.floor(offset / size);
    const inside = offset - first * size;
    const entry = first - index * this.#map.perTable;
    const asked = Math.ceil((inside + iov.bytes) / size);
    const { host, clusters: count, isFresh } = this.#map.take(asked);
    const bytes = Math.min(iov.bytes, count * size - inside);
    const piece = iov.slice(0, bytes);
    const readsZero =
      run.place === Place.zero ||
      (run.place === Place.unallocated && this.#node.backing === undefined);
    if (isFresh && readsZero && this.#codec.encrypt === undefined) {
      this.#map.set(index, entry, host, count);
      return { bytes, work: this.#writeData(host + inside, offset, piece) };
    }
    const was = readsZero ? Place.zero : run.place;
    const written = this.#writeWhole({ first, count, host, inside, was }, piece);
    const work = written
      .then(() => this.#setLoaded(index, entry, host, count))
      .catch((e: unknown) => {
        this.#map.giveBack(host, count);
        throw e;
      });
    const done = work
      .catch(() => undefined)
      .then(() => {
        for (let i = 0; i < count; i++) this.#pending.delete(first + i);
      });
    for (let i = 0; i < count; i++) this.#pending.set(first + i, done);
    return { bytes, work };
  }

  /** The table may have been dropped meanwhile. */
  async #setLoaded(index: number, entry: number, place: number, count: number): Promise<void> {
    while (this.#map.tryTable(index) === undefined) await this.#map.table(index);
    this.#map.set(index, entry, place, count);
  }

  /** Writes whole clusters: `iov` and around it what the guest saw there before. */
  async #writeWhole(
    place: { first: number; count: number; host: number; inside: number; was: number },
    iov: Iov,
  ): Promise<void> {
    const { first, count, host, inside, was } = place;
    const size = this.#cluster;
    const start = first * size;
    const head = new Uint8Array(inside);
    const tail = new Uint8Array(count * size - inside - iov.bytes);
    if (was !== Place.zero) {
      const at = start + inside + iov.bytes;
      await settleAll([
        this.#readOld(was, start, head),
        // The disk may end within the cluster.
        this.#readOld(was, at, tail.subarray(0, Math.max(0, this.#node.size - at))),
      ]);
    }
    await this.#writeData(host, start, Iov.from([head, ...iov.bufs, tail]));
  }

  /** What the guest sees in a piece of a cluster without a place of its own. */
  async #readOld(place: number, offset: number, into: Uint8Array): Promise<void> {
    if (into.length > 0) await this.#readRun({ place, bytes: into.length }, offset, Iov.of(into));
  }

  /**
   * Zeroes without data: clusters with a place lose it where the map can free them, others become
   * zero where entries can say so. ENOTSUP where zeroes have to be written.
   */
  async writeZeroes(offset: number, bytes: number, flags: number): Promise<void> {
    if (this.#codec.encrypt !== undefined) throw new BlockError('ENOTSUP');
    await this.#map.prepare();
    const parts: Promise<void>[] = [];
    try {
      for (let at = 0; at < bytes;) {
        const run = this.#tryFreeRun(offset + at, bytes - at);
        if (run === undefined) {
          await this.#settle(offset + at);
          continue;
        }
        if (run.place >= 0) parts.push(...this.#zeroOrFree(run, offset + at, flags));
        else this.#zeroUnmapped(run, offset + at);
        at += run.bytes;
      }
    } catch (e) {
      await Promise.allSettled(parts);
      throw e;
    }
    await settleAll(parts);
    if (this.#map.isFull) await this.#map.store();
  }

  /** Frees whole clusters, where nothing shows through then, and zeroes the rest in place. */
  #zeroOrFree(run: ClusterRun, offset: number, flags: number): Promise<void>[] {
    const [from, to] = this.#wholeClusters(offset, run.bytes);
    if (from >= to) return [begun(this.#zeroData(run, flags))];
    const parts: Promise<void>[] = [];
    const zero = (start: number, end: number): void => {
      const piece = { place: run.place + start - offset, bytes: end - start };
      if (start < end) parts.push(begun(this.#zeroData(piece, flags)));
    };
    zero(offset, from);
    zero(to, offset + run.bytes);
    parts.push(begun(this.#free(run.place + from - offset, from, to)));
    return parts;
  }

  /** What of [offset, offset + bytes) can be freed. */
  #wholeClusters(offset: number, bytes: number): [from: number, to: number] {
    if (this.#map.free === undefined || this.#node.backing !== undefined) return [0, 0];
    const size = this.#cluster;
    const end = offset + bytes;
    const to = end === this.#node.size ? end : Math.floor(end / size) * size;
    return [Math.ceil(offset / size) * size, to];
  }

  async #free(place: number, from: number, to: number): Promise<void> {
    if (place < this.#dataStart) return this.#writeData(place, 0, Iov.alloc(0));
    const index = Math.floor(from / this.#perTable);
    const entry = (from - index * this.#perTable) / this.#cluster;
    const count = Math.ceil((to - from) / this.#cluster);
    this.#map.free?.(index, entry, count);
    const room = Math.min(count * this.#cluster, this.#file.size - place);
    if (room > 0) await this.#file.discard(place, room);
  }

  #zeroData({ place, bytes }: ClusterRun, flags: number): Promise<void> {
    if (place < this.#dataStart) return this.#writeData(place, 0, Iov.alloc(0));
    const growing = this.#growth.before(place + bytes);
    if (growing === undefined) return this.#file.writeZeroes(place, bytes, flags);
    return growing.then(() => this.#file.writeZeroes(place, bytes, flags));
  }

  #zeroUnmapped({ place, bytes }: ClusterRun, offset: number): void {
    if (place === Place.zero) return;
    if (place === Place.unallocated && this.#node.backing === undefined) return;
    const size = this.#cluster;
    const isWhole =
      offset % size === 0 && (bytes % size === 0 || offset + bytes === this.#node.size);
    if (!this.#hasZero || !isWhole) throw new BlockError('ENOTSUP');
    const index = Math.floor(offset / this.#perTable);
    const entry = offset / size - index * this.#map.perTable;
    this.#map.set(index, entry, Place.zero, Math.ceil(bytes / size));
  }

  /** Clusters are freed where the map can do that; otherwise nothing happens. */
  async discard(offset: number, bytes: number): Promise<void> {
    const [start, end] = this.#wholeClusters(offset, bytes);
    if (start >= end) return;
    await this.#map.prepare();
    for (let at = start; at < end;) {
      const run = this.#tryFreeRun(at, end - at);
      if (run === undefined) {
        await this.#settle(at);
        continue;
      }
      if (run.place >= 0) await this.#free(run.place, at, at + run.bytes);
      at += run.bytes;
    }
  }

  async status(offset: number, bytes: number): Promise<DriverStatus> {
    const run = this.tryRun(offset, bytes) ?? (await this.runAt(offset, bytes));
    const { place } = run;
    if (place === Place.damaged) throw this.#damaged(offset);
    if (place === Place.unallocated || place === Place.zero) {
      const zero = place === Place.zero;
      return { bytes: run.bytes, data: false, zero, allocated: zero };
    }
    const data = { bytes: run.bytes, data: true, zero: false, allocated: true };
    if (place <= Place.packed) return { ...data, compressed: true };
    if (this.#codec.decrypt !== undefined) return data;
    return { ...data, offset: place, file: this.#file.node };
  }

  /** Where a run stands byte by byte in the file; undefined where that is not known at once. */
  tryPlace(offset: number, bytes: number): number | undefined {
    if (this.#codec.decrypt !== undefined) return undefined;
    const run = this.tryRun(offset, bytes);
    return run === undefined || run.place < 0 || run.bytes !== bytes ? undefined : run.place;
  }
}
