/** Words that every part of the block layer shares. Offsets and counts are bytes. */
import type { BlockNode } from './node.js';

/** Request flags, or-ed together; the names follow QEMU's BDRV_REQ_*. */
export const Req = {
  none: 0,
  /** Zero write: the range may be deallocated. */
  mayUnmap: 1,
  /** Zero write: fail with ENOTSUP rather than write zero buffers. */
  noFallback: 2,
  /** The write is durable when it completes. */
  fua: 4,
  /** Store the data compressed. */
  compressed: 8,
  /** Read: also write what came from a backing file into this image. */
  copyOnRead: 16,
  /** The write does not change what a reader sees (copy-on-read, a job's copy). */
  writeUnchanged: 32,
  /** Read: populate only (with copyOnRead), data is not wanted. */
  prefetch: 64,
  /** Wait for overlapping requests and make later ones wait. */
  serialising: 128,
} as const;

/** Permissions on a node, or-ed; QEMU's BLK_PERM_*. */
export const Perm = {
  consistentRead: 1,
  write: 2,
  writeUnchanged: 4,
  resize: 8,
  all: 15,
} as const;

/** What a child is to its parent, or-ed; QEMU's BDRV_CHILD_*. */
export const Role = {
  /** Guest data is stored there. */
  data: 1,
  /** Metadata is stored there. */
  metadata: 2,
  /** The parent passes requests through. */
  filtered: 4,
  /** Read through where the parent holds nothing (backing). */
  cow: 8,
  /** The child that stands for the parent (`file`). */
  primary: 16,
  /** Usual set of a format's `file`. */
  image: 1 | 2 | 16,
} as const;

/** What a driver says of a run of bytes; see {@link BlockStatus} for what callers get. */
export interface DriverStatus {
  /** Length of the run; at least 1 and at most what was asked. */
  bytes: number;
  /** Bytes are stored (in a child or here). */
  data: boolean;
  /** The run reads as zeroes. */
  zero: boolean;
  /** This node decides the content, not its backing file. */
  allocated: boolean;
  /** Where the data starts in `file`, when it is stored there plainly. */
  offset?: number;
  /** The node that `offset` is about. */
  file?: BlockNode;
  /** Look at `file` to learn more of the run (holes in a raw image). */
  recurse?: boolean;
  /** Stored compressed: no plain `offset`. */
  compressed?: boolean;
}

/** What the node at hand knows of a run of bytes. */
export interface BlockStatus {
  bytes: number;
  data: boolean;
  zero: boolean;
  allocated: boolean;
  offset: number | undefined;
  file: BlockNode | undefined;
  compressed: boolean;
  /** The run ends at the end of the node. */
  eof: boolean;
}

/** Like {@link BlockStatus} for a whole chain, with the depth at which the answer was found. */
export interface ChainStatus extends BlockStatus {
  /** 0: the top node; n: n images below it; only meaningful when `allocated`. */
  depth: number;
}

/** Limits of requests to a node; all in bytes; 0 means no limit. */
export interface BlockLimits {
  /** Power of two; requests are aligned to it by the node before the driver sees them. */
  requestAlignment: number;
  /** Longest read or write. */
  maxTransfer: number;
  /** Preferred multiple and size of transfers. */
  optTransfer: number;
  /** Alignment that a zero write should have to be cheap; and its longest size. */
  writeZeroesAlignment: number;
  maxWriteZeroes: number;
  discardAlignment: number;
  maxDiscard: number;
}

/** Limits of a driver that has none. */
export function noLimits(): BlockLimits {
  return {
    requestAlignment: 1,
    maxTransfer: 0,
    optTransfer: 0,
    writeZeroesAlignment: 0,
    maxWriteZeroes: 0,
    discardAlignment: 0,
    maxDiscard: 0,
  };
}

export type Preallocation = 'off' | 'metadata' | 'falloc' | 'full';
export type DetectZeroes = 'off' | 'on' | 'unmap';

/** Cache mode as its three switches. */
export interface CacheMode {
  /** The guest's write cache is on: a write may complete before it is durable. */
  writeback: boolean;
  /** Bypass the host's page cache. */
  direct: boolean;
  /** Ignore flushes. */
  noFlush: boolean;
}

/** Largest offset that requests reach: 2^53 - 1, rounded down to a sector. */
export const MAX_LENGTH = Number.MAX_SAFE_INTEGER - 511;

/** Largest length that QEMU gives any node. */
const QEMU_MAX_LENGTH = 2n ** 63n - 2n ** 30n;

/** What QEMU says of a length that none of its nodes can have; undefined of a shorter one. */
export function tooLongForAny(bytes: number | bigint): string | undefined {
  if (bytes <= QEMU_MAX_LENGTH) return undefined;
  return `offset(${String(bytes)}) exceeds maximum(${String(QEMU_MAX_LENGTH)})`;
}
