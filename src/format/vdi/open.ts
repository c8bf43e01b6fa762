/** Opening an image, and the driver instance. */
import type {
  CheckOptions,
  CheckResult,
  DriverInstance,
  ImageInfo,
  OpenContext,
  ReopenRequest,
  ReopenStep,
} from '../../block/driver.js';
import { BlockError, messageOf } from '../../block/errors.js';
import { FileGrowth } from '../../block/file-growth.js';
import type { BlockLimits, DriverStatus } from '../../block/types.js';
import { Req, Role } from '../../block/types.js';
import type { FileRun } from '../../host/file.js';
import { Iov } from '../../lib/iov.js';
import { readBlockMap } from './block-map.js';
import { parseHeader, uuidText } from './header.js';
import { VdiImage } from './image.js';
import { HEADER_BYTES, Uuid } from './layout.js';

/** Opens the image that `context` describes. Throws BlockError. */
export async function openVdi(context: OpenContext): Promise<DriverInstance> {
  const { node } = context;
  const file = await context.openChild('file', { role: Role.image });
  const head = new Uint8Array(HEADER_BYTES);
  await file.read(0, Iov.of(head));
  const header = parseHeader(head);
  const isDifferencing = uuidText(head, Uuid.parent) !== undefined;
  if (isDifferencing) await openDifferencing(context, head);
  const map = await readBlockMap(file, header.fields);
  const growsZeroed = (await file.node.instance.hasZeroInit?.()) ?? false;
  const growth = new FileGrowth(file, growsZeroed);
  return new VdiInstance(new VdiImage({ node, file, header, map, growth }), isDifferencing);
}

async function openDifferencing(context: OpenContext, head: Uint8Array): Promise<void> {
  const { node, flags } = context;
  if (flags.writable) {
    if (!flags.autoReadOnly) {
      throw new BlockError('EACCES', 'Differencing VDI images can only be read');
    }
    node.readOnly = true;
  }
  const parent = await findParentOf(context, head);
  if (parent !== undefined) node.setBackingHint(parent, 'vdi');
}

async function findParentOf(context: OpenContext, head: Uint8Array): Promise<string | undefined> {
  const { findParent } = await import('./parent.js');
  return findParent(context, head);
}

class VdiInstance implements DriverInstance {
  readonly writeFlags = Req.writeUnchanged;
  readonly zeroFlags = Req.mayUnmap | Req.noFallback | Req.writeUnchanged;
  readonly #image: VdiImage;
  readonly #isDifferencing: boolean;

  constructor(image: VdiImage, isDifferencing: boolean) {
    this.#image = image;
    this.#isDifferencing = isDifferencing;
  }

  length(): number {
    return this.#image.header.size;
  }

  limits(): Partial<BlockLimits> {
    return { writeZeroesAlignment: this.#image.blockSize };
  }

  read(offset: number, iov: Iov): Promise<void> {
    return this.#image.read(offset, iov);
  }

  /** Only of images that nobody writes to. */
  tryFileRun(offset: number, bytes: number): FileRun | undefined {
    const { node, file } = this.#image;
    if (!node.readOnly) return undefined;
    const run = this.#image.runAt(offset, bytes);
    if (run.kind !== 'data' || run.bytes !== bytes) return undefined;
    return file.node.tryFileRun(run.host, bytes);
  }

  write(offset: number, iov: Iov): Promise<void> {
    return this.#image.write(offset, iov);
  }

  writeZeroes(offset: number, bytes: number, flags: number): Promise<void> {
    return this.#image.writeZeroes(offset, bytes, flags);
  }

  discard(offset: number, bytes: number): Promise<void> {
    return this.#image.discard(offset, bytes);
  }

  flushToOs(): Promise<void> {
    return this.#image.store();
  }

  async blockStatus(offset: number, bytes: number): Promise<DriverStatus> {
    return this.#image.status(offset, bytes);
  }

  async hasZeroInit(): Promise<boolean> {
    const { node, file, isStatic } = this.#image;
    if (node.backing !== undefined) return false;
    return !isStatic || ((await file.node.instance.hasZeroInit?.()) ?? false);
  }

  info(): ImageInfo {
    return { clusterSize: this.#image.blockSize, isDirty: false };
  }

  async check(options: CheckOptions): Promise<CheckResult> {
    const { checkImage } = await import('./check.js');
    return checkImage(this.#image, options);
  }

  drainBegin(): Promise<void> {
    return this.#image.settledGrowth();
  }

  debugEvent(event: string): Promise<void> | undefined {
    return this.#image.file.debugEvent(event);
  }

  /** There are no options; what is in memory is stored before writing ends. */
  async reopenPrepare({ flags }: ReopenRequest): Promise<ReopenStep> {
    if (flags.writable && this.#isDifferencing) {
      throw new BlockError('EACCES', 'Differencing VDI images can only be read');
    }
    await this.#image.store();
    if (!flags.writable && !this.#image.node.readOnly) await this.#image.file.flush();
    return { commit: () => undefined, abort: () => undefined };
  }

  async close(): Promise<void> {
    const { node } = this.#image;
    try {
      await this.#image.close();
    } catch (e) {
      node.graph.warn(`Failed to store the block map: ${messageOf(e)}`);
    }
  }
}
