/**
 * On-disk structures as tables: types, codecs and dumps come from them.
 *
 * Fields of type `bits` are sets of flags and decode to `bigint`; all others decode to `number`,
 * which is exact up to 2^53 - 1: whoever uses a 64-bit offset or size must refuse larger values
 * first, as the validation of each format's header does.
 */

/** One field of a structure; `offset` and `width` are bytes. */
export type Field = NumberField | BytesField;

export interface NumberField {
  readonly field: string;
  readonly offset: number;
  readonly width: 1 | 2 | 4 | 8;
  /** Decode to bigint. */
  readonly bits?: true;
  readonly meaning: string;
}

/** Texts and GUIDs: kept as bytes. */
export interface BytesField {
  readonly field: string;
  readonly offset: number;
  readonly width: number;
  readonly bytes: true;
  readonly meaning: string;
}

/** The record that a table of fields describes. */
export type RecordOf<F extends readonly Field[]> = {
  -readonly [E in F[number] as E['field']]: E extends { readonly bytes: true }
    ? Uint8Array
    : E extends { readonly bits: true }
      ? bigint
      : number;
};

/** Order of the bytes of a number. */
export type ByteOrder = 'big' | 'little';

/** Reads the fields that lie wholly inside `bytes`; the others are 0. */
export function decodeFields<const F extends readonly Field[]>(
  fields: F,
  bytes: Uint8Array,
  start = 0,
  order: ByteOrder = 'big',
): RecordOf<F> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const little = order === 'little';
  const out: Record<string, number | bigint | Uint8Array> = {};
  for (const each of fields) {
    const { field, width } = each;
    const at = start + each.offset;
    const inside = at + width <= bytes.byteLength;
    if ('bytes' in each) out[field] = inside ? bytes.slice(at, at + width) : new Uint8Array(width);
    else if (each.bits === true) out[field] = inside ? view.getBigUint64(at, little) : 0n;
    else out[field] = inside ? readUint(view, at, each.width, little) : 0;
  }
  return out as RecordOf<F>;
}

/** Writes the fields that lie wholly inside `bytes`. */
export function encodeFields<const F extends readonly Field[]>(
  fields: F,
  record: RecordOf<F>,
  bytes: Uint8Array,
  start = 0,
  order: ByteOrder = 'big',
): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const little = order === 'little';
  const values = record as Readonly<Record<string, number | bigint | Uint8Array>>;
  for (const { field, offset, width } of fields) {
    const at = start + offset;
    if (at + width > bytes.byteLength) continue;
    const value = values[field] ?? 0;
    if (value instanceof Uint8Array) bytes.set(value.subarray(0, width), at);
    else if (width === 8) {
      if (typeof value === 'bigint') view.setBigUint64(at, value, little);
      else writeU64(view, at, value, little);
    } else if (width === 4) view.setUint32(at, Number(value), little);
    else if (width === 2) view.setUint16(at, Number(value), little);
    else view.setUint8(at, Number(value));
  }
}

function readUint(view: DataView, at: number, width: 1 | 2 | 4 | 8, little: boolean): number {
  if (width === 8) return readU64(view, at, little);
  if (width === 4) return view.getUint32(at, little);
  return width === 2 ? view.getUint16(at, little) : view.getUint8(at);
}

const TWO32 = 0x1_0000_0000;

/** An unsigned 64-bit number; rounded above 2^53. */
export function readU64(view: DataView, at: number, little = false): number {
  const first = view.getUint32(at, little);
  const second = view.getUint32(at + 4, little);
  return little ? second * TWO32 + first : first * TWO32 + second;
}

/** Stores 0 to 2^53 - 1 as 64 bits. */
export function writeU64(view: DataView, at: number, value: number, little = false): void {
  const high = Math.floor(value / TWO32);
  view.setUint32(at, little ? value % TWO32 : high, little);
  view.setUint32(at + 4, little ? high : value % TWO32, little);
}
