/**
 * The S-boxes of Serpent and their inverses, for 32 inputs at once: word i of the state holds bit i
 * of each. Every output bit is written as its algebraic normal form, the sum (exclusive or) of
 * products of input bits that the table in the specification gives.
 */

/** Replaces the four words of the state. */
export type Box = (state: Uint32Array) => void;

export const boxes: readonly Box[] = [
  (s) => {
    const [a, b, c, d] = [s[0]!, s[1]!, s[2]!, s[3]!];
    const ab = a & b;
    const ac = a & c;
    const bc = b & c;
    const ad = a & d;
    const bd = b & d;
    const abc = ab & c;
    const acd = ac & d;
    const bcd = bc & d;
    s[0] = ~(a ^ ab ^ c ^ ac ^ bc ^ abc ^ d ^ acd ^ bcd);
    s[1] = ~(a ^ ac ^ bc ^ abc ^ bd ^ acd ^ bcd);
    s[2] = b ^ ab ^ ac ^ abc ^ d ^ bd ^ bcd;
    s[3] = a ^ b ^ c ^ d ^ ad;
  },
  (s) => {
    const [a, b, c, d] = [s[0]!, s[1]!, s[2]!, s[3]!];
    const ab = a & b;
    const ac = a & c;
    const bc = b & c;
    const ad = a & d;
    const bd = b & d;
    const cd = c & d;
    const abd = ab & d;
    const acd = ac & d;
    const bcd = bc & d;
    s[0] = ~(a ^ b ^ bc ^ ad ^ cd ^ acd ^ bcd);
    s[1] = ~(a ^ ab ^ c ^ ac ^ d ^ bd ^ abd ^ acd ^ bcd);
    s[2] = ~(b ^ ab ^ c ^ d);
    s[3] = ~(b ^ ac ^ d ^ ad ^ abd ^ acd ^ bcd);
  },
  (s) => {
    const [a, b, c, d] = [s[0]!, s[1]!, s[2]!, s[3]!];
    const ab = a & b;
    const ac = a & c;
    const bc = b & c;
    const ad = a & d;
    const bd = b & d;
    const cd = c & d;
    const abc = ab & c;
    const abd = ab & d;
    const acd = ac & d;
    s[0] = b ^ c ^ ac ^ d;
    s[1] = a ^ b ^ c ^ bc ^ abc ^ ad ^ abd ^ cd ^ acd;
    s[2] = a ^ b ^ bc ^ d ^ bd ^ abd ^ cd ^ acd;
    s[3] = ~(a ^ b ^ c ^ abc ^ bd);
  },
  (s) => {
    const [a, b, c, d] = [s[0]!, s[1]!, s[2]!, s[3]!];
    const ab = a & b;
    const ac = a & c;
    const bc = b & c;
    const ad = a & d;
    const bd = b & d;
    const cd = c & d;
    const abc = ab & c;
    const abd = ab & d;
    const acd = ac & d;
    const bcd = bc & d;
    s[0] = a ^ b ^ bc ^ d ^ ad ^ cd ^ acd ^ bcd;
    s[1] = a ^ b ^ ac ^ ad ^ abd ^ cd ^ acd;
    s[2] = a ^ ab ^ c ^ abc ^ d ^ bd ^ abd;
    s[3] = a ^ b ^ ab ^ c ^ ac ^ abc ^ d ^ cd ^ acd;
  },
  (s) => {
    const [a, b, c, d] = [s[0]!, s[1]!, s[2]!, s[3]!];
    const ab = a & b;
    const ac = a & c;
    const bc = b & c;
    const ad = a & d;
    const bd = b & d;
    const cd = c & d;
    const abc = ab & c;
    const abd = ab & d;
    const acd = ac & d;
    const bcd = bc & d;
    s[0] = ~(b ^ ab ^ c ^ d ^ ad ^ bd);
    s[1] = a ^ ac ^ bc ^ d ^ bd ^ cd ^ acd ^ bcd;
    s[2] = a ^ ab ^ c ^ bc ^ abc ^ bd ^ abd ^ cd ^ bcd;
    s[3] = a ^ b ^ c ^ bc ^ ad ^ bd ^ abd;
  },
  (s) => {
    const [a, b, c, d] = [s[0]!, s[1]!, s[2]!, s[3]!];
    const ab = a & b;
    const ac = a & c;
    const bc = b & c;
    const ad = a & d;
    const bd = b & d;
    const cd = c & d;
    const abc = ab & c;
    const abd = ab & d;
    const acd = ac & d;
    const bcd = bc & d;
    s[0] = ~(b ^ ab ^ c ^ d ^ ad ^ bd);
    s[1] = ~(a ^ ab ^ c ^ d ^ bd ^ abd ^ cd);
    s[2] = ~(b ^ ac ^ d ^ abd ^ cd ^ acd ^ bcd);
    s[3] = ~(a ^ b ^ c ^ abc ^ d ^ ad ^ acd);
  },
  (s) => {
    const [a, b, c, d] = [s[0]!, s[1]!, s[2]!, s[3]!];
    const ab = a & b;
    const ac = a & c;
    const bc = b & c;
    const ad = a & d;
    const bd = b & d;
    const cd = c & d;
    const abc = ab & c;
    const abd = ab & d;
    const bcd = bc & d;
    s[0] = ~(a ^ b ^ c ^ ac ^ bc ^ abc ^ d ^ abd ^ bcd);
    s[1] = ~(b ^ c ^ ad);
    s[2] = ~(a ^ ab ^ c ^ bc ^ abc ^ bd ^ abd ^ cd ^ bcd);
    s[3] = b ^ ab ^ c ^ ac ^ abc ^ d ^ cd ^ bcd;
  },
  (s) => {
    const [a, b, c, d] = [s[0]!, s[1]!, s[2]!, s[3]!];
    const ab = a & b;
    const ac = a & c;
    const bc = b & c;
    const ad = a & d;
    const bd = b & d;
    const cd = c & d;
    const abc = ab & c;
    const abd = ab & d;
    const acd = ac & d;
    const bcd = bc & d;
    s[0] = ~(ab ^ c ^ ad ^ bd ^ cd ^ acd ^ bcd);
    s[1] = b ^ ab ^ c ^ ac ^ bc ^ d ^ ad ^ abd ^ acd;
    s[2] = a ^ b ^ c ^ abc ^ d ^ ad ^ bd ^ abd ^ bcd;
    s[3] = a ^ b ^ c ^ ac ^ abc ^ ad;
  },
];

