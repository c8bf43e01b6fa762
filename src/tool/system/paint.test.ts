// Painter writes only cells that changed; KeyReader makes scan codes of a terminal's bytes.
// Method: known screens and byte strings, and the sequences that must come of them.
import { describe, expect, it } from 'vitest';
import { TextScreen } from '../../machine/v86/screen.js';
import { KeyReader } from './keyboard.js';
import { colourNumber, Painter } from './paint.js';

function write(screen: TextScreen, row: number, column: number, ...chars: number[]): void {
  const look = { foreground: 0xffff55, background: 0x0000aa, blinks: false };
  for (const [i, char] of chars.entries()) screen.put(row, column + i, { char, ...look });
}

describe('Painter', () => {
  it('writes a cell again only when it is another', () => {
    const screen = new TextScreen();
    const painter = new Painter(80, 25);
    expect(painter.paint(screen)).not.toBe('');
    expect(painter.paint(screen)).toBe('');
    write(screen, 3, 5, 0x41, 0xc9, 0xcd);
    write(screen, 7, 79, 0xdb);
    const colours = '\x1b[0;93;44m';
    expect(painter.paint(screen)).toBe(
      `\x1b[?25l\x1b[4;6H${colours}A╔═\x1b[8;80H█\x1b[1;1H\x1b[?25h`,
    );
    write(screen, 3, 5, 0x41);
    expect(painter.paint(screen)).toBe('');
    screen.moveCursor(4, 2);
    expect(painter.paint(screen)).toBe('\x1b[5;3H\x1b[?25h');
    screen.isCursorVisible = false;
    expect(painter.paint(screen)).toBe('\x1b[?25l');
  });

  it('after a reset everything is written; a small terminal shows where the cursor is', () => {
    const screen = new TextScreen();
    const painter = new Painter(80, 25);
    write(screen, 24, 0, 0x42);
    screen.moveCursor(24, 1);
    painter.paint(screen);
    expect(painter.reset(4, 2)).toContain('\x1b[2J');
    expect(painter.paint(screen)).toContain('\x1b[2;1H\x1b[0;93;44mB');
    expect(painter.paint(screen, ['720 x 400 Graphic mode'])).toContain('720 ');
  });

  it('takes the nearest of sixteen colours', () => {
    const colours = [0, 0xaa0000, 0xaa5500, 0x0000a8, 0xffffff, 0x555555];
    expect(colours.map(colourNumber)).toEqual([0, 1, 3, 4, 15, 8]);
  });
});

describe('KeyReader', () => {
  const read = (text: string): number[][] => new KeyReader().take(new TextEncoder().encode(text));

  it.each([
    ['a', [0x1e, 0x9e]],
    ['A', [0x2a, 0x1e, 0x9e, 0xaa]],
    ['|', [0x2a, 0x2b, 0xab, 0xaa]],
    ['\r', [0x1c, 0x9c]],
    ['\x7f', [0x0e, 0x8e]],
    ['\x03', [0x1d, 0x2e, 0xae, 0x9d]],
    ['\x1bx', [0x38, 0x2d, 0xad, 0xb8]],
    ['\x1b[A', [0xe0, 0x48, 0xe0, 0xc8]],
    ['\x1bOP', [0x3b, 0xbb]],
    ['\x1b[[E', [0x3f, 0xbf]],
    ['\x1b[24~', [0x58, 0xd8]],
    ['\x1b[3;7~', [0x38, 0x1d, 0xe0, 0x53, 0xe0, 0xd3, 0x9d, 0xb8]],
  ])('%j', (text, codes) => {
    expect(read(text)).toEqual([codes]);
  });

  it('keeps the begin of a sequence; a lone Escape is a key when nothing follows', () => {
    const reader = new KeyReader();
    expect(reader.take(new Uint8Array([0x1b]))).toEqual([]);
    expect(reader.take(new Uint8Array([0x5b]))).toEqual([]);
    expect(reader.take(new Uint8Array([0x42]))).toEqual([[0xe0, 0x50, 0xe0, 0xd0]]);
    expect(reader.take(new Uint8Array([0x1b]))).toEqual([]);
    expect(reader.isWaiting).toBe(true);
    expect(reader.flush()).toEqual([[0x01, 0x81]]);
    expect(reader.isWaiting).toBe(false);
    expect(read('\x1b[99X\xe9')).toEqual([]);
  });
});
