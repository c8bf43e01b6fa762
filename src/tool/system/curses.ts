/**
 * `-display curses`: the guest's text screen in the terminal, whose keys are the guest's. Ctrl-A C
 * shows the human monitor in its place. However the program ends, the terminal is as it was.
 */
import { writeSync } from 'node:fs';
import { stdio } from '../../host/node/stdio.js';
import type { ByteStream } from '../../host/socket.js';
import type { V86Processor } from '../../machine/v86/processor.js';
import { OptionError } from '../../options/option-error.js';
import { isTerminal } from '../terminal.js';
import { KeyReader } from './keyboard.js';
import { Mux } from './mux.js';
import { ENTER_SCREEN, LEAVE_SCREEN, Painter } from './paint.js';

/** At most so many pictures a second are drawn: 25. */
const FRAME_MS = 40;
/** How long an Escape waits for the rest of a sequence. */
const ESCAPE_MS = 50;
/** Between two keys: firmware's queue is short. */
const KEY_MS = 10;
/** Keys that wait for the guest; what is pasted beyond them is lost. */
const MOST_KEYS = 4096;
/** What a monitor says while the screen is shown. */
const MOST_HELD = 64 * 1024;

/** Throws OptionError when standard input and output are no terminal. */
export function checkTerminal(): void {
  if (isTerminal(0) && process.stdin.isTTY && isTerminal(1) && process.stdout.isTTY) return;
  throw new OptionError('the display curses needs a terminal as standard input and output');
}

export interface CursesInit {
  readonly processor: V86Processor;
  /** Whether the guest has a VGA card. */
  readonly hasDisplay: boolean;
  readonly openMonitor: (stream: ByteStream) => void;
  /** Ctrl-A X */
  readonly quit: () => void;
}

export class Curses {
  readonly #init: CursesInit;
  readonly #terminal = stdio();
  readonly #painter = new Painter(80, 24);
  readonly #reader = new KeyReader();
  readonly #keys: number[][] = [];
  #isShown = false;
  #isClosed = false;
  /** A picture is not drawn before the terminal has taken the one before. */
  #isBlocked = false;
  #frame: NodeJS.Timeout | undefined;
  #typing: NodeJS.Timeout | undefined;
  #escape: NodeJS.Timeout | undefined;
  /** Shown in place of the screen until a key comes. */
  #notice: readonly string[] | undefined;
  /** What was written to the monitor's side while that was not shown. */
  #held: Uint8Array[] = [];
  #heldBytes = 0;

