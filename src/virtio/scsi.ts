/** Structures of virtio-scsi requests (virtio 1.2, section 5.6.6), as ranges of guest memory. */
import type { GuestMemory } from '../host/guest-memory.js';
import type { Iov } from '../lib/iov.js';
import type { GuestBuffer } from './guest-buffer.js';
import { guestBuffer } from './guest-buffer.js';
import type { Chain } from './virtqueue.js';
import { rangeBytes, sliceRanges, VirtioError } from './virtqueue.js';

const REQUEST_HEADER = 19;
const RESPONSE_HEADER = 12;

/** Values of the response field. */
export const ScsiResponse = {
  ok: 0,
  badTarget: 3,
  functionRejected: 11,
  incorrectLun: 12,
} as const;

/** A unit's address in its eight bytes. */
export interface ScsiAddress {
  readonly target: number;
  readonly lun: number;
}

/** Reads single-level addresses; undefined: another form. */
export function scsiAddress(bytes: Uint8Array): ScsiAddress | undefined {
  if (bytes[0] !== 1) return undefined;
  return { target: bytes[1]!, lun: ((bytes[2]! & 0x3f) << 8) | bytes[3]! };
}

export function addressBytes({ target, lun }: ScsiAddress): number[] {
  return [1, target, lun < 256 ? 0 : 0x40 | (lun >> 8), lun & 255, 0, 0, 0, 0];
}

/** A command in a chain. */
export interface ScsiCommand {
  readonly address: ScsiAddress | undefined;
  readonly cdb: Uint8Array;
  readonly out: Iov;
  readonly in: Iov;
  /** Writes the response, once; gives the bytes that were written. */
  finish(answer: {
    readonly response: number;
    readonly status: number;
    readonly bytes: number;
    readonly sense: Uint8Array;
  }): number;
}

/** Bytes of a chain's readable part, at most `most`. */
export function readChain(memory: GuestMemory, chain: Chain, most: number): Uint8Array {
  const bytes = Math.min(most, rangeBytes(chain.readable));
  return guestBuffer(memory, sliceRanges(chain.readable, 0, bytes), 'from-guest').iov.flatten();
}

/** Writes the beginning of a chain's writable part; gives the bytes that fitted. */
export function writeChain(memory: GuestMemory, chain: Chain, data: Uint8Array): number {
  const bytes = Math.min(data.length, rangeBytes(chain.writable));
  const buffer = guestBuffer(memory, sliceRanges(chain.writable, 0, bytes), 'to-guest');
  if (bytes > 0) buffer.iov.copyFrom(data.subarray(0, bytes));
  buffer.finish();
  return bytes;
}

/** Reads a command. Throws VirtioError when the chain is none. */
export function scsiCommand(
  memory: GuestMemory,
  chain: Chain,
  cdbBytes: number,
  senseBytes: number,
): ScsiCommand {
  const { readable, writable } = chain;
  const outBytes = rangeBytes(readable) - REQUEST_HEADER - cdbBytes;
  const inBytes = rangeBytes(writable) - RESPONSE_HEADER - senseBytes;
  if (outBytes < 0 || inBytes < 0) throw new VirtioError('a request without its headers');
  const header = readChain(memory, chain, REQUEST_HEADER + cdbBytes).slice();
  const start = REQUEST_HEADER + cdbBytes;
  const out = guestBuffer(memory, sliceRanges(readable, start, outBytes), 'from-guest');
  const room: GuestBuffer = guestBuffer(
    memory,
    sliceRanges(writable, RESPONSE_HEADER + senseBytes, inBytes),
    'to-guest',
  );
  return {
    address: scsiAddress(header),
    cdb: header.slice(REQUEST_HEADER),
    out: out.iov,
    in: room.iov,
    finish: ({ response, status, bytes, sense }) => {
      room.finish();
      const answer = new Uint8Array(RESPONSE_HEADER + senseBytes);
      const view = new DataView(answer.buffer);
      const told = sense.subarray(0, senseBytes);
      view.setUint32(0, told.length, true);
      view.setUint32(4, Math.max(0, (inBytes > 0 ? inBytes : outBytes) - bytes), true);
      answer[10] = status;
      answer[11] = response;
      answer.set(told, RESPONSE_HEADER);
      return writeChain(memory, chain, answer) + (inBytes > 0 ? bytes : 0);
    },
  };
}
