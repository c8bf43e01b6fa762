/**
 * NBD on the wire: constants and codecs of the protocol document
 * (NetworkBlockDevice/nbd, doc/proto.md), big-endian. Nothing here does I/O; both
 * ends use it. 64-bit lengths and offsets are refused above 2^53 - 1.
 */

/** First bytes of a fixed-newstyle server: INIT_MAGIC, then OPTION_MAGIC. */
export const NBD_INIT_MAGIC = 0x4e42444d41474943n;
export const NBD_OPTION_MAGIC = 0x49484156454f5054n;
/** Second magic of an old-style server. */
export const NBD_CLIENT_MAGIC = 0x00420281861253n;
export const NBD_OPTION_REPLY_MAGIC = 0x0003e889045565a9n;
export const NBD_REQUEST_MAGIC = 0x25609513;
export const NBD_EXTENDED_REQUEST_MAGIC = 0x21e41c71;
export const NBD_SIMPLE_REPLY_MAGIC = 0x67446698;
export const NBD_STRUCTURED_REPLY_MAGIC = 0x668e33ef;
export const NBD_EXTENDED_REPLY_MAGIC = 0x6e8a278c;

/** Handshake flags of the server; the client answers with the same bits. */
export const NbdHandshake = { fixedNewstyle: 1, noZeroes: 2 } as const;

export const NbdOption = {
  exportName: 1,
  abort: 2,
  list: 3,
  startTls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
  extendedHeaders: 11,
} as const;

const error = (n: number): number => 0x80000000 + n;

/** Types of option replies. */
export const NbdReply = {
  ack: 1,
  server: 2,
  info: 3,
  metaContext: 4,
  errUnsup: error(1),
  errPolicy: error(2),
  errInvalid: error(3),
  errPlatform: error(4),
  errTlsReqd: error(5),
  errUnknown: error(6),
  errShutdown: error(7),
  errBlockSizeReqd: error(8),
  errTooBig: error(9),
  errExtHeaderReqd: error(10),
} as const;

/** Information types of INFO and GO. */
export const NbdInfo = { export: 0, name: 1, description: 2, blockSize: 3 } as const;

/** Transmission flags of an export. */
export const NbdFlag = {
  hasFlags: 1,
  readOnly: 2,
  sendFlush: 4,
  sendFua: 8,
  rotational: 16,
  sendTrim: 32,
  sendWriteZeroes: 64,
  sendDf: 128,
  canMultiConn: 256,
  sendResize: 512,
  sendCache: 1024,
  sendFastZero: 2048,
  blockStatusPayload: 4096,
} as const;

export const NbdCmd = {
  read: 0,
  write: 1,
  disc: 2,
  flush: 3,
  trim: 4,
  cache: 5,
  writeZeroes: 6,
  blockStatus: 7,
} as const;

/** Command flags. */
export const NbdCmdFlag = {
  fua: 1,
  noHole: 2,
  df: 4,
  reqOne: 8,
  fastZero: 16,
  payloadLen: 32,
} as const;

/** Types of structured (and extended) reply chunks. */
export const NbdChunk = {
  none: 0,
  offsetData: 1,
  offsetHole: 2,
  blockStatus: 5,
  blockStatusExt: 6,
  error: 0x8001,
  errorOffset: 0x8002,
} as const;

export const NBD_CHUNK_DONE = 1;

/** Bits of a `base:allocation` extent. */
export const NbdState = { hole: 1, zero: 2 } as const;

/** Limits, each from the document: option data, names and context names, payloads. */
export const NBD_MAX_STRING = 4096;
export const NBD_MAX_PAYLOAD = 32 * 1024 * 1024;
/** Most option data that is kept; longer data is read past and refused. */
export const NBD_MAX_OPTION = 64 * 1024;

/** Errors that may be sent, by Linux errno name. All else is EIO (or EINVAL). */
const errnos: Readonly<Record<string, number>> = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
};

/** NBD's error number for an errno name. */
export function nbdErrno(code: string): number {
  if (code === 'EROFS') return errnos['EPERM'] ?? 1;
  if (code === 'EDQUOT' || code === 'EFBIG') return errnos['ENOSPC'] ?? 28;
  if (code === 'EOPNOTSUPP') return errnos['ENOTSUP'] ?? 95;
  if (code === 'ENXIO' || code === 'EACCES') return errnos['EINVAL'] ?? 22;
  return errnos[code] ?? 5;
}

/** The errno name of an error number from the peer; unknown ones are EINVAL (proto.md). */
export function nbdErrnoName(number: number): string {
  for (const [name, value] of Object.entries(errnos)) if (value === number) return name;
  return 'EINVAL';
}

export interface NbdRequest {
  readonly flags: number;
  readonly type: number;
  /** Opaque; two 32-bit halves, kept as they came. */
  readonly cookieHigh: number;
  readonly cookieLow: number;
  /** Infinity when above 2^53 - 1. */
  readonly offset: number;
  /** The same as it came. */
  readonly offsetHigh: number;
  readonly offsetLow: number;
  readonly length: number;
}

