/**
 * The transmission phase of one client: requests in, replies out, many in flight.
 *
 * Invariants
 *  S1  Each request gets exactly one final reply, whatever fails; only a broken stream
 *      (wrong magic, peer gone) ends the session without.
 *  S2  A write, trim or zero write is answered after it completed; with FUA after it is durable.
 *  S3  No more than MAX_REQUESTS requests or MAX_BYTES of data are in flight: reading of the
 *      stream stops until some are answered.
 *  S4  DISC lets requests in flight finish; their replies are sent before the end.
 *
 * Replies of one event-loop turn go out as one vectored write.
 */
import type { StreamReader } from '../../host/stream-reader.js';
import { BlockError, errorCode } from '../../block/errors.js';
import { chainStatus } from '../../block/status.js';
import { Req } from '../../block/types.js';
import { Iov } from '../../lib/iov.js';
import type { NbdRequest } from '../../wire/nbd.js';
import {
  decodeRequest,
  encodeChunk,
  encodeSimpleReply,
  NBD_CHUNK_DONE,
  NBD_EXTENDED_REPLY_BYTES,
  NBD_EXTENDED_REQUEST_BYTES,
  NBD_MAX_PAYLOAD,
  NBD_REQUEST_BYTES,
  NBD_SIMPLE_REPLY_BYTES,
  NBD_STRUCTURED_REPLY_BYTES,
  NbdChunk,
  NbdCmd,
  NbdCmdFlag,
  nbdErrno,
  NbdReader,
  NbdWriter,
  writeU64,
} from '../../wire/nbd.js';
import type { NbdExport } from './export.js';
import type { ChosenContext, Negotiated } from './handshake.js';

/** Requests that one client may have in flight. */
const MAX_REQUESTS = 256;
/** Bytes of data that the requests of one client may hold in flight. */
const MAX_BYTES = 96 * 1024 * 1024;
/** Reads at least this long are looked at for holes, which travel without their zeroes. */
const SPARSE_READ = 64 * 1024;
/** Most extents in one answer, so that it stays below 1 MiB. */
const MAX_EXTENTS = 64 * 1024;
/** Reads up to this size take header and data from a common slab. */
const SLAB_READ = 64 * 1024;
const SLAB_BYTES = 1024 * 1024;

interface Work extends NbdRequest {
  readonly payload: Iov | undefined;
}

export class NbdSession {
  readonly #reader: StreamReader;
  readonly #export: NbdExport;
  readonly #structured: boolean;
  readonly #extended: boolean;
  readonly #contexts: readonly ChosenContext[];
  readonly #headerBytes: number;
  #requests = 0;
  #bytes = 0;
  #out: Uint8Array[] = [];
  #flushQueued = false;
  #slab = new Uint8Array(0);
  #slabUsed = 0;
  /** A write whose payload has not fully arrived. */
  #pending: NbdRequest | undefined;
  /** Payload bytes to read past, of a request that was refused. */
  #skip = 0;
  #leaving = false;
  #paused = false;
  #finish: () => void = () => undefined;

  constructor(negotiated: Negotiated) {
    this.#reader = negotiated.reader;
    this.#export = negotiated.export;
    this.#structured = negotiated.structured;
    this.#extended = negotiated.extended;
    this.#contexts = negotiated.contexts;
    this.#headerBytes = negotiated.extended ? NBD_EXTENDED_REQUEST_BYTES : NBD_REQUEST_BYTES;
  }

