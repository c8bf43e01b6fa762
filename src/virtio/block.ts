/**
 * Execution of virtio-blk requests over a disk (virtio 1.2, section 5.2.6): shared by devices and
 * exports. SCSI passthrough, secure erase, zones and lifetimes are answered as unsupported.
 */
import { Req } from '../block/types.js';
import type { GuestMemory, GuestRange } from '../host/guest-memory.js';
import type { Iov } from '../lib/iov.js';
import { readU64 } from '../lib/fields.js';
import type { GuestBuffer } from './guest-buffer.js';
import { guestBuffer } from './guest-buffer.js';
import type { Chain } from './virtqueue.js';
import { rangeBytes, sliceRanges, VirtioError } from './virtqueue.js';

export const SECTOR = 512;
const HEADER_BYTES = 16;
const SEGMENT_BYTES = 16;
const ID_BYTES = 20;

const RequestType = { read: 0, write: 1, flush: 4, id: 8, discard: 11, writeZeroes: 13 } as const;

export const BlockStatus = { ok: 0, error: 1, unsupported: 2 } as const;

const FLAG_UNMAP = 1;

/** What requests are carried out on. */
export interface BlockDisk {
  /** Length in bytes. */
  readonly bytes: number;
  readonly isReadOnly: boolean;
  read(offset: number, iov: Iov): Promise<void>;
  write(offset: number, iov: Iov, flags?: number): Promise<void>;
  writeZeroes(offset: number, bytes: number, flags: number): Promise<void>;
  discard(offset: number, bytes: number): Promise<void>;
  flush(): Promise<void>;
}

export interface BlockTarget {
  readonly disk: BlockDisk;
  readonly serial: string;
  /** Requests are multiples of it, and begin at such. */
  readonly blockBytes: number;
  /** undefined: the request is unsupported. */
  readonly maxDiscardSectors: number | undefined;
  readonly maxZeroSectors: number | undefined;
}

/** One byte each, as the driver finds it. */
const statusBytes = [0, 1, 2].map((status) => Uint8Array.of(status));
/** Headers are read one at a time. */
const headerBytes = new Uint8Array(HEADER_BYTES);
const headerView = new DataView(headerBytes.buffer);

/**
 * Carries a request out and writes its status; resolves to the bytes that the chain's used entry
 * tells. Rejects with VirtioError when the chain is no request, and with whatever gives requests
 * up (a reset).
 */
// hot: bench/guest
export function executeBlock(
  memory: GuestMemory,
  chain: Chain,
  target: BlockTarget,
  isGivenUp: (e: unknown) => boolean,
): Promise<number> {
  const { readable, writable } = chain;
  const last = writable.at(-1);
  const data = takeHeader(memory, readable);
  if (data === undefined || last === undefined) {
    const text = 'a request without a header or without room for its status';
    return Promise.reject(new VirtioError(text));
  }
  const inBytes = rangeBytes(writable);
  const end = (status: number): number => {
    memory.write(last.address + last.bytes - 1, statusBytes[status]!);
    return inBytes;
  };
  const done = (): number => {
    request.buffer?.finish();
    return end(BlockStatus.ok);
  };
  const failed = (e: unknown): number => {
    if (isGivenUp(e)) throw e;
    return end(BlockStatus.error);
  };
  const type = headerView.getUint32(0, true);
  const offset = readU64(headerView, 8, true) * SECTOR;
  const room = last.bytes === 1 ? writable.slice(0, -1) : sliceRanges(writable, 0, inBytes - 1);
  const request: Request = { memory, offset, data, room, target, buffer: undefined };
  try {
    const status = run(type, request);
    return typeof status === 'number' ? Promise.resolve(end(status)) : status.then(done, failed);
  } catch (e) {
    return Promise.resolve(failed(e));
  }
}

/** Reads the header into its place; what is behind it, or undefined: there is none. */
function takeHeader(
  memory: GuestMemory,
  readable: readonly GuestRange[],
): readonly GuestRange[] | undefined {
  const first = readable[0];
  if (first?.bytes === HEADER_BYTES) {
    memory.read(first.address, headerBytes);
    return readable.slice(1);
  }
  const bytes = rangeBytes(readable);
  if (bytes < HEADER_BYTES) return undefined;
  const header = guestBuffer(memory, sliceRanges(readable, 0, HEADER_BYTES), 'from-guest');
  headerBytes.set(header.iov.flatten());
  return sliceRanges(readable, HEADER_BYTES, bytes - HEADER_BYTES);
}

