/** LZVN: the blocks `bvxn` of an LZFSE stream, for data that is short. */

/** What an operation tells: literals that follow it, then a copy from `distance` back. */
interface Operation {
  readonly length: number;
  readonly literals: number;
  readonly match: number;
  readonly distance: number;
}

const END = 6;
const isNop = (code: number): boolean => code === 14 || code === 22;

/** LLMMMDDD and its relatives; `distance` -1: that of the operation before. */
function operation(code: number, input: Uint8Array, at: number): Operation | undefined {
  const next = input[at + 1] ?? 0;
  const third = input[at + 2] ?? 0;
  if (code >= 0xf0) {
    // 1111MMMM, or 11110000 MMMMMMMM
    if (code > 0xf0) return { length: 1, literals: 0, match: code & 15, distance: -1 };
    return { length: 2, literals: 0, match: next + 16, distance: -1 };
  }
  if (code >= 0xe0) {
    // 1110LLLL, or 11100000 LLLLLLLL
    if (code > 0xe0) return { length: 1, literals: code & 15, match: 0, distance: -1 };
    return { length: 2, literals: next + 16, match: 0, distance: -1 };
  }
  if (code >= 0xd0 || (code >= 0x70 && code < 0x80)) return undefined;
  if (code >= 0xa0 && code < 0xc0) {
    // 101LLMMM DDDDDDMM DDDDDDDD
    const match = ((code & 7) << 2) + (next & 3) + 3;
    return { length: 3, literals: (code >> 3) & 3, match, distance: (third << 6) | (next >> 2) };
  }
  const literals = code >> 6;
  const match = ((code >> 3) & 7) + 3;
  // LLMMM111 and 16 bits, little endian; LLMMM110; LLMMMDDD DDDDDDDD
  if ((code & 7) === 7) return { length: 3, literals, match, distance: (third << 8) | next };
  if ((code & 7) === 6) {
    // Without literals these codes are taken or not defined.
    return literals === 0 ? undefined : { length: 1, literals, match, distance: -1 };
  }
  return { length: 2, literals, match, distance: ((code & 7) << 8) | next };
}

/**
 * Decodes one block, all of `input`, into `output` from `start` to its end, from which copies may
 * reach back before `start`. False: it is damaged.
 */
export function lzvnDecode(input: Uint8Array, output: Uint8Array, start: number): boolean {
  let to = start;
  let distance = 0;
  for (let at = 0; at < input.length;) {
    const code = input[at]!;
    if (code === END) return to === output.length && at + 8 === input.length;
    if (isNop(code)) {
      at++;
      continue;
    }
    const op = operation(code, input, at);
    if (op === undefined) return false;
    if (op.distance >= 0) ({ distance } = op);
    const { length, literals, match } = op;
    at += length;
    if (at + literals > input.length || to + literals + match > output.length) return false;
    output.set(input.subarray(at, at + literals), to);
    at += literals;
    to += literals;
    if (match > 0 && (distance === 0 || distance > to)) return false;
    for (let i = 0; i < match; i++, to++) output[to] = output[to - distance]!;
  }
  return false;
}
