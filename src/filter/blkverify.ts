/**
 * Filter `blkverify`: two images that must stay equal, `test` and `raw`. Every write goes to
 * both, every read is compared.
 *
 * QEMU ends the process at the first difference, and so do the tools; in a library the request
 * fails with EIO, with the offset in its message, which is also given as a warning.
 *
 * Name: `blkverify:RAW:TEST`.
 */
import { blockdevRef } from '../block/blockdev-types.js';
import type { Child } from '../block/child.js';
import type { Driver, DriverInstance, NodeOptions, OpenContext } from '../block/driver.js';
import { BlockError } from '../block/errors.js';
import { exactFilename } from '../block/filename.js';
import { passThrough } from '../block/pass-through.js';
import { Role } from '../block/types.js';
import { t } from '../options/schema.js';
import { WriteTracker } from '../block/write-tracker.js';
import { Iov } from '../lib/iov.js';

/** Both requests to their end, then the first error. */
async function both(first: Promise<void>, second: Promise<void>): Promise<void> {
  const results = await Promise.allSettled([first, second]);
  for (const r of results) if (r.status === 'rejected') throw r.reason;
}

/** Index of the first byte that differs; -1 when none does. */
function firstDifference(a: Iov, b: Iov): number {
  const left = a.flatten();
  const right = b.flatten();
  for (let i = 0; i < left.byteLength; i++) if (left[i] !== right[i]) return i;
  return -1;
}

function parseFilename(filename: string): NodeOptions {
  // Where the driver is chosen by an option, the name is that of the image.
  if (!filename.startsWith('blkverify:')) return { 'x-image': filename };
  const rest = filename.slice('blkverify:'.length);
  const colon = rest.indexOf(':');
  if (colon < 0) {
    throw new BlockError('EINVAL', 'blkverify requires raw copy and original image path');
  }
  return { 'x-raw': rest.slice(0, colon), 'x-image': rest.slice(colon + 1) };
}

function makeInstance(context: OpenContext, raw: Child, test: Child): DriverInstance {
  // A read beside a write of the same bytes could find it in one image and not in the other.
  const requests = new WriteTracker();
  const verifiedRead = async (offset: number, iov: Iov, flags: number): Promise<void> => {
    const copy = Iov.alloc(iov.bytes);
    await both(test.read(offset, iov, flags), raw.read(offset, copy, flags));
    const at = firstDifference(iov, copy);
    if (at < 0) return;
    const message =
      `blkverify: read offset=${offset} bytes=${iov.bytes} ` +
      `contents mismatch at offset ${offset + at}`;
    context.graph.mismatch(message);
    throw new BlockError('EIO', message, { op: 'read', node: context.node.name, offset });
  };
  return {
    ...passThrough(raw),
    length: () => test.size,
    read: (offset, iov, flags) =>
      requests.run({ offset, bytes: iov.bytes, serialising: true }, () =>
        verifiedRead(offset, iov, flags),
      ),
    write: (offset, iov, flags) =>
      requests.run({ offset, bytes: iov.bytes, serialising: false }, () =>
        both(test.write(offset, iov, flags), raw.write(offset, iov, flags)),
      ),
    writeZeroes: (offset, bytes, flags) =>
      requests.run({ offset, bytes, serialising: false }, () =>
        both(test.writeZeroes(offset, bytes, flags), raw.writeZeroes(offset, bytes, flags)),
      ),
    // What a discarded range reads as is each image's own affair: they would differ.
    discard: () => Promise.reject(new BlockError('ENOTSUP')),
    truncate: async (bytes, options) => {
      await test.truncate(bytes, options);
      await raw.truncate(bytes, options);
    },
    blockStatus: async (_offset, bytes) => ({
      bytes,
      data: true,
      zero: false,
      allocated: true,
    }),
    writeCompressed: () => Promise.reject(new BlockError('ENOTSUP')),
    hasZeroInit: async () =>
      (await test.node.instance.hasZeroInit?.()) === true &&
      (await raw.node.instance.hasZeroInit?.()) === true,
    allocatedBytes: async () => undefined,
    exactFilename: () => {
      const [a, b] = [exactFilename(raw.node), exactFilename(test.node)];
      return a === undefined || b === undefined ? undefined : `blkverify:${a}:${b}`;
    },
  };
}

export const blkverifyDriver: Driver = {
  name: 'blkverify',
  kind: 'filter',
  schemes: ['blkverify'],
  needsFile: false,
  primaryChild: 'raw',
  blockdev: t.struct('BlockdevOptionsBlkverify', { test: blockdevRef, raw: blockdevRef }),
  optionNames: ['x-raw', 'x-image', 'raw', 'test'],
  parseFilename,
  async open(context) {
    const named = (key: string) => {
      const name = context.options[key];
      return typeof name === 'string' ? { filename: name } : {};
    };
    const raw = await context.openChild('raw', {
      role: Role.filtered | Role.primary,
      ...named('x-raw'),
    });
    const test = await context.openChild('test', {
      role: Role.data,
      allowFormat: true,
      ...named('x-image'),
    });
    return makeInstance(context, raw, test);
  },
};
