/**
 * Splits a stream of bytes into JSON tokens, the way QEMU's monitor does: strings in double or
 * single quotes, numbers as JSON has them, words of small letters, and `{ } [ ] : ,`.
 *
 * The lexer is incremental: a token may come in any number of pieces. A byte that cannot stand
 * where it does makes a `stray` token of the text up to and with it; the lexer then skips until
 * the next structural character, control character other than tab, or byte 0xfe or 0xff. (The
 * structure of a string's content, escapes and UTF-8, is checked where the string's value is
 * needed: see json-text.ts.)
 */

/** Kind of a token; the structural ones are their own character. */
export type JsonTokenKind =
  | '{'
  | '}'
  | '['
  | ']'
  | ':'
  | ','
  | 'string'
  | 'integer'
  | 'double'
  | 'word'
  | 'stray'
  | 'too-long';

/** Receives the tokens; `text` is the token with its quotes (empty for structural ones). */
export type JsonTokenSink = (kind: JsonTokenKind, text: Uint8Array) => void;

const enum State {
  start,
  recovery,
  doubleQuoted,
  doubleEscape,
  singleQuoted,
  singleEscape,
  minus,
  zero,
  digits,
  point,
  fraction,
  exponent,
  exponentSign,
  exponentDigits,
  word,
}

const EMPTY = new Uint8Array(0);

/** Token of a structural character, or undefined. */
function structuralKind(byte: number): JsonTokenKind | undefined {
  switch (byte) {
    case 0x7b:
      return '{';
    case 0x7d:
      return '}';
    case 0x5b:
      return '[';
    case 0x5d:
      return ']';
    case 0x3a:
      return ':';
    case 0x2c:
      return ',';
    default:
      return undefined;
  }
}

const isDigit = (byte: number): boolean => byte >= 0x30 && byte <= 0x39;
const isLetter = (byte: number): boolean => byte >= 0x61 && byte <= 0x7a;
const isExponentMark = (byte: number): boolean => byte === 0x65 || byte === 0x45;

/** The kind of the token when input ends, or another token begins, in this state. */
function kindAtEnd(state: State): JsonTokenKind {
  switch (state) {
    case State.zero:
    case State.digits:
      return 'integer';
    case State.fraction:
    case State.exponentDigits:
      return 'double';
    case State.word:
      return 'word';
    default:
      return 'stray';
  }
}

export class JsonLexer {
  private state = State.start;
  /** Earlier pieces of the token in work, and their total length in bytes. */
  private pieces: Uint8Array[] = [];
  private piecesLength = 0;

  /** `maxToken` is the greatest length of one token in bytes. */
  constructor(
    private readonly sink: JsonTokenSink,
    private readonly maxToken: number,
  ) {}

  /** Takes the next bytes; keeps no reference to them. */
  push(bytes: Uint8Array): void {
    let at = 0;
    while (at < bytes.length) {
      if (this.state === State.start || this.state === State.recovery) {
        at = this.begin(bytes, at);
      } else {
        at = this.resume(bytes, at, at);
      }
    }
  }

  /** The input ends here: gives out the token in work, complete or stray. */
  end(): void {
    const state = this.state;
    if (state !== State.start && state !== State.recovery) this.emit(kindAtEnd(state), EMPTY, 0, 0);
    this.state = State.start;
  }

  /** Between tokens, at `at`; returns the index from which to go on. */
  private begin(bytes: Uint8Array, at: number): number {
    const byte = bytes[at] ?? 0;
    const structural = structuralKind(byte);
    if (structural !== undefined) {
      this.state = State.start;
      this.sink(structural, EMPTY);
      return at + 1;
    }
    if (this.state === State.recovery) {
      if ((byte >= 0x20 && byte < 0xfe) || byte === 0x09) return at + 1;
      this.state = State.start;
    }
    if (byte === 0x20 || byte === 0x09 || byte === 0x0a || byte === 0x0d) return at + 1;
    if (byte === 0x22) this.state = State.doubleQuoted;
    else if (byte === 0x27) this.state = State.singleQuoted;
    else if (byte === 0x2d) this.state = State.minus;
    else if (byte === 0x30) this.state = State.zero;
    else if (isDigit(byte)) this.state = State.digits;
    else if (isLetter(byte)) this.state = State.word;
    else {
      this.stray(bytes, at, at + 1);
      return at + 1;
    }
    return this.resume(bytes, at, at + 1);
  }

