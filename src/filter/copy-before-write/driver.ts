/**
 * Filter `copy-before-write`: what the disk held when the filter was put in stays readable. Before
 * a write changes a cluster for the first time, its old data is copied to `target`.
 *
 * Invariants
 *  B1  A write reaches `file` when the old data of its clusters is at the target, or the snapshot
 *      is broken.
 *  B2  A cluster in `copied` has its old data at the target; a snapshot reads it from there.
 *  B3  A write of a cluster waits for the reads of a snapshot that are on their way to `file`.
 */
import { blockDirtyBitmap, onFile, blockdevRef } from '../../block/blockdev-types.js';
import { findBitmap } from '../../block/bitmaps.js';
import type { Child } from '../../block/child.js';
import { defaultPerms } from '../../block/child.js';
import type { DirtyBitmap } from '../../block/dirty-bitmap.js';
import type {
  Driver,
  DriverInstance,
  OpenContext,
  PermPair,
  SnapshotAccess,
} from '../../block/driver.js';
import { BlockError, prepend } from '../../block/errors.js';
import { passThrough } from '../../block/pass-through.js';
import { chainStatus } from '../../block/status.js';
import type { DriverStatus } from '../../block/types.js';
import { Perm, Req, Role } from '../../block/types.js';
import type { Clock } from '../../host/host.js';
import type { Iov } from '../../lib/iov.js';
import type { Infer } from '../../options/schema.js';
import { fieldsOf, parseValue, t } from '../../options/schema.js';
import { BlockCopy, copyClusterSize, newBitmap } from './block-copy.js';

const ownOptions = t.struct('BlockdevOptionsCbw', {
  bitmap: t.optional(blockDirtyBitmap),
  'on-cbw-error': t.optional(
    t.enumOf('break-guest-write', 'break-snapshot', {
      name: 'OnCbwError',
      doc: 'what becomes of a write whose old data cannot be copied',
      since: '7.1',
    }),
  ),
  'cbw-timeout': t.optional(
    t.uint({ bits: 32 }, { doc: 'seconds that a copy may take; default 0: any', since: '7.1' }),
  ),
  'min-cluster-size': t.optional(
    t.size({ doc: 'bytes that are copied at least, a power of two', since: '9.2' }),
  ),
});

type Options = Infer<typeof ownOptions>;

/** A node whose instance is a copy-before-write filter, for the backup job. */
export const blockCopies = new WeakMap<DriverInstance, BlockCopy>();

interface FrozenRead {
  readonly from: number;
  readonly to: number;
  readonly done: Promise<void>;
}

class CopyBeforeWrite implements SnapshotAccess {
  readonly copy: BlockCopy;
  readonly #file: Child;
  readonly #target: Child;
  readonly #clock: Clock;
  readonly #options: Options;
  /** Clusters that a snapshot may read. */
  readonly #readable: DirtyBitmap;
  /** B2 */
  readonly #copied: DirtyBitmap;
  readonly #frozen = new Set<FrozenRead>();
  /** Why the snapshot is broken. */
  #broken: unknown;
  /** Copies that nobody waits for any more. */
  readonly #orphans = new Set<Promise<void>>();

  constructor(init: {
    file: Child;
    target: Child;
    copy: BlockCopy;
    clock: Clock;
    options: Options;
  }) {
    this.copy = init.copy;
    this.#file = init.file;
    this.#target = init.target;
    this.#clock = init.clock;
    this.#options = init.options;
    const { length, clusterSize, pending } = init.copy;
    this.#readable = newBitmap(length, clusterSize);
    this.#readable.merge(pending);
    this.#copied = newBitmap(length, clusterSize);
    init.copy.onRestart = (): void => {
      this.#readable.set(0, length);
      this.#copied.clear();
      this.#broken = undefined;
    };
  }

