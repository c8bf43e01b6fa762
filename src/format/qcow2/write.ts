/**
 * The write engine: everything that cannot simply be written in place.
 *
 * All writes that arrive in one turn of the event loop, and those that wait for a run to be
 * mapped, are taken as one batch: planned under `image.lock` (which clusters are allocated
 * where), then issued as few child writes, neighbours merged. Allocation for contiguous requests
 * is one run of clusters. See run.ts for what happens to the parts that nobody writes.
 */
import { settleAll } from '../../lib/settle-all.js';
import type { Data } from '../../block/data.js';
import { writeData } from './data-io.js';
import { Kind } from './entry.js';
import { fillGaps, mapRun, sourceBytes, tryMapRun } from './fill.js';
import type { Qcow2Image } from './image.js';
import { makeRun, tryMakeRun } from './make-run.js';
import { NO_HOST } from './mapping.js';
import type { Run } from './run.js';
import { RunMap, Source } from './run.js';
import type { GuestOffset, HostOffset } from './units.js';
import type { Piece, Request } from './write-groups.js';
import { groups, joined, MERGE_FIRST, MERGE_PIECE, partOf } from './write-groups.js';

/** Runs that wait for their gaps to be written by the guest; more are filled, oldest first. */
const MAX_DELAYED_RUNS = 64;
/** Ends of recent writes that are remembered to tell sequential streams. */
const STREAMS = 16;

/** Guest bytes [from, to) of a request that are not planned yet. */
interface Item {
  readonly request: Request;
  readonly from: GuestOffset;
  readonly to: GuestOffset;
}

export class WriteEngine {
  readonly #image: Qcow2Image;
  readonly runs: RunMap;
  #queue: Item[] = [];
  #draining = false;
  readonly #streams: number[] = new Array<number>(STREAMS).fill(-1);
  #nextStream = 0;
  #lastEnd = -1;
  /** The last write began where the one before it ended. */
  #sequential = false;
  /** The last batch had writes to merge. */
  #merges = false;

  constructor(image: Qcow2Image) {
    this.#image = image;
    this.runs = new RunMap(image.g.clusterSize);
  }

  /** Some clusters are written but not mapped. */
  get hasUnmapped(): boolean {
    return this.runs.size > 0;
  }

  /** Queues a write; resolves when its data is stored and readers see it. */
  write(offset: GuestOffset, data: Data): Promise<void> {
    return new Promise((resolve, reject) => {
      const request: Request = {
        offset,
        data,
        remaining: data.bytes,
        error: undefined,
        resolve,
        reject,
        onDone: [],
      };
      this.#queue.push({ request, from: offset, to: offset + data.bytes });
      this.kick();
    });
  }

