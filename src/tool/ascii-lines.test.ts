// Goal: listings made as bytes read as those made of strings. Method: random numbers and pieces,
// and numbers at the ends of the ranges, against template strings.
import { expect, it } from 'vitest';
import { seededRandom } from '../../test/support/index.js';
import { ascii, AsciiLines } from './ascii-lines.js';

it('writes numbers and texts as template strings do, in chunks', () => {
  const random = seededRandom();
  const chunks: string[] = [];
  const lines = new AsciiLines((bytes) => chunks.push(new TextDecoder().decode(bytes)));
  const edges = [0, 1, 9, 10, 99, 100, 2 ** 31 - 1, 2 ** 31, 2 ** 53 - 1].concat([
    999_999_999,
    1e9,
    1e9 + 1,
    1e15,
    1e15 - 1,
    9_007_199_000_000_000,
  ]);
  let expected = '';
  for (let i = 0; i < 20_000; i++) {
    const n = edges[i] ?? Math.floor(2 ** (random.int(0, 53000) / 1000));
    lines.number(n);
    lines.text(ascii(', "x": true }\n'));
    expected += `${n}, "x": true }\n`;
  }
  lines.flush();
  expect(chunks.join('')).toBe(expected);
  expect(chunks.length).toBeGreaterThan(10);
});
