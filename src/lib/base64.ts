/** Base64 (RFC 4648, section 4), with padding. */
const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/';

const values = new Map(Array.from(alphabet, (letter, value) => [letter, value]));

/** Bytes that become one chunk of text at a time: a multiple of 3. */
const CHUNK = 0x3000;

export function toBase64(bytes: Uint8Array): string {
  const out: string[] = [];
  for (let start = 0; start < bytes.length; start += CHUNK) {
    let text = '';
    const end = Math.min(start + CHUNK, bytes.length);
    for (let i = start; i < end; i += 3) {
      const left = end - i;
      const word =
        (bytes[i]! << 16) | ((left > 1 ? bytes[i + 1]! : 0) << 8) | (left > 2 ? bytes[i + 2]! : 0);
      text += alphabet.charAt(word >> 18) + alphabet.charAt((word >> 12) & 63);
      text += left > 1 ? alphabet.charAt((word >> 6) & 63) : '=';
      text += left > 2 ? alphabet.charAt(word & 63) : '=';
    }
    out.push(text);
  }
  return out.join('');
}

/** The bytes of a text; undefined: it is no base64. */
export function tryFromBase64(text: string): Uint8Array | undefined {
  if (text.length % 4 !== 0) return undefined;
  const padding = text.endsWith('==') ? 2 : text.endsWith('=') ? 1 : 0;
  const out = new Uint8Array((text.length / 4) * 3 - padding);
  let word = 0;
  let at = 0;
  for (let i = 0; i < text.length; i++) {
    const letter = text.charAt(i);
    const value = i >= text.length - padding ? 0 : values.get(letter);
    if (value === undefined) return undefined;
    word = ((word << 6) | value) & 0xff_ffff;
    if (i % 4 !== 3) continue;
    for (const shift of [16, 8, 0]) if (at < out.length) out[at++] = (word >> shift) & 0xff;
  }
  return out;
}