  /** Inside a token that began at `from` in these bytes (or before them); goes on at `at`. */
  private resume(bytes: Uint8Array, from: number, at: number): number {
    if (this.state >= State.doubleQuoted && this.state <= State.singleEscape) {
      return this.resumeString(bytes, from, at);
    }
    let index = at;
    for (; index < bytes.length; index++) {
      const next = this.step(bytes[index] ?? 0);
      if (next === undefined) {
        this.emit(kindAtEnd(this.state), bytes, from, index);
        return index;
      }
      if (next === State.recovery) {
        this.stray(bytes, from, index + 1);
        return index + 1;
      }
      this.state = next;
    }
    return this.keep(bytes, from);
  }

  private resumeString(bytes: Uint8Array, from: number, at: number): number {
    const single = this.state === State.singleQuoted || this.state === State.singleEscape;
    const plain = single ? State.singleQuoted : State.doubleQuoted;
    const escape = single ? State.singleEscape : State.doubleEscape;
    const quote = single ? 0x27 : 0x22;
    for (let index = at; index < bytes.length; index++) {
      const byte = bytes[index] ?? 0;
      if (byte < 0x20 || byte >= 0xfe) {
        this.stray(bytes, from, index + 1);
        return index + 1;
      }
      if (this.state === escape) {
        this.state = plain;
      } else if (byte === quote) {
        this.emit('string', bytes, from, index + 1);
        return index + 1;
      } else if (byte === 0x5c) {
        this.state = escape;
      }
    }
    return this.keep(bytes, from);
  }

  /**
   * The state after one more byte of a number or word; undefined when the byte belongs to the next
   * token, recovery when it can follow in no way.
   */
  private step(byte: number): State | undefined {
    switch (this.state) {
      case State.minus:
        if (byte === 0x30) return State.zero;
        return isDigit(byte) ? State.digits : State.recovery;
      case State.zero:
      case State.digits:
        if (isDigit(byte)) return this.state === State.zero ? State.recovery : State.digits;
        if (byte === 0x2e) return State.point;
        return isExponentMark(byte) ? State.exponent : undefined;
      case State.point:
        return isDigit(byte) ? State.fraction : State.recovery;
      case State.fraction:
        if (isDigit(byte)) return State.fraction;
        return isExponentMark(byte) ? State.exponent : undefined;
      case State.exponent:
        if (byte === 0x2b || byte === 0x2d) return State.exponentSign;
        return isDigit(byte) ? State.exponentDigits : State.recovery;
      case State.exponentSign:
        return isDigit(byte) ? State.exponentDigits : State.recovery;
      case State.exponentDigits:
        return isDigit(byte) ? State.exponentDigits : undefined;
      default:
        return isLetter(byte) ? State.word : undefined;
    }
  }

  /** The bytes are used up inside a token: stores them, unless it has become too long. */
  private keep(bytes: Uint8Array, from: number): number {
    this.piecesLength += bytes.length - from;
    if (this.piecesLength > this.maxToken) {
      this.pieces = [];
      this.piecesLength = 0;
      this.state = State.recovery;
      this.sink('too-long', EMPTY);
    } else {
      this.pieces.push(bytes.slice(from));
    }
    return bytes.length;
  }

  private stray(bytes: Uint8Array, from: number, to: number): void {
    this.emit('stray', bytes, from, to);
    this.state = State.recovery;
  }

  private emit(kind: JsonTokenKind, bytes: Uint8Array, from: number, to: number): void {
    const last = bytes.subarray(from, to);
    let text = last;
    if (this.pieces.length > 0) {
      text = new Uint8Array(this.piecesLength + last.length);
      let offset = 0;
      for (const piece of [...this.pieces, last]) {
        text.set(piece, offset);
        offset += piece.length;
      }
      this.pieces = [];
      this.piecesLength = 0;
    }
    this.state = State.start;
    this.sink(kind, text);
  }
}
