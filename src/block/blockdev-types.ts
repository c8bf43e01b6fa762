/**
 * What declarations of drivers share when they say what `blockdev-add` takes: references to other
 * nodes. The catalogue supplies what the names stand for (catalog/blockdev-types.ts).
 */
import type { Decl, Fields } from '../options/schema.js';
import { t } from '../options/schema.js';
import type { NodeOptions } from './driver.js';

/** QMP's BlockdevRef: the name of a node, or the options of a new one. */
export const blockdevRef = t.ref<string | NodeOptions>('BlockdevRef', {
  doc: 'name of a node, or the options of a new one',
});

/** QMP's BlockdevRefOrNull: null says that there shall be none. */
export const blockdevRefOrNull = t.ref<string | NodeOptions | null>('BlockdevRefOrNull', {
  doc: 'name of a node, the options of a new one, or null for none',
});

/** QMP's BlockdevDriver: the name of a driver. */
export const blockdevDriver = t.ref<string>('BlockdevDriver', { doc: 'name of a driver' });

/** Fields of a driver that stands on one `file` (QMP's BlockdevOptionsGenericFormat). */
export const onFile = { file: blockdevRef } satisfies Fields;

/** QMP's BlockdevOptionsGenericFormat: a driver with a `file` and no options of its own. */
export const genericFormat: Decl = t.struct('BlockdevOptionsGenericFormat', onFile);

/** QMP's BlockdevOptionsGenericCOWFormat: the same for images with a backing file. */
export const cowFormat: Decl = t.struct('BlockdevOptionsGenericCOWFormat', {
  ...onFile,
  backing: t.optional(blockdevRefOrNull),
});

/** QMP's BlockDirtyBitmap: which bitmap is meant. */
export const blockDirtyBitmap = t.struct('BlockDirtyBitmap', {
  node: t.str({ doc: 'node that has the bitmap' }),
  name: t.str({ doc: 'name of the bitmap' }),
});

/** QMP's BlockPermission. */
export const blockPermission = t.enumOf('consistent-read', 'write', 'write-unchanged', 'resize', {
  name: 'BlockPermission',
});

/** QMP's PreallocMode. */
export const preallocMode = t.enumOf('off', 'metadata', 'falloc', 'full', {
  name: 'PreallocMode',
  doc: 'what is allocated beforehand',
});

/** Fields that blockdev-create takes for every format on a file. */
export const createdOnFile = {
  file: blockdevRef,
  size: t.size64({ doc: 'virtual size in bytes' }),
} satisfies Fields;

const cipherAlgo = t.enumOf(
  ...['aes-128', 'aes-192', 'aes-256', 'des', '3des', 'cast5-128', 'serpent-128', 'serpent-192'],
  ...['serpent-256', 'twofish-128', 'twofish-192', 'twofish-256', 'sm4'],
  { name: 'QCryptoCipherAlgo' },
);

const hashAlgo = t.enumOf(
  ...['md5', 'sha1', 'sha224', 'sha256', 'sha384', 'sha512', 'ripemd160', 'sm3'],
  { name: 'QCryptoHashAlgo' },
);

/** Fields of QMP's QCryptoBlockCreateOptionsLUKS. */
export const luksCreateFields = {
  'key-secret': t.optional(t.str({ doc: 'ID of the secret that holds the passphrase' })),
  'cipher-alg': t.optional(cipherAlgo),
  'cipher-mode': t.optional(t.enumOf('ecb', 'cbc', 'xts', 'ctr', { name: 'QCryptoCipherMode' })),
  'ivgen-alg': t.optional(t.enumOf('plain', 'plain64', 'essiv', { name: 'QCryptoIVGenAlgo' })),
  'ivgen-hash-alg': t.optional(hashAlgo),
  'hash-alg': t.optional(hashAlgo),
  'iter-time': t.optional(t.int({}, { doc: 'milliseconds that unlocking takes' })),
} satisfies Fields;

/** QMP's QCryptoBlockAmendOptionsLUKS: key slots that are filled or erased. */
export const luksAmendFields = {
  state: t.enumOf('active', 'inactive', { name: 'QCryptoBlockLUKSKeyslotState' }),
  'new-secret': t.optional(t.str({ doc: 'ID of the secret to put in a key slot' })),
  'old-secret': t.optional(t.str({ doc: 'erase the key slots that this secret opens' })),
  keyslot: t.optional(t.int({}, { doc: 'the key slot to change' })),
  'iter-time': t.optional(t.int({}, { doc: 'milliseconds that unlocking takes' })),
  secret: t.optional(t.str({ doc: 'a secret that opens the image; default: as it was opened' })),
} satisfies Fields;