export const inverseBoxes: readonly Box[] = [
  (s) => {
    const [a, b, c, d] = [s[0]!, s[1]!, s[2]!, s[3]!];
    const ab = a & b;
    const ac = a & c;
    const bc = b & c;
    const ad = a & d;
    const bd = b & d;
    const cd = c & d;
    const abd = ab & d;
    const acd = ac & d;
    const bcd = bc & d;
    s[0] = ~(ab ^ c ^ bc ^ ad ^ bd ^ abd ^ cd ^ acd ^ bcd);
    s[1] = a ^ b ^ c ^ ac ^ bd ^ acd ^ bcd;
    s[2] = ~(a ^ b ^ ab ^ c ^ d);
    s[3] = ~(a ^ bc ^ d ^ abd ^ cd ^ acd ^ bcd);
  },
  (s) => {
    const [a, b, c, d] = [s[0]!, s[1]!, s[2]!, s[3]!];
    const ab = a & b;
    const ac = a & c;
    const bc = b & c;
    const ad = a & d;
    const bd = b & d;
    const abc = ab & c;
    const acd = ac & d;
    const bcd = bc & d;
    s[0] = ~(a ^ b ^ ab ^ abc ^ bd ^ acd ^ bcd);
    s[1] = b ^ c ^ abc ^ d ^ ad ^ bd ^ acd ^ bcd;
    s[2] = ~(a ^ b ^ ac ^ bc ^ abc ^ d ^ acd);
    s[3] = a ^ c ^ d ^ bd;
  },
  (s) => {
    const [a, b, c, d] = [s[0]!, s[1]!, s[2]!, s[3]!];
    const ab = a & b;
    const ac = a & c;
    const bc = b & c;
    const ad = a & d;
    const bd = b & d;
    const cd = c & d;
    const abc = ab & c;
    const abd = ab & d;
    const acd = ac & d;
    s[0] = a ^ b ^ c ^ bc ^ bd;
    s[1] = b ^ ab ^ c ^ ad ^ abd ^ cd ^ acd;
    s[2] = ~(a ^ ab ^ c ^ d ^ ad ^ bd ^ abd ^ acd);
    s[3] = ~(ab ^ bc ^ abc ^ d ^ acd);
  },
  (s) => {
    const [a, b, c, d] = [s[0]!, s[1]!, s[2]!, s[3]!];
    const ab = a & b;
    const ac = a & c;
    const bc = b & c;
    const ad = a & d;
    const bd = b & d;
    const cd = c & d;
    const abc = ab & c;
    const abd = ab & d;
    const acd = ac & d;
    const bcd = bc & d;
    s[0] = a ^ c ^ bc ^ d ^ ad ^ bd ^ bcd;
    s[1] = b ^ c ^ bc ^ abc ^ d ^ ad ^ acd ^ bcd;
    s[2] = ab ^ ac ^ bc ^ ad ^ bd ^ abd ^ cd ^ acd;
    s[3] = a ^ b ^ c ^ ac ^ abc ^ ad ^ abd ^ cd;
  },
  (s) => {
    const [a, b, c, d] = [s[0]!, s[1]!, s[2]!, s[3]!];
    const ab = a & b;
    const ac = a & c;
    const ad = a & d;
    const bd = b & d;
    const cd = c & d;
    const abc = ab & c;
    const abd = ab & d;
    const acd = ac & d;
    s[0] = ~(a ^ b ^ c ^ d ^ ad ^ abd ^ cd ^ acd);
    s[1] = ab ^ c ^ ac ^ d ^ ad ^ acd;
    s[2] = ~(a ^ b ^ ab ^ c ^ ac ^ abc ^ d ^ bd ^ abd);
    s[3] = b ^ ab ^ c ^ ad ^ abd ^ cd;
  },
  (s) => {
    const [a, b, c, d] = [s[0]!, s[1]!, s[2]!, s[3]!];
    const ab = a & b;
    const ac = a & c;
    const bc = b & c;
    const ad = a & d;
    const bd = b & d;
    const abc = ab & c;
    const abd = ab & d;
    const acd = ac & d;
    s[0] = a ^ bc ^ d ^ abd;
    s[1] = a ^ b ^ ac ^ bc ^ abc ^ d ^ ad ^ abd;
    s[2] = a ^ ab ^ c ^ bd ^ abd ^ acd;
    s[3] = ~(b ^ ab ^ c ^ abc ^ ad);
  },
  (s) => {
    const [a, b, c, d] = [s[0]!, s[1]!, s[2]!, s[3]!];
    const ab = a & b;
    const ac = a & c;
    const bc = b & c;
    const ad = a & d;
    const bd = b & d;
    const cd = c & d;
    const abc = ab & c;
    const abd = ab & d;
    const bcd = bc & d;
    s[0] = ~(a ^ ab ^ ac ^ bc ^ abc ^ d ^ abd ^ bcd);
    s[1] = ~(b ^ c ^ ac ^ d);
    s[2] = ~(a ^ b ^ bc ^ bd ^ abd ^ cd ^ bcd);
    s[3] = ~(b ^ ab ^ c ^ bc ^ abc ^ d ^ ad ^ abd ^ cd ^ bcd);
  },
  (s) => {
    const [a, b, c, d] = [s[0]!, s[1]!, s[2]!, s[3]!];
    const ab = a & b;
    const ac = a & c;
    const bc = b & c;
    const ad = a & d;
    const bd = b & d;
    const cd = c & d;
    const abc = ab & c;
    const abd = ab & d;
    const acd = ac & d;
    const bcd = bc & d;
    s[0] = ~(a ^ b ^ bc ^ bd ^ abd ^ cd ^ bcd);
    s[1] = ~(a ^ c ^ bc ^ d ^ ad ^ bd ^ acd ^ bcd);
    s[2] = b ^ ac ^ d ^ abd ^ cd ^ acd;
    s[3] = ab ^ c ^ abc ^ ad ^ bd ^ abd;
  },
];
