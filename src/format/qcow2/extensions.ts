/** Header extensions: parsing, and writing them back without losing what is not understood. */
import { BlockError } from '../../block/errors.js';
import type { BitmapsExt, CryptoExt } from './layout.js';
import {
  Autoclear,
  BITMAPS_EXT_FIELDS,
  BITMAPS_EXT_LENGTH,
  CRYPTO_EXT_FIELDS,
  CRYPTO_EXT_LENGTH,
  decodeFields,
  encodeFields,
  Ext,
  EXT_HEAD_LENGTH,
  FEATURE_ENTRY_LENGTH,
  FEATURE_NAME_LENGTH,
  FEATURE_NAMES,
  Limit,
} from './layout.js';
import { isOffset, roundUp } from './units.js';

/** An extension that vdisk does not interpret; kept byte for byte. */
export interface UnknownExtension {
  readonly type: number;
  readonly data: Uint8Array;
}

/** An entry of the feature-name table. */
export interface FeatureName {
  /** 0 incompatible, 1 compatible, 2 autoclear. */
  readonly type: number;
  readonly bit: number;
  readonly name: string;
}

/** What the extension area says; absent extensions are undefined or empty. */
export interface Extensions {
  backingFormat: string | undefined;
  dataFile: string | undefined;
  crypto: CryptoExt | undefined;
  bitmaps: BitmapsExt | undefined;
  featureNames: FeatureName[];
  unknown: UnknownExtension[];
  /** The bitmaps bit must be cleared when the image is written; see `bitmapsDropped`. */
  bitmapsInconsistent: boolean;
}

/** Facts of the header that decide how extensions are judged. */
export interface ExtensionContext {
  readonly version: number;
  readonly clusterSize: number;
  readonly cryptMethod: number;
  readonly autoclear: bigint;
}

const utf8 = new TextDecoder();
const encoder = new TextEncoder();

/** No extension at all. */
export function noExtensions(): Extensions {
  return {
    backingFormat: undefined,
    dataFile: undefined,
    crypto: undefined,
    bitmaps: undefined,
    featureNames: [],
    unknown: [],
    bitmapsInconsistent: false,
  };
}

/**
 * Parses the area [start, end) of the first cluster, which `head` holds as far as the file goes
 * (what is missing reads as zeroes). Throws BlockError with EINVAL.
 */
export function parseExtensions(
  head: Uint8Array,
  start: number,
  end: number,
  context: ExtensionContext,
): Extensions {
  const out = noExtensions();
  let at = start;
  while (at < end) {
    const [type, length] = extensionHead(head, at);
    at += EXT_HEAD_LENGTH;
    if (at > end || length > end - at) throw invalid('Header extension too large');
    if (type === Ext.end) return out;
    parseOne(out, type, paddedSlice(head, at, length), context);
    at += roundUp(length, 8);
  }
  return out;
}

/** Feature names alone, without judging the other extensions; for unknown features. */
export function parseFeatureNames(head: Uint8Array, start: number, end: number): FeatureName[] {
  let names: FeatureName[] = [];
  let at = start;
  while (at + EXT_HEAD_LENGTH <= end) {
    const [type, length] = extensionHead(head, at);
    at += EXT_HEAD_LENGTH;
    if (length > end - at || type === Ext.end) break;
    if (type === Ext.featureTable) names = featureTable(paddedSlice(head, at, length));
    at += roundUp(length, 8);
  }
  return names;
}

function extensionHead(head: Uint8Array, at: number): [number, number] {
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  if (at + EXT_HEAD_LENGTH > head.byteLength) return [Ext.end, 0];
  return [view.getUint32(at), view.getUint32(at + 4)];
}

/** A copy of [at, at + length), zero-filled past the end of `head`. */
function paddedSlice(head: Uint8Array, at: number, length: number): Uint8Array {
  const out = new Uint8Array(length);
  if (at < head.byteLength) out.set(head.subarray(at, Math.min(at + length, head.byteLength)));
  return out;
}

function parseOne(
  out: Extensions,
  type: number,
  data: Uint8Array,
  context: ExtensionContext,
): void {
  switch (type) {
    case Ext.backingFormat:
      if (data.length >= 16) {
        throw invalid(`ERROR: ext_backing_format: len=${data.length} too large (>=16)`);
      }
      out.backingFormat = cString(data);
      break;
    case Ext.featureTable:
      out.featureNames = featureTable(data);
      break;
    case Ext.crypto:
      out.crypto = cryptoExtension(data, context);
      break;
    case Ext.bitmaps:
      parseBitmaps(out, data, context);
      break;
    case Ext.dataFile:
      out.dataFile = cString(data);
      break;
    default:
      out.unknown.push({ type, data });
  }
}

function cryptoExtension(data: Uint8Array, context: ExtensionContext): CryptoExt {
  if (context.cryptMethod !== 2) {
    throw invalid('CRYPTO header extension only expected with LUKS encryption method');
  }
  if (data.length !== CRYPTO_EXT_LENGTH) {
    throw invalid(
      `CRYPTO header extension size ${data.length}, but expected size ${CRYPTO_EXT_LENGTH}`,
    );
  }
  const crypto = decodeFields(CRYPTO_EXT_FIELDS, data);
  if (crypto.offset % context.clusterSize !== 0 || !isOffset(crypto.offset)) {
    throw invalid(
      `Encryption header offset '${crypto.offset}' is not a multiple of cluster size ` +
        `'${context.clusterSize}'`,
    );
  }
  return crypto;
}

