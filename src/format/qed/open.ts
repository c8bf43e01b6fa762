/** Opening an image, and the driver instance. */
import type { Child } from '../../block/child.js';
import type {
  CheckOptions,
  CheckResult,
  DriverInstance,
  ImageInfo,
  OpenContext,
  ReopenRequest,
  ReopenStep,
  TruncateOptions,
} from '../../block/driver.js';
import { BlockError, messageOf } from '../../block/errors.js';
import { FileGrowth } from '../../block/file-growth.js';
import { readFirstTable } from '../../block/table-tree.js';
import type { BlockLimits, DriverStatus } from '../../block/types.js';
import { Req, Role } from '../../block/types.js';
import type { FileRun } from '../../host/file.js';
import type { Clock } from '../../host/host.js';
import { Iov } from '../../lib/iov.js';
import { l1Entries, parseHeader } from './header.js';
import { IdleFinish } from './idle.js';
import { QedImage } from './image.js';
import type { QedHeaderFields } from './layout.js';
import { Feature, HEADER_BYTES } from './layout.js';

/** Opens the image that `context` describes. Throws BlockError. */
export async function openQed(context: OpenContext): Promise<DriverInstance> {
  const { node, flags } = context;
  const file = await context.openChild('file', { role: Role.image });
  const head = new Uint8Array(HEADER_BYTES);
  await file.read(0, Iov.of(head));
  const fields = parseHeader(head, file.size);
  const hasBacking = (fields.features & Feature.backingFile) !== 0n;
  if (hasBacking) await nameBacking(context, file, fields);
  const l1 = await readFirstTable(file, fields.l1_table_offset, l1Entries(fields));
  const growsZeroed = (await file.node.instance.hasZeroInit?.()) ?? false;
  const image = new QedImage(node, file, fields, new FileGrowth(file, growsZeroed), l1);
  if (!node.readOnly) {
    if (fields.autoclear_features !== 0n) {
      fields.autoclear_features = 0n;
      await image.writeHeader();
      await file.flush();
    }
    if (image.has(Feature.needCheck) && !flags.check && !flags.noIo) await image.repair();
  }
  return new QedInstance(image, context.host.clock);
}

async function nameBacking(
  { node }: OpenContext,
  file: Child,
  fields: QedHeaderFields,
): Promise<void> {
  const name = new Uint8Array(fields.backing_filename_size);
  if (name.length > 0) await file.read(fields.backing_filename_offset, Iov.of(name));
  const isRaw = (fields.features & Feature.backingFormatNoProbe) !== 0n;
  const text = new TextDecoder().decode(name).split('\0')[0] ?? '';
  node.setBackingHint(text, isRaw ? 'raw' : '');
}

class QedInstance implements DriverInstance {
  readonly writeFlags = Req.writeUnchanged;
  readonly zeroFlags = Req.mayUnmap | Req.noFallback | Req.writeUnchanged;
  readonly #image: QedImage;

  readonly #idle: IdleFinish;

  constructor(image: QedImage, clock: Clock) {
    this.#image = image;
    this.#idle = new IdleFinish(image, clock);
  }

  length(): number {
    return this.#image.fields.image_size;
  }

  limits(): Partial<BlockLimits> {
    return { writeZeroesAlignment: this.#image.fields.cluster_size };
  }

  read(offset: number, iov: Iov): Promise<void> {
    return this.#image.disk.read(offset, iov);
  }

  /** Only of images that nobody writes to. */
  tryFileRun(offset: number, bytes: number): FileRun | undefined {
    const { node, file, disk } = this.#image;
    if (!node.readOnly) return undefined;
    const place = disk.tryPlace(offset, bytes);
    return place === undefined ? undefined : file.node.tryFileRun(place, bytes);
  }

  write(offset: number, iov: Iov): Promise<void> {
    return this.#idle.around(() => this.#image.disk.write(offset, iov));
  }

  writeZeroes(offset: number, bytes: number, flags: number): Promise<void> {
    return this.#idle.around(() => this.#image.disk.writeZeroes(offset, bytes, flags));
  }

  flushToOs(): Promise<void> {
    return this.#image.store();
  }

  blockStatus(offset: number, bytes: number): Promise<DriverStatus> {
    return this.#image.disk.status(offset, bytes);
  }

  async truncate(bytes: number, { prealloc }: TruncateOptions): Promise<void> {
    if (prealloc !== 'off') {
      throw new BlockError('ENOTSUP', `Unsupported preallocation mode '${prealloc}'`);
    }
    await this.#idle.around(() => this.#image.truncate(bytes));
  }

  hasZeroInit(): boolean {
    return this.#image.node.backing === undefined;
  }

  info(): ImageInfo {
    const { fields } = this.#image;
    return { clusterSize: fields.cluster_size, isDirty: this.#image.has(Feature.needCheck) };
  }

  check(options: CheckOptions): Promise<CheckResult> {
    return this.#image.check(options);
  }

  changeBackingFile(name: string | null, format: string | null): Promise<void> {
    return this.#idle.around(() => this.#image.changeBackingFile(name, format));
  }

  async drainBegin(): Promise<void> {
    await this.#idle.hold();
    await this.#image.settledGrowth();
  }

  drainEnd(): void {
    this.#idle.release();
  }

  debugEvent(event: string): Promise<void> | undefined {
    return this.#image.file.debugEvent(event);
  }

  /** There are no options; what is in memory is stored before writing ends. */
  async reopenPrepare({ flags }: ReopenRequest): Promise<ReopenStep> {
    const { node } = this.#image;
    if (!flags.writable && !node.readOnly) {
      await this.#image.finish();
      await this.#image.file.flush();
    }
    return { commit: () => undefined, abort: () => undefined };
  }

  async close(): Promise<void> {
    await this.#idle.hold();
    try {
      await this.#image.close();
    } catch (e) {
      this.#image.node.graph.warn(`Failed to store the image's tables: ${messageOf(e)}`);
    }
  }
}
