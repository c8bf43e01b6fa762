/** Creation and amend options of qcow2, and the rules between them in QEMU's order and words. */
import type { LuksCreateOptions } from '../../block/crypto/luks.js';
import { luksAmendKeys, luksCreateKeys } from '../../block/crypto/luks-keys.js';
import { BlockError } from '../../block/errors.js';
import type { BlockGraph } from '../../block/graph.js';
import type { Preallocation } from '../../block/types.js';
import { MAX_LENGTH } from '../../block/types.js';
import type { CreateValues } from '../../options/create-options.js';
import { createOptions, typedValues } from '../../options/create-options.js';
import { OptionError } from '../../options/option-error.js';
import { Limit } from './layout.js';
import type { Geometry } from './units.js';
import { geometry, l1EntriesFor, roundUp } from './units.js';

const compatHelp = 'Compatibility level (v2 [0.10] or v3 [1.1])';
const lazyHelp = 'Postpone refcount updates';
const widthHelp = 'Width of a reference count entry in bits';
const rawHelp = 'The external data file must stay valid as a raw image';

/** What `create -o` takes, in the order of the "Formatting" line. */
export const qcow2CreateOptions = createOptions({
  encryption: {
    type: 'bool',
    help: "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
  },
  'encrypt.format': { type: 'str', help: "Encrypt the image, format choices: 'aes', 'luks'" },
  'encrypt.key-secret': {
    type: 'str',
    help: 'ID of secret providing qcow AES key or LUKS passphrase',
  },
  'encrypt.cipher-alg': luksCreateKeys.cipherAlg,
  'encrypt.cipher-mode': luksCreateKeys.cipherMode,
  'encrypt.ivgen-alg': luksCreateKeys.ivgenAlg,
  'encrypt.ivgen-hash-alg': luksCreateKeys.ivgenHashAlg,
  'encrypt.hash-alg': luksCreateKeys.hashAlg,
  'encrypt.iter-time': luksCreateKeys.iterTime,
  cluster_size: { type: 'size', default: '65536', help: 'qcow2 cluster size' },
  extended_l2: { type: 'bool', default: 'off', help: 'Extended L2 tables' },
  preallocation: {
    type: 'str',
    words: ['off', 'metadata', 'falloc', 'full'],
    help: 'Preallocation mode (allowed values: off, metadata, falloc, full)',
  },
  compression_type: {
    type: 'str',
    words: ['zlib', 'zstd'],
    default: 'zlib',
    help: 'Compression method used for image cluster compression',
  },
  size: { type: 'size', help: 'Virtual disk size' },
  compat: { type: 'str', words: ['0.10', '1.1', 'v2', 'v3'], help: compatHelp },
  backing_file: { type: 'str', help: 'File name of a base image' },
  backing_fmt: { type: 'str', help: 'Image format of the base image' },
  data_file: { type: 'str', help: 'File name of an external data file' },
  data_file_raw: { type: 'bool', help: rawHelp },
  lazy_refcounts: { type: 'bool', default: 'off', help: lazyHelp },
  refcount_bits: { type: 'number', default: '16', help: widthHelp },
});

/** What `amend -o` takes. */
export const qcow2AmendOptions = createOptions({
  'encrypt.state': luksAmendKeys.state,
  'encrypt.keyslot': luksAmendKeys.keyslot,
  'encrypt.old-secret': luksAmendKeys.oldSecret,
  'encrypt.new-secret': luksAmendKeys.newSecret,
  'encrypt.iter-time': luksCreateKeys.iterTime,
  size: { type: 'size', help: 'Virtual disk size' },
  compat: { type: 'str', words: ['0.10', '1.1', 'v2', 'v3'], help: compatHelp },
  backing_file: { type: 'str', help: 'File name of a base image' },
  backing_fmt: { type: 'str', help: 'Image format of the base image' },
  data_file: { type: 'str', help: 'File name of an external data file' },
  data_file_raw: { type: 'bool', help: rawHelp },
  lazy_refcounts: { type: 'bool', help: lazyHelp },
  refcount_bits: { type: 'number', help: widthHelp },
});

/** How a new image is encrypted; `luks` is what {@link luksDefaults} made of the options. */
export type CreateEncryption =
  | { readonly format: 'aes'; readonly secret: string }
  | { readonly format: 'luks'; readonly secret: string; readonly luks: LuksCreateOptions };

