/**
 * The instance of a filter that changes nothing: every request goes to the child as it is.
 * A filter spreads it and puts its own methods over those that it means to change:
 *
 * ```ts
 * return { ...passThrough(file), write: (offset, iov, flags) => … };
 * ```
 *
 * Limits, truncate, permissions and allocated bytes need nothing: the node itself passes
 * them on for a filter.
 */
import type { Child } from './child.js';
import type { DriverInstance, ReopenStep } from './driver.js';
import type { DriverStatus } from './types.js';
import { Req } from './types.js';

/** Flags of writes that mean the same one level below. */
export const passedWriteFlags = Req.fua | Req.writeUnchanged;
/** The same for zero writes. */
export const passedZeroFlags = passedWriteFlags | Req.mayUnmap | Req.noFallback;

/** The status of a run that lies at the same place in `file`, which knows more. */
export function runBelow(file: Child, offset: number, bytes: number): DriverStatus {
  const nothing = { data: false, zero: false, allocated: false };
  return { ...nothing, bytes, offset, file: file.node, recurse: true };
}

/** For an instance of which nothing but flags can change while it is open. */
export const unchangedReopen = async (): Promise<ReopenStep> => ({
  commit: () => undefined,
  abort: () => undefined,
});

/** An instance that passes everything to `file`; closing it needs nothing. */
export function passThrough(file: Child): DriverInstance {
  return {
    writeFlags: passedWriteFlags,
    zeroFlags: passedZeroFlags,
    length: () => file.size,
    read: (offset, iov, flags) => file.read(offset, iov, flags),
    write: (offset, iov, flags) => file.write(offset, iov, flags),
    writeCompressed: (offset, iov) => file.write(offset, iov, Req.compressed),
    writeZeroes: (offset, bytes, flags) => file.writeZeroes(offset, bytes, flags),
    discard: (offset, bytes) => file.discard(offset, bytes),
    blockStatus: async (offset, bytes) => runBelow(file, offset, bytes),
    hasZeroInit: async () => (await file.node.instance.hasZeroInit?.()) ?? false,
    info: async () => {
      // What only one format knows is that node's own.
      const { formatSpecific: _, ...info } = (await file.node.instance.info?.()) ?? {};
      return info;
    },
    close: async () => undefined,
  };
}