export const NBD_REQUEST_BYTES = 28;
export const NBD_EXTENDED_REQUEST_BYTES = 32;

function view(b: Uint8Array): DataView {
  return new DataView(b.buffer, b.byteOffset, b.byteLength);
}

/** A 64-bit number at `at`; Infinity when it is above 2^53 - 1, which no check lets pass. */
export function readU64(v: DataView, at: number): number {
  const high = v.getUint32(at);
  return high > 0x1fffff ? Number.POSITIVE_INFINITY : high * 2 ** 32 + v.getUint32(at + 4);
}

export function writeU64(v: DataView, at: number, value: number): void {
  v.setUint32(at, Math.floor(value / 2 ** 32));
  v.setUint32(at + 4, value >>> 0);
}

/** Decodes the request header at `at`; undefined when the magic is wrong. */
export function decodeRequest(v: DataView, at: number, extended: boolean): NbdRequest | undefined {
  const magic = extended ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC;
  if (v.getUint32(at) !== magic) return undefined;
  return {
    flags: v.getUint16(at + 4),
    type: v.getUint16(at + 6),
    cookieHigh: v.getUint32(at + 8),
    cookieLow: v.getUint32(at + 12),
    offset: readU64(v, at + 16),
    offsetHigh: v.getUint32(at + 16),
    offsetLow: v.getUint32(at + 20),
    length: extended ? readU64(v, at + 24) : v.getUint32(at + 24),
  };
}

/** Writes a request header at `at` and returns its length. */
export function encodeRequest(
  v: DataView,
  at: number,
  r: Omit<NbdRequest, 'offsetHigh' | 'offsetLow'>,
  extended: boolean,
): number {
  v.setUint32(at, extended ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC);
  v.setUint16(at + 4, r.flags);
  v.setUint16(at + 6, r.type);
  v.setUint32(at + 8, r.cookieHigh);
  v.setUint32(at + 12, r.cookieLow);
  writeU64(v, at + 16, r.offset);
  if (!extended) {
    v.setUint32(at + 24, r.length);
    return NBD_REQUEST_BYTES;
  }
  writeU64(v, at + 24, r.length);
  return NBD_EXTENDED_REQUEST_BYTES;
}

/** Cookie of a reply: the request that it answers. */
export type NbdCookie = Pick<NbdRequest, 'cookieHigh' | 'cookieLow'>;
/** What replies with extended headers repeat of their request. */
export type NbdAnswered = NbdCookie & Pick<NbdRequest, 'offsetHigh' | 'offsetLow'>;

export const NBD_SIMPLE_REPLY_BYTES = 16;
export const NBD_STRUCTURED_REPLY_BYTES = 20;
export const NBD_EXTENDED_REPLY_BYTES = 32;

/** Writes a simple reply at `at`. */
export function encodeSimpleReply(v: DataView, at: number, cookie: NbdCookie, errno: number): void {
  v.setUint32(at, NBD_SIMPLE_REPLY_MAGIC);
  v.setUint32(at + 4, errno);
  v.setUint32(at + 8, cookie.cookieHigh);
  v.setUint32(at + 12, cookie.cookieLow);
}

/**
 * Writes a structured or extended chunk header at `at` and returns its length. `request` is
 * what the chunk answers, `length` counts the payload that follows.
 */
export function encodeChunk(
  v: DataView,
  at: number,
  extended: boolean,
  flags: number,
  type: number,
  request: NbdAnswered,
  length: number,
): number {
  v.setUint32(at, extended ? NBD_EXTENDED_REPLY_MAGIC : NBD_STRUCTURED_REPLY_MAGIC);
  v.setUint16(at + 4, flags);
  v.setUint16(at + 6, type);
  v.setUint32(at + 8, request.cookieHigh);
  v.setUint32(at + 12, request.cookieLow);
  if (!extended) {
    v.setUint32(at + 16, length);
    return NBD_STRUCTURED_REPLY_BYTES;
  }
  v.setUint32(at + 16, request.offsetHigh);
  v.setUint32(at + 20, request.offsetLow);
  writeU64(v, at + 24, length);
  return NBD_EXTENDED_REPLY_BYTES;
}

export interface NbdChunkHeader extends NbdCookie {
  readonly flags: number;
  readonly type: number;
  /** Bytes of payload that follow. */
  readonly length: number;
  /** Extended headers only: offset of the request. */
  readonly offset?: number;
}

/** A reply header as the client reads it. */
export type NbdReplyHeader =
  | ({ readonly kind: 'simple'; readonly errno: number } & NbdCookie)
  | ({ readonly kind: 'chunk'; readonly bytes: number } & NbdChunkHeader);