/** A checked request for a new image; sizes in bytes. */
export interface CreateParameters {
  readonly size: number;
  readonly version: 2 | 3;
  readonly g: Geometry;
  readonly preallocation: Preallocation;
  readonly lazyRefcounts: boolean;
  readonly backingFile: string | undefined;
  readonly backingFormat: string | undefined;
  readonly dataFile: string | undefined;
  readonly dataFileRaw: boolean;
  readonly compressionType: 'zlib' | 'zstd';
  readonly encryption: CreateEncryption | undefined;
}

function invalid(message: string): BlockError {
  return new BlockError('EINVAL', message);
}

function refuseWord(name: string, value: string): never {
  throw new OptionError(`Parameter '${name}' does not accept value '${value}'`, name);
}

/** The version that a compatibility level stands for; undefined: none. */
export function versionOf(compat: string | undefined): 2 | 3 | undefined {
  switch (compat ?? '1.1') {
    case '0.10':
    case 'v2':
      return 2;
    case '1.1':
    case 'v3':
      return 3;
    default:
      return undefined;
  }
}

/** Base-two logarithm of a power of two from `min` to `max`; undefined for anything else. */
export function powerOfTwo(value: number, min: number, max: number): number | undefined {
  const bits = Math.log2(value);
  return value >= min && value <= max && Number.isInteger(bits) ? bits : undefined;
}

/** Checks the cluster size. `version`: of an image that is to be made. Throws EINVAL. */
export function clusterBitsOf(clusterSize: number, extendedL2: boolean, version = 3): number {
  if (extendedL2 && version < 3) {
    throw needsVersion3('Extended L2 entries are only supported with');
  }
  const bits = powerOfTwo(clusterSize, 2 ** Limit.minClusterBits, 2 ** Limit.maxClusterBits);
  if (bits === undefined) {
    throw invalid('Cluster size must be a power of two between 512 and 2048k');
  }
  if (extendedL2 && bits < Limit.minExtendedClusterBits) {
    throw invalid(
      'Extended L2 entries are only supported with cluster sizes of at least 16384 bytes',
    );
  }
  return bits;
}

/** Checks the width of refcounts. Throws EINVAL. */
export function refcountOrderOf(bits: number): number {
  const order = powerOfTwo(bits, 1, 64);
  if (order === undefined) {
    throw invalid('Refcount width must be a power of two and may not exceed 64 bits');
  }
  return order;
}

/** A preallocation mode; undefined: none. */
export function preallocationOf(word: string | undefined): Preallocation | undefined {
  switch (word ?? 'off') {
    case 'off':
      return 'off';
    case 'metadata':
      return 'metadata';
    case 'falloc':
      return 'falloc';
    case 'full':
      return 'full';
    default:
      return undefined;
  }
}

const SECTOR = 512;

/**
 * Checks creation options against each other. Throws OptionError or BlockError with QEMU's texts;
 * EFBIG: the L1 table of such a disk would be too large.
 */
export async function checkCreateOptions(
  graph: BlockGraph,
  values: CreateValues,
): Promise<CreateParameters> {
  const o = typedValues(qcow2CreateOptions, values);
  const version = versionOf(o.compat) ?? refuseWord('version', o.compat ?? '');
  const { backing_fmt: backingFormat } = o;
  if (backingFormat !== undefined && graph.tryDriver(backingFormat) === undefined) {
    refuseWord('backing-fmt', backingFormat);
  }
  const encryption = await encryptionOf(values);
  const preallocation =
    preallocationOf(o.preallocation) ?? refuseWord('preallocation', o.preallocation ?? '');
  const compressionType = compressionOf(o.compression_type);
  const clusterBits = clusterBitsOf(o.cluster_size, o.extended_l2, version);
  checkPairs({ ...o, version, preallocation });
  const order = refcountOrderOf(o.refcount_bits);
  if (version < 3 && order !== 4) throw needsVersion3(refcountText);
  checkDataFile({ ...o, version });
  if (compressionType !== 'zlib' && version < 3) {
    throw needsVersion3('Non-zlib compression type is only supported with');
  }
  if (o.size === undefined) throw invalid('Image creation needs a size parameter');
  const g = geometry(clusterBits, order, o.extended_l2);
  const size = roundUp(o.size, SECTOR);
  if (l1EntriesFor(g, size) * 8 > Limit.maxL1Bytes) throw new BlockError('EFBIG');
  if (size > MAX_LENGTH && (o.data_file !== undefined || preallocation !== 'off')) {
    // Something in the host file, or in the other one, would lie out of reach.
    throw new BlockError('EFBIG');
  }
  if (encryption !== undefined && encryption.secret === '') throw secretRequired();
  return {
    size,
    version,
    g,
    // A raw data file is only right when each cluster is mapped from the start.
    preallocation: o.data_file_raw === true && preallocation === 'off' ? 'metadata' : preallocation,
    lazyRefcounts: o.lazy_refcounts,
    backingFile: o.backing_file,
    backingFormat,
    dataFile: o.data_file,
    dataFileRaw: o.data_file_raw ?? false,
    compressionType,
    encryption,
  };
}

