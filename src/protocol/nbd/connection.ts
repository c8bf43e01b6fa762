/**
 * The transmission phase as a client: requests with cookies, replies in any order.
 *
 * Invariants
 *  C1  Each request settles exactly once: by its final chunk, or when the connection ends.
 *  C2  No byte of a reply is taken that lies outside the range asked for, that overlaps
 *      another chunk of the same reply, or that answers no request in flight; such a reply
 *      ends the connection.
 *  C3  A read succeeds only when chunks covered all of its range.
 *  C4  Memory held for replies is bounded: data goes straight to where the request wants it,
 *      other payloads are at most MAX_SMALL_CHUNK long.
 *
 * A broken connection never comes back: a new one takes its place (see instance.ts).
 */
import { BlockError } from '../../block/errors.js';
import type { Iov } from '../../lib/iov.js';
import type { NbdChunkHeader, NbdReplyHeader } from '../../wire/nbd.js';
import {
  decodeReply,
  encodeRequest,
  NBD_CHUNK_DONE,
  NBD_EXTENDED_REQUEST_BYTES,
  NBD_REQUEST_BYTES,
  NbdChunk,
  NbdCmd,
  NbdCmdFlag,
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
  /** Bytes of a read that chunks covered. */
  covered: number;
  /** Parts of a read that chunks covered, neighbours joined; unused by simple replies. */
  ranges: { start: number; end: number }[] | undefined;
  runs: StatusRun[] | undefined;
  failure: BlockError | undefined;
  readonly resolve: (runs: StatusRun[]) => void;
  readonly reject: (e: Error) => void;
}

/** Longest chunk that is no data: an error message or extents. */
const MAX_SMALL_CHUNK = 1024 * 1024 * 16;
/** Most separate parts in which a server may send the data of one read. */
const MAX_PARTS = 4096;

/** Data that is arriving. */
interface Incoming {
  readonly cookie: number;
  readonly request: Request;
  /** Next byte, counted from the request's offset, and the end. */
  at: number;
  readonly end: number;
  /** The reply ends with these bytes. */
  readonly last: boolean;
}

export class NbdConnection {
  readonly agreement: NbdAgreement;
  /** Called once when the connection is of no more use. */
  onDead: ((error: Error) => void) | undefined;
  readonly #requests = new Map<number, Request>();
  #nextCookie = 0;
  #dead: Error | undefined;
  #out: Uint8Array[] = [];
  #flushQueued = false;
  #header: NbdReplyHeader | undefined;
  #incoming: Incoming | undefined;

  constructor(agreement: NbdAgreement) {
    this.agreement = agreement;
    const { reader } = agreement;
    reader.onEnd = (error): void => {
      this.#die(error ?? new BlockError('EIO', 'The NBD server closed the connection'));
    };
    reader.setPush(() => {
      this.#receive();
    });
    if (reader.ended) this.#die(new BlockError('EIO', 'The NBD server closed the connection'));
    else this.#receive();
  }

  get isDead(): boolean {
    return this.#dead !== undefined;
  }

