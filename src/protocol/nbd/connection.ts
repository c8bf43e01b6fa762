/**
 * The transmission phase as a client: requests with cookies, replies in any order.
 *
 * Invariants
 *  C1  Each request settles exactly once: by its final chunk, or when the connection ends.
 *  C2  No byte of a reply is taken that lies outside the range asked for, that overlaps
 *      another chunk of the same reply, or that answers no request in flight; such a reply
 *      ends the connection.
 *  C3  A read succeeds only when chunks covered all of its range.
 *
 * A broken connection never comes back: a new one takes its place (see instance.ts).
 */
import { BlockError } from '../../block/errors.js';
import type { Iov } from '../../lib/iov.js';
import type { NbdReplyHeader } from '../../wire/nbd.js';
import {
  decodeReply,
  encodeRequest,
  NBD_CHUNK_DONE,
  NBD_EXTENDED_REQUEST_BYTES,
  NBD_MAX_PAYLOAD,
  NBD_REQUEST_BYTES,
  NbdChunk,
  NbdCmd,
  nbdErrnoName,
  NbdReader,
  nbdText,
  readU64,
  replyHeaderBytes,
} from '../../wire/nbd.js';
import type { NbdAgreement } from './handshake.js';

/** A run of block status as the server sent it. */
export interface StatusRun {
  readonly bytes: number;
  readonly flags: number;
}

interface Request {
  readonly type: number;
  readonly offset: number;
  readonly length: number;
  /** Where a read's data goes. */
  readonly into: Iov | undefined;
  /** Bytes of a read that chunks covered; runs of a status. */
  covered: number;
  readonly ranges: { start: number; end: number }[];
  runs: StatusRun[] | undefined;
  failure: BlockError | undefined;
  readonly resolve: (runs: StatusRun[]) => void;
  readonly reject: (e: Error) => void;
}

/** Longest chunk that is no data: an error message or extents. */
const MAX_SMALL_CHUNK = 1024 * 1024 * 16;

type Chunk = Extract<NbdReplyHeader, { kind: 'chunk' }>;

export class NbdConnection {
  readonly agreement: NbdAgreement;
  /** Called once when the connection is of no more use. */
  onDead: ((error: Error) => void) | undefined;
  readonly #requests = new Map<number, Request>();
  #nextCookie = 1;
  #dead: Error | undefined;
  #out: Uint8Array[] = [];
  #flushQueued = false;
  #header: NbdReplyHeader | undefined;

  constructor(agreement: NbdAgreement) {
    this.agreement = agreement;
    const { reader } = agreement;
    reader.onEnd = (error): void => {
      this.#die(error ?? new BlockError('EIO', 'The NBD server closed the connection'));
    };
    reader.onBytes = (): void => {
      this.#receive();
    };
    if (reader.ended) this.#die(new BlockError('EIO', 'The NBD server closed the connection'));
  }

  get isDead(): boolean {
    return this.#dead !== undefined;
  }

  get inFlight(): number {
    return this.#requests.size;
  }

