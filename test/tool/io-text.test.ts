// Goal: numbers, times and dumps of vdisk-io are those of C's printf and of qemu-io.
// Method: values whose text was taken from qemu-io 10 and from printf(1).
import { describe, expect, it } from 'vitest';
import {
  dumpLines,
  formatAmount,
  formatClock,
  formatFixed,
  formatReport,
  formatTime,
} from '../../src/tool/io/text.js';
import { requires, run, seededRandom } from '../support/index.js';

describe('amounts', () => {
  it.each([
    [0, '0 bytes'],
    [1, '1 bytes'],
    [512, '512 bytes'],
    [827.087445, '827.087445 bytes'],
    [1023, '1023 bytes'],
    [1024, '1 KiB'],
    [1025, '1.001 KiB'],
    [1536, '1.500 KiB'],
    [65535, '63.999 KiB'],
    [1_000_000, '976.562 KiB'],
    [0x1b0000, '1.688 MiB'],
    [2 ** 30, '1 GiB'],
    [8 * 2 ** 40, '8 TiB'],
    [3 * 2 ** 50, '3 PiB'],
    [2 ** 62, '4 EiB'],
  ])('%s is %s', (bytes, text) => {
    expect(formatAmount(bytes)).toBe(text);
  });
});

describe('times', () => {
  it.each([
    [0, '00.00 sec'],
    [0.019, '00.01 sec'],
    [59.999, '59.99 sec'],
    [60, '0:01:00.00'],
    [1855.93, '0:30:55.93'],
    [36_000, '10:00:00.00'],
  ])('%s s is %s', (seconds, text) => {
    expect(formatTime(seconds)).toBe(text);
  });

  it('has hours in the terse form even when there are none', () => {
    expect(formatClock(0.5)).toBe('0:00:00.50');
  });
});

describe('reports', () => {
  const report = { verb: 'wrote', offset: 512, wanted: 65536, done: 65536, seconds: 0.001 };

  it('has two lines for people', () => {
    expect(formatReport(report, false)).toBe(
      'wrote 65536/65536 bytes at offset 512\n' +
        '64 KiB, 1 ops; 00.00 sec (62.500 MiB/sec and 1000.0000 ops/sec)\n',
    );
  });

  it('has one line of values when terse', () => {
    expect(formatReport(report, true)).toBe('65536,1,0:00:00.00,65536000.000,1000.000\n');
  });

  it('never divides by a time of zero', () => {
    expect(formatReport({ ...report, seconds: 0 }, true)).not.toMatch(/inf|nan/i);
  });
});

describe('dumps', () => {
  const dump = (data: Uint8Array, offset: number): string => [...dumpLines(data, offset)].join('');

  it('shows letters and digits only, and a short last line as it is', () => {
    const data = new TextEncoder().encode('Az09 ~`@[{/:hellohello');
    expect(dump(data, 0x1f0)).toBe(
      '000001f0:  41 7a 30 39 20 7e 60 40 5b 7b 2f 3a 68 65 6c 6c  Az09........hell\n' +
        '00000200:  6f 68 65 6c 6c 6f  ohello\n',
    );
  });

  it('has longer offsets where they are needed', () => {
    expect(dump(new Uint8Array(1), 0x140000000)).toBe('140000000:  00  .\n');
  });

  it('is empty for no bytes', () => {
    expect(dump(new Uint8Array(0), 0)).toBe('');
  });
});

requires('/usr/bin/printf')('rounding', () => {
  it('is that of printf(1), ties to the even digit included', async () => {
    const random = seededRandom();
    const values = Array.from({ length: 200 }, () => {
      // Multiples of 1/2048 have ties at the third digit; the others have none.
      if (random.chance()) return random.int(0, 1 << 22) / 2048;
      return random.float() * 10 ** random.int(-3, 12);
    });
    const { stdout } = await run('/usr/bin/printf', [
      '%.3f\n',
      ...values.map((v) => v.toFixed(30)),
    ]);
    expect(values.map((v) => formatFixed(v, 3))).toEqual(stdout.trimEnd().split('\n'));
  });
});
