/**
 * Line editing for people at a monitor: what they type comes as bytes, what they see goes out as
 * text for a VT100 terminal. No terminal mode is touched; the same bytes give the same text.
 *
 * The line is redrawn after each byte, as QEMU's monitor does: back to its beginning, the line,
 * and the rest erased. Scripts that read a monitor's output know this form.
 */

/** Lines that are remembered. */
const MAX_HISTORY = 64;
/** Longest line in bytes; what is typed beyond it is dropped. */
const MAX_LINE = 4095;

type Escape = 'none' | 'escape' | 'bracket' | 'letter';

const decoder = new TextDecoder();

export class LineEditor {
  readonly #prompt: string;
  readonly #write: (text: string) => void;
  readonly #onLine: (line: string) => void;
  readonly #history: string[] = [];
  #historyAt = 0;
  /** The line in characters that each stand for one byte. */
  #line = '';
  #cursor = 0;
  #shown = '';
  #shownCursor = 0;
  #escape: Escape = 'none';
  #parameter = 0;

  constructor(init: {
    readonly prompt: string;
    readonly write: (text: string) => void;
    readonly onLine: (line: string) => void;
  }) {
    this.#prompt = init.prompt;
    this.#write = init.write;
    this.#onLine = init.onLine;
  }

  /** Shows the prompt of a new line. */
  prompt(): void {
    this.#write(this.#prompt);
    this.#line = '';
    this.#cursor = 0;
    this.#shown = '';
    this.#shownCursor = 0;
    this.#escape = 'none';
  }

  /** Lines that were entered, the oldest first. */
  get history(): readonly string[] {
    return this.#history;
  }

  /** A byte was typed. */
  type(byte: number): void {
    if (this.#escape === 'none') this.#plain(byte);
    else this.#inEscape(byte);
    this.#redraw();
  }

  #plain(byte: number): void {
    switch (byte) {
      case 0x01:
        this.#cursor = 0;
        break;
      case 0x04:
        this.#delete();
        break;
      case 0x05:
        this.#cursor = this.#line.length;
        break;
      case 0x0a:
      case 0x0d:
        this.#enter();
        break;
      case 0x17:
        this.#backWord();
        break;
      case 0x1b:
        this.#escape = 'escape';
        break;
      case 0x08:
      case 0x7f:
        if (this.#cursor > 0) {
          this.#cursor--;
          this.#delete();
        }
        break;
      default:
        if (byte >= 0x20) this.#insert(String.fromCharCode(byte));
    }
  }

  #inEscape(byte: number): void {
    const letter = String.fromCharCode(byte);
    if (this.#escape === 'escape') {
      this.#parameter = 0;
      this.#escape = letter === '[' ? 'bracket' : letter === 'O' ? 'letter' : 'none';
      return;
    }
    if (this.#escape === 'bracket' && byte >= 0x30 && byte <= 0x39) {
      this.#parameter = (this.#parameter * 10 + byte - 0x30) % 1000;
      return;
    }
    this.#escape = 'none';
    if (letter === 'A') this.#recall(-1);
    else if (letter === 'B') this.#recall(1);
    else if (letter === 'C') this.#cursor = Math.min(this.#cursor + 1, this.#line.length);
    else if (letter === 'D') this.#cursor = Math.max(this.#cursor - 1, 0);
    else if (letter === 'H') this.#cursor = 0;
    else if (letter === 'F') this.#cursor = this.#line.length;
    else if (letter === '~') this.#key(this.#parameter);
  }

  /** Keys that terminals send as `ESC [ n ~`. */
  #key(code: number): void {
    if (code === 1) this.#cursor = 0;
    else if (code === 3) this.#delete();
    else if (code === 4) this.#cursor = this.#line.length;
  }

  #insert(text: string): void {
    if (this.#line.length >= MAX_LINE) return;
    this.#line = this.#line.slice(0, this.#cursor) + text + this.#line.slice(this.#cursor);
    this.#cursor++;
  }

  #delete(): void {
    this.#line = this.#line.slice(0, this.#cursor) + this.#line.slice(this.#cursor + 1);
  }

  #backWord(): void {
    const kept = this.#line.slice(0, this.#cursor).replace(/\S*\s*$/, '');
    this.#line = kept + this.#line.slice(this.#cursor);
    this.#cursor = kept.length;
  }

  #recall(step: number): void {
    const at = this.#historyAt + step;
    if (at < 0 || at > this.#history.length) return;
    this.#historyAt = at;
    this.#line = this.#history[at] ?? '';
    this.#cursor = this.#line.length;
  }

  #enter(): void {
    this.#redraw();
    this.#write('\n');
    const typed = this.#line;
    this.#line = '';
    this.#cursor = 0;
    this.#shown = '';
    this.#shownCursor = 0;
    if (typed !== '') {
      const known = this.#history.indexOf(typed);
      if (known >= 0) this.#history.splice(known, 1);
      this.#history.push(typed);
      if (this.#history.length > MAX_HISTORY) this.#history.shift();
    }
    this.#historyAt = this.#history.length;
    const bytes = Uint8Array.from(typed, (letter) => letter.charCodeAt(0));
    this.#onLine(decoder.decode(bytes));
  }

  #redraw(): void {
    if (this.#line !== this.#shown) {
      this.#write(`${'\x1b[D'.repeat(this.#shownCursor)}${this.#line}\x1b[K`);
      this.#shown = this.#line;
      this.#shownCursor = this.#line.length;
    }
    const delta = this.#cursor - this.#shownCursor;
    if (delta !== 0) this.#write((delta > 0 ? '\x1b[C' : '\x1b[D').repeat(Math.abs(delta)));
    this.#shownCursor = this.#cursor;
  }
}