function parseBitmaps(out: Extensions, data: Uint8Array, context: ExtensionContext): void {
  if (data.length !== BITMAPS_EXT_LENGTH) throw invalid('bitmaps_ext: Invalid extension length');
  if ((context.autoclear & Autoclear.bitmaps) === 0n) {
    // A program that knows no bitmaps wrote the image: they are lost, their clusters leak.
    out.bitmapsInconsistent = true;
    return;
  }
  const ext = decodeFields(BITMAPS_EXT_FIELDS, data);
  if (ext.reserved !== 0) throw invalid('bitmaps_ext: Reserved field is not zero');
  if (ext.nb_bitmaps > Limit.maxBitmaps) {
    throw invalid(
      `bitmaps_ext: Image has ${ext.nb_bitmaps} bitmaps, exceeding the QEMU supported maximum ` +
        `of ${Limit.maxBitmaps}`,
    );
  }
  if (ext.nb_bitmaps === 0) throw invalid('found bitmaps extension with zero bitmaps');
  const offset = ext.bitmap_directory_offset;
  if (offset % context.clusterSize !== 0 || !isOffset(offset)) {
    throw invalid('bitmaps_ext: invalid bitmap directory offset');
  }
  if (ext.bitmap_directory_size > Limit.maxBitmapDirectoryBytes) {
    throw invalid(
      `bitmaps_ext: bitmap directory size (${ext.bitmap_directory_size}) exceeds the maximum ` +
        `supported size (${Limit.maxBitmapDirectoryBytes})`,
    );
  }
  out.bitmaps = ext;
}

function featureTable(data: Uint8Array): FeatureName[] {
  const names: FeatureName[] = [];
  // A last entry that is cut short counts, as far as it goes.
  for (let at = 0; at + 2 <= data.length; at += FEATURE_ENTRY_LENGTH) {
    names.push({
      type: data[at]!,
      bit: data[at + 1]!,
      name: cString(data.subarray(at + 2, at + FEATURE_ENTRY_LENGTH)),
    });
  }
  return names;
}

/** Text up to the first zero byte. */
function cString(data: Uint8Array): string {
  const end = data.indexOf(0);
  return utf8.decode(end < 0 ? data : data.subarray(0, end));
}

/**
 * Clusters up to this size have no room for the names of features beside a long backing name, so
 * they go without, as QEMU has it.
 */
const MAX_UNNAMED_CLUSTER = 4096;

/** The extension area, with its end mark, ready to follow the header. */
export function encodeExtensions(
  extensions: Extensions,
  version: number,
  clusterSize: number,
): Uint8Array {
  const parts: [number, Uint8Array][] = [];
  if (extensions.backingFormat !== undefined) {
    parts.push([Ext.backingFormat, encoder.encode(extensions.backingFormat)]);
  }
  if (extensions.dataFile !== undefined) {
    parts.push([Ext.dataFile, encoder.encode(extensions.dataFile)]);
  }
  if (extensions.crypto !== undefined) {
    const data = new Uint8Array(CRYPTO_EXT_LENGTH);
    encodeFields(CRYPTO_EXT_FIELDS, extensions.crypto, data);
    parts.push([Ext.crypto, data]);
  }
  if (version >= 3 && clusterSize > MAX_UNNAMED_CLUSTER) {
    parts.push([Ext.featureTable, encodeFeatureTable(extensions.featureNames)]);
  }
  if (extensions.bitmaps !== undefined) {
    const data = new Uint8Array(BITMAPS_EXT_LENGTH);
    encodeFields(BITMAPS_EXT_FIELDS, extensions.bitmaps, data);
    parts.push([Ext.bitmaps, data]);
  }
  for (const { type, data } of extensions.unknown) parts.push([type, data]);
  parts.push([Ext.end, new Uint8Array(0)]);

  const bytes = parts.reduce((sum, [, d]) => sum + EXT_HEAD_LENGTH + roundUp(d.length, 8), 0);
  const out = new Uint8Array(bytes);
  const view = new DataView(out.buffer);
  let at = 0;
  for (const [type, data] of parts) {
    view.setUint32(at, type);
    view.setUint32(at + 4, data.length);
    out.set(data, at + EXT_HEAD_LENGTH);
    at += EXT_HEAD_LENGTH + roundUp(data.length, 8);
  }
  return out;
}

/** Own names first, then those of the image's table that name other bits. */
function encodeFeatureTable(found: readonly FeatureName[]): Uint8Array {
  const own: readonly FeatureName[] = FEATURE_NAMES;
  const foreign = found.filter((f) => !own.some((o) => o.type === f.type && o.bit === f.bit));
  const all = [...own, ...foreign];
  const out = new Uint8Array(all.length * FEATURE_ENTRY_LENGTH);
  all.forEach((feature, i) => {
    const at = i * FEATURE_ENTRY_LENGTH;
    out[at] = feature.type;
    out[at + 1] = feature.bit;
    out.set(encoder.encode(feature.name).subarray(0, FEATURE_NAME_LENGTH), at + 2);
  });
  return out;
}

function invalid(message: string): BlockError {
  return new BlockError('EINVAL', message);
}
