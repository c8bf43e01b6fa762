/** One export of an NBD server: a backend with a name and what clients may do with it. */
import type { Backend } from '../../block/backend.js';
import type { DirtyBitmap } from '../../block/dirty-bitmap.js';
import { BlockError } from '../../block/errors.js';
import { chainStatus } from '../../block/status.js';
import { NBD_MAX_PAYLOAD, NbdFlag, NbdState } from '../../wire/nbd.js';

export interface NbdExportInit {
  /** Name that clients ask for; '' is the default export. At most 4096 bytes. */
  readonly name: string;
  readonly description?: string | undefined;
  readonly backend: Backend;
  readonly writable: boolean;
  /** Say that a client may have several connections: what one flushed, all see. */
  readonly multiConn: boolean;
  /** Offer `qemu:allocation-depth`. */
  readonly allocationDepth?: boolean | undefined;
  /** Offer `qemu:dirty-bitmap:NAME` for each. */
  readonly bitmaps?: readonly DirtyBitmap[] | undefined;
}

/** A run of bytes with its status word in some metadata context. */
export interface NbdExtent {
  readonly length: number;
  readonly flags: number;
}

/** A metadata context that a client may choose. */
export interface NbdContext {
  readonly name: string;
  /** The runs of [offset, offset + length), at most `max`; equal neighbours joined. */
  extents(offset: number, length: number, max: number): Promise<NbdExtent[]>;
}

export const BASE_ALLOCATION = 'base:allocation';
export const ALLOCATION_DEPTH = 'qemu:allocation-depth';
export const DIRTY_BITMAP = 'qemu:dirty-bitmap:';

export class NbdExport {
  readonly name: string;
  readonly description: string | undefined;
  readonly backend: Backend;
  readonly writable: boolean;
  readonly contexts: readonly NbdContext[];
  readonly #multiConn: boolean;

  constructor(init: NbdExportInit) {
    this.name = init.name;
    this.description = init.description;
    this.backend = init.backend;
    this.writable = init.writable;
    this.#multiConn = init.multiConn;
    const contexts: NbdContext[] = [allocation(init.backend)];
    if (init.allocationDepth === true) contexts.push(allocationDepth(init.backend));
    for (const bitmap of init.bitmaps ?? []) contexts.push(dirtyBitmap(init.backend, bitmap));
    this.contexts = contexts;
  }

  /** Length in bytes. */
  get size(): number {
    return this.backend.size;
  }

  /** Transmission flags; `structured` and `extended`: what was negotiated. */
  flags(structured: boolean, extended: boolean): number {
    let flags = NbdFlag.hasFlags | NbdFlag.sendFlush | NbdFlag.sendFua | NbdFlag.sendCache;
    if (structured) flags |= NbdFlag.sendDf;
    if (extended) flags |= NbdFlag.blockStatusPayload;
    if (this.#multiConn) flags |= NbdFlag.canMultiConn;
    if (!this.writable) return flags | NbdFlag.readOnly;
    return flags | NbdFlag.sendTrim | NbdFlag.sendWriteZeroes | NbdFlag.sendFastZero;
  }

  /** Smallest, preferred and largest request in bytes. */
  blockSizes(): { min: number; preferred: number; max: number } {
    const { requestAlignment, maxTransfer } = this.backend.node.limits;
    const max = maxTransfer === 0 ? NBD_MAX_PAYLOAD : Math.min(maxTransfer, NBD_MAX_PAYLOAD);
    const min = Math.max(1, requestAlignment);
    return { min, preferred: Math.max(4096, min), max: Math.max(min, max - (max % min)) };
  }
}

/** Runs looked at for one request; what lies behind is told at the next. */
const MAX_STEPS = 64 * 1024;
/** After so many, others get their turn. */
const STEPS_AT_ONCE = 512;

/** What is known of one run. */
type Look = (offset: number, length: number) => NbdExtent | Promise<NbdExtent>;

/**
 * Collects runs until the range, `max` or MAX_STEPS is used up, joining equal neighbours. Runs
 * that begin or end inside a block of `align` bytes are cut to whole blocks, of which each part
 * must be what the extent says: `join` finds the word for both.
 */
async function collect(
  backend: Backend,
  range: { offset: number; length: number; max: number; align: number },
  look: Look,
  join: (a: number, b: number) => number,
): Promise<NbdExtent[]> {
  const { offset, length, max, align } = range;
  // What is known of an inactive image may be old.
  if (!backend.node.isActive) throw new BlockError('EPERM');
  const out: { length: number; flags: number }[] = [];
  let at = 0;
  /** One run from `from` to at most `to`. */
  const step = async (from: number, to: number): Promise<NbdExtent> => {
    const run = await look(offset + from, to - from);
    return run.length < to - from ? run : { length: to - from, flags: run.flags };
  };
  for (let steps = 1; at < length && steps <= MAX_STEPS; steps++) {
    if (steps % STEPS_AT_ONCE === 0) await turn(backend);
    let { length: bytes, flags } = await step(at, length);
    const odd = (offset + at + bytes) % align;
    if (odd !== 0 && at + bytes < length) {
      if (bytes > odd) {
        bytes -= odd;
      } else {
        const end = Math.min(at + bytes - odd + align, length);
        while (at + bytes < end) {
          const more = await step(at + bytes, end);
          bytes += more.length;
          flags = join(flags, more.flags);
        }
      }
    }
    const last = out[out.length - 1];
    if (last?.flags === flags) {
      last.length += bytes;
    } else {
      if (out.length === max) break;
      out.push({ length: bytes, flags });
    }
    at += bytes;
  }
  return out;
}

/** Resolves when the event loop has been round once. */
function turn(backend: Backend): Promise<void> {
  return new Promise((resolve) => {
    backend.graph.host.clock.after(0, resolve);
  });
}

function allocation(backend: Backend): NbdContext {
  return {
    name: BASE_ALLOCATION,
    extents: (offset, length, max) =>
      collect(
        backend,
        { offset, length, max, align: backend.node.limits.requestAlignment },
        async (at, n) => {
          const s = await chainStatus(backend.node, undefined, at, n);
          const flags = (s.data ? 0 : NbdState.hole) | (s.zero ? NbdState.zero : 0);
          return { length: s.bytes === 0 ? n : s.bytes, flags };
        },
        (a, b) => a & b,
      ),
  };
}

/** 0: nowhere in the chain; 1: in the image itself; n: n - 1 images below. */
function allocationDepth(backend: Backend): NbdContext {
  return {
    name: ALLOCATION_DEPTH,
    extents: (offset, length, max) =>
      collect(
        backend,
        { offset, length, max, align: backend.node.limits.requestAlignment },
        async (at, n) => {
          const s = await chainStatus(backend.node, undefined, at, n, false);
          const bytes = s.bytes === 0 ? n : s.bytes;
          return { length: bytes, flags: s.allocated ? s.depth + 1 : 0 };
        },
        Math.max,
      ),
  };
}

function dirtyBitmap(backend: Backend, bitmap: DirtyBitmap): NbdContext {
  return {
    name: DIRTY_BITMAP + bitmap.name,
    extents: (offset, length, max) =>
      collect(
        backend,
        { offset, length, max, align: 1 },
        (at, n) => {
          const dirty = bitmap.has(at);
          const end = bitmap.next(at, !dirty) ?? at + n;
          return { length: Math.min(end - at, n), flags: dirty ? 1 : 0 };
        },
        (a, b) => a | b,
      ),
  };
}
