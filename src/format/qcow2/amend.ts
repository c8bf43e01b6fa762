/**
 * `amend`: other format options for an image that exists. One function for each option.
 *
 * Order: what asks for version 3 comes after the step to it, the step to version 2 comes last, so
 * that every state in between is an image. Each step is durable before the next one begins; a
 * crash, or an error, leaves the steps before it done.
 */
import type { AmendContext } from '../../block/driver.js';
import { BlockError, withErrno } from '../../block/errors.js';
import { truncateNode } from '../../block/truncate.js';
import type {
  CreateValues,
  InferCreate,
  TypedCreateOptionSet,
} from '../../options/create-options.js';
import { typedValues } from '../../options/create-options.js';
import { qcow2AmendOptions, refcountOrderOf, versionOf } from './create-options.js';
import { rewriteHeader } from './header-switch.js';
import type { Qcow2Image } from './image.js';
import { Autoclear, Compat, Incompat } from './layout.js';
import { storeSnapshots } from './snapshot-store.js';

/** What was asked for; absent options stay as they are. */
type Wanted = InferAmend<typeof qcow2AmendOptions>;
type InferAmend<T> = T extends TypedCreateOptionSet<infer S> ? InferCreate<S> : never;

/**
 * Changes what `values` name. Throws OptionError or BlockError with QEMU's texts: before anything
 * has changed where a value cannot be, or after some steps where storing one failed.
 */
export async function amendImage(
  image: Qcow2Image,
  values: CreateValues,
  context: AmendContext,
): Promise<void> {
  const wanted = typedValues(qcow2AmendOptions, values);
  const version = wantedVersion(image, wanted);
  const order = wantedRefcountOrder(image, wanted);
  checkBacking(image, wanted);
  checkDataFile(image, wanted);
  const encrypts = Object.keys(values).some((name) => name.startsWith('encrypt.'));
  if (encrypts) checkEncryption(image);

  if (version > image.version) await upgrade(image);
  if (encrypts) {
    const { amendEncryption } = await import('./amend-encryption.js');
    await amendEncryption(image, values, context);
  }
  if (order !== image.g.refcountOrder) await changeRefcountWidth(image, order, version, context);
  await changeDataFile(image, wanted);
  await changeLazyRefcounts(image, wanted, version);
  if (wanted.size !== undefined) await changeSize(image, wanted.size);
  if (version < image.version) {
    const { downgrade } = await import('./amend-downgrade.js');
    await downgrade(image, context);
  }
}

function invalid(message: string, hint?: string): BlockError {
  return new BlockError('EINVAL', message, hint === undefined ? {} : { hint });
}

function wantedVersion(image: Qcow2Image, { compat }: Wanted): number {
  if (compat === undefined) return image.version;
  const version = compat === '' ? undefined : versionOf(compat);
  if (version === undefined) throw invalid(`Unknown compatibility level ${compat}`);
  return version;
}

function wantedRefcountOrder(image: Qcow2Image, { refcount_bits: bits }: Wanted): number {
  return bits === undefined ? image.g.refcountOrder : refcountOrderOf(bits);
}

/** The backing file is not changed here; naming the one that is there is no change. */
function checkBacking(image: Qcow2Image, wanted: Wanted): void {
  const { backing_file: file, backing_fmt: format } = wanted;
  if (file === undefined && format === undefined) return;
  const { backingFile, extensions } = image.header;
  const stored = backingFile === '' ? undefined : backingFile;
  if (file === stored && format === extensions.backingFormat) return;
  throw invalid('Cannot amend the backing file', "You can use 'qemu-img rebase' instead.");
}

function checkDataFile(image: Qcow2Image, wanted: Wanted): void {
  if (wanted.data_file !== undefined && !image.has(Incompat.dataFile)) {
    throw invalid('data-file can only be set for images that use an external data file');
  }
  if (wanted.data_file_raw === true && !isRaw(image)) {
    throw invalid('data-file-raw cannot be set on existing images');
  }
}

function isRaw(image: Qcow2Image): boolean {
  return (image.header.fields.autoclear_features & Autoclear.dataFileRaw) !== 0n;
}

function checkEncryption(image: Qcow2Image): void {
  const { crypt_method: method } = image.header.fields;
  if (method === 0) {
    throw invalid("Can't amend encryption options - encryption not present");
  }
  if (method !== 2) {
    throw new BlockError('ENOTSUP', 'Only LUKS encryption options can be amended');
  }
}

async function changeHeader(image: Qcow2Image, change: () => void): Promise<void> {
  try {
    await rewriteHeader(image, change);
  } catch (e) {
    throw withErrno('Failed to update the image header', e);
  }
}

/** Version 2 becomes version 3. Snapshots get the extra data that it asks for. */
async function upgrade(image: Qcow2Image): Promise<void> {
  await image.exclusive(async () => {
    if (image.snapshots.some((s) => s.extraDataSize < 16)) {
      await storeSnapshots(image, image.snapshots);
    }
    await changeHeader(image, () => {
      image.header.fields.version = 3;
    });
  });
}

async function changeRefcountWidth(
  image: Qcow2Image,
  order: number,
  version: number,
  context: AmendContext,
): Promise<void> {
  if (version < 3 && order !== 4) {
    throw invalid(
      'Refcount widths other than 16 bits require compatibility level 1.1 or above ' +
        '(use compat=1.1 or greater)',
    );
  }
  const { changeRefcountOrder } = await import('./amend-refcount.js');
  await changeRefcountOrder(image, order, context);
}

/** Name of the data file (empty: none is stored), and giving up that it is a raw image. */
async function changeDataFile(image: Qcow2Image, wanted: Wanted): Promise<void> {
  const { data_file: name, data_file_raw: raw } = wanted;
  const { fields, extensions } = image.header;
  const endsRaw = raw === false && isRaw(image);
  if (name === undefined && !endsRaw) return;
  await changeHeader(image, () => {
    if (name !== undefined) extensions.dataFile = name === '' ? undefined : name;
    if (endsRaw) fields.autoclear_features &= ~Autoclear.dataFileRaw;
  });
}

/** The bit in the header, and how this image is used from now on. */
async function changeLazyRefcounts(
  image: Qcow2Image,
  { lazy_refcounts: lazy }: Wanted,
  version: number,
): Promise<void> {
  const { fields } = image.header;
  if (lazy === undefined) return;
  if (((fields.compatible_features & Compat.lazyRefcounts) !== 0n) === lazy) return;
  if (lazy && version < 3) {
    throw invalid(
      'Lazy refcounts only supported with compatibility level 1.1 and above ' +
        '(use compat=1.1 or greater)',
    );
  }
  await image.exclusive(async () => {
    if (!lazy) {
      // No refcount lags any more, and none will.
      await image.file.flush();
      await image.setDirty(false);
    }
    await changeHeader(image, () => {
      if (lazy) fields.compatible_features |= Compat.lazyRefcounts;
      else fields.compatible_features &= ~Compat.lazyRefcounts;
    });
    image.settings = { ...image.settings, lazyRefcounts: lazy };
  });
}

async function changeSize(image: Qcow2Image, bytes: number): Promise<void> {
  // 0 stands for no change, as in QEMU.
  if (bytes === 0 || bytes === image.size) return;
  // By way of the node, which knows when the backing file would show where the image grows.
  await truncateNode(image.node, bytes, { exact: false, prealloc: 'off', zeroFill: false });
}
