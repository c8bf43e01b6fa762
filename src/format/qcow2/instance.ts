/** The driver instance: fast paths here, everything else in the modules that the methods name. */
import type {
  AmendContext,
  BitmapCapability,
  CheckOptions,
  CheckResult,
  CompactContext,
  CompactResult,
  DriverInstance,
  ImageInfo,
  NodeOptions,
  ReopenRequest,
  ReopenStep,
  SnapshotCapability,
  TruncateOptions,
} from '../../block/driver.js';
import { strongEncryptOptions } from '../../block/crypto/encrypt-option.js';
import type { BlockLimits, DriverStatus } from '../../block/types.js';
import { Req } from '../../block/types.js';
import type { CreateValues } from '../../options/create-options.js';
import type { FileRun } from '../../host/file.js';
import type { Iov } from '../../lib/iov.js';
import { bitmapCapability } from './bitmap-capability.js';
import { readData, takesFileRuns, writeData } from './data-io.js';
import { Kind } from './entry.js';
import type { Qcow2Image } from './image.js';
import { readGuest } from './read.js';
import { snapshotCapability } from './snapshot-capability.js';
import { blockStatus } from './status.js';
import { discard, writeZeroes } from './zero.js';

export class Qcow2Instance implements DriverInstance {
  readonly writeFlags = Req.writeUnchanged;
  /** Version 2 has no zero clusters, and none of these flags, as in QEMU. */
  readonly zeroFlags: number;
  /** For the modules of this driver. */
  readonly image: Qcow2Image;
  readonly snapshots: SnapshotCapability;
  readonly bitmaps: BitmapCapability;
  #stopTimer: (() => void) | undefined;

  constructor(image: Qcow2Image) {
    this.image = image;
    this.zeroFlags = image.version < 3 ? 0 : Req.mayUnmap | Req.noFallback | Req.writeUnchanged;
    this.snapshots = snapshotCapability(image);
    this.bitmaps = bitmapCapability(image);
    this.startTimer();
  }

