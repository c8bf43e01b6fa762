// Goal: sizes read and print as QEMU 10 does. Method: tables of what qemu-img 10.0.2 answered
// (create -u prints the size it understood, info the text), and properties over random numbers.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  formatSize,
  formatSizeExact,
  MAX_SIZE,
  parseInteger,
  parseSize,
  scanSize,
} from './sizes.js';

const good: [string, number][] = [
  ['0', 0],
  ['08', 8],
  ['010', 10],
  ['1b', 1],
  ['1.', 1],
  ['1.0B', 1],
  ['1.00k', 1024],
  ['1.1k', 1126],
  ['1.9999k', 2048],
  ['1.9999999999999999999k', 2048],
  ['0.1k', 102],
  ['.5M', 524288],
  ['0.00048828125k', 1],
  ['0.00048828124k', 0],
  ['1.0004k', 1024],
  ['1.0005k', 1025],
  ['5.00000000000000000001k', 5120],
  ['1.123456789123456789G', 1206302542],
  ['0.3333333333333333333333T', 366503875925],
  ['1.7T', 1869169767219],
  ['2.3P', 2589569785738035],
  ['0x1E', 30],
  ['0xb', 11],
  ['0X10', 16],
  ['+0x10', 16],
  ['+1k', 1024],
  [' 1k', 1024],
  ['\t1k', 1024],
  ['1K', 1024],
  ['1m', 1048576],
  ['1g', 1073741824],
  ['1t', 1099511627776],
  ['1p', 1125899906842624],
  ['9007199254740991', MAX_SIZE],
];

const invalid = [
  ...['', ' ', 'x', '.', '.k', '1.5', '1.5b', '1.1B', '0.5', '0x', '0x1k', '0x1M', '1kB', '1e0'],
  ...['1e3', '1.0e3k', '-1k', '1 k', '1.5.5k', 'nan', 'inf', '0x1p3', '0x+1', '+ 1', '00x10'],
  ...['0b1', '1..k', '1,5k', '1_000', '1KiB', '64K ', '-'],
];

describe('parseSize', () => {
  it.each(good)('%j is %d bytes', (text, bytes) => {
    expect(parseSize(text)).toEqual({ status: 'ok', bytes });
  });

  it.each(invalid)('%j is no size', (text) => {
    expect(parseSize(text)).toEqual({ status: 'invalid' });
  });

  it.each(['-.5', '-1', '-0', '16E', '18446744073709551616', '0x10000000000000000', ' -0x1'])(
    '%j is out of range',
    (text) => {
      expect(parseSize(text)).toEqual({ status: 'range' });
    },
  );

  it('names what is above 2^53 - 1 but a size to QEMU, with its exact value', () => {
    expect(parseSize('8E')).toEqual({ status: 'limit', value: 1n << 63n });
    expect(parseSize('9007199254740992')).toEqual({ status: 'limit', value: 1n << 53n });
    expect(parseSize('1e')).toEqual({ status: 'limit', value: 1n << 60n });
  });

  it('takes a default unit for numbers without suffix', () => {
    expect(parseSize('64', 'M')).toEqual({ status: 'ok', bytes: 64 << 20 });
    expect(parseSize('1.5', 'k')).toEqual({ status: 'ok', bytes: 1536 });
    expect(parseSize('3b', 'M')).toEqual({ status: 'ok', bytes: 3 });
  });

  it('reads back every whole number of every unit', () => {
    fc.assert(
      fc.property(fc.nat(8191), fc.integer({ min: 0, max: 4 }), (count, power) => {
        const bytes = count * 1024 ** power;
        expect(parseSize(`${String(count)}${'bkMGT'.charAt(power)}`)).toEqual({
          status: 'ok',
          bytes,
        });
      }),
    );
  });

  it('scans the beginning of a text and tells where it stopped', () => {
    expect(scanSize('1.5kx')).toEqual({ result: { status: 'ok', bytes: 1536 }, end: 4 });
    expect(scanSize('-5x')).toEqual({ result: { status: 'range' }, end: 2 });
    expect(scanSize('x')).toEqual({ result: { status: 'invalid' }, end: 0 });
  });
});

describe('parseInteger', () => {
  it.each([
    ['12', 12n],
    ['-12', -12n],
    ['+7', 7n],
    [' 0x1F', 31n],
    ['017', 15n],
    ['0', 0n],
    ['-0', 0n],
    ['99999999999999999999', 99999999999999999999n],
  ])('%j is %d', (text, value) => {
    expect(parseInteger(text)).toBe(value);
  });

  it.each(['', ' ', '08', '1.0', '1k', '0x', '1 ', '--1', '+-1', 'x'])('%j is none', (text) => {
    expect(parseInteger(text)).toBeUndefined();
  });
});

describe('formatSize', () => {
  it.each([
    [0, '0 B'],
    [512, '512 B'],
    [999, '999 B'],
    [1000, '0.977 KiB'],
    [1024, '1 KiB'],
    [1152, '1.12 KiB'], // 1.125: the tie goes to the even digit
    [200704, '196 KiB'],
    [1023488, '1e+03 KiB'],
    [1024000, '0.977 MiB'],
    [1047552, '0.999 MiB'],
    [1046528, '0.998 MiB'],
    [1073000448, '0.999 GiB'],
    [1610612736, '1.5 GiB'],
    [123457024, '118 MiB'],
    [1234567890432, '1.12 TiB'],
    [1000000000000, '931 GiB'],
    [8796093022208, '8 TiB'],
    [MAX_SIZE, '8 PiB'],
  ])('%d bytes are %s', (bytes, text) => {
    expect(formatSize(bytes)).toBe(text);
    expect(formatSizeExact(bytes)).toBe(`${text} (${String(bytes)} bytes)`);
  });

  it('is never off by more than half a digit', () => {
    const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
    fc.assert(
      fc.property(fc.maxSafeNat(), (bytes) => {
        const [value = '', unit = ''] = formatSize(bytes).split(' ');
        const shown = Number(value) * 1024 ** units.indexOf(unit);
        expect(Math.abs(shown - bytes)).toBeLessThanOrEqual(bytes * 0.00501);
      }),
    );
  });
});
