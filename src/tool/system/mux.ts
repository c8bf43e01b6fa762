/**
 * One terminal for a serial port and the human monitor: Ctrl-A C goes from one to the other,
 * Ctrl-A X ends the program, Ctrl-A H tells of these, Ctrl-A Ctrl-A sends Ctrl-A.
 */
import type { ByteStream } from '../../host/socket.js';

const ESCAPE = 1;

const help = [
  'C-a h    print this help',
  'C-a x    exit emulator',
  'C-a c    switch between console and monitor',
  'C-a C-a  sends C-a',
];

/** One of the two ends. */
class End implements ByteStream {
  onData: (piece: Uint8Array) => void = () => undefined;
  onClose: (error: Error | undefined) => void = () => undefined;
  onDrain: () => void = () => undefined;
  readonly peerName = 'stdio';
  readonly tlsIdentity = undefined;
  readonly #below: ByteStream;

  constructor(below: ByteStream) {
    this.#below = below;
  }

  write(pieces: readonly Uint8Array[], sent?: (taken: boolean) => void): boolean {
    return this.#below.write(pieces, sent);
  }

  pause(): void {
    // What is typed waits in the queues above: people type little.
  }

  resume(): void {
    // See pause.
  }

  end(): Promise<void> {
    return Promise.resolve();
  }

  destroy(): void {
    this.onClose(undefined);
  }

  startTls(): Promise<ByteStream> {
    return Promise.reject(new Error('a terminal has no TLS'));
  }
}

export interface MuxInit {
  readonly stream: ByteStream;
  /** The monitor is wanted for the first time. */
  readonly openMonitor: (stream: ByteStream) => void;
  /** Ctrl-A X */
  readonly quit: () => void;
  /** Ctrl-A C; before the monitor says anything. */
  readonly onSwitch?: (inMonitor: boolean) => void;
  /** Ctrl-A H; default: the lines are written. */
  readonly onHelp?: (lines: readonly string[]) => void;
}

export class Mux {
  /** The serial port's end. */
  readonly console: ByteStream;
  readonly #init: MuxInit;
  readonly #console: End;
  #monitor: End | undefined;
  #inMonitor = false;
  #escaped = false;

  constructor(init: MuxInit) {
    this.#init = init;
    this.#console = new End(init.stream);
    this.console = this.#console;
    init.stream.onData = (piece): void => {
      this.#take(piece);
    };
    init.stream.onDrain = (): void => {
      this.#console.onDrain();
      this.#monitor?.onDrain();
    };
    init.stream.onClose = (error): void => {
      this.#console.onClose(error);
      this.#monitor?.onClose(error);
    };
  }

  #take(piece: Uint8Array): void {
    let from = 0;
    for (let at = 0; at < piece.length; at++) {
      const byte = piece[at]!;
      if (this.#escaped) {
        this.#escaped = false;
        this.#command(byte);
        from = at + 1;
      } else if (byte === ESCAPE) {
        this.#pass(piece.subarray(from, at));
        this.#escaped = true;
        from = at + 1;
      }
    }
    this.#pass(piece.subarray(from));
  }

  #pass(data: Uint8Array): void {
    if (data.length === 0) return;
    const end = this.#inMonitor ? this.#monitor : this.#console;
    end?.onData(data.slice());
  }

  #command(byte: number): void {
    switch (String.fromCharCode(byte).toLowerCase()) {
      case 'x':
        this.#say('QEMU: Terminated');
        this.#init.quit();
        return;
      case 'c':
        this.#inMonitor = !this.#inMonitor;
        this.#init.onSwitch?.(this.#inMonitor);
        if (this.#inMonitor && this.#monitor === undefined) {
          this.#monitor = new End(this.#init.stream);
          this.#init.openMonitor(this.#monitor);
        }
        return;
      case 'h':
      case '?':
        if (this.#init.onHelp === undefined) this.#say(...help);
        else this.#init.onHelp(help);
        return;
      default:
        if (byte === ESCAPE) this.#pass(new Uint8Array([ESCAPE]));
    }
  }

  #say(...lines: readonly string[]): void {
    const text = ['', ...lines, ''].join('\r\n');
    this.#init.stream.write([new TextEncoder().encode(text)]);
  }
}
