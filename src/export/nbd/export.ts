/** One export of an NBD server: a backend with a name and what clients may do with it. */
import type { Backend } from '../../block/backend.js';
import type { DirtyBitmap } from '../../block/dirty-bitmap.js';
import { below, chainStatus } from '../../block/status.js';
import { NBD_MAX_PAYLOAD, NbdFlag, NbdState } from '../../wire/nbd.js';

export interface NbdExportInit {
  /** Name that clients ask for; '' is the default export. At most 4096 bytes. */
  readonly name: string;
  readonly description?: string | undefined;
  readonly backend: Backend;
  readonly writable: boolean;
  /** Several clients see each other's flushed writes: say so (multi-conn). */
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
    for (const bitmap of init.bitmaps ?? []) contexts.push(dirtyBitmap(bitmap));
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
    if (!this.writable) return flags | NbdFlag.readOnly | NbdFlag.canMultiConn;
    flags |= NbdFlag.sendTrim | NbdFlag.sendWriteZeroes | NbdFlag.sendFastZero;
    return this.#multiConn ? flags | NbdFlag.canMultiConn : flags;
  }

  /** Smallest, preferred and largest request in bytes. */
  blockSizes(): { min: number; preferred: number; max: number } {
    const { requestAlignment, maxTransfer } = this.backend.node.limits;
    const max = maxTransfer === 0 ? NBD_MAX_PAYLOAD : Math.min(maxTransfer, NBD_MAX_PAYLOAD);
    return { min: requestAlignment, preferred: Math.max(4096, requestAlignment), max };
  }
}

/** Collects runs until the range or `max` is used up, joining equal neighbours. */
async function collect(
  offset: number,
  length: number,
  max: number,
  next: (offset: number, length: number) => Promise<NbdExtent>,
): Promise<NbdExtent[]> {
  const out: NbdExtent[] = [];
  for (let at = 0; at < length;) {
    const run = await next(offset + at, length - at);
    const last = out[out.length - 1];
    if (last?.flags === run.flags) {
      out[out.length - 1] = { length: last.length + run.length, flags: run.flags };
    } else {
      if (out.length === max) break;
      out.push(run);
    }
    at += run.length;
  }
  return out;
}

function allocation(backend: Backend): NbdContext {
  return {
    name: BASE_ALLOCATION,
    extents: (offset, length, max) =>
      collect(offset, length, max, async (at, n) => {
        const s = await chainStatus(backend.node, undefined, at, n);
        const flags = (s.data ? 0 : NbdState.hole) | (s.zero ? NbdState.zero : 0);
        return { length: s.bytes === 0 ? n : s.bytes, flags };
      }),
  };
}

/** 0: nowhere in the chain; 1: in the image itself; n: n - 1 images below. */
function allocationDepth(backend: Backend): NbdContext {
  return {
    name: ALLOCATION_DEPTH,
    extents: (offset, length, max) =>
      collect(offset, length, max, async (at, n) => {
        let node = backend.node;
        let bytes = n;
        for (let depth = 1; ; depth++) {
          const s = await chainStatus(node, below(node), at, bytes, false);
          if (s.bytes === 0) return { length: bytes, flags: 0 };
          bytes = s.bytes;
          if (s.allocated) return { length: bytes, flags: depth };
          const next = below(node);
          if (next === undefined) return { length: bytes, flags: 0 };
          node = next;
        }
      }),
  };
}

function dirtyBitmap(bitmap: DirtyBitmap): NbdContext {
  return {
    name: DIRTY_BITMAP + bitmap.name,
    extents: (offset, length, max) =>
      collect(offset, length, max, (at, n) => {
        const dirty = bitmap.has(at);
        const end = bitmap.next(at, !dirty) ?? at + n;
        return Promise.resolve({ length: Math.min(end - at, n), flags: dirty ? 1 : 0 });
      }),
  };
}
