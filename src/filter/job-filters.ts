/**
 * Filters that jobs put over an image while they run. No option opens them.
 *
 * `commit_top` stands between an image that is being committed into one below it and the image
 * above. That one sees through it what it always saw, whatever moves from file to file below.
 *
 * `mirror_top` stands between guests and the image whose data goes elsewhere. Guests are held at
 * it when the other takes the image's place; it tolerates that the job writes the image's own
 * backing files, for what guests see does not change by that.
 */
import type { Backend } from '../block/backend.js';
import type { Child } from '../block/child.js';
import type { Driver, DriverInstance, OpenContext } from '../block/driver.js';
import { BlockError } from '../block/errors.js';
import { actualSize } from '../block/image-info.js';
import { passThrough, unchangedReopen } from '../block/pass-through.js';
import { Perm, Req, Role } from '../block/types.js';

const passed = Perm.consistentRead | Perm.write | Perm.writeUnchanged | Perm.resize;

/** Jobs' filters call their child as QEMU's do. */
function child(context: OpenContext): Promise<Child> {
  return context.openChild('backing', { role: Role.filtered | Role.primary });
}

function common(below: Child): Partial<DriverInstance> {
  return {
    reopenPrepare: unchangedReopen,
    exactFilename: () => below.node.filename,
    allocatedBytes: () => actualSize(below.node),
    tryFileRun: (offset, bytes) => below.node.tryFileRun(offset, bytes),
  };
}

const shell = {
  kind: 'filter',
  needsFile: true,
  primaryChild: 'backing',
  optionNames: [],
} as const;

export const commitTopDriver: Driver = {
  ...shell,
  name: 'commit_top',
  async open(context) {
    const below = await child(context);
    // Nobody writes through it, for it is open read-only; what is seen through it stays the same,
    // whoever writes below.
    return {
      ...passThrough(below),
      ...common(below),
      childPerm: () => ({ perm: 0, shared: Perm.all }),
    };
  },
};

/**
 * Sees to a write of a guest: `write` does it, `copy` does the same to another disk. Called with
 * the range that is written.
 */
export type GuestWrites = (
  offset: number,
  bytes: number,
  write: () => Promise<void>,
  copy: (target: Backend) => Promise<void>,
) => Promise<void>;

/** Who sees to the writes that go through a `mirror_top`. */
export interface MirrorTop {
  /** From now on this one, undefined: nobody. */
  watch(guestWrites: GuestWrites | undefined): void;
}

export const mirrorTops = new WeakMap<DriverInstance, MirrorTop>();

function watched(below: Child, pass: DriverInstance): DriverInstance {
  let seesTo: GuestWrites | undefined;
  const run: GuestWrites = (offset, bytes, write, copy) =>
    seesTo === undefined ? write() : seesTo(offset, bytes, write, copy);
  const instance: DriverInstance = {
    ...pass,
    write: (offset, iov, flags) =>
      run(
        offset,
        iov.bytes,
        () => below.write(offset, iov, flags),
        (target) => target.write(offset, iov, flags),
      ),
    writeZeroes: (offset, bytes, flags) =>
      run(
        offset,
        bytes,
        () => below.writeZeroes(offset, bytes, flags),
        (target) => target.writeZeroes(offset, bytes, flags & ~Req.noFallback),
      ),
    discard: (offset, bytes) =>
      run(
        offset,
        bytes,
        () => below.discard(offset, bytes),
        // What a discarded range reads as is each image's own affair: it is copied.
        () => Promise.reject(new BlockError('ENOTSUP')),
      ),
    writeCompressed: (offset, iov) =>
      run(
        offset,
        iov.bytes,
        () => below.write(offset, iov, Req.compressed),
        (target) => target.write(offset, iov),
      ),
  };
  const watch = (guestWrites: GuestWrites | undefined): void => {
    seesTo = guestWrites;
  };
  mirrorTops.set(instance, { watch });
  return instance;
}

export const mirrorTopDriver: Driver = {
  ...shell,
  name: 'mirror_top',
  async open(context) {
    const below = await child(context);
    return watched(below, {
      ...passThrough(below),
      ...common(below),
      childPerm: (_child, parents) => ({ perm: parents.perm & passed, shared: Perm.all }),
    });
  },
};
