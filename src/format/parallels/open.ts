/** Opening an image, and the driver instance. */
import type { Child } from '../../block/child.js';
import { ClusterDisk } from '../../block/cluster-disk.js';
import type {
  CheckOptions,
  CheckResult,
  DriverInstance,
  OpenContext,
  ReopenRequest,
  ReopenStep,
} from '../../block/driver.js';
import { BlockError, messageOf, prepend } from '../../block/errors.js';
import { FileGrowth } from '../../block/file-growth.js';
import type { BlockNode } from '../../block/node.js';
import type { BlockLimits, DriverStatus } from '../../block/types.js';
import { Req, Role } from '../../block/types.js';
import type { FileRun } from '../../host/file.js';
import { Iov } from '../../lib/iov.js';
import { Bat, readBat } from './bat.js';
import { Checker } from './check.js';
import { parseHeader } from './header.js';
import { HEADER_BYTES, InUse } from './layout.js';
import { growthRule } from './options.js';

/** Offset of `in_use` in the header. */
const IN_USE = 44;

/** Opens the image that `context` describes. Throws BlockError. */
export async function openParallels(context: OpenContext): Promise<DriverInstance> {
  const { node, flags, graph } = context;
  const file = await context.openChild('file', { role: Role.image });
  const head = new Uint8Array(HEADER_BYTES);
  await file.read(0, Iov.of(head));
  const header = parseHeader(head, file.size);
  const growsZeroed = (await file.node.instance.hasZeroInit?.()) ?? false;
  const rule = growthRule(context.options, header.clusterBytes);
  const growth = new FileGrowth(file, growsZeroed, rule);
  const bat = new Bat(file, header, await readBat(file, header), growth);
  const instance = new ParallelsInstance(node, file, bat, growth);
  if (header.fields.ext_off !== 0) {
    if (!node.readOnly) graph.warn('Format Extension ignored in RW mode');
    else if (!flags.noIo && !flags.check) {
      const { readExtension } = await import('./extension.js');
      await readExtension(node, file, header, await graph.crypto());
    }
  }
  if (!node.readOnly && !flags.check && !flags.noIo) await instance.repairIfNeeded();
  return instance;
}

class ParallelsInstance implements DriverInstance {
  readonly writeFlags = Req.writeUnchanged;
  readonly zeroFlags = Req.mayUnmap | Req.noFallback | Req.writeUnchanged;
  readonly #node: BlockNode;
  readonly #file: Child;
  readonly #bat: Bat;
  readonly #growth: FileGrowth;
  readonly #disk: ClusterDisk;
  /** The header said, when the image was opened, that it was open already. */
  #isUnclean: boolean;
  #isDataOffWrong: boolean;
  /** `in_use` is set in the file, or on its way there (P3). */
  #marking: Promise<void> | undefined;
  #isMarked = false;

  constructor(node: BlockNode, file: Child, bat: Bat, growth: FileGrowth) {
    this.#node = node;
    this.#file = file;
    this.#bat = bat;
    this.#growth = growth;
    const { dataStart, fields } = bat.header;
    this.#disk = new ClusterDisk({ node, file, map: bat, growth, dataStart });
    this.#isUnclean = fields.in_use === InUse.open;
    this.#isDataOffWrong = bat.header.isDataOffWrong;
  }

  length(): number {
    return this.#bat.header.size;
  }

