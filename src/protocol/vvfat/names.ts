/**
 * Names in a folder: the short one of 8 + 3 characters ("FAT Directory Structure", DIR_Name) and
 * the long one in entries before it ("FAT Long Directory Entries"). Every name gets a long one, as
 * in QEMU, so that its case is kept.
 */

export interface FatName {
  /** 11 bytes: base and extension, padded with spaces. */
  readonly short: string;
  /** The name as the host has it. */
  readonly long: string;
  /** Entries that the long name takes. */
  readonly longEntries: number;
}

/** UTF-16 units in one entry of a long name, and where they lie. */
const UNIT_OFFSETS = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
const LAST_LONG_ENTRY = 0x40;
const ATTR_LONG_NAME = 0x0f;

/** What may stand in a short name beside letters and digits. */
const ALLOWED = /[^A-Z0-9!#$%&'()@^_`{}~-]/g;

/** The names of one folder, in the order given; short names are unique. */
export function fatNames(names: readonly string[]): FatName[] {
  const used = new Set<string>();
  const nextTail = new Map<string, number>();
  return names.map((long) => {
    const { base, extension, isWhole } = shorten(long);
    let short = base.padEnd(8) + extension.padEnd(3);
    if (!isWhole || used.has(short)) short = withTail(base, extension, used, nextTail);
    used.add(short);
    return { short, long, longEntries: Math.ceil(long.length / UNIT_OFFSETS.length) };
  });
}

interface Shortened {
  readonly base: string;
  readonly extension: string;
  /** Nothing but the case of letters was lost. */
  readonly isWhole: boolean;
}

/** The base is what stands before the first dot, the extension what follows the last one. */
function shorten(name: string): Shortened {
  const plain = name.replace(/^\.+/, '');
  const firstDot = plain.indexOf('.');
  const lastDot = plain.lastIndexOf('.');
  const before = firstDot < 0 ? plain : plain.slice(0, firstDot);
  const after = lastDot < 0 ? '' : plain.slice(lastDot + 1);
  const [base, extension] = [allowed(before), allowed(after)];
  const isWhole =
    plain === name &&
    firstDot === lastDot &&
    base.length === before.length &&
    extension.length === after.length &&
    base.length > 0 &&
    base.length <= 8 &&
    extension.length <= 3;
  return { base: base.slice(0, 8), extension: extension.slice(0, 3), isWhole };
}

/** In capitals, without what no short name may hold. */
function allowed(text: string): string {
  const ascii = text.replace(/[^\x20-\x7e]/g, '');
  return ascii.toUpperCase().replace(ALLOWED, '');
}

/** `BASE~N`, the first that is free: numbers of a base and extension are given out in order. */
function withTail(
  base: string,
  extension: string,
  used: ReadonlySet<string>,
  nextTail: Map<string, number>,
): string {
  const key = `${base}.${extension}`;
  for (let n = nextTail.get(key) ?? 1; ; n++) {
    const tail = `~${n}`;
    const short = (base.slice(0, 8 - tail.length) + tail).padEnd(8) + extension.padEnd(3);
    if (used.has(short)) continue;
    nextTail.set(key, n + 1);
    return short;
  }
}

/** Writes the entries of the long name in front of which the short one's follows. */
export function writeLongName(name: FatName, out: Uint8Array, at: number): void {
  const view = new DataView(out.buffer, out.byteOffset, out.byteLength);
  const perEntry = UNIT_OFFSETS.length;
  const sum = shortNameSum(name.short);
  for (let entry = 0; entry < name.longEntries; entry++) {
    // The last piece of the name comes first.
    const piece = name.longEntries - 1 - entry;
    const start = at + entry * 32;
    out[start] = (piece + 1) | (entry === 0 ? LAST_LONG_ENTRY : 0);
    out[start + 11] = ATTR_LONG_NAME;
    out[start + 13] = sum;
    UNIT_OFFSETS.forEach((offset, i) => {
      const unit = piece * perEntry + i;
      const code = unit < name.long.length ? name.long.charCodeAt(unit) : 0xffff;
      view.setUint16(start + offset, unit === name.long.length ? 0 : code, true);
    });
  }
}

/** ChkSum(): the sum of a short name that its long entries carry. */
function shortNameSum(short: string): number {
  let sum = 0;
  for (let i = 0; i < short.length; i++) {
    sum = (((sum & 1) << 7) + (sum >> 1) + short.charCodeAt(i)) & 0xff;
  }
  return sum;
}