  /**
   * A write into a run that is open, or into clusters for which one can be made without waiting,
   * goes out at once; undefined when that is not so. Nobody works on the image meanwhile, for
   * nothing is awaited: what is changed here needs no lock but that nobody else holds it.
   */
  // hot: bench/jobs/first-writes
  tryWrite(offset: GuestOffset, data: Data): Promise<void> | undefined {
    const { g } = this.#image;
    const end = offset + data.bytes;
    const run = this.runs.at(Math.floor(offset / g.clusterSize)) ?? this.#tryBegin(offset, end);
    if (run === undefined || run.state !== 'open' || end > run.guestEnd) return undefined;
    run.enter();
    this.#remember(end);
    return writeData(this.#image, offset, run.hostOf(offset), data).then(
      () => {
        run.wrote(offset, end);
        run.leave();
        if (run.inFlight > 0 || run.state !== 'open' || this.#tryMap(run)) return undefined;
        return this.#mapIfComplete(run);
      },
      (e: unknown) => {
        run.leave();
        return this.#mapIfComplete(run).then(() => {
          throw e;
        });
      },
    );
  }

  /** A run for [offset, end), if it needs no copying before and nothing stands in its way. */
  #tryBegin(offset: GuestOffset, end: GuestOffset): Run | undefined {
    const image = this.#image;
    const { alloc, l2, lock, g } = image;
    if (this.#draining || lock.isLocked || l2.isPressed) return undefined;
    if (this.runs.size >= MAX_DELAYED_RUNS || alloc.wantsReclaim(g.clusterSize)) return undefined;
    if (this.runs.firstIn(offset, end - offset) !== undefined) return undefined;
    // Else there is something to copy that is better written together with this.
    const streams = offset % g.clusterSize === 0 || this.#streams.includes(offset);
    if (image.backing !== undefined && !streams) return undefined;
    const run = tryMakeRun(image, offset, end, NO_HOST);
    if (run === undefined) return undefined;
    this.runs.add(run);
    return run.source === Source.none || streams ? run : undefined;
  }

  /**
   * Whether a write is small and continues the one before: then it is worth queueing even where it
   * could go in place, because its neighbours of the same turn become one write with it. Who
   * waits for each write before the next one has no neighbours; the last batch tells.
   */
  continues(offset: GuestOffset, bytes: number): boolean {
    this.#sequential = offset === this.#lastEnd;
    this.#lastEnd = offset + bytes;
    return bytes <= MERGE_PIECE >> 1 && this.#hasNeighbours;
  }

  /**
   * The same for the write that `continues` was asked about, when it is a first one. In the page
   * cache a longer write costs little but its copying, which joining does not spare.
   */
  joins(bytes: number): boolean {
    return bytes <= MERGE_FIRST && this.#hasNeighbours && !this.#isCached;
  }

  get #hasNeighbours(): boolean {
    return this.#sequential && (this.#merges || this.#image.inFlight.isBusy);
  }

  get #isCached(): boolean {
    return this.#image.dataFile.node.instance.isCached === true;
  }

  /** Works on the queue, soon. */
  kick(): void {
    if (this.#draining || this.#queue.length === 0) return;
    this.#draining = true;
    void this.#drain();
  }

  async #drain(): Promise<void> {
    while (this.#queue.length > 0) {
      await this.#turn();
      await this.#image.lock.run(() => this.#batch());
    }
    this.#draining = false;
    this.#relieve();
  }

  /** Lets the requests of this turn of the event loop arrive: they come within few microtasks. */
  async #turn(): Promise<void> {
    let seen = -1;
    while (seen !== this.#queue.length) {
      seen = this.#queue.length;
      await Promise.resolve();
      await Promise.resolve();
      await Promise.resolve();
    }
  }

  async #batch(): Promise<void> {
    const { alloc, l2, writeback } = this.#image;
    const items = this.#takeItems();
    const pieces: Piece[] = [];
    try {
      this.#image.checkUsable();
      // Before anything is planned that a writeback would wait for.
      const { clusterSize } = this.#image.g;
      if (alloc.wantsReclaim(clusterSize)) await alloc.reclaim(clusterSize);
      if (l2.isPressed) await writeback.run();
    } catch (e) {
      for (const item of items) this.#failed(item.request, item.to - item.from, e);
      return;
    }
    for (let i = 0; i < items.length; i++) await this.#plan(items, i, pieces);
    this.#issue(pieces);
  }

  /** The queue by offset; a request that overlaps an earlier one of the batch waits for it. */
  #takeItems(): Item[] {
    const items = this.#queue.sort((a, b) => a.from - b.from);
    this.#queue = [];
    let end = -1;
    let last: Request | undefined;
    return items.filter((item) => {
      if (item.from < end && last !== undefined) {
        last.onDone.push(() => this.#requeue(item));
        return false;
      }
      if (item.to > end) {
        end = item.to;
        last = item.request;
      }
      return true;
    });
  }

  #requeue(item: Item): void {
    this.#queue.push(item);
    this.kick();
  }

  /** Finds a place for all of item `i`, as far as nothing is in its way. */
  async #plan(items: readonly Item[], i: number, pieces: Piece[]): Promise<void> {
    const { mapping, g, overlap } = this.#image;
    const { request, from, to } = items[i]!;
    let at = from;
    // Where the file continues what was planned last, for allocation in a row.
    let after: HostOffset = NO_HOST;
    try {
      while (at < to) {
        const run = this.runs.at(Math.floor(at / g.clusterSize));
        if (run !== undefined) {
          if (run.state !== 'open') {
            const rest = { request, from: at, to };
            void run.whenChanged().then(() => this.#requeue(rest));
            return;
          }
          const end = Math.min(to, run.guestEnd);
          run.enter();
          pieces.push(this.#piece(request, run, at, end, run.hostOf(at)));
          after = run.hostOf(end);
          at = end;
          continue;
        }
        const found = mapping.tryLookup(at, to - at) ?? (await mapping.lookup(at, to - at));
        if (found.kind === Kind.invalid) {
          // What is told of a read has one blank more.
          throw await this.#image.corrupt(true, found.message.replace('  (', ' ('));
        }
        if (found.kind === Kind.data && found.copied) {
          const end = Math.min(at + found.bytes, this.#nextRun(at, to));
          await overlap.checkData(found.host, end - at);
          pieces.push(this.#piece(request, undefined, at, end, found.host));
          after = found.host + (end - at);
          at = end;
          continue;
        }
        const wantEnd = this.#contiguousEnd(items, i);
        const place = after % g.clusterSize === 0 ? after : NO_HOST;
        this.runs.add(
          tryMakeRun(this.#image, at, wantEnd, place) ??
            (await makeRun(this.#image, at, wantEnd, place)),
        );
      }
    } catch (e) {
      this.#failed(request, to - at, e);
    }
  }

  #piece(
    request: Request,
    run: Run | undefined,
    from: GuestOffset,
    to: GuestOffset,
    host: HostOffset,
  ): Piece {
    const data = partOf(request.data, from - request.offset, to - from);
    return { request, run, guest: from, host, data };
  }

  /** Guest offset of the first run in [at, to), else `to`. */
  #nextRun(at: GuestOffset, to: GuestOffset): GuestOffset {
    const run = this.runs.firstIn(at, to - at);
    return run === undefined ? to : Math.max(at, run.guest);
  }

  /** End of the contiguous guest range that item `i` and its followers write. */
  #contiguousEnd(items: readonly Item[], i: number): GuestOffset {
    const { clusterSize } = this.#image.g;
    let end = items[i]!.to;
    for (let k = i + 1; k < items.length; k++) {
      const item = items[k]!;
      if (item.from > Math.ceil(end / clusterSize) * clusterSize) break;
      end = Math.max(end, item.to);
    }
    return end;
  }

  /** Starts the writes of a batch; nothing is awaited, so that they count as in flight at once. */
  #issue(pieces: readonly Piece[]): void {
    const filling = new Map<Run, Piece[]>();
    const plain: Piece[] = [];
    for (const piece of pieces) {
      if (piece.run === undefined || !this.#wantsFill(piece.run, pieces)) {
        plain.push(piece);
        continue;
      }
      const list = filling.get(piece.run);
      if (list === undefined) filling.set(piece.run, [piece]);
      else list.push(piece);
    }
    for (const piece of pieces) this.#remember(piece.guest + piece.data.bytes);
    const merged = groups(plain, this.#isCached ? MERGE_PIECE : MERGE_FIRST);
    this.#merges = merged.length < plain.length;
    for (const group of merged) void this.#writeGroup(group);
    for (const [run, list] of filling) void this.#fillAndWrite(run, list);
  }

  /**
   * Whether a run that begins with this batch is to be filled at once: its gaps must be copied or
   * zeroed, and the writes do not look like the beginning of a stream that will cover them.
   */
  #wantsFill(run: Run, pieces: readonly Piece[]): boolean {
    if (run.source === Source.none || run.isWritten || run.state !== 'open') return false;
    const mine = pieces.filter((piece) => piece.run === run);
    if (run.inFlight > mine.length) return false;
    const first = mine[0];
    if (first === undefined) return false;
    const streams = first.guest === run.guest || this.#streams.includes(first.guest);
    return !streams;
  }

  #remember(end: GuestOffset): void {
    this.#streams[this.#nextStream] = end;
    this.#nextStream = (this.#nextStream + 1) % STREAMS;
  }

  /** Writes pieces that lie one behind the other in the file; a failure splits it by request. */
  async #writeGroup(group: readonly Piece[]): Promise<void> {
    const first = group[0]!;
    let error: unknown;
    try {
      await writeData(this.#image, first.guest, first.host, joined(group));
    } catch (e) {
      // Only who is concerned shall be told. What failed for one request alone has failed.
      const requests = new Set(group.map((piece) => piece.request));
      if (requests.size > 1) {
        const own = [...requests].map((r) => group.filter((piece) => piece.request === r));
        await Promise.all(own.map((pieces) => this.#writeGroup(pieces)));
        return;
      }
      error = e;
    }
    await this.#written(group, error);
  }

  /** Books pieces as written (or failed), maps runs that are complete, then tells the callers. */
  async #written(group: readonly Piece[], error: unknown): Promise<void> {
    const ended = new Set<Run>();
    for (const { run, guest, data, request } of group) {
      if (run === undefined) continue;
      if (error === undefined) run.wrote(guest, guest + data.bytes);
      if (request !== undefined) run.leave();
      if (run.inFlight === 0 && run.state === 'open') ended.add(run);
    }
    let failure = error;
    for (const run of ended) {
      try {
        if (!this.#tryMap(run)) await this.#mapIfComplete(run);
      } catch (e) {
        failure ??= e;
      }
    }
    for (const { request, data } of group) {
      if (request === undefined) continue;
      if (failure === undefined) this.#done(request, data.bytes);
      else this.#failed(request, data.bytes, failure);
    }
  }

  /** Maps an idle run at once if nothing is missing. */
  #tryMap(run: Run): boolean {
    if (!run.isWritten || !tryMapRun(this.#image, run)) return false;
    this.runs.delete(run);
    run.end();
    return true;
  }

  async #mapIfComplete(run: Run): Promise<void> {
    if (run.state !== 'open' || run.inFlight > 0) return;
    if (!run.isWritten) this.#giveUp(run);
    else if (run.gaps().length === 0) await this.#close(run);
  }

  /** A run into which nothing was written: its place is free again. */
  #giveUp(run: Run): void {
    this.runs.delete(run);
    run.end();
    if (!run.isNew) return;
    const bytes = run.guestEnd - run.guest;
    this.#image.alloc.unlinkedDurably([{ host: run.host, bytes, reason: 'never' }]);
  }

  /** Fills an open run that is idle or will be, and maps it. On failure it stays open. */
  async #close(run: Run): Promise<void> {
    run.state = 'closed';
    try {
      await run.whenIdle();
      if (!run.isWritten) {
        this.#giveUp(run);
        return;
      }
      await fillGaps(this.#image, run);
      await mapRun(this.#image, run);
    } catch (e) {
      run.reopen();
      throw e;
    }
    this.runs.delete(run);
    run.end();
  }

  /** Copy-on-write at once: gaps and data of a new run in as few writes as possible. */
  async #fillAndWrite(run: Run, pieces: readonly Piece[]): Promise<void> {
    run.state = 'closed';
    const planned = pieces.map((p) => [p.guest, p.guest + p.data.bytes] as const);
    let error: unknown;
    try {
      const gaps = await this.#gapPieces(run, run.gaps(planned));
      await settleAll(
        groups([...pieces, ...gaps], Infinity).map(async (group) => {
          await writeData(this.#image, group[0]!.guest, group[0]!.host, joined(group));
          for (const p of group) run.covered.add(p.guest, p.guest + p.data.bytes);
        }),
      );
      run.isWritten = true;
    } catch (e) {
      error = e;
    }
    for (const _ of pieces) run.leave();
    try {
      if (error === undefined) await mapRun(this.#image, run);
    } catch (e) {
      error = e;
    }
    if (error === undefined) {
      this.runs.delete(run);
      run.end();
    } else {
      // What was covered by then stays as it is; the caller knows that its range is undefined.
      run.reopen();
      if (!run.isWritten) this.#giveUp(run);
    }
    for (const { request, data } of pieces) {
      if (request === undefined) continue;
      if (error === undefined) this.#done(request, data.bytes);
      else this.#failed(request, data.bytes, error);
    }
  }

  #gapPieces(run: Run, gaps: readonly (readonly [number, number])[]): Promise<Piece[]> {
    return Promise.all(
      gaps.map(async ([from, to]) => ({
        request: undefined,
        run,
        guest: from,
        host: run.hostOf(from),
        data: await sourceBytes(this.#image, run, from, to),
      })),
    );
  }

  #done(request: Request, bytes: number): void {
    request.remaining -= bytes;
    if (request.remaining === 0) this.#finish(request);
  }

  #failed(request: Request, bytes: number, error: unknown): void {
    request.error ??= error;
    this.#done(request, bytes);
  }

  #finish(request: Request): void {
    for (const fn of request.onDone) fn();
    if (request.error === undefined) request.resolve();
    else request.reject(request.error);
  }

  /** Fills the oldest runs when too many wait for their gaps. */
  #relieve(): void {
    let excess = this.runs.size - MAX_DELAYED_RUNS;
    for (const run of this.runs.values()) {
      if (excess-- <= 0) return;
      if (run.state === 'open') {
        this.#close(run).catch(() => {
          // It stays open; the next flush tells about the error.
        });
      }
    }
  }

  /** Maps what was written into [guest, guest + bytes): afterwards no run lies there. */
  async settle(guest: GuestOffset, bytes: number): Promise<void> {
    while (true) {
      const run = this.runs.firstIn(guest, bytes);
      if (run === undefined) return;
      await this.#settleRun(run);
    }
  }

  /** Maps all that was written before the call. Throws the first error. */
  async settleAll(): Promise<void> {
    await settleAll(this.runs.all().map((run) => this.#settleRun(run)));
  }

  async #settleRun(run: Run): Promise<void> {
    while (run.state === 'closed') await run.whenChanged();
    if (run.state === 'open') await this.#close(run);
  }
}
