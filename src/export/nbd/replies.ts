/**
 * Replies on their way to one client: encoded into shared memory, gathered over an event-loop
 * turn, sent as one vectored write, their memory given back when the kernel has it.
 */
import type { ByteStream } from '../../host/socket.js';
import { Iov } from '../../lib/iov.js';
import type { NbdRequest } from '../../wire/nbd.js';
import {
  encodeChunk,
  encodeSimpleReply,
  NBD_CHUNK_DONE,
  NBD_EXTENDED_REPLY_BYTES,
  NBD_SIMPLE_REPLY_BYTES,
  NBD_STRUCTURED_REPLY_BYTES,
  NbdChunk,
  writeU64,
} from '../../wire/nbd.js';
import type { DataBuffer, Owed, ReplyMemory, Slab } from './reply-memory.js';

/** Reads up to this size have header and data in one piece of a slab. */
const INLINE_READ = 32 * 1024;
/** Gathered bytes above which a write goes out at once: the client can begin to read. */
const FLUSH_BYTES = 256 * 1024;

/** The reply to a read that is being filled. */
export interface ReadReply {
  /** Where the data goes. */
  readonly data: Iov;
  readonly slab: Slab;
  /** Header (and for short reads data) in the slab. */
  readonly start: number;
  readonly end: number;
  readonly buffer: DataBuffer | undefined;
}

export interface ReplyStyle {
  readonly structured: boolean;
  readonly extended: boolean;
  /** Data in memory aligned for the file below, apart from headers. */
  readonly aligned: boolean;
}

export class Replies {
  readonly #stream: ByteStream;
  readonly #memory: ReplyMemory;
  readonly #style: ReplyStyle;
  readonly #chunkBytes: number;
  readonly #onFlushed: (roomLeft: boolean) => void;
  #out: Uint8Array[] = [];
  #owed: Owed[] = [];
  #bytes = 0;
  /** Bytes [runStart, runEnd) of a slab that wait to become a piece. */
  #run: Slab | undefined;
  #runStart = 0;
  #runEnd = 0;
  #queued = false;
  /** A reply stands half sent: what is gathered waits behind it. */
  #held = false;

  /** `onFlushed` learns after each write whether the stream takes more. */
  constructor(
    stream: ByteStream,
    memory: ReplyMemory,
    style: ReplyStyle,
    onFlushed: (roomLeft: boolean) => void,
  ) {
    this.#stream = stream;
    this.#memory = memory;
    this.#style = style;
    this.#onFlushed = onFlushed;
    this.#chunkBytes = style.extended ? NBD_EXTENDED_REPLY_BYTES : NBD_STRUCTURED_REPLY_BYTES;
  }

