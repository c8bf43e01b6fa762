/**
 * ADC (Apple Data Compression), as old disk images have it: runs of plain bytes, and copies of what
 * came before with distances of 10 or 16 bits.
 */
import { CompressionError } from '../../host/compression.js';

/** Fills `output`; throws CompressionError where the data is damaged, too short or too long. */
export function adcDecode(input: Uint8Array, output: Uint8Array): void {
  let to = 0;
  for (let at = 0; at < input.length;) {
    const code = input[at]!;
    if (code >= 0x80) {
      const bytes = (code & 0x7f) + 1;
      if (at + 1 + bytes > input.length || to + bytes > output.length) throw damaged();
      output.set(input.subarray(at + 1, at + 1 + bytes), to);
      at += 1 + bytes;
      to += bytes;
      continue;
    }
    const isLong = (code & 0x40) !== 0;
    if (at + (isLong ? 3 : 2) > input.length) throw damaged();
    const bytes = isLong ? (code & 0x3f) + 4 : (code >> 2) + 3;
    const back = isLong ? input[at + 1]! * 256 + input[at + 2]! : (code & 3) * 256 + input[at + 1]!;
    if (back + 1 > to || to + bytes > output.length) throw damaged();
    // A copy may reach into what it makes.
    for (let i = 0; i < bytes; i++, to++) output[to] = output[to - back - 1]!;
    at += isLong ? 3 : 2;
  }
  if (to < output.length) throw damaged();
}

function damaged(): CompressionError {
  return new CompressionError('The ADC data is damaged');
}
