/** The display of the processor v86 in text modes: cells and cursor, kept as they are written. */
import type { V86Screen } from '../../host/v86.js';

/** A character's place on the screen. */
export interface TextCell {
  /** In code page 437. */
  readonly char: number;
  /** 0xRRGGBB */
  readonly foreground: number;
  readonly background: number;
  readonly blinks: boolean;
}

const BLANK: TextCell = { char: 0, foreground: 0xaaaaaa, background: 0, blinks: false };
const BLINKING = 1;

export class TextScreen {
  columns = 80;
  rows = 25;
  cursorRow = 0;
  cursorColumn = 0;
  isCursorVisible = true;
  /** Width and height in pixels in a graphical mode; undefined: there is text. */
  graphical: readonly [number, number] | undefined;
  /** Something is not as it was. */
  onChange: () => void = () => undefined;
  #cells: TextCell[] = [];
  #pixels: readonly [number, number] = [0, 0];

  /** What stands there; outside of the screen a blank. */
  cell(row: number, column: number): TextCell {
    if (row >= this.rows || column >= this.columns) return BLANK;
    return this.#cells[row * this.columns + column] ?? BLANK;
  }

  put(row: number, column: number, cell: TextCell): void {
    if (row >= this.rows || column >= this.columns) return;
    this.#cells[row * this.columns + column] = cell;
    this.onChange();
  }

  resize(columns: number, rows: number): void {
    if (columns === this.columns && rows === this.rows) return;
    this.columns = columns;
    this.rows = rows;
    this.#cells = [];
    this.onChange();
  }

  moveCursor(row: number, column: number): void {
    this.cursorRow = row;
    this.cursorColumn = column;
    this.onChange();
  }

  /** Hears of all that a display tells its screen, which hears of it, too. */
  watch(display: V86Screen): void {
    const putChar = display.put_char.bind(display);
    const setSize = display.set_size_text.bind(display);
    display.FLAG_BLINKING = BLINKING;
    display.put_char = (row, column, char, flags, background, foreground): void => {
      putChar(row, column, char, flags, background, foreground);
      const blinks = (flags & BLINKING) !== 0;
      this.put(row, column, { char, foreground, background, blinks });
    };
    display.set_size_text = (columns, rows): void => {
      setSize(columns, rows);
      this.resize(columns, rows);
    };
    display.set_mode = (isGraphical): void => {
      this.graphical = isGraphical ? this.#pixels : undefined;
      this.onChange();
    };
    display.set_size_graphical = (width, height): void => {
      this.#pixels = [width, height];
      if (this.graphical !== undefined) this.graphical = this.#pixels;
      this.onChange();
    };
    display.update_cursor = (row, column): void => {
      this.moveCursor(row, column);
    };
    display.update_cursor_scanline = (_first, _last, isVisible): void => {
      this.isCursorVisible = isVisible;
      this.onChange();
    };
  }
}
