/**
 * The stream in which the state of a machine is kept or sent: docs/internals/machine-state.md.
 *
 *   header   "vdisk-vm", then the version of the stream: 32 bits, big-endian
 *   section  length of the name: 8 bits; the name (ASCII); version of the section: 16 bits;
 *            length of its content: 32 bits; the content; CRC-32C of all of the section before it
 *   end      a section called "end": how many came before it, 32 bits
 *
 * Invariants
 *  ST1  Nothing is believed before its checksum was right; lengths are bounded before memory is
 *       taken for them.
 *  ST2  A reader that reached the end has seen every section that was written, in order.
 */
import { BlockError } from '../../block/errors.js';
import type { Hot } from '../../host/host.js';

/** Longest content of one section, in bytes. */
export const MAX_SECTION = 1 << 20;
const VERSION = 1;
const MAX_NAME = 32;
const END = 'end';
const magic = new TextEncoder().encode('vdisk-vm');

/** Takes the bytes of a stream, in order. The bytes must not change before it resolves. */
export interface StateSink {
  write(bytes: Uint8Array): Promise<void>;
}

/** Gives the bytes of a stream, in order. */
export interface StateSource {
  /** Fills `out`, or resolves to fewer bytes at the end of what there is. */
  read(out: Uint8Array): Promise<number>;
}

/** One section. */
export interface Section {
  readonly name: string;
  readonly version: number;
  readonly content: Uint8Array;
}

/** The error for a stream that cannot be used. */
export function badState(text: string): BlockError {
  return new BlockError('EINVAL', `The state of the machine cannot be loaded: ${text}`);
}

export class StateWriter {
  readonly #sink: StateSink;
  readonly #hot: Hot;
  #sections = 0;
  /** Bytes that were written. */
  bytes = 0;

  constructor(sink: StateSink, hot: Hot) {
    this.#sink = sink;
    this.#hot = hot;
  }

  /** Writes the header; once, before all else. */
  async begin(): Promise<void> {
    const head = new Uint8Array(magic.length + 4);
    head.set(magic);
    new DataView(head.buffer).setUint32(magic.length, VERSION);
    await this.#put(head);
  }

  /** Writes a section; `name` has at most 32 bytes, `content` at most {@link MAX_SECTION}. */
  async section(name: string, version: number, content: Uint8Array): Promise<void> {
    if (content.length > MAX_SECTION) throw new BlockError('EFBIG');
    const bytes = new Uint8Array(1 + name.length + 6 + content.length + 4);
    const view = new DataView(bytes.buffer);
    bytes[0] = name.length;
    for (let i = 0; i < name.length; i++) bytes[1 + i] = name.charCodeAt(i);
    view.setUint16(1 + name.length, version);
    view.setUint32(3 + name.length, content.length);
    bytes.set(content, 7 + name.length);
    const end = bytes.length - 4;
    view.setUint32(end, this.#hot.crc32c(bytes.subarray(0, end)));
    await this.#put(bytes);
    this.#sections++;
  }

  /** Writes the end; nothing may follow. */
  async end(): Promise<void> {
    const count = new Uint8Array(4);
    new DataView(count.buffer).setUint32(0, this.#sections);
    await this.section(END, 1, count);
  }

  async #put(bytes: Uint8Array): Promise<void> {
    await this.#sink.write(bytes);
    this.bytes += bytes.length;
  }
}

export class StateReader {
  readonly #source: StateSource;
  readonly #hot: Hot;
  #sections = 0;
  #ended = false;

  constructor(source: StateSource, hot: Hot) {
    this.#source = source;
    this.#hot = hot;
  }

  /** Reads the header; once, before all else. Throws EINVAL. */
  async begin(): Promise<void> {
    const head = await this.#take(magic.length + 4);
    if (magic.some((byte, i) => head[i] !== byte)) throw badState('it does not begin as one does');
    const version = new DataView(head.buffer).getUint32(magic.length);
    if (version !== VERSION) {
      throw badState(`its version is ${String(version)}, known is ${String(VERSION)}`);
    }
  }

  /** The next section; undefined: the end was there. Throws EINVAL. */
  async next(): Promise<Section | undefined> {
    if (this.#ended) return undefined;
    const [length = 0] = await this.#take(1);
    if (length === 0 || length > MAX_NAME) {
      throw badState(`section ${String(this.#sections)} has a name of ${String(length)} bytes`);
    }
    const head = await this.#take(length + 6);
    const view = new DataView(head.buffer);
    const bytes = view.getUint32(length + 2);
    if (bytes > MAX_SECTION) {
      throw badState(`section ${String(this.#sections)} has ${String(bytes)} bytes`);
    }
    const content = await this.#take(bytes);
    const sum = new DataView((await this.#take(4)).buffer).getUint32(0);
    const hot = this.#hot;
    const found = hot.crc32c(content, hot.crc32c(head, hot.crc32c(Uint8Array.of(length))));
    if (sum !== found >>> 0) {
      throw badState(`the checksum of section ${String(this.#sections)} is wrong`);
    }
    const name = String.fromCharCode(...head.subarray(0, length));
    if (name === END) {
      this.#finish(content);
      return undefined;
    }
    this.#sections++;
    return { name, version: view.getUint16(length), content };
  }

  #finish(content: Uint8Array): void {
    const isWhole = content.length === 4;
    const { buffer, byteOffset } = content;
    const count = isWhole ? new DataView(buffer, byteOffset).getUint32(0) : -1;
    if (count !== this.#sections) {
      throw badState(`it has ${String(this.#sections)} sections, not ${String(count)}`);
    }
    this.#ended = true;
  }

  async #take(bytes: number): Promise<Uint8Array> {
    const out = new Uint8Array(bytes);
    if ((await this.#source.read(out)) < bytes) throw badState('it ends too early');
    return out;
  }
}
