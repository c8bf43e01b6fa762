/** Which writes of a batch become one: pieces that lie one behind the other. */
import { Iov } from '../../lib/iov.js';
import type { Data } from '../../block/data.js';
import type { Run } from './run.js';
import type { GuestOffset, HostOffset } from './units.js';

/** Pieces up to this length are merged with their neighbours, up to a write of that length. */
export const MERGE_PIECE = 64 * 1024;
const MERGE_BYTES = 1024 * 1024;
/**
 * The same for first writes around the page cache: each changes metadata of the file system as
 * well, one after the other, so that four of 256 KiB take twice as long as one of 1 MiB.
 */
export const MERGE_FIRST = 512 * 1024;
/** Buffers of one merged write. */
const MERGE_BUFFERS = 256;

/** A guest write; done when nothing of it remains. */
export interface Request {
  readonly offset: GuestOffset;
  readonly data: Data;
  /** Bytes that are neither written nor failed. */
  remaining: number;
  error: unknown;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
  /** Called when it is done, before the caller knows. */
  onDone: (() => void)[];
}

/** Bytes with a place: of a request, or filled in (`request` undefined). */
export interface Piece {
  readonly request: Request | undefined;
  readonly run: Run | undefined;
  readonly guest: GuestOffset;
  readonly host: HostOffset;
  readonly data: Data;
}

/**
 * Pieces that follow each other in the file and on the disk, as groups to be written at once.
 * Long pieces stay alone, for they gain nothing; `first`: how long one of a first write may be
 * (Infinity: all are joined). What stands in a file of the host stays alone, too.
 */
export function groups(pieces: readonly Piece[], first: number): Piece[][] {
  const most = first === Infinity ? Infinity : MERGE_BYTES;
  const sorted = [...pieces].sort((a, b) => a.host - b.host);
  const out: Piece[][] = [];
  let group: Piece[] = [];
  let end = -1;
  let guestEnd = -1;
  let bytes = 0;
  let buffers = 0;
  let open = false;
  for (const piece of sorted) {
    const small =
      piece.data instanceof Iov &&
      piece.data.bytes <= (piece.run === undefined && first < Infinity ? MERGE_PIECE : first);
    const follows = piece.host === end && piece.guest === guestEnd;
    const fits = bytes + piece.data.bytes <= most && buffers + buffersOf(piece) <= MERGE_BUFFERS;
    if (!open || !small || !follows || !fits) {
      group = [];
      out.push(group);
      bytes = 0;
      buffers = 0;
    }
    open = small;
    group.push(piece);
    bytes += piece.data.bytes;
    buffers += buffersOf(piece);
    end = piece.host + piece.data.bytes;
    guestEnd = piece.guest + piece.data.bytes;
  }
  return out;
}

const buffersOf = ({ data }: Piece): number => (data instanceof Iov ? data.bufs.length : 0);

/** The bytes of one group. */
export function joined(group: readonly Piece[]): Data {
  const first = group[0]!;
  if (group.length === 1) return first.data;
  return Iov.from(group.flatMap(({ data }) => (data instanceof Iov ? data.bufs : [])));
}

/** Bytes [start, start + bytes) of `data`. */
export function partOf(data: Data, start: number, bytes: number): Data {
  if (data instanceof Iov) return data.slice(start, bytes);
  return { file: data.file, offset: data.offset + start, bytes };
}
