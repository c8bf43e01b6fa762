/**
 * Driver `memory` (vdisk's own): a sparse device in memory, for tests and for browsers.
 *
 * Its content ends with the node. Writes past the end make it longer, as with a file.
 */
import type {
  Driver,
  DriverInstance,
  NodeOptions,
  OpenContext,
  ReopenStep,
} from '../../block/driver.js';
import type { DriverStatus } from '../../block/types.js';
import { Req } from '../../block/types.js';
import type { Iov } from '../../lib/iov.js';
import type { Infer } from '../../options/schema.js';
import { parseValue, t } from '../../options/schema.js';
import { SparseMemory } from '../../lib/sparse-memory.js';

export const memoryOptions = t.struct('BlockdevOptionsMemory', {
  size: t.size({ default: 0, doc: 'length in bytes at the start' }),
});

type MemoryOptions = Infer<typeof memoryOptions>;

class MemoryInstance implements DriverInstance {
  readonly writeFlags = Req.fua | Req.writeUnchanged;
  readonly zeroFlags = Req.fua | Req.writeUnchanged | Req.mayUnmap | Req.noFallback;
  readonly #memory: SparseMemory;
  readonly #given: NodeOptions;

  constructor(context: OpenContext, options: MemoryOptions) {
    this.#memory = new SparseMemory(options.size);
    this.#given = context.options;
  }

  length(): number {
    return this.#memory.bytes;
  }

  async read(offset: number, iov: Iov): Promise<void> {
    this.#memory.read(offset, iov);
  }

  async write(offset: number, iov: Iov): Promise<void> {
    this.#memory.write(offset, iov);
  }

  async writeZeroes(offset: number, bytes: number): Promise<void> {
    this.#memory.zero(offset, bytes);
  }

  async discard(offset: number, bytes: number): Promise<void> {
    this.#memory.zero(offset, Math.min(bytes, this.#memory.bytes - offset));
  }

  async blockStatus(offset: number, bytes: number): Promise<DriverStatus> {
    const run = this.#memory.runAt(offset, bytes);
    return { bytes: run.bytes, data: run.data, zero: !run.data, allocated: true, offset };
  }

  async truncate(bytes: number): Promise<void> {
    this.#memory.resize(bytes);
  }

  async allocatedBytes(): Promise<number> {
    return this.#memory.allocatedBytes;
  }

  hasZeroInit(): boolean {
    return true;
  }

  async reopenPrepare(): Promise<ReopenStep> {
    return { commit: () => undefined, abort: () => undefined };
  }

  strongOptions(): NodeOptions {
    return { ...this.#given };
  }

  async close(): Promise<void> {
    this.#memory.resize(0);
  }
}

export const memoryDriver: Driver = {
  name: 'memory',
  kind: 'protocol',
  needsFile: false,
  optionNames: ['size'],
  async open(context) {
    const options = parseValue(memoryOptions, context.options, { from: 'keyval' });
    return new MemoryInstance(context, options);
  },
};