const refcountText = 'Different refcount widths than 16 bits require';

function needsVersion3(what: string): BlockError {
  const level = what === refcountText ? '1.1 or above' : '1.1 and above';
  return invalid(`${what} compatibility level ${level} (use version=v3 or greater)`);
}

function compressionOf(word: string): 'zlib' | 'zstd' {
  if (word === 'zlib' || word === 'zstd') return word;
  return refuseWord('compression-type', word);
}

interface PairRules {
  readonly version: number;
  readonly preallocation: Preallocation;
  readonly backing_file?: string;
  readonly backing_fmt?: string;
  readonly extended_l2: boolean;
  readonly lazy_refcounts: boolean;
}

function checkPairs(o: PairRules): void {
  if (o.preallocation !== 'off' && o.backing_file !== undefined && !o.extended_l2) {
    throw invalid(
      'Backing file and preallocation can only be used at the same time if extended_l2 is on',
    );
  }
  if (o.backing_fmt !== undefined && o.backing_file === undefined) {
    throw invalid('Backing format cannot be used without backing file');
  }
  if (o.lazy_refcounts && o.version < 3) {
    throw needsVersion3('Lazy refcounts only supported with');
  }
}

interface DataFileRules {
  readonly version: number;
  readonly data_file?: string;
  readonly data_file_raw?: boolean;
  readonly backing_file?: string;
}

function checkDataFile(o: DataFileRules): void {
  if (o.data_file_raw === true) {
    if (o.data_file === undefined) throw invalid('data-file-raw requires data-file');
    if (o.backing_file !== undefined) {
      throw invalid('Backing file and data-file-raw cannot be used at the same time');
    }
  }
  if (o.data_file !== undefined && o.version < 3) {
    throw needsVersion3('External data files are only supported with');
  }
}

/** What `encryption` and `encrypt.*` ask for. Throws EINVAL with QEMU's texts. */
async function encryptionOf(values: CreateValues): Promise<CreateEncryption | undefined> {
  const given = Object.keys(values).filter(
    (name) => name.startsWith('encrypt.') && values[name] !== undefined,
  );
  let format = values['encrypt.format'];
  if (values['encryption'] === true) {
    if (format !== undefined) {
      throw invalid("'encrypt.format' and its alias 'encryption' can't be used at the same time");
    }
    format = 'aes';
  }
  if (format === undefined) {
    if (given.length > 0) throw invalid("Parameter 'encrypt.format' is missing");
    return undefined;
  }
  if (format !== 'aes' && format !== 'luks') refuseWord('format', String(format));
  const allowed = ['encrypt.format', 'encrypt.key-secret'];
  if (format === 'aes') {
    const extra = given.find((name) => !allowed.includes(name));
    if (extra !== undefined) throw new OptionError(`Parameter '${extra}' is unexpected`, extra);
  }
  const luks = format === 'luks' ? await luksOptions(values) : undefined;
  // Whether there is a secret is only asked when all else is right.
  const secret = String(values['encrypt.key-secret'] ?? '');
  return luks === undefined ? { format: 'aes', secret } : { format: 'luks', secret, luks };
}

/** There is no encryption without a key. */
export function secretRequired(): BlockError {
  return invalid("Parameter 'encrypt.key-secret' is required for cipher");
}

/** LUKS options under `encrypt.`; the module is only loaded for images that want it. */
export async function luksOptions(values: CreateValues): Promise<LuksCreateOptions> {
  const { luksDefaults } = await import('../../block/crypto/luks.js');
  const { luksOptionsFrom } = await import('../../block/crypto/luks-options.js');
  return luksDefaults(luksOptionsFrom((name) => values[`encrypt.${name}`]));
}
