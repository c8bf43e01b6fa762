/** What the header of an image says, for people: works on headers that no driver would open. */
import type { FeatureName } from './extensions.js';
import { parseFeatureNames } from './extensions.js';

import {
  Autoclear,
  Compat,
  decodeFields,
  FEATURE_NAMES,
  HEADER_FIELDS,
  HEADER_V2_LENGTH,
  Incompat,
} from './layout.js';
import type { HeaderRecord } from './layout.js';

/** A feature bit that is set. */
export interface ExplainedFeature {
  readonly kind: 'incompatible' | 'compatible' | 'autoclear';
  readonly bit: number;
  /** The specification's name, else the image's own, else undefined. */
  readonly name: string | undefined;
  /** Known to vdisk. */
  readonly known: boolean;
  /** What it means for whoever uses the image. */
  readonly meaning: string;
}

export interface ExplainedHeader {
  readonly fields: HeaderRecord;
  readonly features: readonly ExplainedFeature[];
  /** Structures that lie behind the end of the file, by name. */
  readonly pastEnd: readonly string[];
}

const KINDS = ['incompatible', 'compatible', 'autoclear'] as const;

const MEANINGS: Readonly<Record<string, string>> = {
  'dirty bit':
    'the image was not closed; refcounts may lag behind and are repaired at the next open',
  'corrupt bit': 'damage was found; the image is opened for reading only until it is repaired',
  'external data file': 'guest data is in another file',
  'compression type': 'compressed clusters use zstd',
  'extended L2 entries': 'clusters have 32 subclusters each',
  'lazy refcounts': 'refcounts are written late, for speed',
  bitmaps: 'persistent dirty bitmaps are up to date',
  'raw external data': 'the data file alone reads as a raw image',
};

const UNKNOWN_MEANINGS = {
  incompatible: 'unknown here: the image cannot be opened without knowing it',
  compatible: 'unknown here, and of no harm',
  autoclear: 'unknown here: cleared by the first program that writes without knowing it',
} as const;

/** Explains the first bytes of a file of `fileBytes` bytes; `head` has at least 112 of them. */
export function explainHeader(head: Uint8Array, fileBytes: number): ExplainedHeader {
  const fields = decodeFields(HEADER_FIELDS, head);
  if (fields.version < 3) {
    fields.incompatible_features = fields.compatible_features = fields.autoclear_features = 0n;
    fields.header_length = HEADER_V2_LENGTH;
  }
  return { fields, features: featuresOf(fields, head), pastEnd: structuresPast(fields, fileBytes) };
}

function featuresOf(fields: HeaderRecord, head: Uint8Array): ExplainedFeature[] {
  let own: readonly FeatureName[] = [];
  try {
    const end = fields.backing_file_offset === 0 ? head.length : fields.backing_file_offset;
    own = parseFeatureNames(head, fields.header_length, Math.min(end, head.length));
  } catch {
    // The extensions are broken: bits have no other names then.
  }
  const masks = [
    [fields.incompatible_features, Incompat.known],
    [fields.compatible_features, Compat.known],
    [fields.autoclear_features, Autoclear.known],
  ] as const;
  return masks.flatMap(([mask, known], type) => {
    const kind = KINDS[type] ?? 'incompatible';
    const found: ExplainedFeature[] = [];
    for (let bit = 0; bit < 64; bit++) {
      if ((mask & (1n << BigInt(bit))) === 0n) continue;
      const isKnown = (known & (1n << BigInt(bit))) !== 0n;
      const names: readonly FeatureName[] = isKnown ? FEATURE_NAMES : own;
      const name = names.find((each) => each.type === type && each.bit === bit)?.name;
      const meaning = (isKnown ? MEANINGS[name ?? ''] : undefined) ?? UNKNOWN_MEANINGS[kind];
      found.push({ kind, bit, name, known: isKnown, meaning });
    }
    return found;
  });
}

/** Tables of the header that begin past the end: the file was cut. */
function structuresPast(fields: HeaderRecord, fileBytes: number): string[] {
  const tables: [string, number, number][] = [
    ['the L1 table', fields.l1_table_offset, fields.l1_size],
    ['the refcount table', fields.refcount_table_offset, fields.refcount_table_clusters],
    ['the snapshot table', fields.snapshots_offset, fields.nb_snapshots],
  ];
  return tables.filter(([, at, n]) => n > 0 && at >= fileBytes).map(([name]) => name);
}
