/**
 * Filter `copy-on-read`: what is read from further down a backing chain is stored in the
 * image below the filter, so that it is there next time.
 *
 * `bottom` names the last node that data is copied from: what lies below it is read and not
 * copied, what lies between is.
 */
import { onFile } from '../block/blockdev-types.js';
import type { Child } from '../block/child.js';
import type { Driver, OpenContext } from '../block/driver.js';
import { BlockError } from '../block/errors.js';
import type { BlockNode } from '../block/node.js';
import { passThrough, unchangedReopen } from '../block/pass-through.js';
import { below, chainStatus } from '../block/status.js';
import { t } from '../options/schema.js';
import { Perm, Req, Role } from '../block/types.js';
import type { Iov } from '../lib/iov.js';

const passed = Perm.consistentRead | Perm.write | Perm.resize;

/** The node that `bottom` names, which must be in the chain of `top`. */
function bottomOf(context: OpenContext, top: BlockNode): BlockNode | undefined {
  const name = context.options['bottom'];
  if (name === undefined) return undefined;
  for (let at: BlockNode | undefined = top; at !== undefined; at = below(at)) {
    if (at.name === name) return at;
  }
  throw new BlockError('EINVAL', `Bottom node '${typeof name === 'string' ? name : ''}' not found`);
}

/** Reads piece by piece, copying what comes from `bottom` or above. */
async function readDownTo(
  file: Child,
  bottom: BlockNode,
  offset: number,
  iov: Iov,
  flags: number,
): Promise<void> {
  const base = below(bottom);
  let done = 0;
  while (done < iov.bytes) {
    const at = offset + done;
    const run = await chainStatus(file.node, base, at, iov.bytes - done, false);
    const n = run.bytes === 0 ? iov.bytes - done : Math.min(run.bytes, iov.bytes - done);
    const copies = run.allocated && run.depth > 0;
    const wanted = (flags & Req.prefetch) === 0;
    if (copies) await file.read(at, iov.slice(done, n), flags | Req.copyOnRead);
    else if (wanted) await file.read(at, iov.slice(done, n), flags);
    done += n;
  }
}

export const copyOnReadDriver: Driver = {
  name: 'copy-on-read',
  kind: 'filter',
  needsFile: true,
  optionNames: ['bottom'],
  blockdev: t.struct('BlockdevOptionsCor', {
    ...onFile,
    bottom: t.optional(t.str({ doc: 'lowest node of the backing chain that is copied from' })),
  }),
  async open(context) {
    const file = await context.openChild('file', { role: Role.filtered | Role.primary });
    const bottom = bottomOf(context, file.node);
    if (context.node.readOnly) throw new BlockError('EACCES', 'Block node is read-only');
    return {
      ...passThrough(file),
      read: (offset, iov, flags) =>
        bottom === undefined
          ? file.read(offset, iov, flags | Req.copyOnRead)
          : readDownTo(file, bottom, offset, iov, flags),
      childPerm: (_child, parents) => ({
        perm: (parents.perm & passed) | Perm.writeUnchanged,
        shared: (parents.shared & passed) | Perm.writeUnchanged,
      }),
      reopenPrepare: unchangedReopen,
      strongOptions: () => (bottom === undefined ? {} : { bottom: bottom.name }),
    };
  },
};