  /** (Re)starts the timer of `cache-clean-interval`. */
  startTimer(): void {
    this.#stopTimer?.();
    this.#stopTimer = undefined;
    const { settings, host } = this.image;
    if (settings.cleanInterval === 0) return;
    this.#stopTimer = host.clock.after(settings.cleanInterval * 1000, () => {
      this.image.l2.dropUnused();
      this.image.refcounts.cache.dropUnused();
      this.startTimer();
    });
  }

  length(): number {
    return this.image.size;
  }

  limits(): Partial<BlockLimits> {
    const { g, crypto } = this.image;
    return {
      requestAlignment: crypto === undefined ? 1 : crypto.sectorBytes,
      writeZeroesAlignment: g.subclusterSize,
      discardAlignment: g.clusterSize,
    };
  }

  // hot: bench/qcow2
  read(offset: number, iov: Iov): Promise<void> {
    const { image } = this;
    if (image.writes.runs.size === 0 && !image.unusable) {
      const found = image.mapping.tryLookup(offset, iov.bytes);
      if (found !== undefined && found.bytes === iov.bytes) {
        if (found.kind === Kind.data) return readData(image, offset, found.host, iov);
        if (found.kind === Kind.zero) {
          iov.fill(0);
          return Promise.resolve();
        }
      }
    }
    return readGuest(image, offset, iov);
  }

  /** Only of images that nobody writes to: else a cluster could be given to other data. */
  tryFileRun(offset: number, bytes: number): FileRun | undefined {
    const { image } = this;
    if (!image.node.readOnly || image.crypto !== undefined || image.unusable) return undefined;
    const found = image.mapping.tryLookup(offset, bytes);
    if (found?.kind !== Kind.data || found.bytes !== bytes) return undefined;
    return image.dataFile.node.tryFileRun(found.host, bytes);
  }

  // hot: bench/qcow2
  write(offset: number, iov: Iov): Promise<void> {
    const { image } = this;
    const { writes } = image;
    if (image.gateClosed || image.unusable || writes.continues(offset, iov.bytes)) {
      return writes.write(offset, iov);
    }
    if (writes.runs.firstIn(offset, iov.bytes) === undefined) {
      const found = image.mapping.tryLookup(offset, iov.bytes);
      if (found?.kind === Kind.data && found.copied && found.bytes === iov.bytes) {
        const checking = image.overlap.checkData(found.host, iov.bytes);
        if (checking === undefined) return writeData(image, offset, found.host, iov);
        return checking.then(() => writes.write(offset, iov));
      }
    }
    if (writes.joins(iov.bytes)) return writes.write(offset, iov);
    return writes.tryWrite(offset, iov) ?? writes.write(offset, iov);
  }

  get takesFileRuns(): boolean {
    return takesFileRuns(this.image);
  }

  /** What is zero, the caller has to leave out: here it would be allocated. */
  tryWriteFrom(offset: number, run: FileRun, zeroBlock: number): Promise<void> | undefined {
    const { image } = this;
    if (zeroBlock > 0 || !takesFileRuns(image)) return undefined;
    const { writes } = image;
    const now = image.gateClosed || image.unusable ? undefined : writes.tryWrite(offset, run);
    return now ?? writes.write(offset, run);
  }

  async writeCompressed(offset: number, iov: Iov): Promise<void> {
    const { writeCompressed } = await import('./compressed-write.js');
    await writeCompressed(this.image, offset, iov);
  }

  writeZeroes(offset: number, bytes: number, flags: number): Promise<void> {
    return writeZeroes(this.image, offset, bytes, flags);
  }

  discard(offset: number, bytes: number): Promise<void> {
    return discard(this.image, offset, bytes);
  }

  blockStatus(offset: number, bytes: number): Promise<DriverStatus> {
    return blockStatus(this.image, offset, bytes);
  }

  flushToOs(): Promise<void> {
    this.image.checkUsable();
    return this.image.writeback.run();
  }

  async info(): Promise<ImageInfo> {
    const { imageInfo } = await import('./info.js');
    return imageInfo(this.image);
  }

  hasZeroInit(): boolean {
    // What was never written reads as zeroes; a data file may hold anything where it is mapped,
    // and preallocated clusters decrypt to anything.
    const { hasDataFile, backing, crypto, l1 } = this.image;
    if (crypto !== undefined && l1.size > 0 && l1.l2Offset(0) !== 0) return false;
    return !hasDataFile && backing === undefined;
  }

  /** Version 2 has no header extensions that would hold them. */
  hasPersistentBitmaps(): boolean {
    return this.image.version >= 3;
  }

  /** Options that the image cannot be opened without: the id of its secret, not the secret. */
  strongOptions(): NodeOptions {
    return strongEncryptOptions(this.image.settings.encrypt);
  }

  /** What the growth of the files does on its own. */
  async drainBegin(): Promise<void> {
    const { growth, dataGrowth } = this.image;
    await growth.settled();
    await dataGrowth.settled();
  }

  debugEvent(event: string): Promise<void> | undefined {
    return this.image.file.debugEvent(event);
  }

  async truncate(bytes: number, options: TruncateOptions): Promise<void> {
    const { truncateImage } = await import('./truncate.js');
    await truncateImage(this.image, bytes, options);
  }

  async check(options: CheckOptions): Promise<CheckResult> {
    const { runCheck } = await import('./repair.js');
    return runCheck(this.image, options);
  }

  async amend(values: CreateValues, context: AmendContext): Promise<void> {
    const { amendImage } = await import('./amend.js');
    await amendImage(this.image, values, context);
  }

  async compact(context: CompactContext): Promise<CompactResult> {
    const { compactImage } = await import('./compact.js');
    return compactImage(this.image, context);
  }

  async makeEmpty(): Promise<void> {
    const { makeEmpty } = await import('./empty.js');
    await makeEmpty(this.image);
  }

  async changeBackingFile(name: string | null, format: string | null): Promise<void> {
    const { changeBackingFile } = await import('./empty.js');
    await changeBackingFile(this.image, name, format);
  }

  async readVmState(offset: number, iov: Iov): Promise<void> {
    const { readVmState } = await import('./vm-state.js');
    await readVmState(this.image, offset, iov);
  }

  async writeVmState(offset: number, iov: Iov): Promise<void> {
    const { writeVmState } = await import('./vm-state.js');
    await writeVmState(this.image, offset, iov);
  }

  async dropVmState(bytes: number): Promise<void> {
    const { dropVmState } = await import('./snapshots.js');
    await dropVmState(this.image, bytes);
  }

  async reopenPrepare(request: ReopenRequest): Promise<ReopenStep> {
    const { prepareReopen } = await import('./reopen.js');
    return prepareReopen(this, request);
  }

  async close(): Promise<void> {
    this.#stopTimer?.();
    this.#stopTimer = undefined;
    const { closeImage } = await import('./close.js');
    await closeImage(this.image);
  }
}
