/** GUIDs as text and as the bytes in the file, whose first three parts are little-endian. */

const order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];

/** The bytes of `XXXXXXXX-XXXX-XXXX-XXXX-XXXXXXXXXXXX`. */
export function guidBytes(text: string): Uint8Array {
  const hex = text.replaceAll('-', '');
  return Uint8Array.from(order, (i) => Number.parseInt(hex.slice(i * 2, i * 2 + 2), 16));
}

/** The text of sixteen bytes, in capitals. */
export function guidText(bytes: Uint8Array): string {
  const hex = order.map((i) => (bytes[i] ?? 0).toString(16).padStart(2, '0'));
  const parts = [
    hex.slice(0, 4),
    hex.slice(4, 6),
    hex.slice(6, 8),
    hex.slice(8, 10),
    hex.slice(10),
  ];
  return parts
    .map((part) => part.join(''))
    .join('-')
    .toUpperCase();
}

export function isZeroGuid(bytes: Uint8Array): boolean {
  return bytes.every((b) => b === 0);
}

/** A random GUID (version 4). */
export function newGuid(random: { fill(out: Uint8Array): void }): Uint8Array {
  const bytes = new Uint8Array(16);
  random.fill(bytes);
  // The version stands in the upper half of the third part, the variant in the fourth.
  bytes[7] = ((bytes[7] ?? 0) & 0x0f) | 0x40;
  bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80;
  return bytes;
}