  /** Success without data. */
  done(work: NbdRequest): void {
    if (this.#style.structured) {
      this.#small(this.#chunkBytes, (v, at) => {
        this.#header(v, at, work, NBD_CHUNK_DONE, NbdChunk.none, 0);
      });
    } else {
      this.#small(NBD_SIMPLE_REPLY_BYTES, (v, at) => {
        encodeSimpleReply(v, at, work, 0);
      });
    }
  }

  /** Failure, with `message` where the client can take one. */
  failed(work: NbdRequest, errno: number, message: string): void {
    if (!this.#style.structured) {
      this.#small(NBD_SIMPLE_REPLY_BYTES, (v, at) => {
        encodeSimpleReply(v, at, work, errno);
      });
      return;
    }
    const text = new TextEncoder().encode(message.slice(0, 1024));
    const head = this.#chunkBytes;
    this.#small(head + 6 + text.byteLength, (v, at, bytes) => {
      this.#header(v, at, work, NBD_CHUNK_DONE, NbdChunk.error, 6 + text.byteLength);
      v.setUint32(at + head, errno);
      v.setUint16(at + head + 4, text.byteLength);
      bytes.set(text, at + head + 6);
    });
  }

  /** A chunk whose payload is at hand. */
  chunk(work: NbdRequest, flags: number, type: number, payload: Uint8Array): void {
    this.#small(this.#chunkBytes, (v, at) => {
      this.#header(v, at, work, flags, type, payload.byteLength);
    });
    this.#piece(payload);
  }

  /** `bytes` from `offset` on read as zeroes. */
  hole(work: NbdRequest, flags: number, offset: number, bytes: number): void {
    const head = this.#chunkBytes;
    this.#small(head + 12, (v, at) => {
      this.#header(v, at, work, flags, NbdChunk.offsetHole, 12);
      writeU64(v, at + head, offset);
      v.setUint32(at + head + 8, bytes);
    });
  }

  /** Memory for a chunk (or simple reply) with `bytes` of data from `offset` on. */
  // hot: bench/nbd
  prepareRead(work: NbdRequest, flags: number, offset: number, bytes: number): ReadReply {
    const { structured, aligned } = this.#style;
    const headBytes = structured ? this.#chunkBytes + 8 : NBD_SIMPLE_REPLY_BYTES;
    const inline = bytes <= INLINE_READ && !aligned;
    const slab = this.#memory.slab(inline ? headBytes + bytes : headBytes);
    const start = slab.used;
    const dataStart = start + headBytes;
    const end = inline ? dataStart + bytes : dataStart;
    slab.used = end;
    this.#readHeader(slab, start, work, flags, offset, bytes);
    if (inline) {
      const data = new Iov([slab.bytes.subarray(dataStart, end)], bytes);
      return { data, slab, start, end, buffer: undefined };
    }
    const buffer = this.#memory.buffer(bytes);
    return { data: Iov.of(buffer.bytes.subarray(0, bytes)), slab, start, end, buffer };
  }

  /** Sends a reply that is filled. */
  // hot: bench/nbd
  sendRead(reply: ReadReply): void {
    this.#slice(reply.slab, reply.start, reply.end);
    if (reply.buffer !== undefined) {
      this.#owed.push(reply.buffer);
      for (const piece of reply.data.bufs) this.#piece(piece);
    }
  }

  /** Gives back a reply that will not be sent. */
  dropRead(reply: ReadReply): void {
    reply.slab.release();
    reply.buffer?.release();
  }

  /** The header of a structured or simple reply to a read, whose data comes by another way. */
  readHeader(work: NbdRequest): { readonly head: Uint8Array; readonly slab: Slab } {
    const headBytes = this.#style.structured ? this.#chunkBytes + 8 : NBD_SIMPLE_REPLY_BYTES;
    const slab = this.#memory.slab(headBytes);
    const start = slab.used;
    slab.used = start + headBytes;
    this.#readHeader(slab, start, work, NBD_CHUNK_DONE, work.offset, work.length);
    return { head: slab.bytes.subarray(start, slab.used), slab };
  }

  /** Holds back what is gathered from now on; false: sends it, and goes on as usual. */
  hold(held: boolean): void {
    this.#held = held;
    if (!held) this.flush();
  }

  /** Hands what is gathered to the stream. */
  readonly flush = (): void => {
    this.#queued = false;
    if (this.#held) return;
    this.#endRun();
    const out = this.#out;
    if (out.length === 0) return;
    const owed = this.#owed;
    this.#out = [];
    this.#owed = [];
    this.#bytes = 0;
    const roomLeft = this.#stream.write(out, (taken) => {
      if (taken) for (const each of owed) each.release();
    });
    this.#onFlushed(roomLeft);
  };

  #readHeader(
    { view }: Slab,
    start: number,
    work: NbdRequest,
    flags: number,
    offset: number,
    bytes: number,
  ): void {
    if (this.#style.structured) {
      this.#header(view, start, work, flags, NbdChunk.offsetData, bytes + 8);
      writeU64(view, start + this.#chunkBytes, offset);
    } else {
      encodeSimpleReply(view, start, work, 0);
    }
  }

  #header(
    v: DataView,
    at: number,
    work: NbdRequest,
    flags: number,
    type: number,
    payload: number,
  ): void {
    encodeChunk(v, at, this.#style.extended, flags, type, work, payload);
  }

  #small(bytes: number, fill: (v: DataView, at: number, bytes: Uint8Array) => void): void {
    const slab = this.#memory.slab(bytes);
    const start = slab.used;
    slab.used = start + bytes;
    fill(slab.view, start, slab.bytes);
    this.#slice(slab, start, slab.used);
  }

  /** Bytes of a slab; those next to each other become one piece. */
  #slice(slab: Slab, start: number, end: number): void {
    this.#owed.push(slab);
    if (this.#run === slab && this.#runEnd === start) {
      this.#runEnd = end;
    } else {
      this.#endRun();
      this.#run = slab;
      this.#runStart = start;
      this.#runEnd = end;
    }
    this.#gathered(end - start);
  }

  #endRun(): void {
    const run = this.#run;
    if (run === undefined) return;
    this.#run = undefined;
    this.#out.push(run.bytes.subarray(this.#runStart, this.#runEnd));
  }

  #piece(piece: Uint8Array): void {
    this.#endRun();
    this.#out.push(piece);
    this.#gathered(piece.byteLength);
  }

  #gathered(bytes: number): void {
    this.#bytes += bytes;
    if (this.#bytes >= FLUSH_BYTES) {
      this.flush();
    } else if (!this.#queued) {
      this.#queued = true;
      queueMicrotask(this.flush);
    }
  }
}