  /** Sends a request; resolves with the runs of a status request, else with none. */
  request(
    type: number,
    flags: number,
    offset: number,
    length: number,
    data?: { readonly into?: Iov; readonly payload?: Iov },
  ): Promise<StatusRun[]> {
    if (this.#dead !== undefined) return Promise.reject(this.#dead);
    return new Promise((resolve, reject) => {
      const cookie = this.#cookie();
      this.#requests.set(cookie, {
        type,
        offset,
        length,
        into: data?.into,
        covered: 0,
        ranges: [],
        runs: undefined,
        failure: undefined,
        resolve,
        reject,
      });
      const { extended } = this.agreement;
      const head = new Uint8Array(extended ? NBD_EXTENDED_REQUEST_BYTES : NBD_REQUEST_BYTES);
      const payloadFlag = extended && type === NbdCmd.write ? 32 : 0;
      const request = { type, flags: flags | payloadFlag, offset, length };
      encodeRequest(head, { ...request, cookieHigh: 0, cookieLow: cookie }, extended);
      this.#send(head, data?.payload);
    });
  }

  /** Says goodbye; requests in flight are answered first by a well-behaved server. */
  async close(): Promise<void> {
    if (this.#dead !== undefined) return;
    const { extended, reader } = this.agreement;
    const head = new Uint8Array(extended ? NBD_EXTENDED_REQUEST_BYTES : NBD_REQUEST_BYTES);
    const disc = { flags: 0, type: NbdCmd.disc, cookieHigh: 0, cookieLow: 0, offset: 0, length: 0 };
    encodeRequest(head, disc, extended);
    this.#send(head, undefined);
    this.#flush();
    await reader.stream.end();
  }

  /** Breaks the connection off. */
  destroy(error: Error): void {
    this.#die(error);
  }

  #cookie(): number {
    do this.#nextCookie = this.#nextCookie === 0xffff_ffff ? 1 : this.#nextCookie + 1;
    while (this.#requests.has(this.#nextCookie));
    return this.#nextCookie;
  }

  #send(head: Uint8Array, payload: Iov | undefined): void {
    this.#out.push(head);
    if (payload !== undefined) for (const piece of payload.bufs) this.#out.push(piece);
    if (this.#flushQueued) return;
    this.#flushQueued = true;
    queueMicrotask(this.#flush);
  }

  readonly #flush = (): void => {
    this.#flushQueued = false;
    const out = this.#out;
    this.#out = [];
    if (out.length > 0 && this.#dead === undefined) this.agreement.reader.stream.write(out);
  };

  #die(error: Error): void {
    if (this.#dead !== undefined) return;
    this.#dead = error;
    this.agreement.reader.stream.destroy();
    const all = [...this.#requests.values()];
    this.#requests.clear();
    this.onDead?.(error);
    for (const request of all) request.reject(error);
  }

  #receive(): void {
    try {
      while (this.#dead === undefined && this.#step());
    } catch (e) {
      this.#die(e instanceof Error ? e : new BlockError('EIO'));
    }
  }

  /** Takes one header or one payload; false when more bytes are needed. */
  #step(): boolean {
    const { queue } = this.agreement.reader;
    if (this.#header === undefined) {
      const magic = queue.tryPeek(4);
      if (magic === undefined) return false;
      const bytes = replyHeaderBytes(new DataView(magic.buffer, magic.byteOffset).getUint32(0));
      if (bytes === undefined) throw protocol('Server sent a reply with wrong magic');
      const head = queue.tryTake(bytes);
      if (head === undefined) return false;
      this.#header = this.#checked(decodeReply(head), bytes);
    }
    const header = this.#header;
    const request = this.#find(header);
    const done =
      header.kind === 'simple' ? this.#simple(header, request) : this.#chunk(header, request);
    if (done) this.#header = undefined;
    return done;
  }

  #checked(header: NbdReplyHeader, bytes: number): NbdReplyHeader {
    const { structured, extended } = this.agreement;
    const wrong = header.kind === 'simple' ? extended : !structured || (bytes === 32) !== extended;
    if (wrong) throw protocol('Server sent a reply of a kind that was not negotiated');
    return header;
  }

  #find(header: NbdReplyHeader): Request {
    const request = header.cookieHigh === 0 ? this.#requests.get(header.cookieLow) : undefined;
    if (request === undefined) throw protocol('Server replied to a request that was not made');
    return request;
  }

  #simple(header: Extract<NbdReplyHeader, { kind: 'simple' }>, request: Request): boolean {
    if (header.errno !== 0) {
      request.failure = new BlockError(nbdErrnoName(header.errno));
      this.#settle(header.cookieLow, request);
      return true;
    }
    if (request.type === NbdCmd.read) {
      if (this.agreement.structured) {
        throw protocol('Server sent a simple reply to a read despite structured replies');
      }
      if (!this.#takeData(request, 0, request.length)) return false;
    }
    this.#settle(header.cookieLow, request);
    return true;
  }

  /** Moves payload bytes into the read's memory; false when not all have come. */
  #takeData(request: Request, start: number, bytes: number): boolean {
    const piece = this.agreement.reader.queue.tryTakeIov(bytes);
    if (piece === undefined) return false;
    request.into?.slice(start, bytes).copyFromIov(piece);
    request.covered += bytes;
    return true;
  }

  #chunk(header: Chunk, request: Request): boolean {
    const { queue } = this.agreement.reader;
    const limit = header.type === NbdChunk.offsetData ? NBD_MAX_PAYLOAD + 8 : MAX_SMALL_CHUNK;
    if (header.length > limit) throw protocol('Server sent a chunk that is too long');
    if (queue.length < header.length) return false;
    switch (header.type) {
      case NbdChunk.none:
        if (header.length !== 0 || (header.flags & NBD_CHUNK_DONE) === 0) {
          throw protocol('Server sent a malformed NONE chunk');
        }
        break;
      case NbdChunk.offsetData:
        this.#data(header, request);
        break;
      case NbdChunk.offsetHole:
        this.#hole(header, request);
        break;
      case NbdChunk.blockStatus:
      case NbdChunk.blockStatusExt:
        this.#status(header, request);
        break;
      default:
        this.#other(header, request);
    }
    if ((header.flags & NBD_CHUNK_DONE) !== 0) this.#settle(header.cookieLow, request);
    return true;
  }

  #data(header: Chunk, request: Request): void {
    const { queue } = this.agreement.reader;
    if (header.length <= 8) throw protocol('Server sent a data chunk without data');
    const head = queue.tryTake(8);
    if (head === undefined) throw protocol('Server sent a short chunk');
    const offset = readU64(new DataView(head.buffer, head.byteOffset), 0);
    const bytes = header.length - 8;
    this.#claim(request, offset, bytes);
    this.#takeData(request, offset - request.offset, bytes);
  }

  #hole(header: Chunk, request: Request): void {
    const b = this.agreement.reader.queue.tryTake(header.length);
    if (b?.byteLength !== 12) throw protocol('Server sent a malformed hole chunk');
    const v = new DataView(b.buffer, b.byteOffset);
    const offset = readU64(v, 0);
    const bytes = v.getUint32(8);
    this.#claim(request, offset, bytes);
    request.into?.fill(0, offset - request.offset, bytes);
    request.covered += bytes;
  }

  /** C2: the range is inside the request and no other chunk has it. */
  #claim(request: Request, offset: number, bytes: number): void {
    if (request.type !== NbdCmd.read) throw protocol('Server sent data for no read');
    const end = offset + bytes;
    if (bytes === 0 || offset < request.offset || end > request.offset + request.length) {
      throw protocol('Server sent a chunk outside of the range that was asked for');
    }
    for (const r of request.ranges) {
      if (offset < r.end && r.start < end) throw protocol('Server sent overlapping chunks');
    }
    const last = request.ranges[request.ranges.length - 1];
    if (last?.end === offset) last.end = end;
    else request.ranges.push({ start: offset, end });
  }

  #status(header: Chunk, request: Request): void {
    if (request.type !== NbdCmd.blockStatus) throw protocol('Server sent an unasked block status');
    const b = this.agreement.reader.queue.tryTake(header.length);
    if (b === undefined) throw protocol('Server sent a short chunk');
    const r = new NbdReader(b);
    const wide = header.type === NbdChunk.blockStatusExt;
    if (wide !== this.agreement.extended) throw protocol('Server sent the wrong kind of status');
    const id = r.u32();
    const count = wide ? r.u32() : undefined;
    if (id !== this.agreement.contextId || request.runs !== undefined) {
      throw protocol('Server sent a block status for an unknown context');
    }
    const runs: StatusRun[] = [];
    const entry = wide ? 16 : 8;
    if (r.left === 0 || r.left % entry !== 0) throw protocol('Server sent a malformed status');
    while (r.left > 0) {
      const bytes = (wide ? r.u64() : r.u32()) ?? 0;
      const flags = (wide ? r.u64() : r.u32()) ?? 0;
      if (bytes === 0 || !Number.isSafeInteger(bytes))
        throw protocol('Server sent an empty extent');
      runs.push({ bytes, flags });
    }
    if (count !== undefined && count !== runs.length) throw protocol('Server miscounted extents');
    request.runs = runs;
  }

  /** An error chunk; unknown types that are no errors break the protocol. */
  #other(header: Chunk, request: Request): void {
    const b = this.agreement.reader.queue.tryTake(header.length);
    if ((header.type & 0x8000) === 0 || b === undefined || b.byteLength < 6) {
      throw protocol(`Server sent an unknown chunk of type ${header.type}`);
    }
    const r = new NbdReader(b);
    const errno = r.u32() ?? 0;
    const text = r.bytes(r.u16() ?? 0);
    if (errno === 0 || text === undefined) throw protocol('Server sent a malformed error chunk');
    request.failure ??= new BlockError(nbdErrnoName(errno), undefined, { cause: nbdText(text) });
  }

  #settle(cookie: number, request: Request): void {
    this.#requests.delete(cookie);
    if (request.failure !== undefined) {
      request.reject(request.failure);
    } else if (request.type === NbdCmd.read && request.covered !== request.length) {
      request.reject(new BlockError('EIO', 'Server left out a part of the data'));
    } else if (request.type === NbdCmd.blockStatus && request.runs === undefined) {
      request.reject(new BlockError('EIO', 'Server sent no block status'));
    } else {
      request.resolve(request.runs ?? []);
    }
  }
}

function protocol(message: string): BlockError {
  return new BlockError('EIO', message);
}