  /** Serves until the client leaves or the stream breaks, and all requests are done. */
  async run(): Promise<void> {
    const done = new Promise<void>((resolve) => {
      this.#finish = resolve;
    });
    this.#reader.onEnd = (): void => {
      this.#leave();
    };
    this.#reader.onBytes = (): void => {
      this.#parse();
    };
    if (this.#reader.ended) this.#leave();
    this.#parse();
    await done;
    this.#flush();
    await this.#reader.stream.end();
  }

  /** Takes no more requests; those in flight finish (S4). */
  stop(): void {
    this.#leave();
  }

  #leave(): void {
    this.#leaving = true;
    this.#reader.onBytes = (): void => undefined;
    if (this.#requests === 0) this.#finish();
  }

  #parse(): void {
    const { queue } = this.#reader;
    while (!this.#leaving) {
      if (this.#skip > 0) {
        const n = Math.min(this.#skip, queue.length);
        queue.drop(n);
        this.#skip -= n;
        if (this.#skip > 0) return;
      }
      if (this.#requests >= MAX_REQUESTS || this.#bytes >= MAX_BYTES) {
        this.#pause();
        return;
      }
      const request = this.#pending ?? this.#header();
      if (request === undefined) return;
      if (!hasPayload(request)) {
        this.#accept({ ...request, payload: undefined });
        continue;
      }
      const payload = queue.tryTakeIov(request.length);
      if (payload === undefined) {
        this.#pending = request;
        return;
      }
      this.#pending = undefined;
      this.#accept({ ...request, payload });
    }
  }

  /** The next header; undefined when more bytes are needed or the stream is broken. */
  #header(): NbdRequest | undefined {
    const head = this.#reader.queue.tryTake(this.#headerBytes);
    if (head === undefined) return undefined;
    const request = decodeRequest(head, this.#extended);
    if (request === undefined) {
      this.#reader.stream.destroy();
      this.#leave();
      return undefined;
    }
    if (hasPayload(request) && request.length > NBD_MAX_PAYLOAD) {
      if (!Number.isSafeInteger(request.length)) {
        this.#reader.stream.destroy();
        this.#leave();
        return undefined;
      }
      this.#skip = request.length;
      this.#requests++;
      this.#answer(this.#fail(request, new BlockError('EINVAL', 'Payload is too long')), 0);
      return this.#skip > this.#reader.queue.length ? undefined : this.#header();
    }
    return request;
  }

  #pause(): void {
    if (this.#paused) return;
    this.#paused = true;
    this.#reader.stream.pause();
  }

  #accept(work: Work): void {
    if (work.type === NbdCmd.disc) {
      this.#leave();
      return;
    }
    const held = work.type === NbdCmd.read ? Math.min(work.length, NBD_MAX_PAYLOAD) : 0;
    const bytes = held + (work.payload?.bytes ?? 0);
    this.#requests++;
    this.#bytes += bytes;
    const refused = this.#refusal(work);
    const run = refused === undefined ? this.#execute(work) : Promise.reject(refused);
    run.then(
      (pieces) => {
        this.#answer(pieces, bytes);
      },
      (e: unknown) => {
        this.#answer(this.#fail(work, e), bytes);
      },
    );
  }

  #answer(pieces: readonly Uint8Array[], bytes: number): void {
    for (const piece of pieces) this.#out.push(piece);
    if (!this.#flushQueued) {
      this.#flushQueued = true;
      queueMicrotask(this.#flush);
    }
    this.#bytes -= bytes;
    if (--this.#requests === 0 && this.#leaving) {
      this.#finish();
      return;
    }
    if (this.#paused && this.#requests < MAX_REQUESTS / 2 && this.#bytes < MAX_BYTES / 2) {
      this.#paused = false;
      this.#reader.stream.resume();
      queueMicrotask(() => {
        this.#parse();
      });
    }
  }

  readonly #flush = (): void => {
    this.#flushQueued = false;
    if (this.#out.length === 0) return;
    const out = this.#out;
    this.#out = [];
    this.#reader.stream.write(out);
  };

  /** What the document forbids, as an error for the client; undefined when all is well. */
  #refusal(work: Work): BlockError | undefined {
    const invalid = (why: string): BlockError => new BlockError('EINVAL', why);
    const { type, flags, offset, length } = work;
    if ((flags & ~this.#allowedFlags(type)) !== 0) {
      return invalid('unsupported flags');
    }
    const changes = type === NbdCmd.write || type === NbdCmd.trim || type === NbdCmd.writeZeroes;
    if (changes && !this.#export.writable) {
      return new BlockError('EPERM', 'Export is read-only');
    }
    if (type === NbdCmd.flush) return undefined;
    if (type > NbdCmd.blockStatus) return invalid(`invalid request type (${type}) received`);
    if (type === NbdCmd.read && length > NBD_MAX_PAYLOAD) {
      return invalid(`len (${length}) is larger than max len (${NBD_MAX_PAYLOAD})`);
    }
    if (!(offset <= this.#export.size && offset + length <= this.#export.size)) {
      const code = type === NbdCmd.write || type === NbdCmd.writeZeroes ? 'ENOSPC' : 'EINVAL';
      return new BlockError(code, 'operation past EOF');
    }
    if (type === NbdCmd.blockStatus) {
      if (length === 0) return invalid('need non-zero length');
      if (this.#contexts.length === 0) return invalid('CMD_BLOCK_STATUS not negotiated');
    }
    return undefined;
  }

  #allowedFlags(type: number): number {
    let allowed: number = NbdCmdFlag.fua;
    if (type === NbdCmd.read && this.#structured) allowed |= NbdCmdFlag.df;
    if (type === NbdCmd.writeZeroes) allowed |= NbdCmdFlag.noHole | NbdCmdFlag.fastZero;
    if (type === NbdCmd.blockStatus) allowed |= NbdCmdFlag.reqOne;
    if (this.#extended && (type === NbdCmd.write || type === NbdCmd.blockStatus)) {
      allowed |= NbdCmdFlag.payloadLen;
    }
    return allowed;
  }

  #execute(work: Work): Promise<readonly Uint8Array[]> {
    const { backend } = this.#export;
    const fua = (work.flags & NbdCmdFlag.fua) !== 0 ? Req.fua : 0;
    switch (work.type) {
      case NbdCmd.read:
        return this.#read(work);
      case NbdCmd.write:
        return this.#done(work, backend.write(work.offset, work.payload ?? Iov.alloc(0), fua));
      case NbdCmd.flush:
        return this.#done(work, backend.flush());
      case NbdCmd.trim:
        return this.#done(work, this.#trim(work, fua !== 0));
      case NbdCmd.writeZeroes: {
        const unmap = (work.flags & NbdCmdFlag.noHole) === 0 ? Req.mayUnmap : 0;
        const fast = (work.flags & NbdCmdFlag.fastZero) !== 0 ? Req.noFallback : 0;
        const flags = fua | unmap | fast;
        return this.#done(work, backend.writeZeroes(work.offset, work.length, flags));
      }
      case NbdCmd.cache:
        return this.#done(work, this.#cache(work));
      case NbdCmd.blockStatus:
        return this.#status(work);
      default:
        return Promise.reject(new BlockError('EINVAL'));
    }
  }

  async #trim(work: Work, fua: boolean): Promise<void> {
    await this.#export.backend.discard(work.offset, work.length);
    if (fua) await this.#export.backend.flush();
  }

  /** CACHE: brings the range closer by reading it. */
  async #cache(work: Work): Promise<void> {
    const step = 1024 * 1024;
    for (let at = 0; at < work.length; at += step) {
      const piece = Iov.alloc(Math.min(step, work.length - at));
      await this.#export.backend.read(work.offset + at, piece, 0);
    }
  }

  async #done(work: Work, request: Promise<void>): Promise<readonly Uint8Array[]> {
    await request;
    return [this.#final(work, NbdChunk.none, 0)];
  }

  /** A header that ends the request, with room for `payload` bytes behind it. */
  #final(work: NbdRequest, type: number, payload: number): Uint8Array {
    if (!this.#structured) {
      const b = new Uint8Array(NBD_SIMPLE_REPLY_BYTES);
      encodeSimpleReply(b, work, 0);
      return b;
    }
    return this.#chunk(work, NBD_CHUNK_DONE, type, payload, 0);
  }

  /** A chunk header followed by `inline` bytes to be filled in, of `payload` bytes in all. */
  #chunk(
    work: NbdRequest,
    flags: number,
    type: number,
    payload: number,
    inline: number,
  ): Uint8Array {
    const size = this.#extended ? NBD_EXTENDED_REPLY_BYTES : NBD_STRUCTURED_REPLY_BYTES;
    const b = new Uint8Array(size + inline);
    const { cookieHigh, cookieLow, offset } = work;
    encodeChunk(b, { flags, type, cookieHigh, cookieLow, length: payload, offset }, this.#extended);
    return b;
  }

  #fail(work: NbdRequest, e: unknown): readonly Uint8Array[] {
    const errno = nbdErrno(errorCode(e));
    if (!this.#structured) {
      const b = new Uint8Array(NBD_SIMPLE_REPLY_BYTES);
      encodeSimpleReply(b, work, errno);
      return [b];
    }
    const text = new TextEncoder().encode(e instanceof Error ? e.message.slice(0, 1024) : '');
    const data = new NbdWriter().u32(errno).u16(text.byteLength).bytes(text).done();
    return [this.#chunk(work, NBD_CHUNK_DONE, NbdChunk.error, data.byteLength, 0), data];
  }

  // hot: bench/nbd
  #read(work: Work): Promise<readonly Uint8Array[]> {
    const { length, offset } = work;
    const sparse = this.#structured && (work.flags & NbdCmdFlag.df) === 0;
    if (sparse && length >= SPARSE_READ) return this.#sparseRead(work);
    if (length === 0) return Promise.resolve([this.#final(work, NbdChunk.none, 0)]);
    const headBytes = this.#dataHeaderBytes();
    const block = this.#take(headBytes + length);
    this.#dataHeader(block, work, offset, length, NBD_CHUNK_DONE);
    const data = Iov.of(block.subarray(headBytes));
    return this.#export.backend.read(offset, data).then(() => [block]);
  }

  #dataHeaderBytes(): number {
    if (!this.#structured) return NBD_SIMPLE_REPLY_BYTES;
    return 8 + (this.#extended ? NBD_EXTENDED_REPLY_BYTES : NBD_STRUCTURED_REPLY_BYTES);
  }

  #dataHeader(b: Uint8Array, work: Work, offset: number, length: number, flags: number): void {
    if (!this.#structured) {
      encodeSimpleReply(b, work, 0);
      return;
    }
    const { cookieHigh, cookieLow } = work;
    const head = encodeChunk(
      b,
      {
        flags,
        type: NbdChunk.offsetData,
        cookieHigh,
        cookieLow,
        length: length + 8,
        offset: work.offset,
      },
      this.#extended,
    );
    writeU64(new DataView(b.buffer, b.byteOffset), head, offset);
  }

  /** Memory for a small reply out of a common slab; a large one of its own. */
  #take(bytes: number): Uint8Array {
    if (bytes > SLAB_READ) return new Uint8Array(bytes);
    if (this.#slabUsed + bytes > this.#slab.byteLength) {
      this.#slab = new Uint8Array(SLAB_BYTES);
      this.#slabUsed = 0;
    }
    const start = this.#slabUsed;
    this.#slabUsed = start + ((bytes + 7) & ~7);
    return this.#slab.subarray(start, start + bytes);
  }

  /** One chunk for each run: data, or a hole where the image knows that it reads as zeroes. */
  async #sparseRead(work: Work): Promise<readonly Uint8Array[]> {
    const { backend } = this.#export;
    const out: Uint8Array[] = [];
    const headBytes = this.#dataHeaderBytes();
    for (let at = 0; at < work.length;) {
      const offset = work.offset + at;
      const run = await chainStatus(backend.node, undefined, offset, work.length - at);
      const n = run.bytes === 0 ? work.length - at : run.bytes;
      at += n;
      const flags = at === work.length ? NBD_CHUNK_DONE : 0;
      if (run.zero) {
        out.push(this.#hole(work, flags, offset, n));
        continue;
      }
      const block = new Uint8Array(headBytes + n);
      this.#dataHeader(block, work, offset, n, flags);
      await backend.read(offset, Iov.of(block.subarray(headBytes)));
      out.push(block);
    }
    return out;
  }

  #hole(work: Work, flags: number, offset: number, bytes: number): Uint8Array {
    const b = this.#chunk(work, flags, NbdChunk.offsetHole, 12, 12);
    const v = new DataView(b.buffer, b.byteLength - 12);
    writeU64(v, 0, offset);
    v.setUint32(8, bytes);
    return b;
  }

  async #status(work: Work): Promise<readonly Uint8Array[]> {
    const chosen = this.#statusContexts(work);
    const max = (work.flags & NbdCmdFlag.reqOne) !== 0 ? 1 : MAX_EXTENTS;
    // Without extended headers an extent has 32 bits: longer ones are cut.
    const cap = this.#extended ? work.length : Math.min(work.length, 0xffff_f000);
    const out: Uint8Array[] = [];
    for (const [i, { id, context }] of chosen.entries()) {
      const extents = await context.extents(work.offset, cap, max);
      const data = new NbdWriter().u32(id);
      if (this.#extended) data.u32(extents.length);
      for (const e of extents) {
        if (this.#extended) data.u64(e.length).u64(e.flags);
        else data.u32(e.length).u32(e.flags);
      }
      const payload = data.done();
      const flags = i === chosen.length - 1 ? NBD_CHUNK_DONE : 0;
      const type = this.#extended ? NbdChunk.blockStatusExt : NbdChunk.blockStatus;
      out.push(this.#chunk(work, flags, type, payload.byteLength, 0), payload);
    }
    return out.length > 0 ? out : [this.#final(work, NbdChunk.none, 0)];
  }

  /** All contexts, or those that a payload picks out (extended headers). */
  #statusContexts(work: Work): readonly ChosenContext[] {
    if (work.payload === undefined) return this.#contexts;
    const r = new NbdReader(work.payload.flatten());
    r.u64();
    const ids = new Set<number>();
    while (r.left >= 4) ids.add(r.u32() ?? 0);
    const chosen = this.#contexts.filter((c) => ids.has(c.id));
    if (r.left > 0 || chosen.length !== ids.size) {
      throw new BlockError('EINVAL', 'Unknown metadata context');
    }
    return chosen;
  }
}

/** Whether the bytes behind a header are its payload. */
function hasPayload(r: NbdRequest): boolean {
  if (r.type === NbdCmd.write) return true;
  return (r.flags & NbdCmdFlag.payloadLen) !== 0;
}
