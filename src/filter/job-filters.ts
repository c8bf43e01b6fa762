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
import type { Child } from '../block/child.js';
import type { Driver, DriverInstance, OpenContext } from '../block/driver.js';
import { actualSize } from '../block/image-info.js';
import { passThrough, unchangedReopen } from '../block/pass-through.js';
import { Perm, Role } from '../block/types.js';

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

export const mirrorTopDriver: Driver = {
  ...shell,
  name: 'mirror_top',
  async open(context) {
    const below = await child(context);
    return {
      ...passThrough(below),
      ...common(below),
      childPerm: (_child, parents) => ({ perm: parents.perm & passed, shared: Perm.all }),
    };
  },
};
