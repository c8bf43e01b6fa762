/**
 * What a copy has to do, found by block status before data moves: runs of data, of zeroes,
 * and of what the target's backing file already shows. Sources are laid end to end; offsets
 * count from the start of the first. All in bytes.
 */
import type { Backend } from '../block/backend.js';
import { errorText } from '../block/errors.js';
import { BlockError, errorCode } from '../block/errors.js';
import type { BlockNode } from '../block/node.js';
import { below, chainStatus, skipFilters } from '../block/status.js';
import type { ChainStatus } from '../block/types.js';

export const RunKind = { data: 0, zero: 1, backing: 2 } as const;

/** Sizes and offsets of a copy are multiples of it. */
export const SECTOR = 512;
/** Runs kept of the first look; an image with more is looked at twice. */
const KEPT_RUNS = 65536;
/** With salvage, where a status failed, this part of it is asked for again. */
const SALVAGE_DIVISOR = 4;

/** Runs in order, in parallel arrays: run i covers [start[i], end[i]) and is of kind[i]. */
export class RunList {
  count = 0;
  #start = new Float64Array(256);
  #end = new Float64Array(256);
  #kind = new Uint8Array(256);

  startOf(i: number): number {
    return this.#start[i]!;
  }

  endOf(i: number): number {
    return this.#end[i]!;
  }

  kindOf(i: number): number {
    return this.#kind[i]!;
  }

  /** Adds a run behind the others, to the last one where they are alike and `mayJoin`. */
  add(start: number, end: number, kind: number, mayJoin: boolean): void {
    const last = this.count - 1;
    if (mayJoin && last >= 0 && this.#kind[last] === kind && this.#end[last] === start) {
      this.#end[last] = end;
      return;
    }
    if (this.count === this.#kind.length) this.#grow();
    this.#start[this.count] = start;
    this.#end[this.count] = end;
    this.#kind[this.count++] = kind;
  }

  #grow(): void {
    const size = this.#kind.length * 2;
    const starts = new Float64Array(size);
    const ends = new Float64Array(size);
    const kinds = new Uint8Array(size);
    starts.set(this.#start);
    ends.set(this.#end);
    kinds.set(this.#kind);
    this.#start = starts;
    this.#end = ends;
    this.#kind = kinds;
  }
}

export interface PlanOptions {
  readonly sources: readonly Backend[];
  /** The target reads through to a backing file: what the top source image lacks is not copied. */
  readonly targetHasBacking: boolean;
  /** Image of the source's chain at which looking ends; default, with a backing: the next one. */
  readonly base?: BlockNode | undefined;
  /** Length of that backing file; undefined when unknown or absent. */
  readonly targetBackingBytes?: number | undefined;
  /** Runs begin and end at multiples of it, but for the end of all; what is mixed is data. */
  readonly unit?: number | undefined;
  /** Go on where a status cannot be read. */
  readonly salvage?: boolean | undefined;
  readonly onWarning?: ((message: string) => void) | undefined;
}

interface PlannedRun {
  readonly bytes: number;
  readonly kind: number;
}

/** One of the images that are read one after the other; `start` and `end` count from the first. */
export interface Source {
  readonly backend: Backend;
  readonly start: number;
  readonly end: number;
}

export class CopyPlan {
  /** Length of all sources together, each rounded up to a sector. */
  readonly bytes: number;
  readonly #sources: readonly Source[];
  readonly #options: PlanOptions;

  constructor(options: PlanOptions) {
    this.#options = options;
    let at = 0;
    this.#sources = options.sources.map((backend) => {
      const start = at;
      at += Math.ceil(backend.size / SECTOR) * SECTOR;
      return { backend, start, end: at };
    });
    this.bytes = at;
  }

  /** The source in which `offset` lies. */
  sourceAt(offset: number): Source {
    for (const source of this.#sources) if (offset < source.end) return source;
    throw new BlockError('EINVAL', 'Offset past the end of the last image');
  }

  /** Runs from `from` on: about {@link KEPT_RUNS}, or up to the end. */
  async runsFrom(from: number, check: () => void): Promise<RunList> {
    const runs = new RunList();
    let at = from;
    // With salvage one by one, so that what is told of states and of data is in order.
    const most = this.#options.salvage === true ? 1 : KEPT_RUNS;
    while (at < this.bytes && runs.count < most) {
      if ((runs.count & 1023) === 0) check();
      const source = this.sourceAt(at);
      const { bytes, kind } = this.#inUnits(at, await this.#statusAt(source, at));
      runs.add(at, at + bytes, kind, at > source.start);
      at += bytes;
    }
    return runs;
  }

  /** The run that begins at `at`, cut to whole units; a unit that holds more is data. */
  #inUnits(at: number, run: PlannedRun): PlannedRun {
    const { unit = 1 } = this.#options;
    const over = (at + run.bytes) % unit;
    if (over === 0 || at + run.bytes === this.bytes) return run;
    if (over < run.bytes) return { ...run, bytes: run.bytes - over };
    return { bytes: Math.min(unit, this.bytes - at), kind: RunKind.data };
  }

  async #statusAt(source: Source, at: number): Promise<PlannedRun> {
    const { targetHasBacking, targetBackingBytes } = this.#options;
    const offset = at - source.start;
    const left = source.end - at;
    const top = source.backend.node;
    const base = this.#options.base ?? (targetHasBacking ? below(skipFilters(top)) : undefined);
    let most = left;
    let pastBacking = false;
    if (targetBackingBytes !== undefined) {
      pastBacking = at >= targetBackingBytes;
      if (!pastBacking) most = Math.min(most, targetBackingBytes - at);
    }
    if (offset >= top.size) return { bytes: left, kind: RunKind.zero };
    const status = await this.#readStatus(source, base, offset, most);
    let bytes = Math.min(Math.ceil(status.bytes / SECTOR) * SECTOR, left);
    if (bytes === 0) bytes = left;
    if (status.zero) {
      // Behind the end of its backing file the target reads as zeroes without being written.
      return { bytes, kind: pastBacking && targetHasBacking ? RunKind.backing : RunKind.zero };
    }
    if (status.data || !targetHasBacking) return { bytes, kind: RunKind.data };
    return { bytes, kind: RunKind.backing };
  }

  async #readStatus(
    source: Source,
    base: BlockNode | undefined,
    offset: number,
    bytes: number,
  ): Promise<Pick<ChainStatus, 'bytes' | 'zero' | 'data'>> {
    const top = source.backend.node;
    try {
      return await chainStatus(top, base, offset, bytes);
    } catch (e) {
      if (this.#options.salvage !== true) {
        const where = `error while reading block status at offset ${String(offset)}`;
        const text = `${where}: ${errorText(e)}`;
        throw new BlockError(errorCode(e), text, { cause: e });
      }
    }
    // Less and less, down to the sector that fails, which is taken for data.
    for (let less = bytes; less > SECTOR;) {
      less = Math.ceil(less / SECTOR / SALVAGE_DIVISOR) * SECTOR;
      try {
        return await chainStatus(top, base, offset, less);
      } catch (e) {
        if (less > SECTOR) continue;
        this.#options.onWarning?.(
          `error while reading block status at offset ${String(offset)}: ${errorText(e)}`,
        );
      }
    }
    return { bytes: Math.min(SECTOR, bytes), zero: false, data: true };
  }
}