  /** Why it is dead. */
  get death(): Error | undefined {
    return this.#dead;
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
        ranges: undefined,
        runs: undefined,
        failure: undefined,
        resolve,
        reject,
      });
      const withPayload = this.agreement.extended && type === NbdCmd.write;
      const all = withPayload ? flags | NbdCmdFlag.payloadLen : flags;
      this.#send(this.#encode(type, all, cookie, offset, length), data?.payload);
    });
  }

  /**
   * Says goodbye; requests in flight are answered first by a well-behaved server. Resolves when
   * the goodbye is sent and the connection closed.
   */
  async close(): Promise<void> {
    if (this.#dead !== undefined) return;
    this.#send(this.#encode(NbdCmd.disc, 0, 0, 0, 0), undefined);
    this.#flush();
    await this.agreement.reader.stream.end();
  }

  /** Breaks the connection off. */
  destroy(error: Error): void {
    this.#die(error);
  }

  #encode(
    type: number,
    flags: number,
    cookieLow: number,
    offset: number,
    length: number,
  ): Uint8Array {
    const { extended } = this.agreement;
    const head = new Uint8Array(extended ? NBD_EXTENDED_REQUEST_BYTES : NBD_REQUEST_BYTES);
    const request = { type, flags, cookieHigh: 0, cookieLow, offset, length };
    encodeRequest(new DataView(head.buffer), 0, request, extended);
    return head;
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
    this.#incoming = undefined;
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

  /** Takes one header, one payload or a part of one; false when more bytes are needed. */
  #step(): boolean {
    if (this.#incoming !== undefined) return this.#takeData(this.#incoming);
    this.#header ??= this.#tryHeader();
    const header = this.#header;
    if (header === undefined) return false;
    const request = header.cookieHigh === 0 ? this.#requests.get(header.cookieLow) : undefined;
    if (request === undefined) throw protocol('Server replied to a request that was not made');
    const done =
      header.kind === 'simple' ? this.#simple(header, request) : this.#chunk(header, request);
    if (done) this.#header = undefined;
    return done;
  }

  #tryHeader(): NbdReplyHeader | undefined {
    const { queue } = this.agreement.reader;
    let at = queue.tryHead(4);
    if (at < 0) return undefined;
    const bytes = replyHeaderBytes(queue.view.getUint32(at));
    if (bytes === undefined) throw protocol('Server sent a reply with wrong magic');
    at = queue.tryHead(bytes);
    if (at < 0) return undefined;
    const header = decodeReply(queue.view, at);
    queue.drop(bytes);
    const { structured, extended } = this.agreement;
    const wrong =
      header.kind === 'simple'
        ? extended
        : !structured || (header.offset !== undefined) !== extended;
    if (wrong) throw protocol('Server sent a reply of a kind that was not negotiated');
    return header;
  }

  #simple(header: Extract<NbdReplyHeader, { kind: 'simple' }>, request: Request): boolean {
    const cookie = header.cookieLow;
    if (header.errno !== 0) {
      request.failure = new BlockError(nbdErrnoName(header.errno));
      this.#settle(cookie, request);
      return true;
    }
    if (request.type !== NbdCmd.read) {
      if (request.type === NbdCmd.blockStatus) {
        throw protocol('Server sent a simple reply to a block status request');
      }
      this.#settle(cookie, request);
      return true;
    }
    if (this.agreement.structured) {
      throw protocol('Server sent a simple reply to a read despite structured replies');
    }
    this.#expectData(cookie, request, 0, request.length, true);
    return true;
  }

  /** The bytes that come next are data; `start` counts from the request's offset. */
  #expectData(cookie: number, request: Request, start: number, bytes: number, last: boolean): void {
    this.#incoming = { cookie, request, at: start, end: start + bytes, last };
  }

  /** Moves what has come of the data into the read's memory; false when more must come. */
  #takeData(incoming: Incoming): boolean {
    const { queue } = this.agreement.reader;
    const { request, end } = incoming;
    const n = Math.min(queue.length, end - incoming.at);
    if (request.into === undefined) queue.drop(n);
    else if (n > 0) queue.moveTo(request.into, incoming.at, n);
    incoming.at += n;
    request.covered += n;
    if (incoming.at < end) return false;
    this.#incoming = undefined;
    if (incoming.last) this.#settle(incoming.cookie, request);
    return true;
  }

  #chunk(header: NbdChunkHeader, request: Request): boolean {
    const { queue } = this.agreement.reader;
    if (header.type === NbdChunk.offsetData) return this.#data(header, request);
    if (header.length > MAX_SMALL_CHUNK) throw protocol('Server sent a chunk that is too long');
    const payload = queue.tryTake(header.length);
    if (payload === undefined) return false;
    switch (header.type) {
      case NbdChunk.none:
        if (header.length !== 0 || (header.flags & NBD_CHUNK_DONE) === 0) {
          throw protocol('Server sent a malformed NONE chunk');
        }
        break;
      case NbdChunk.offsetHole:
        this.#hole(payload, request);
        break;
      case NbdChunk.blockStatus:
      case NbdChunk.blockStatusExt:
        this.#status(header, payload, request);
        break;
      default:
        this.#error(header, payload, request);
    }
    if ((header.flags & NBD_CHUNK_DONE) !== 0) this.#settle(header.cookieLow, request);
    return true;
  }

  #data(header: NbdChunkHeader, request: Request): boolean {
    if (header.length <= 8) throw protocol('Server sent a data chunk without data');
    const { queue } = this.agreement.reader;
    const at = queue.tryHead(8);
    if (at < 0) return false;
    const offset = readU64(queue.view, at);
    queue.drop(8);
    const bytes = header.length - 8;
    this.#claim(request, offset, bytes);
    const last = (header.flags & NBD_CHUNK_DONE) !== 0;
    this.#expectData(header.cookieLow, request, offset - request.offset, bytes, last);
    return true;
  }

  #hole(payload: Uint8Array, request: Request): void {
    if (payload.byteLength !== 12) throw protocol('Server sent a malformed hole chunk');
    const v = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
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
    const ranges = (request.ranges ??= []);
    for (const r of ranges) {
      if (offset < r.end && r.start < end) throw protocol('Server sent overlapping chunks');
    }
    const last = ranges[ranges.length - 1];
    if (last?.end === offset) {
      last.end = end;
      return;
    }
    if (ranges.length >= MAX_PARTS) throw protocol('Server sent a read in too many parts');
    ranges.push({ start: offset, end });
  }

  #status(header: NbdChunkHeader, payload: Uint8Array, request: Request): void {
    if (request.type !== NbdCmd.blockStatus) throw protocol('Server sent an unasked block status');
    const r = new NbdReader(payload);
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
      if (bytes === 0 || !Number.isSafeInteger(bytes)) {
        throw protocol('Server sent an extent of impossible length');
      }
      runs.push({ bytes, flags });
    }
    if (count !== undefined && count !== runs.length) throw protocol('Server miscounted extents');
    request.runs = runs;
  }

  /** An error chunk; unknown types that are no errors break the protocol. */
  #error(header: NbdChunkHeader, payload: Uint8Array, request: Request): void {
    if ((header.type & 0x8000) === 0) {
      throw protocol(`Server sent an unknown chunk of type ${header.type}`);
    }
    const r = new NbdReader(payload);
    const errno = r.u32() ?? 0;
    const text = r.bytes(r.u16() ?? 0);
    if (payload.byteLength < 6 || errno === 0 || text === undefined) {
      throw protocol('Server sent a malformed error chunk');
    }
    if (header.type === NbdChunk.errorOffset) this.#checkErrorOffset(r, request);
    request.failure ??= new BlockError(nbdErrnoName(errno), undefined, { cause: nbdText(text) });
  }

  #checkErrorOffset(r: NbdReader, request: Request): void {
    const offset = r.u64();
    if (offset === undefined || r.left > 0) throw protocol('Server sent a malformed error chunk');
    if (offset < request.offset || offset > request.offset + request.length) {
      throw protocol('Server sent an error for an offset that was not asked for');
    }
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
