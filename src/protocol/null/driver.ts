/**
 * Drivers `null-co` and `null-aio`: a device of any size that keeps nothing.
 *
 * Reads leave the buffer as it is unless `read-zeroes` is on. The two names are one driver
 * here: QEMU's differ in how they wait, which does not show.
 */
import type {
  Driver,
  DriverInstance,
  NodeOptions,
  OpenContext,
  ReopenRequest,
  ReopenStep,
} from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import type { DriverStatus } from '../../block/types.js';
import { Req } from '../../block/types.js';
import type { Clock } from '../../host/host.js';
import type { Iov } from '../../lib/iov.js';
import type { Infer } from '../../options/schema.js';
import { fieldsOf, parseValue, t } from '../../options/schema.js';

/** QMP's BlockdevOptionsNull. */
export const nullOptions = t.struct('BlockdevOptionsNull', {
  filename: t.optional(t.str({ doc: "only 'null-co://' or 'null-aio://'" })),
  size: t.size({ default: 1024 ** 3, doc: 'length in bytes', qapi: 'int' }),
  'latency-ns': t.uint({ bits: 64 }, { default: 0, doc: 'nanoseconds until a request completes' }),
  'read-zeroes': t.bool({ default: false, doc: 'reads give zeroes', since: '4.1' }),
});

/** The file name is no option of QMP's. */
const { filename: _, ...blockdevFields } = fieldsOf(nullOptions);
const nullBlockdev = t.struct('BlockdevOptionsNull', blockdevFields);

type NullOptions = Infer<typeof nullOptions>;
type Name = 'null-co' | 'null-aio';

class NullInstance implements DriverInstance {
  readonly writeFlags = Req.fua | Req.writeUnchanged;
  readonly zeroFlags = Req.fua | Req.writeUnchanged | Req.mayUnmap | Req.noFallback;
  readonly #name: Name;
  readonly #given: NodeOptions;
  readonly #clock: Clock;
  readonly #options: NullOptions;
  readonly #delayMs: number;

  constructor(name: Name, context: OpenContext, options: NullOptions) {
    this.#name = name;
    this.#given = context.options;
    this.#clock = context.host.clock;
    this.#options = options;
    this.#delayMs = options['latency-ns'] / 1e6;
  }

  #wait(): Promise<void> {
    if (this.#delayMs === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#clock.after(this.#delayMs, resolve);
    });
  }

  length(): number {
    return this.#options.size;
  }

  read(_offset: number, iov: Iov): Promise<void> {
    if (this.#options['read-zeroes']) iov.fill(0);
    return this.#wait();
  }

  write(): Promise<void> {
    return this.#wait();
  }

  writeZeroes(): Promise<void> {
    return this.#wait();
  }

  discard(): Promise<void> {
    return this.#wait();
  }

  flushToDisk(): Promise<void> {
    return this.#wait();
  }

  async blockStatus(offset: number, bytes: number): Promise<DriverStatus> {
    // Without read-zeroes there is neither data nor zeroes to tell of.
    const zero = this.#options['read-zeroes'];
    return { bytes, data: false, zero, allocated: zero, offset };
  }

  async allocatedBytes(): Promise<number> {
    return 0;
  }

  async reopenPrepare(_request: ReopenRequest): Promise<ReopenStep> {
    return { commit: () => undefined, abort: () => undefined };
  }

  strongOptions(): NodeOptions {
    const { filename: _filename, ...rest } = this.#given;
    return rest;
  }

  exactFilename(): string | undefined {
    const { size: _size, ...rest } = this.strongOptions();
    return Object.keys(rest).length === 0 && this.#given['size'] === undefined
      ? `${this.#name}://`
      : undefined;
  }

  async close(): Promise<void> {
    // Nothing is held.
  }
}

function driver(name: Name): Driver {
  return {
    name,
    kind: 'protocol',
    schemes: [name],
    needsFile: false,
    optionNames: Object.keys(fieldsOf(nullOptions)),
    blockdev: nullBlockdev,
    parseFilename(filename) {
      if (filename === `${name}://`) return {};
      throw new BlockError('EINVAL', `The only allowed filename for this driver is '${name}://'`);
    },
    async open(context) {
      const options = parseValue(nullOptions, context.options, { from: 'opts' });
      return new NullInstance(name, context, options);
    },
  };
}

export const nullCoDriver = driver('null-co');
export const nullAioDriver = driver('null-aio');
