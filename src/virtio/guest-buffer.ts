/**
 * Guest memory as the buffer of one request: RAM where it stands, copies elsewhere.
 *
 * RAM is lent without copying, so a guest that changes a buffer while a write is under way writes
 * a mixture, as it would with real hardware; nothing else can come of it.
 */
import type { GuestMemory, GuestRange } from '../host/guest-memory.js';
import { Iov } from '../lib/iov.js';

/** Which way data moves. */
export type DmaDirection = 'to-guest' | 'from-guest';

export interface GuestBuffer {
  readonly iov: Iov;
  /** Brings what was read to the guest, where the buffer is a copy; call when the request ended. */
  finish(): void;
}

/** Bytes of one request that are copied; more than any device's longest request by registers. */
const MAX_COPIED = 64 * 1024 * 1024;

const nothing = (): void => undefined;

/** The bytes of `ranges`, in order. Throws RangeError when more than 64 MiB were to be copied. */
export function guestBuffer(
  memory: GuestMemory,
  ranges: readonly GuestRange[],
  direction: DmaDirection,
): GuestBuffer {
  const pieces: Uint8Array[] = [];
  let copied = 0;
  let copies: { readonly address: number; readonly copy: Uint8Array }[] | undefined;
  for (const { address, bytes } of ranges) {
    if (bytes === 0) continue;
    const view = memory.tryView(address, bytes);
    if (view !== undefined) {
      pieces.push(view);
      continue;
    }
    copied += bytes;
    if (copied > MAX_COPIED) throw new RangeError('a request with too much that is no RAM');
    const copy = new Uint8Array(bytes);
    if (direction === 'from-guest') memory.read(address, copy);
    else (copies ??= []).push({ address, copy });
    pieces.push(copy);
  }
  const made = copies;
  const finish =
    made === undefined
      ? nothing
      : (): void => {
          for (const { address, copy } of made) memory.write(address, copy);
        };
  return { iov: Iov.from(pieces), finish };
}
