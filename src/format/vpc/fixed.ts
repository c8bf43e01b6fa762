/** A fixed disk: the file is the disk, with a footer behind it. */
import type { Child } from '../../block/child.js';
import type { DriverInstance, ImageInfo, NodeOptions, ReopenStep } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import type { DriverStatus } from '../../block/types.js';
import { Req } from '../../block/types.js';
import type { FileRun } from '../../host/file.js';
import type { Iov } from '../../lib/iov.js';
import type { Footer } from './layout.js';
import { FOOTER_BYTES } from './layout.js';
import { strongOptions } from './strong-options.js';

const passedFlags = Req.fua | Req.writeUnchanged;

export class FixedInstance implements DriverInstance {
  readonly writeFlags = passedFlags;
  readonly zeroFlags = passedFlags | Req.mayUnmap | Req.noFallback;
  readonly #file: Child;
  readonly #size: number;
  readonly #options: NodeOptions;

  readonly uniqueId: Uint8Array;

  /** Throws EINVAL where the disk does not fit before its footer. */
  constructor(file: Child, size: number, footer: Footer, options: NodeOptions) {
    this.uniqueId = footer.unique_id;
    this.#file = file;
    this.#size = size;
    this.#options = options;
    const room = file.size - FOOTER_BYTES;
    if (size > room) {
      throw new BlockError(
        'EINVAL',
        `Cannot open the fixed VHD: its size is ${size}, expected at most ${room}, which the ` +
          'file has before the footer',
      );
    }
  }

  length(): number {
    return this.#size;
  }

  // hot: bench/layers
  read(offset: number, iov: Iov, flags: number): Promise<void> {
    return this.#file.read(offset, iov, flags);
  }

  tryFileRun(offset: number, bytes: number): FileRun | undefined {
    return this.#file.node.tryFileRun(offset, bytes);
  }

  // hot: bench/layers
  write(offset: number, iov: Iov, flags: number): Promise<void> {
    return this.#file.write(offset, iov, flags);
  }

  writeZeroes(offset: number, bytes: number, flags: number): Promise<void> {
    return this.#file.writeZeroes(offset, bytes, flags);
  }

  discard(offset: number, bytes: number): Promise<void> {
    return this.#file.discard(offset, bytes);
  }

  async blockStatus(offset: number, bytes: number): Promise<DriverStatus> {
    const { node: file } = this.#file;
    return { bytes, data: true, zero: false, allocated: true, offset, file, recurse: true };
  }

  async hasZeroInit(): Promise<boolean> {
    return (await this.#file.node.instance.hasZeroInit?.()) ?? false;
  }

  info(): ImageInfo {
    return {};
  }

  async reopenPrepare(): Promise<ReopenStep> {
    return { commit: () => undefined, abort: () => undefined };
  }

  strongOptions(): NodeOptions {
    return strongOptions(this.#options);
  }

  async close(): Promise<void> {
    // Nothing is held.
  }
}