/** Bytes of the header that begins with `magic`; undefined for an unknown magic. */
export function replyHeaderBytes(magic: number): number | undefined {
  if (magic === NBD_SIMPLE_REPLY_MAGIC) return NBD_SIMPLE_REPLY_BYTES;
  if (magic === NBD_STRUCTURED_REPLY_MAGIC) return NBD_STRUCTURED_REPLY_BYTES;
  return magic === NBD_EXTENDED_REPLY_MAGIC ? NBD_EXTENDED_REPLY_BYTES : undefined;
}

/** Decodes the reply header at `at`, all of which is there (see {@link replyHeaderBytes}). */
export function decodeReply(v: DataView, at: number): NbdReplyHeader {
  const magic = v.getUint32(at);
  const cookieHigh = v.getUint32(at + 8);
  const cookieLow = v.getUint32(at + 12);
  if (magic === NBD_SIMPLE_REPLY_MAGIC) {
    return { kind: 'simple', errno: v.getUint32(at + 4), cookieHigh, cookieLow };
  }
  const extended = magic === NBD_EXTENDED_REPLY_MAGIC;
  return {
    kind: 'chunk',
    bytes: extended ? NBD_EXTENDED_REPLY_BYTES : NBD_STRUCTURED_REPLY_BYTES,
    flags: v.getUint16(at + 4),
    type: v.getUint16(at + 6),
    cookieHigh,
    cookieLow,
    length: extended ? readU64(v, at + 24) : v.getUint32(at + 16),
    ...(extended ? { offset: readU64(v, at + 16) } : {}),
  };
}

const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { ignoreBOM: true });

export function nbdText(bytes: Uint8Array): string {
  return decoder.decode(bytes);
}

/** An option as the client sends it. */
export function encodeOption(option: number, data: Uint8Array): Uint8Array {
  const out = new Uint8Array(16 + data.byteLength);
  const v = view(out);
  v.setBigUint64(0, NBD_OPTION_MAGIC);
  v.setUint32(8, option);
  v.setUint32(12, data.byteLength);
  out.set(data, 16);
  return out;
}

/** A reply to an option as the server sends it. */
export function encodeOptionReply(option: number, type: number, data: Uint8Array): Uint8Array {
  const out = new Uint8Array(20 + data.byteLength);
  const v = view(out);
  v.setBigUint64(0, NBD_OPTION_REPLY_MAGIC);
  v.setUint32(8, option);
  v.setUint32(12, type);
  v.setUint32(16, data.byteLength);
  out.set(data, 20);
  return out;
}

/** Joins numbers and texts into option data: `u16`, `u32`, `u64` and counted strings. */
export class NbdWriter {
  readonly #parts: Uint8Array[] = [];

  u16(value: number): this {
    const b = new Uint8Array(2);
    view(b).setUint16(0, value);
    return this.bytes(b);
  }

  u32(value: number): this {
    const b = new Uint8Array(4);
    view(b).setUint32(0, value);
    return this.bytes(b);
  }

  u64(value: number): this {
    const b = new Uint8Array(8);
    writeU64(view(b), 0, value);
    return this.bytes(b);
  }

  bytes(b: Uint8Array): this {
    this.#parts.push(b);
    return this;
  }

  text(value: string): this {
    return this.bytes(encoder.encode(value));
  }

  /** 32-bit length, then the text. */
  counted(value: string): this {
    const b = encoder.encode(value);
    return this.u32(b.byteLength).bytes(b);
  }

  done(): Uint8Array {
    let n = 0;
    for (const p of this.#parts) n += p.byteLength;
    const out = new Uint8Array(n);
    let at = 0;
    for (const p of this.#parts) {
      out.set(p, at);
      at += p.byteLength;
    }
    return out;
  }
}

/** Reads option data; every method gives undefined past the end, and never throws. */
export class NbdReader {
  readonly #b: Uint8Array;
  readonly #v: DataView;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#b = bytes;
    this.#v = view(bytes);
  }

  get left(): number {
    return this.#b.byteLength - this.#at;
  }

  u16(): number | undefined {
    if (this.left < 2) return undefined;
    this.#at += 2;
    return this.#v.getUint16(this.#at - 2);
  }

  u32(): number | undefined {
    if (this.left < 4) return undefined;
    this.#at += 4;
    return this.#v.getUint32(this.#at - 4);
  }

  u64(): number | undefined {
    if (this.left < 8) return undefined;
    this.#at += 8;
    return readU64(this.#v, this.#at - 8);
  }

  bytes(n: number): Uint8Array | undefined {
    if (this.left < n) return undefined;
    this.#at += n;
    return this.#b.subarray(this.#at - n, this.#at);
  }

  /** 32-bit length, then text of at most `max` bytes. */
  counted(max: number = NBD_MAX_STRING): string | undefined {
    const n = this.u32();
    if (n === undefined || n > max) return undefined;
    const b = this.bytes(n);
    return b === undefined ? undefined : nbdText(b);
  }

  rest(): Uint8Array {
    return this.bytes(this.left) ?? new Uint8Array(0);
  }
}