  constructor(init: CursesInit) {
    this.#init = init;
    const mux = new Mux({
      stream: this.#behind(),
      openMonitor: init.openMonitor,
      quit: init.quit,
      onSwitch: (inMonitor) => {
        if (inMonitor) this.#leave();
        else this.#enter();
      },
      onHelp: (lines) => {
        this.notice(lines);
      },
    });
    mux.console.onData = (piece): void => {
      this.#type(piece);
    };
    init.processor.screen.onChange = (): void => {
      this.#draw();
    };
    process.stdout.on('resize', this.#redraw);
    process.on('SIGCONT', this.#redraw);
    process.on('exit', this.#restore);
    this.#terminal.onDrain = (): void => {
      this.#isBlocked = false;
      this.#draw();
    };
    this.#enter();
  }

  /** Shows lines until a key is pressed. */
  notice(lines: readonly string[]): void {
    this.#notice = lines;
    this.#redraw();
  }

  /** The terminal is as it was before. */
  close(): void {
    process.stdout.off('resize', this.#redraw);
    process.off('SIGCONT', this.#redraw);
    process.off('exit', this.#restore);
    this.#init.processor.screen.onChange = (): void => undefined;
    for (const timer of [this.#frame, this.#typing, this.#escape]) clearTimeout(timer);
    this.#restore();
    void this.#terminal.end();
  }

  /** The terminal as the multiplexer sees it: what is written shows when the screen does not. */
  #behind(): ByteStream {
    const terminal = this.#terminal;
    const stream: ByteStream = {
      onData: () => undefined,
      onClose: () => undefined,
      onDrain: () => undefined,
      peerName: 'stdio',
      tlsIdentity: undefined,
      write: (pieces, sent) => {
        if (!this.#isShown) return terminal.write(pieces, sent);
        for (const piece of pieces) this.#hold(piece);
        sent?.(true);
        return true;
      },
      pause: () => undefined,
      resume: () => undefined,
      end: () => Promise.resolve(),
      destroy: () => undefined,
      startTls: (options) => terminal.startTls(options),
    };
    terminal.onData = (piece): void => {
      if (this.#notice !== undefined) {
        this.#notice = undefined;
        this.#redraw();
      }
      stream.onData(piece);
    };
    terminal.onClose = this.#init.quit;
    return stream;
  }

  #hold(piece: Uint8Array): void {
    if (this.#heldBytes + piece.length > MOST_HELD) return;
    this.#heldBytes += piece.length;
    this.#held.push(piece.slice());
  }

  #enter(): void {
    process.stdin.setRawMode(true);
    this.#isShown = true;
    this.#terminal.write([new TextEncoder().encode(ENTER_SCREEN)]);
    this.#redraw();
  }

  #leave(): void {
    this.#isShown = false;
    this.#terminal.write([new TextEncoder().encode(LEAVE_SCREEN), ...this.#held]);
    this.#held = [];
    this.#heldBytes = 0;
  }

  /** At once, for the process may be at its end. */
  readonly #restore = (): void => {
    if (this.#isClosed) return;
    this.#isClosed = true;
    const text = this.#isShown ? LEAVE_SCREEN : '';
    this.#isShown = false;
    try {
      writeSync(1, Buffer.concat([Buffer.from(text), ...this.#held]));
      process.stdin.setRawMode(false);
    } catch {
      // The terminal is gone.
    }
  };

  // --- the screen

  readonly #redraw = (): void => {
    if (!this.#isShown) return;
    process.stdin.setRawMode(true);
    const { columns, rows } = process.stdout;
    // A terminal that does not tell its size is taken for one of a common size.
    const text = this.#painter.reset(columns || 80, rows || 24);
    this.#terminal.write([new TextEncoder().encode(text)]);
    this.#draw();
  };

  #draw(): void {
    if (!this.#isShown) return;
    this.#frame ??= setTimeout(() => {
      this.#frame = undefined;
      if (!this.#isShown || this.#isBlocked) return;
      const text = this.#painter.paint(this.#init.processor.screen, this.#lines());
      if (text === '') return;
      this.#isBlocked = !this.#terminal.write([new TextEncoder().encode(text)]);
    }, FRAME_MS);
  }

  /** What is shown in place of text that the guest has not. */
  #lines(): readonly string[] | undefined {
    if (this.#notice !== undefined) return this.#notice;
    if (!this.#init.hasDisplay) return ['This VM has no graphic display device.'];
    const { graphical } = this.#init.processor.screen;
    return graphical && [`${graphical.join(' x ')} Graphic mode`];
  }

  // --- the keyboard

  #type(piece: Uint8Array): void {
    clearTimeout(this.#escape);
    this.#press(this.#reader.take(piece));
    if (!this.#reader.isWaiting) return;
    this.#escape = setTimeout(() => {
      this.#press(this.#reader.flush());
    }, ESCAPE_MS);
  }

  #press(keys: readonly (readonly number[])[]): void {
    for (const key of keys) if (this.#keys.length < MOST_KEYS) this.#keys.push([...key]);
    if (this.#typing === undefined) this.#pressNext();
  }

  #pressNext(): void {
    this.#typing = undefined;
    const key = this.#keys.shift();
    if (key === undefined) return;
    this.#init.processor.sendKeys(key);
    this.#typing = setTimeout(() => {
      this.#pressNext();
    }, KEY_MS);
  }
}