interface Request {
  readonly memory: GuestMemory;
  readonly offset: number;
  readonly data: readonly GuestRange[];
  readonly room: readonly GuestRange[];
  readonly target: BlockTarget;
  /** Where the data is while the disk works. */
  buffer: GuestBuffer | undefined;
}

/** What the disk does, or the status when there is nothing to wait for. */
type Begun = Promise<void> | number;

function run(type: number, request: Request): Begun {
  switch (type) {
    case RequestType.read:
      return transfer(request, request.room, 'to-guest');
    case RequestType.write:
      if (request.target.disk.isReadOnly) return BlockStatus.error;
      return transfer(request, request.data, 'from-guest');
    case RequestType.flush:
      return request.target.disk.flush();
    case RequestType.id:
      return tellId(request);
    case RequestType.discard:
      return discard(request);
    case RequestType.writeZeroes:
      return writeZeroes(request);
    default:
      return BlockStatus.unsupported;
  }
}

function transfer(
  request: Request,
  ranges: readonly GuestRange[],
  direction: 'to-guest' | 'from-guest',
): Begun {
  const { offset } = request;
  const { disk, blockBytes } = request.target;
  const bytes = rangeBytes(ranges);
  if (bytes % SECTOR !== 0 || bytes % blockBytes !== 0 || offset % blockBytes !== 0) {
    return BlockStatus.error;
  }
  if (offset + bytes > disk.bytes) return BlockStatus.error;
  const { iov } = (request.buffer = guestBuffer(request.memory, ranges, direction));
  return direction === 'to-guest' ? disk.read(offset, iov) : disk.write(offset, iov);
}

function tellId({ memory, room, target }: Request): number {
  const id = new Uint8Array(ID_BYTES);
  for (let i = 0; i < Math.min(ID_BYTES, target.serial.length); i++) {
    id[i] = target.serial.charCodeAt(i);
  }
  const bytes = Math.min(ID_BYTES, rangeBytes(room));
  const buffer = guestBuffer(memory, sliceRanges(room, 0, bytes), 'to-guest');
  buffer.iov.copyFrom(id.subarray(0, bytes));
  buffer.finish();
  return BlockStatus.ok;
}

/** One range of DISCARD or WRITE ZEROES, or the status that refuses it. */
function segment(
  { memory, data, target }: Request,
  maxSectors: number | undefined,
): { readonly offset: number; readonly bytes: number; readonly flags: number } | number {
  if (maxSectors === undefined) return BlockStatus.unsupported;
  const length = rangeBytes(data);
  if (length === 0 || length % SEGMENT_BYTES !== 0) return BlockStatus.error;
  // One is what the configuration offers.
  if (length > SEGMENT_BYTES) return BlockStatus.unsupported;
  if (target.disk.isReadOnly) return BlockStatus.error;
  const raw = guestBuffer(memory, data, 'from-guest').iov.flatten();
  const view = new DataView(raw.buffer, raw.byteOffset, SEGMENT_BYTES);
  const offset = readU64(view, 0, true) * SECTOR;
  const sectors = view.getUint32(8, true);
  const flags = view.getUint32(12, true);
  if ((flags & ~FLAG_UNMAP) !== 0) return BlockStatus.unsupported;
  const bytes = sectors * SECTOR;
  const { blockBytes } = target;
  if (sectors > maxSectors || bytes % blockBytes !== 0 || offset % blockBytes !== 0) {
    return BlockStatus.error;
  }
  if (offset + bytes > target.disk.bytes) return BlockStatus.error;
  return { offset, bytes, flags };
}

function discard(request: Request): Begun {
  const { target } = request;
  const range = segment(request, target.maxDiscardSectors);
  if (typeof range === 'number') return range;
  if (range.flags !== 0) return BlockStatus.unsupported;
  return target.disk.discard(range.offset, range.bytes);
}

function writeZeroes(request: Request): Begun {
  const { target } = request;
  const range = segment(request, target.maxZeroSectors);
  if (typeof range === 'number') return range;
  const flags = range.flags === 0 ? 0 : Req.mayUnmap;
  return target.disk.writeZeroes(range.offset, range.bytes, flags);
}
