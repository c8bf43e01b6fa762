/** What a terminal sends for keys, as scan codes (set 1) of a US keyboard. */

const CTRL = 0x1d;
const SHIFT = 0x2a;
const ALT = 0x38;
/** Marks keys whose codes have 0xe0 before them. */
const EXTENDED = 0x100;
const ESCAPE = 0x01;
const BACKSPACE = 0x0e;
const TAB = 0x0f;
const ENTER = 0x1c;
const SPACE = 0x39;

/** Keys by what they type without and with Shift, each row beginning at a code. */
const ROWS: readonly (readonly [number, string, string])[] = [
  [0x02, '1234567890-=', '!@#$%^&*()_+'],
  [0x10, 'qwertyuiop[]', 'QWERTYUIOP{}'],
  [0x1e, "asdfghjkl;'`", 'ASDFGHJKL:"~'],
  [0x2b, '\\zxcvbnm,./', '|ZXCVBNM<>?'],
  [SPACE, ' ', ''],
];

/** By the last letter of a control sequence, or of one that begins with ESC O. */
const LETTERS: Readonly<Record<string, number>> = {
  A: EXTENDED | 0x48,
  B: EXTENDED | 0x50,
  C: EXTENDED | 0x4d,
  D: EXTENDED | 0x4b,
  H: EXTENDED | 0x47,
  F: EXTENDED | 0x4f,
  P: 0x3b,
  Q: 0x3c,
  R: 0x3d,
  S: 0x3e,
  M: ENTER,
};

/** By the number before `~`: Home, Insert, Delete, End, Page Up, Page Down, function keys. */
const NUMBERS: Readonly<Record<string, number>> = {
  ...{ 1: EXTENDED | 0x47, 2: EXTENDED | 0x52, 3: EXTENDED | 0x53, 4: EXTENDED | 0x4f },
  ...{ 5: EXTENDED | 0x49, 6: EXTENDED | 0x51, 7: EXTENDED | 0x47, 8: EXTENDED | 0x4f },
  ...{ 11: 0x3b, 12: 0x3c, 13: 0x3d, 14: 0x3e, 15: 0x3f, 17: 0x40, 18: 0x41, 19: 0x42 },
  ...{ 20: 0x43, 21: 0x44, 23: 0x57, 24: 0x58 },
};

const ESC = 0x1b;
/** What follows ESC in a sequence, and the begin of one: Linux's console, CSI, SS3. */
const SEQUENCE = /^(?:\[\[([A-E])|\[([0-9;]*)([A-Za-z~])|O([0-9;]*)([A-Za-z]))/;
const INCOMPLETE = /^(?:\[\[?|\[[0-9;]{0,16}|O[0-9;]{0,16})$/;

/** A key with those that are held down with it; codes as they are when pressed. */
interface Stroke {
  readonly key: number;
  readonly held: readonly number[];
}

const byText = new Map<string, Stroke>(
  ROWS.flatMap(([first, small, large]) => [
    ...Array.from(small, (text, i): [string, Stroke] => [text, { key: first + i, held: [] }]),
    ...Array.from(large, (text, i): [string, Stroke] => [text, { key: first + i, held: [SHIFT] }]),
  ]),
);

/** What Ctrl and these keys make besides the letters: 0x00 and 0x1c to 0x1f. */
const CONTROLS: Readonly<Record<number, string>> = {
  0x00: ' ',
  0x1c: '\\',
  0x1d: ']',
  0x1e: '6',
  0x1f: '-',
};

function character(text: string): Stroke | undefined {
  const code = text.charCodeAt(0);
  if (code === 0x0d || code === 0x0a) return { key: ENTER, held: [] };
  if (code === 0x09) return { key: TAB, held: [] };
  if (code === 0x08 || code === 0x7f) return { key: BACKSPACE, held: [] };
  if (code === 0x1b) return { key: ESCAPE, held: [] };
  if (code >= 0x20) return byText.get(text);
  const letter = CONTROLS[code] ?? String.fromCharCode(0x60 + code);
  const stroke = byText.get(letter);
  return stroke && { key: stroke.key, held: [CTRL] };
}

/** A sequence after ESC [ or ESC O; undefined: of no key. */
function sequence(parameters: string, last: string): Stroke | undefined {
  if (last === 'Z') return { key: TAB, held: [SHIFT] };
  const [number = '', modifier = '1'] = parameters.split(';');
  const key = last === '~' ? NUMBERS[number] : LETTERS[last];
  if (key === undefined) return undefined;
  const bits = Math.max(0, Number(modifier) - 1);
  const held = [SHIFT, ALT, CTRL].filter((_code, i) => (bits & (1 << i)) !== 0);
  return { key, held };
}

const one = (code: number): number[] => (code < EXTENDED ? [code] : [0xe0, code & 0xff]);

/** Codes of a key that is pressed and released. */
function codes({ key, held }: Stroke): number[] {
  return [
    ...held.flatMap(one),
    ...one(key),
    ...one(key | 0x80),
    ...held.toReversed().flatMap((code) => one(code | 0x80)),
  ];
}

/**
 * Takes a terminal's bytes in pieces as they come. A lone Escape at the end of a piece is the key
 * only when `flush` is called, for what follows may make it the begin of a sequence.
 */
export class KeyReader {
  #waiting = '';

  /** Whether an Escape waits for what follows it. */
  get isWaiting(): boolean {
    return this.#waiting !== '';
  }

  /** The codes of each key in a piece. */
  take(piece: Uint8Array): number[][] {
    return this.#read(this.#waiting + String.fromCharCode(...piece), false);
  }

  /** The codes of what has waited. */
  flush(): number[][] {
    return this.#read(this.#waiting, true);
  }

  #read(text: string, isEnd: boolean): number[][] {
    const strokes: (Stroke | undefined)[] = [];
    let at = 0;
    while (at < text.length) {
      const isEscape = text.charCodeAt(at) === ESC;
      const rest = text.slice(isEscape ? at + 1 : at);
      const found = isEscape ? SEQUENCE.exec(rest) : null;
      if (found !== null) {
        strokes.push(keyOf(found));
        at += 1 + found[0].length;
      } else if (!isEscape || rest === '') {
        if (isEscape && !isEnd) break;
        strokes.push(character(text.charAt(at)));
        at++;
      } else {
        if (!isEnd && INCOMPLETE.test(rest)) break;
        const stroke = character(rest.charAt(0));
        strokes.push(stroke && { key: stroke.key, held: [ALT, ...stroke.held] });
        at += 2;
      }
    }
    this.#waiting = text.slice(at);
    return strokes.flatMap((stroke) => (stroke === undefined ? [] : [codes(stroke)]));
  }
}

/** What a found sequence stands for: Linux's console has forms of its own for F1 to F5. */
function keyOf(found: RegExpExecArray): Stroke | undefined {
  const [, linux, first = '', letter, second = '', other] = found;
  if (linux !== undefined) return { key: 0x3b + linux.charCodeAt(0) - 0x41, held: [] };
  return letter === undefined ? sequence(second, other ?? '') : sequence(first, letter);
}
