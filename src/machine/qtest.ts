/**
 * QEMU's qtest protocol over a stream: a test reads and writes ports and memory, moves the clock
 * and watches interrupts. One line per request, one per answer, in order.
 */
import type { AccessSize } from '../device/bus/space.js';
import type { ByteStream } from '../host/socket.js';
import { messageOf } from '../block/errors.js';
import { toBase64, tryFromBase64 } from '../lib/base64.js';
import { SteppedClock } from './clock.js';
import type { Machine } from './machine.js';

/** Longest line: base64 of 32 MiB and something before it. */
const MAX_LINE = 48 * 1024 * 1024;
/** Most bytes that one request may read, write or fill. */
const MAX_BYTES = 1024 * 1024 * 1024;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

type Words = readonly string[];

/** A number in C's notation. Throws RangeError. */
function number(text: string | undefined): number {
  if (text === undefined || !/^(0x[0-9a-f]+|\d+)$/i.test(text)) {
    throw new RangeError(`'${text ?? ''}' is no number`);
  }
  const octal = /^0[0-7]+$/.test(text);
  return octal ? parseInt(text, 8) : Number(text);
}

function length(text: string | undefined): number {
  const bytes = number(text);
  if (bytes > MAX_BYTES) throw new RangeError(`${bytes} bytes are too many`);
  return bytes;
}

function hex(bytes: Uint8Array): string {
  let out = '';
  for (const byte of bytes) out += byte.toString(16).padStart(2, '0');
  return out;
}

function fromHex(text: string, bytes: number): Uint8Array {
  const digits = text.replace(/^0x/i, '');
  const out = new Uint8Array(bytes);
  for (let i = 0; i < bytes; i++) out[i] = parseInt(digits.slice(2 * i, 2 * i + 2), 16) || 0;
  return out;
}

/** The bytes of a base64 text, cut or filled with zeroes to `bytes`. Throws RangeError. */
function fromBase64(text: string, bytes: number): Uint8Array {
  const given = tryFromBase64(text);
  if (given === undefined) throw new RangeError('invalid base64');
  const out = new Uint8Array(bytes);
  out.set(given.subarray(0, bytes));
  return out;
}

const widths: Readonly<Record<string, number>> = { b: 1, w: 2, l: 4, q: 8 };

/** Somebody who wants to know what a peer and the machine say to each other. */
export interface QtestTraffic {
  received(line: string): void;
  sent(line: string): void;
  /** The peer has gone. May be called more than once. */
  gone(): void;
}

export interface QtestServerOptions {
  /** Called when the peer is gone. */
  readonly gone?: () => void;
  readonly traffic?: QtestTraffic | undefined;
}

export class QtestServer {
  readonly #machine: Machine;
  readonly #stream: ByteStream;
  readonly #traffic: QtestTraffic | undefined;
  #pending: Uint8Array[] = [];
  #pendingBytes = 0;
  #intercepting = false;

  constructor(machine: Machine, stream: ByteStream, { gone, traffic }: QtestServerOptions = {}) {
    this.#machine = machine;
    this.#stream = stream;
    this.#traffic = traffic;
    stream.onData = (piece): void => {
      this.#take(piece);
    };
    stream.onClose = (): void => {
      if (this.#intercepting) machine.interrupts.onChange = undefined;
      void stream.end();
      traffic?.gone();
      gone?.();
    };
  }

  #take(piece: Uint8Array): void {
    let rest = piece;
    for (;;) {
      const end = rest.indexOf(10);
      if (end < 0) break;
      this.#pending.push(rest.subarray(0, end));
      const line = this.#joined();
      rest = rest.subarray(end + 1);
      this.#answer(line.replace(/\r$/, ''));
    }
    if (rest.length === 0) return;
    this.#pending.push(rest);
    this.#pendingBytes += rest.length;
    if (this.#pendingBytes > MAX_LINE) this.#stream.destroy();
  }

  #joined(): string {
    let text = '';
    for (const each of this.#pending) text += decoder.decode(each, { stream: true });
    text += decoder.decode();
    this.#pending = [];
    this.#pendingBytes = 0;
    return text;
  }

  #send(line: string): void {
    this.#traffic?.sent(line);
    this.#stream.write([encoder.encode(`${line}\n`)]);
  }

  #answer(line: string): void {
    this.#traffic?.received(line);
    let answer: string;
    try {
      answer = this.#execute(line.split(' '));
    } catch (e) {
      answer = `FAIL ${messageOf(e)}`;
    }
    this.#send(answer);
  }

  #execute(words: Words): string {
    const [name = '', first, second, third] = words;
    const io = /^(in|out)([bwl])$/.exec(name);
    if (io !== null) return this.#port(io[1] === 'in', widths[io[2]!] as AccessSize, first, second);
    const scalar = /^(read|write)([bwlq])$/.exec(name);
    if (scalar !== null) {
      return this.#scalar(scalar[1] === 'read', widths[scalar[2]!]!, first, second);
    }
    const memory = this.#machine;
    switch (name) {
      case 'endianness':
        return 'OK little';
      case 'read':
        return `OK 0x${hex(memory.readMemory(number(first), length(second)))}`;
      case 'write':
        memory.writeMemory(number(first), fromHex(third ?? '', length(second)));
        return 'OK';
      case 'b64read':
        return `OK ${toBase64(memory.readMemory(number(first), length(second)))}`;
      case 'b64write':
        memory.writeMemory(number(first), fromBase64(third ?? '', length(second)));
        return 'OK';
      case 'memset':
        memory.writeMemory(number(first), new Uint8Array(length(second)).fill(number(third)));
        return 'OK';
      case 'clock_step':
      case 'clock_set':
        return this.#moveClock(name === 'clock_step', first);
      case 'irq_intercept_in':
        return this.#intercept(first);
      default:
        return `FAIL Unknown command '${name}'`;
    }
  }

  #port(
    isRead: boolean,
    size: AccessSize,
    port: string | undefined,
    value: string | undefined,
  ): string {
    const { ports } = this.#machine;
    const address = number(port) & 0xffff;
    if (isRead) return `OK 0x${ports.read(address, size).toString(16).padStart(4, '0')}`;
    ports.write(address, size, number(value));
    return 'OK';
  }

  #scalar(
    isRead: boolean,
    size: number,
    address: string | undefined,
    value: string | undefined,
  ): string {
    const at = number(address);
    if (isRead) {
      const bytes = this.#machine.readMemory(at, size);
      return `OK 0x${hex(bytes.reverse()).padStart(16, '0')}`;
    }
    if (value === undefined) throw new RangeError('a value is missing');
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigUint64(0, BigInt.asUintN(64, BigInt(value)), true);
    this.#machine.writeMemory(at, bytes.subarray(0, size));
    return 'OK';
  }

  #moveClock(isStep: boolean, text: string | undefined): string {
    const { clock } = this.#machine;
    if (!(clock instanceof SteppedClock)) return 'FAIL the clock goes by itself';
    const to = text === undefined ? (clock.next ?? clock.now()) : number(text);
    clock.moveTo(isStep && text !== undefined ? clock.now() + to : to);
    return `OK ${clock.now()}`;
  }

  #intercept(path: string | undefined): string {
    if (path !== 'ioapic') return `FAIL Unknown device`;
    this.#intercepting = true;
    this.#machine.interrupts.onChange = (input, level): void => {
      this.#send(`IRQ ${level ? 'raise' : 'lower'} ${input}`);
    };
    return 'OK';
  }
}
