/** A text screen drawn in a terminal by ECMA-48's sequences: only what is not there already. */
import type { TextCell, TextScreen } from '../../machine/v86/screen.js';

/** Code page 437 in its order; what is 0 or 255 there is a blank. */
const GLYPHS = [
  ' ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼',
  ' !"#$%&\'()*+,-./0123456789:;<=>?',
  '@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_',
  '`abcdefghijklmnopqrstuvwxyz{|}~⌂',
  'ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒ',
  'áíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐',
  '└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀',
  'αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■ ',
].join('');

/** The sixteen colours of a VGA in the order that terminals have them. */
const COLOURS = [
  ...[0x000000, 0xaa0000, 0x00aa00, 0xaa5500, 0x0000aa, 0xaa00aa, 0x00aaaa, 0xaaaaaa],
  ...[0x555555, 0xff5555, 0x55ff55, 0xffff55, 0x5555ff, 0xff55ff, 0x55ffff, 0xffffff],
];

/** What precedes and follows a screen: its own buffer, no wrapping at the margin. */
export const ENTER_SCREEN = '\x1b[?1049h\x1b[?7l\x1b[0m\x1b[2J';
export const LEAVE_SCREEN = '\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l';

/** The terminal's number of the colour that is nearest to 0xRRGGBB. */
export function colourNumber(rgb: number): number {
  let best = 0;
  let least = Infinity;
  for (const [number, colour] of COLOURS.entries()) {
    let far = 0;
    for (const shift of [0, 8, 16])
      far += (((rgb >> shift) & 255) - ((colour >> shift) & 255)) ** 2;
    if (far >= least) continue;
    least = far;
    best = number;
  }
  return best;
}

/** The sequence that selects a cell's colours. */
function attributes({ foreground, background, blinks }: TextCell): string {
  const front = colourNumber(foreground);
  const back = colourNumber(background);
  const first = front < 8 ? 30 + front : 82 + front;
  const second = back < 8 ? 40 + back : 92 + back;
  return `\x1b[0;${blinks ? '5;' : ''}${String(first)};${String(second)}m`;
}

function isSame(a: TextCell, b: TextCell | undefined): boolean {
  return (
    b !== undefined &&
    a.char === b.char &&
    a.foreground === b.foreground &&
    a.background === b.background &&
    a.blinks === b.blinks
  );
}

const plain = (char: number): TextCell => ({
  char,
  foreground: 0xaaaaaa,
  background: 0,
  blinks: false,
});

/** Draws on a terminal of some size, which shows the part of the screen that has the cursor. */
export class Painter {
  #columns: number;
  #rows: number;
  /** What the terminal shows; undefined where it is not known. */
  #shown: (TextCell | undefined)[] = [];
  #cursor = '';

  constructor(columns: number, rows: number) {
    this.#columns = columns;
    this.#rows = rows;
  }

  /** The terminal has this size now, and shows nothing that is known. */
  reset(columns: number, rows: number): string {
    this.#columns = columns;
    this.#rows = rows;
    this.#shown = [];
    this.#cursor = '';
    return '\x1b[0m\x1b[2J';
  }

  /** What to write so that the terminal shows a screen, or `lines` (of ASCII) in its place. */
  paint(screen: TextScreen, lines?: readonly string[]): string {
    const isText = lines === undefined;
    const hasCursor = isText && screen.isCursorVisible;
    const top = isText ? Math.max(0, screen.cursorRow - this.#rows + 1) : 0;
    const left = isText ? Math.max(0, screen.cursorColumn - this.#columns + 1) : 0;
    const at = (row: number, column: number): TextCell =>
      isText
        ? screen.cell(row + top, column + left)
        : plain((lines[row] ?? '').padEnd(column + 1).charCodeAt(column));
    const cells = this.#changed(at);
    const row = screen.cursorRow - top + 1;
    const column = screen.cursorColumn - left + 1;
    const cursor = hasCursor ? `\x1b[${String(row)};${String(column)}H\x1b[?25h` : '\x1b[?25l';
    if (cells === '' && cursor === this.#cursor) return '';
    this.#cursor = cursor;
    return cells === '' ? cursor : `\x1b[?25l${cells}${cursor}`;
  }

  /** Cells that are not as they were, each run after the place where it begins. */
  #changed(at: (row: number, column: number) => TextCell): string {
    let text = '';
    let colours = '';
    for (let row = 0; row < this.#rows; row++) {
      let next = -1;
      for (let column = 0; column < this.#columns; column++) {
        const cell = at(row, column);
        const index = row * this.#columns + column;
        if (isSame(cell, this.#shown[index])) continue;
        this.#shown[index] = cell;
        if (column !== next) text += `\x1b[${String(row + 1)};${String(column + 1)}H`;
        const wanted = attributes(cell);
        if (wanted !== colours) text += wanted;
        colours = wanted;
        text += GLYPHS.charAt(cell.char);
        next = column + 1;
      }
    }
    return text;
  }
}
