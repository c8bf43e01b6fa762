/** What blockdev-create and x-blockdev-amend take for qcow2. */
import {
  blockdevDriver,
  blockdevRef,
  createdOnFile,
  luksAmendFields,
  preallocMode,
} from '../../block/blockdev-types.js';
import { createEncryption, encryptionValues } from '../../block/crypto/create-encryption.js';
import type { BlockdevAmend, BlockdevCreate, NodeOptions } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { tooLongForAny } from '../../block/types.js';
import type { CreateValues } from '../../options/create-options.js';
import { t } from '../../options/schema.js';

function valuesOf(options: NodeOptions): CreateValues {
  const { size, version } = options;
  if (BigInt(size as number | bigint) % 512n !== 0n) {
    throw new BlockError('EINVAL', 'Image size must be a multiple of 512 bytes');
  }
  const values = encryptionValues(options);
  if (version !== undefined) values['compat'] = version === 'v2' ? '0.10' : '1.1';
  return values;
}

/** Each limit of QEMU's in its own words. */
function tooLarge(size: number | bigint): string {
  const what = size >= 2n ** 63n ? 'Image size cannot be negative' : tooLongForAny(size);
  return `Could not resize image: ${what ?? 'Failed to grow the L1 table: File too large'}`;
}

export const qcow2BlockdevCreate: BlockdevCreate = {
  decl: t.struct('BlockdevCreateOptionsQcow2', {
    ...createdOnFile,
    'data-file': t.optional(blockdevRef),
    'data-file-raw': t.optional(t.bool({ doc: 'the data file must stay valid as a raw image' })),
    'extended-l2': t.optional(t.bool({ doc: 'extended L2 tables' })),
    version: t.optional(t.enumOf('v2', 'v3', { name: 'BlockdevQcow2Version' })),
    'backing-file': t.optional(t.str({ doc: 'name of the backing file' })),
    'backing-fmt': t.optional(blockdevDriver),
    encrypt: t.optional(createEncryption),
    'cluster-size': t.optional(t.size({ doc: 'bytes of a cluster' })),
    preallocation: t.optional(preallocMode),
    'lazy-refcounts': t.optional(t.bool({ doc: 'postpone refcount updates' })),
    'refcount-bits': t.optional(t.int({}, { doc: 'bits of a reference count' })),
    'compression-type': t.optional(t.enumOf('zlib', 'zstd', { name: 'Qcow2CompressionType' })),
  }),
  values: valuesOf,
  tooLarge,
  others: (options) => {
    const ref = options['data-file'];
    return ref === undefined ? [] : [ref as string | NodeOptions];
  },
};

const amendedEncryption = t.union(
  'QCryptoBlockAmendOptions',
  'format',
  { luks: t.struct('QCryptoBlockAmendOptionsLUKS', luksAmendFields) },
  { base: { format: t.enumOf('qcow', 'luks', { name: 'QCryptoBlockFormat' }) } },
);

/** Only keys of encryption can be changed. */
export const qcow2BlockdevAmend: BlockdevAmend = {
  decl: t.struct('BlockdevAmendOptionsQcow2', { encrypt: t.optional(amendedEncryption) }),
  values: ({ encrypt }, opened) => {
    if (encrypt === undefined) return {};
    const values: Record<string, string | number> = {};
    const given = encrypt as Readonly<Record<string, string | number>>;
    const secret = (opened['encrypt'] as NodeOptions | undefined)?.['key-secret'];
    if (typeof secret === 'string') values['encrypt.secret'] = secret;
    for (const [name, value] of Object.entries(given)) {
      if (name !== 'format') values[`encrypt.${name}`] = value;
    }
    return values;
  },
};