  get bitmaps(): readonly DirtyBitmap[] {
    return [this.#readable, this.#copied, this.copy.pending];
  }

  /** B1 and B3, for the clusters that the range touches. */
  async before(offset: number, bytes: number, flags = 0): Promise<void> {
    if (this.#broken !== undefined || (flags & Req.writeUnchanged) !== 0) return;
    const { from, to } = this.copy.around(offset, bytes);
    if (from >= to) return;
    try {
      await this.#inTime(this.copy.ensure(from, to - from));
    } catch (e) {
      if (this.#options['on-cbw-error'] !== 'break-snapshot') throw e;
      this.#broken ??= e;
      return;
    }
    this.#copied.set(from, to - from);
    for (const read of [...this.#frozen]) {
      if (read.from < to && from < read.to) await read.done;
    }
  }

  async #inTime(copy: Promise<void>): Promise<void> {
    const seconds = this.#options['cbw-timeout'] ?? 0;
    if (seconds === 0) {
      await copy;
      return;
    }
    const orphan = copy.catch(() => undefined);
    this.#orphans.add(orphan);
    void orphan.then(() => this.#orphans.delete(orphan));
    await new Promise<void>((resolve, reject) => {
      const cancel = this.#clock.after(seconds * 1000, () => {
        reject(new BlockError('ETIMEDOUT'));
      });
      copy.then(resolve, reject).finally(cancel);
    });
  }

  /** Resolves when no copy runs that nobody waits for. */
  async settled(): Promise<void> {
    await Promise.all(this.#orphans);
  }

  async read(offset: number, iov: Iov): Promise<void> {
    for (let done = 0; done < iov.bytes;) {
      const at = offset + done;
      const run = this.#runAt(at, iov.bytes - done);
      const part = iov.slice(done, run.bytes);
      if (run.child === this.#target) await this.#target.read(at, part);
      else await this.#frozenRead(at, part);
      done += run.bytes;
    }
  }

  async blockStatus(offset: number, bytes: number, wantZero: boolean): Promise<DriverStatus> {
    // Who looks further than what may be read is told of what may.
    const hidden = this.#readable.next(offset, false) ?? offset + bytes;
    const run = this.#runAt(offset, hidden > offset ? Math.min(bytes, hidden - offset) : bytes);
    const s = await chainStatus(run.child.node, undefined, offset, run.bytes, wantZero);
    const zero = s.zero || (!s.allocated && !s.data);
    return { bytes: s.bytes, data: s.data, zero, allocated: s.allocated };
  }

  async discard(offset: number, bytes: number): Promise<void> {
    const g = this.copy.clusterSize;
    const from = offset + ((g - (offset % g)) % g);
    const end = offset + bytes;
    const to = end >= this.copy.length ? end : end - (end % g);
    if (from >= to) return;
    this.#readable.clear(from, to - from);
    this.copy.forget(from, to - from);
    await this.#target.discard(from, to - from);
  }

  /** The child that has the old data from `offset` on, and for how long. Throws EACCES. */
  #runAt(offset: number, bytes: number): { child: Child; bytes: number } {
    const hidden = this.#readable.next(offset, false);
    if (this.#broken !== undefined || (hidden !== undefined && hidden < offset + bytes)) {
      throw new BlockError('EACCES');
    }
    const copied = this.#copied.has(offset);
    const end = Math.min(this.#copied.next(offset, !copied) ?? offset + bytes, offset + bytes);
    return { child: copied ? this.#target : this.#file, bytes: end - offset };
  }

  async #frozenRead(offset: number, iov: Iov): Promise<void> {
    let finish = (): void => undefined;
    const done = new Promise<void>((resolve) => {
      finish = resolve;
    });
    const read: FrozenRead = { from: offset, to: offset + iov.bytes, done };
    this.#frozen.add(read);
    try {
      await this.#file.read(offset, iov);
    } finally {
      this.#frozen.delete(read);
      finish();
    }
  }
}

async function prepareCopy(
  context: OpenContext,
  file: Child,
  target: Child,
  options: Options,
): Promise<BlockCopy> {
  const wanted = options.bitmap;
  const bitmap = wanted && findBitmap(bitmapNode(context, wanted.node), wanted.name);
  try {
    const clusterSize = await copyClusterSize(target, options['min-cluster-size'] ?? 0);
    const copy = new BlockCopy({ source: file, target, clusterSize });
    if (bitmap !== undefined) limitTo(copy, bitmap);
    return copy;
  } catch (e) {
    throw prepend('Cannot create block-copy-state: ', e);
  }
}

function limitTo(copy: BlockCopy, bitmap: DirtyBitmap): void {
  copy.pending.clear();
  try {
    copy.pending.merge(bitmap);
  } catch (e) {
    copy.close();
    throw e;
  }
}

function bitmapNode({ graph }: OpenContext, name: string) {
  const node = graph.backends.get(name)?.node ?? graph.tryNode(name);
  if (node !== undefined) return node;
  throw new BlockError('ENODEV', `Cannot find device='${name}' nor node-name='${name}'`);
}

function makeInstance(file: Child, cbw: CopyBeforeWrite): DriverInstance {
  const pass = passThrough(file);
  return {
    ...pass,
    write: async (offset, iov, flags) => {
      await cbw.before(offset, iov.bytes, flags);
      await file.write(offset, iov, flags);
    },
    writeZeroes: async (offset, bytes, flags) => {
      await cbw.before(offset, bytes, flags);
      await file.writeZeroes(offset, bytes, flags);
    },
    discard: async (offset, bytes) => {
      await cbw.before(offset, bytes);
      await file.discard(offset, bytes);
    },
    writeCompressed: async (offset, iov) => {
      await cbw.before(offset, iov.bytes);
      await file.write(offset, iov, Req.compressed);
    },
    // The guest's data is durable when the file is; the target is the backup's affair.
    flushesChild: (child) => child === file,
    childPerm: (child, parents, _reopen, isUsed): PermPair => {
      // The file of the source may be in the chain of the target.
      if (child !== file) return { perm: Perm.write, shared: Perm.all & ~Perm.resize };
      const { perm, shared } = defaultPerms(child.role, parents, { writable: true, io: true });
      if (!isUsed) return { perm, shared };
      const needs = Perm.consistentRead | (cbw.copy.discardSource ? Perm.write : 0);
      return { perm: perm | needs, shared: shared & ~(Perm.write | Perm.resize) };
    },
    snapshotAccess: cbw,
    ownBitmaps: cbw.bitmaps,
    drainBegin: () => cbw.settled(),
    close: async () => {
      await cbw.settled();
      cbw.copy.close();
    },
  };
}

export const copyBeforeWriteDriver: Driver = {
  name: 'copy-before-write',
  kind: 'filter',
  needsFile: true,
  optionNames: ['target', ...Object.keys(fieldsOf(ownOptions))],
  blockdev: t.struct('BlockdevOptionsCbw', {
    ...onFile,
    target: blockdevRef,
    ...fieldsOf(ownOptions),
  }),
  async open(context) {
    const { target: _target, file: _file, ...own } = context.options;
    const options = parseValue(ownOptions, own, { from: 'opts' });
    const file = await context.openChild('file', { role: Role.filtered | Role.primary });
    const target = await context.openChild('target', { role: Role.data, allowFormat: true });
    const copy = await prepareCopy(context, file, target, options);
    const { clock } = context.host;
    const cbw = new CopyBeforeWrite({ file, target, copy, clock, options });
    const instance = makeInstance(file, cbw);
    blockCopies.set(instance, copy);
    return instance;
  },
};
