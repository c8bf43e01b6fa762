/** Opening an image, and the driver instance. */
import type { Child } from '../../block/child.js';
import {
  checkFormat,
  encryptOptions,
  secretId,
  strongEncryptOptions,
} from '../../block/crypto/encrypt-option.js';
import type { SectorCipher } from '../../block/crypto/sector-cipher.js';
import type {
  DriverInstance,
  ImageInfo,
  NodeOptions,
  OpenContext,
  ReopenRequest,
  ReopenStep,
} from '../../block/driver.js';
import { messageOf } from '../../block/errors.js';
import { FileGrowth } from '../../block/file-growth.js';
import { readFirstTable } from '../../block/table-tree.js';
import type { BlockLimits, DriverStatus } from '../../block/types.js';
import { Req, Role } from '../../block/types.js';
import type { FileRun } from '../../host/file.js';
import { Iov } from '../../lib/iov.js';
import { l1Entries, parseHeader } from './header.js';
import { QcowImage } from './image.js';
import type { QcowHeaderFields } from './layout.js';
import { Crypt, HEADER_BYTES, SECTOR } from './layout.js';

/** Opens the image that `context` describes. Throws BlockError or OptionError. */
export async function openQcow(context: OpenContext): Promise<DriverInstance> {
  const { node } = context;
  const file = await context.openChild('file', { role: Role.image });
  const head = new Uint8Array(HEADER_BYTES);
  await file.read(0, Iov.of(head));
  const fields = parseHeader(head);
  const cipher = await openEncryption(context, fields);
  if (fields.backing_file_offset !== 0) await nameBacking(context, file, fields);
  const l1 = await readFirstTable(file, fields.l1_table_offset, l1Entries(fields));
  const growsZeroed = (await file.node.instance.hasZeroInit?.()) ?? false;
  const growth = new FileGrowth(file, growsZeroed);
  const image = new QcowImage({ node, file, fields, growth, l1, cipher });
  return new QcowInstance(image, context.options['encrypt']);
}

/** The cipher; undefined where nothing is encrypted, or no data is asked for. */
async function openEncryption(
  { graph, flags, options }: OpenContext,
  fields: QcowHeaderFields,
): Promise<SectorCipher | undefined> {
  const given = encryptOptions(options['encrypt']);
  const isEncrypted = fields.crypt_method === Crypt.aes;
  checkFormat(isEncrypted ? 'aes' : '', given);
  if (!isEncrypted || flags.noIo) return undefined;
  const { openLegacyAes } = await import('../../block/crypto/legacy-aes.js');
  return openLegacyAes(graph, 'qcow', secretId(given));
}

async function nameBacking(
  { node }: OpenContext,
  file: Child,
  fields: QcowHeaderFields,
): Promise<void> {
  const name = new Uint8Array(fields.backing_file_size);
  if (name.length > 0) await file.read(fields.backing_file_offset, Iov.of(name));
  node.setBackingHint(new TextDecoder().decode(name).split('\0')[0] ?? '', '');
}

class QcowInstance implements DriverInstance {
  readonly writeFlags = Req.writeUnchanged;
  readonly zeroFlags = Req.mayUnmap | Req.noFallback | Req.writeUnchanged;
  readonly #image: QcowImage;
  readonly #encrypt: unknown;

  /** `encrypt`: the option of that name. */
  constructor(image: QcowImage, encrypt: unknown) {
    this.#image = image;
    this.#encrypt = encrypt;
  }

  length(): number {
    return this.#image.size;
  }

  limits(): Partial<BlockLimits> {
    return this.#image.isEncrypted ? { requestAlignment: SECTOR } : {};
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
    return this.#image.disk.write(offset, iov);
  }

  async writeCompressed(offset: number, iov: Iov): Promise<void> {
    if (iov.bytes > 0) await this.#image.writeCompressed(offset, iov);
  }

  writeZeroes(offset: number, bytes: number, flags: number): Promise<void> {
    return this.#image.disk.writeZeroes(offset, bytes, flags);
  }

  makeEmpty(): Promise<void> {
    return this.#image.makeEmpty();
  }

  flushToOs(): Promise<void> {
    return this.#image.map.store();
  }

  blockStatus(offset: number, bytes: number): Promise<DriverStatus> {
    return this.#image.disk.status(offset, bytes);
  }

  hasZeroInit(): boolean {
    return this.#image.node.backing === undefined;
  }

  info(): ImageInfo {
    const { clusterBytes, isEncrypted } = this.#image;
    return { clusterSize: clusterBytes, isDirty: false, isEncrypted };
  }

  strongOptions(): NodeOptions {
    return strongEncryptOptions(this.#encrypt);
  }

  drainBegin(): Promise<void> {
    return this.#image.settledGrowth();
  }

  debugEvent(event: string): Promise<void> | undefined {
    return this.#image.file.debugEvent(event);
  }

  /** No option may change; what is in memory is stored before writing ends. */
  async reopenPrepare({ flags }: ReopenRequest): Promise<ReopenStep> {
    const { node, map, file } = this.#image;
    if (!flags.writable && !node.readOnly) {
      await map.store();
      await file.flush();
    }
    return { commit: () => undefined, abort: () => undefined };
  }

  async close(): Promise<void> {
    try {
      await this.#image.close();
    } catch (e) {
      this.#image.node.graph.warn(`Failed to store the image's tables: ${messageOf(e)}`);
    }
  }
}