  limits(): Partial<BlockLimits> {
    return { writeZeroesAlignment: this.#bat.clusterBytes };
  }

  read(offset: number, iov: Iov): Promise<void> {
    return this.#disk.read(offset, iov);
  }

  /** Only of images that nobody writes to. */
  tryFileRun(offset: number, bytes: number): FileRun | undefined {
    if (!this.#node.readOnly) return undefined;
    const place = this.#disk.tryPlace(offset, bytes);
    return place === undefined ? undefined : this.#file.node.tryFileRun(place, bytes);
  }

  write(offset: number, iov: Iov): Promise<void> {
    if (this.#isMarked) return this.#disk.write(offset, iov);
    return this.#mark().then(() => this.#disk.write(offset, iov));
  }

  async writeZeroes(offset: number, bytes: number, flags: number): Promise<void> {
    if (!this.#isMarked) await this.#mark();
    await this.#disk.writeZeroes(offset, bytes, flags);
  }

  async discard(offset: number, bytes: number): Promise<void> {
    if (!this.#isMarked) await this.#mark();
    await this.#disk.discard(offset, bytes);
  }

  /** Before the first write (P3); an image that became writable by a reopen is repaired here. */
  #mark(): Promise<void> {
    this.#marking ??= (async () => {
      await this.repairIfNeeded();
      this.#bat.setField(IN_USE, InUse.open);
      await this.#bat.store();
      this.#isMarked = true;
    })().finally(() => {
      this.#marking = undefined;
    });
    return this.#marking;
  }

  get #needsRepair(): boolean {
    if (this.#isUnclean || this.#isDataOffWrong) return true;
    const bat = this.#bat;
    for (let i = 0; i < bat.entries; i++) {
      const offset = bat.offsetAt(i);
      if (offset === 0) continue;
      if (offset < bat.header.dataStart || offset + bat.clusterBytes > this.#file.size) return true;
    }
    return bat.hasTwice();
  }

  /** Throws EINVAL where what is wrong cannot be mended. */
  async repairIfNeeded(): Promise<void> {
    if (!this.#needsRepair) return;
    const report = (line: string): void => {
      this.#node.graph.notice(line);
    };
    try {
      await this.check({ fixErrors: true, fixLeaks: true, report });
    } catch (e) {
      throw prepend('Could not repair corrupted image: ', e);
    }
  }

  async check(options: Pick<CheckOptions, 'fixErrors' | 'fixLeaks' | 'report'>) {
    await this.#bat.store();
    const checker = new Checker(
      {
        file: this.#file,
        bat: this.#bat,
        isUnclean: this.#isUnclean,
        isDataOffWrong: this.#isDataOffWrong,
      },
      options,
    );
    const result: CheckResult = await checker.run();
    if (options.fixErrors) this.#isUnclean = this.#isDataOffWrong = false;
    if (options.fixErrors || options.fixLeaks) {
      this.#growth.shrunk(this.#file.size);
      this.#growth.take(0, this.#file.size);
      this.#bat.forget();
      await this.#file.flush();
    }
    return result;
  }

  flushToOs(): Promise<void> {
    return this.#bat.store();
  }

  blockStatus(offset: number, bytes: number): Promise<DriverStatus> {
    return this.#disk.status(offset, bytes);
  }

  hasZeroInit(): boolean {
    return this.#node.backing === undefined;
  }

  /** Those of the Format Extension, as in QEMU, where they do not persist in fact. */
  hasPersistentBitmaps(): boolean {
    return true;
  }

  drainBegin(): Promise<void> {
    return this.#growth.settled();
  }

  debugEvent(event: string): Promise<void> | undefined {
    return this.#file.debugEvent(event);
  }

  /** There are no options; what is in memory is stored before writing ends. */
  async reopenPrepare({ flags }: ReopenRequest): Promise<ReopenStep> {
    if (flags.writable && this.#node.readOnly) {
      if (this.#node.dirtyBitmaps.size > 0) {
        throw new BlockError('ENOTSUP', 'Dirty bitmaps of Parallels images can only be read');
      }
    } else if (!flags.writable && !this.#node.readOnly) {
      await this.#finish();
      // Who may only read cannot cut it off at close.
      await this.#growth.trim();
      await this.#file.flush();
    }
    return { commit: () => undefined, abort: () => undefined };
  }

  /** Stores everything, and that the image is not open any more. */
  async #finish(): Promise<void> {
    await this.#bat.store();
    if (!this.#isMarked) return;
    this.#bat.setField(IN_USE, InUse.none);
    await this.#bat.store();
    this.#isMarked = false;
  }

  /** Cuts off what was freed at the end, unless a Format Extension may name it. */
  async #cutFreed(): Promise<void> {
    const bat = this.#bat;
    if (!bat.hasFreed || bat.header.fields.ext_off !== 0) return;
    const end = bat.usedEnd();
    if (end >= this.#file.size) return;
    // No entry in the file names it then.
    await this.#file.flush();
    await this.#file.truncate(end, { exact: false });
  }

  async close(): Promise<void> {
    try {
      await this.#finish();
      await this.#growth.trim();
      await this.#cutFreed();
    } catch (e) {
      this.#node.graph.warn(`Failed to store the BAT: ${messageOf(e)}`);
    }
  }
}
