/**
 * Filter `preallocate`: when a file grows, it grows by a lot at once, so that file systems
 * for which growing is slow are asked rarely. What was allocated too much is cut off again
 * when nobody writes any more.
 *
 * Invariants
 *  P1  `dataEnd` is the length that the user sees: where data ends. `fileEnd` is the file's.
 *  P2  [dataEnd, fileEnd) reads as zeroes.
 *  P3  While the filter may preallocate (`active`), nobody else writes to or resizes the file.
 */
import { onFile } from '../block/blockdev-types.js';
import type { Child } from '../block/child.js';
import { reopenNames } from '../block/node-options.js';
import { defaultPerms } from '../block/child.js';
import type { Driver, DriverInstance, OpenContext } from '../block/driver.js';
import { BlockError } from '../block/errors.js';
import { passThrough } from '../block/pass-through.js';
import { Perm, Req, Role } from '../block/types.js';
import { Mutex } from '../lib/mutex.js';
import type { Infer } from '../options/schema.js';
import { fieldsOf, parseValue, t } from '../options/schema.js';

const SECTOR = 512;

/** BlockdevOptionsPreallocate without `file`. */
export const preallocateOptions = t.struct('BlockdevOptionsPreallocate', {
  'prealloc-align': t.size({
    default: 1024 * 1024,
    qapi: 'int',
    doc: 'the file ends at multiples of it while it is preallocated',
    reopen: true,
  }),
  'prealloc-size': t.size({
    default: 128 * 1024 * 1024,
    qapi: 'int',
    doc: 'bytes to allocate beyond the end of a write',
    reopen: true,
  }),
});

type Options = Infer<typeof preallocateOptions>;

function parseOptions(options: Record<string, unknown>): Options {
  const parsed = parseValue(preallocateOptions, options, { from: 'opts' });
  if (parsed['prealloc-align'] % SECTOR !== 0) {
    throw new BlockError(
      'EINVAL',
      `prealloc-align parameter of preallocate filter is not aligned to ${SECTOR}`,
    );
  }
  return parsed;
}

const needed = Perm.write | Perm.resize;

/** The two ends of the file, and how it grows. */
class Growth {
  options: Options;
  active = false;
  dataEnd: number;
  #fileEnd: number;
  readonly #file: Child;
  readonly #lock = new Mutex();

  constructor(file: Child, options: Options) {
    this.#file = file;
    this.options = options;
    this.dataEnd = file.size;
    this.#fileEnd = file.size;
  }

  /** Makes room for data up to `end`; true when a zero write to `start` needs nothing more. */
  async makeRoom(start: number, end: number): Promise<boolean> {
    if (end <= this.dataEnd) return false;
    const wasZero = start >= this.dataEnd;
    this.dataEnd = end;
    if (end > this.#fileEnd) await this.#lock.run(() => this.#allocate(end));
    return wasZero && end <= this.#fileEnd;
  }

  async #allocate(end: number): Promise<void> {
    if (end <= this.#fileEnd) return;
    const align = Math.max(SECTOR, this.options['prealloc-align']);
    const wanted = Math.ceil((end + this.options['prealloc-size']) / align) * align;
    try {
      await this.#file.writeZeroes(this.#fileEnd, wanted - this.#fileEnd, Req.noFallback);
      this.#fileEnd = wanted;
    } catch (e) {
      // The write itself makes the file grow, or tells why it cannot.
      if (!(e instanceof Error && 'code' in e)) throw e;
    }
  }

  /** After a write that ended beyond what was allocated. */
  grewTo(end: number): void {
    if (end > this.#fileEnd) this.#fileEnd = end;
  }

  /** Cuts off what was allocated too much. */
  shrink(): Promise<void> {
    return this.#lock.run(async () => {
      if (this.#fileEnd <= this.dataEnd) return;
      await this.#file.truncate(this.dataEnd);
      this.#fileEnd = this.dataEnd;
    });
  }

  /** Takes over a length that somebody else decided. */
  settle(bytes: number): void {
    this.dataEnd = bytes;
    this.#fileEnd = bytes;
  }
}

function makeInstance(context: OpenContext, file: Child, options: Options): DriverInstance {
  const { node } = context;
  const growth = new Growth(file, options);
  return {
    ...passThrough(file),
    length: () => (growth.active ? growth.dataEnd : file.size),
    write: async (offset, iov, flags) => {
      const end = offset + iov.bytes;
      if (growth.active) await growth.makeRoom(offset, end);
      await file.write(offset, iov, flags);
      growth.grewTo(end);
    },
    writeZeroes: async (offset, bytes, flags) => {
      const end = offset + bytes;
      if (growth.active && (await growth.makeRoom(offset, end))) return;
      await file.writeZeroes(offset, bytes, flags);
      growth.grewTo(end);
    },
    truncate: async (bytes, how) => {
      if (growth.active) await growth.shrink();
      await file.truncate(bytes, how);
      growth.settle(bytes);
    },
    childPerm: (child, parents) => {
      const io = { writable: !node.readOnly, io: !node.flags.noIo };
      const { perm, shared } = defaultPerms(child.role, parents, io);
      // The end is cut after the parents stopped writing, so the file stays ours while they may.
      if ((perm & needed) !== needed) return { perm, shared };
      return { perm, shared: shared & ~needed };
    },
    preparePermissions: async (perm) => {
      const active = (perm & needed) === needed;
      if (growth.active && !active) await growth.shrink();
      return {
        commit: async () => {
          if (active && !growth.active) growth.settle(file.size);
          growth.active = active;
        },
        abort: async () => undefined,
      };
    },
    reopenPrepare: async (request) => {
      const next = parseOptions(request.options);
      if (growth.active && !request.flags.writable) await growth.shrink();
      return {
        commit: () => {
          growth.options = next;
        },
        abort: () => undefined,
      };
    },
    strongOptions: () => {
      const own = { ...context.options };
      Reflect.deleteProperty(own, 'file');
      return own;
    },
    close: async () => {
      if (growth.active) await growth.shrink();
    },
  };
}

export const preallocateDriver: Driver = {
  name: 'preallocate',
  kind: 'filter',
  needsFile: true,
  optionNames: ['prealloc-align', 'prealloc-size'],
  blockdev: t.struct('BlockdevOptionsPreallocate', { ...onFile, ...fieldsOf(preallocateOptions) }),
  reopenOptions: reopenNames(preallocateOptions),
  async open(context) {
    const options = parseOptions(context.options);
    const file = await context.openChild('file', { role: Role.filtered | Role.primary });
    return makeInstance(context, file, options);
  },
};
