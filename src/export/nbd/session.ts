/**
 * The transmission phase of one client: requests in, replies out, many in flight.
 *
 * Invariants
 *  S1  Each request gets exactly one final reply, whatever fails; only a broken stream
 *      (wrong magic, peer gone) ends the session without.
 *  S2  A write, trim or zero write is answered after it completed; with FUA after it is durable.
 *  S3  No more than MAX_REQUESTS requests or MAX_BYTES of data are in flight, and none is begun
 *      while the client does not take its replies: reading of the stream stops meanwhile.
 *  S4  DISC and a half-closed stream let requests in flight finish; their replies are sent
 *      before the end.
 *  S5  Requests are checked against the length that was negotiated, for the client knows no other.
 */
import type { StreamReader } from '../../host/stream-reader.js';
import { BlockError, errorCode, messageOf } from '../../block/errors.js';
import { chainStatus } from '../../block/status.js';
import { Req } from '../../block/types.js';
import { Iov } from '../../lib/iov.js';
import type { NbdRequest } from '../../wire/nbd.js';
import {
  decodeRequest,
  NBD_CHUNK_DONE,
  NBD_EXTENDED_REQUEST_BYTES,
  NBD_MAX_PAYLOAD,
  NBD_REQUEST_BYTES,
  NbdCmd,
  NbdCmdFlag,
  nbdErrno,
} from '../../wire/nbd.js';
import type { NbdExport } from './export.js';
import { FileReplies } from './file-replies.js';
import type { ChosenContext, Negotiated } from './handshake.js';
import { Replies } from './replies.js';
import type { ReplyMemory } from './reply-memory.js';
import { answerStatus } from './status-reply.js';

/** Requests that one client may have in flight. */
const MAX_REQUESTS = 256;
/**
 * Bytes of data that the requests of one client may hold in flight; the last one begun may go
 * beyond. More than this keeps no disk busier, and would not stay in the processor's cache.
 */
const MAX_BYTES = 8 * 1024 * 1024;
/**
 * Reads at least this long are looked at for holes, which travel without their zeroes, and may
 * go from the file to the socket without being copied.
 */
const LONG_READ = 64 * 1024;
/** How far ahead of such a read the look goes: clients read on. */
const LOOK_AHEAD = 16 * 1024 * 1024;
/** CACHE reads this much at a time. */
const CACHE_STEP = 1024 * 1024;

/** A request with what belongs to it. */
export interface Work extends NbdRequest {
  payload?: Iov;
}

interface Run {
  readonly offset: number;
  bytes: number;
  readonly zero: boolean;
}

export class NbdSession {
  readonly #reader: StreamReader;
  readonly #export: NbdExport;
  readonly #size: number;
  readonly #structured: boolean;
  readonly #extended: boolean;
  readonly #contexts: readonly ChosenContext[];
  readonly #headerBytes: number;
  readonly #replies: Replies;
  readonly #files: FileReplies;
  readonly #memory: ReplyMemory;
  #requests = 0;
  #bytes = 0;
  /** A range that held data when last looked at: reading it as data is right for ever. */
  #data = { start: 0, end: 0 };
  /** The client does not take its replies. */
  #blocked = false;
  /** A request whose payload has not fully arrived. */
  #pending: Work | undefined;
  /** Payload bytes to read past, of a request that was refused. */
  #skip = 0;
  #leaving = false;
  #paused = false;
  #finish: () => void = () => undefined;

  constructor(negotiated: Negotiated, memory: ReplyMemory) {
    this.#reader = negotiated.reader;
    this.#export = negotiated.export;
    this.#size = negotiated.size;
    this.#structured = negotiated.structured;
    this.#extended = negotiated.extended;
    this.#contexts = negotiated.contexts;
    this.#headerBytes = negotiated.extended ? NBD_EXTENDED_REQUEST_BYTES : NBD_REQUEST_BYTES;
    this.#memory = memory;
    const { structured, extended } = negotiated;
    const aligned = this.#export.backend.node.limits.requestAlignment > 1;
    const style = { structured, extended, aligned };
    this.#replies = new Replies(this.#reader.stream, memory, style, (roomLeft) => {
      this.#blocked = !roomLeft;
    });
    const { backend } = this.#export;
    this.#files = new FileReplies(this.#reader.stream, backend, this.#replies, memory);
  }

  /** Serves until the client leaves or the stream breaks, and all requests are done. */
  async run(): Promise<void> {
    const done = new Promise<void>((resolve) => {
      this.#finish = resolve;
    });
    const reader = this.#reader;
    reader.onEnd = (): void => {
      this.#leave();
    };
    reader.stream.onDrain = (): void => {
      this.#blocked = false;
      this.#goOn();
    };
    if (reader.ended) this.#leave();
    reader.setPush(() => {
      this.#parse();
    });
    this.#parse();
    await done;
    this.#replies.flush();
    await reader.stream.end();
  }

  /** Takes no more requests; those in flight finish (S4). */
  stop(): void {
    this.#leave();
  }

  #leave(): void {
    this.#leaving = true;
    if (this.#requests === 0) this.#finish();
  }

  /** The peer breaks the protocol: nothing that it sends can be trusted any more. */
  #break(): void {
    this.#reader.stream.destroy();
    this.#leave();
  }

  get #isFull(): boolean {
    return this.#blocked || this.#requests >= MAX_REQUESTS || this.#bytes >= MAX_BYTES;
  }

  // hot: bench/nbd
  #parse(): void {
    const { queue } = this.#reader;
    while (!this.#leaving) {
      if (this.#skip > 0) {
        const n = Math.min(this.#skip, queue.length);
        queue.drop(n);
        this.#skip -= n;
        if (this.#skip > 0) return;
      }
      if (this.#isFull) {
        this.#pause();
        return;
      }
      const work = this.#pending ?? this.#header();
      if (work === undefined) return;
      if (hasPayload(work)) {
        const payload = queue.tryTakeIov(work.length);
        if (payload === undefined) {
          this.#pending = work;
          return;
        }
        this.#pending = undefined;
        work.payload = payload;
      }
      this.#accept(work);
    }
  }

  /** The next header; undefined when more bytes are needed or the stream is broken. */
  #header(): Work | undefined {
    const { queue } = this.#reader;
    for (;;) {
      const at = queue.tryHead(this.#headerBytes);
      if (at < 0) return undefined;
      const work = decodeRequest(queue.view, at, this.#extended);
      if (work === undefined) {
        this.#break();
        return undefined;
      }
      queue.drop(this.#headerBytes);
      if (!hasPayload(work) || work.length <= NBD_MAX_PAYLOAD) return work;
      if (!Number.isSafeInteger(work.length)) {
        this.#break();
        return undefined;
      }
      this.#skip = Math.max(0, work.length - queue.length);
      queue.drop(work.length);
      this.#requests++;
      this.#failed(work, tooLong(work), 0);
      if (this.#skip > 0) return undefined;
    }
  }

  #pause(): void {
    if (this.#paused) return;
    this.#paused = true;
    this.#reader.stream.pause();
  }

  /** Reads on after a pause when there is room again. */
  #goOn(): void {
    if (!this.#paused || this.#blocked) return;
    if (this.#requests > MAX_REQUESTS / 2 || this.#bytes > MAX_BYTES / 2) return;
    this.#paused = false;
    this.#reader.stream.resume();
    queueMicrotask(() => {
      this.#parse();
    });
  }

  // hot: bench/nbd
  #accept(work: Work): void {
    const { type } = work;
    if (type === NbdCmd.disc) {
      this.#leave();
      return;
    }
    const held = (type === NbdCmd.read ? work.length : 0) + (work.payload?.bytes ?? 0);
    this.#requests++;
    const refused = this.#refusal(work);
    if (refused !== undefined) {
      this.#failed(work, refused, 0);
      return;
    }
    this.#bytes += held;
    try {
      if (type === NbdCmd.read) this.#read(work, held);
      else this.#settle(work, this.#execute(work), held);
    } catch (e) {
      this.#failed(work, e, held);
    }
  }

  #settle(work: Work, request: Promise<unknown>, held: number): void {
    request.then(
      (answered) => {
        if (answered !== true) this.#replies.done(work);
        this.#ended(held);
      },
      (e: unknown) => {
        this.#failed(work, e, held);
      },
    );
  }

  #failed(work: Work, e: unknown, held: number): void {
    this.#replies.failed(work, nbdErrno(errorCode(e)), messageOf(e));
    this.#ended(held);
  }

  /** One request less in flight; its reply is with the others. */
  #ended(held: number): void {
    this.#bytes -= held;
    if (--this.#requests === 0 && this.#leaving) this.#finish();
    else this.#goOn();
  }

  /** What the document forbids, as an error for the client; undefined when all is well. */
  #refusal(work: Work): BlockError | undefined {
    const { type, flags, offset, length } = work;
    if ((flags & ~this.#allowedFlags(type)) !== 0) return invalid('unsupported flags');
    const changes = type === NbdCmd.write || type === NbdCmd.trim || type === NbdCmd.writeZeroes;
    if (changes && !this.#export.writable) return new BlockError('EPERM', 'Export is read-only');
    if (type === NbdCmd.flush) return undefined;
    if (type > NbdCmd.blockStatus) return invalid(`invalid request type (${type}) received`);
    if (type === NbdCmd.read && length > NBD_MAX_PAYLOAD) return tooLong(work);
    if (type === NbdCmd.blockStatus) {
      if (this.#contexts.length === 0) return invalid('CMD_BLOCK_STATUS not negotiated');
      if (length === 0) return invalid('need non-zero length');
      // With a payload the length is the payload's; the range is checked with it.
      if (work.payload !== undefined) return undefined;
    }
    return this.#outside(type, offset, length);
  }

  #outside(type: number, offset: number, length: number): BlockError | undefined {
    if (offset <= this.#size && offset + length <= this.#size) return undefined;
    const code = type === NbdCmd.write || type === NbdCmd.writeZeroes ? 'ENOSPC' : 'EINVAL';
    return new BlockError(code, 'operation past EOF');
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

  /** Resolves to true when the reply has been made already. */
  #execute(work: Work): Promise<unknown> {
    const { backend } = this.#export;
    const { type, flags, offset, length } = work;
    const fua = (flags & NbdCmdFlag.fua) !== 0 ? Req.fua : 0;
    switch (type) {
      case NbdCmd.write:
        return backend.write(offset, work.payload ?? Iov.alloc(0), fua);
      case NbdCmd.flush:
        return backend.flush();
      case NbdCmd.trim:
        return this.#trim(work, fua !== 0);
      case NbdCmd.writeZeroes: {
        const unmap = (flags & NbdCmdFlag.noHole) === 0 ? Req.mayUnmap : 0;
        const fast = (flags & NbdCmdFlag.fastZero) !== 0 ? Req.noFallback : 0;
        return backend.writeZeroes(offset, length, fua | unmap | fast);
      }
      case NbdCmd.cache:
        return this.#cache(work);
      case NbdCmd.blockStatus:
        return this.#status(work);
      default:
        return Promise.reject(invalid('invalid request'));
    }
  }

  async #trim(work: Work, fua: boolean): Promise<void> {
    await this.#export.backend.discard(work.offset, work.length);
    if (fua) await this.#export.backend.flush();
  }

  /** CACHE: brings the range closer by reading it. */
  async #cache(work: Work): Promise<void> {
    const buffer = this.#memory.buffer(Math.min(CACHE_STEP, work.length));
    try {
      for (let at = 0; at < work.length && !this.#reader.ended; at += CACHE_STEP) {
        const n = Math.min(CACHE_STEP, work.length - at);
        await this.#export.backend.read(work.offset + at, Iov.of(buffer.bytes.subarray(0, n)), 0);
      }
    } finally {
      buffer.release();
    }
  }

  // hot: bench/nbd
  #read(work: Work, held: number): void {
    const { length, offset } = work;
    if (length === 0) {
      this.#settle(work, Promise.resolve(), held);
      return;
    }
    const long = length >= LONG_READ;
    const several = long && this.#memory.takesTurns(this);
    const sparse = this.#structured && (work.flags & NbdCmdFlag.df) === 0;
    if (sparse && long && !this.#isData(offset, length)) {
      this.#settle(work, this.#sparseRead(work), held);
      return;
    }
    if (several && this.#fromFile(work, held)) return;
    const reply = this.#replies.prepareRead(work, NBD_CHUNK_DONE, offset, length);
    this.#export.backend.read(offset, reply.data).then(
      () => {
        this.#replies.sendRead(reply);
        this.#ended(held);
      },
      (e: unknown) => {
        this.#replies.dropRead(reply);
        this.#failed(work, e, held);
      },
    );
  }

  /** Whether the answer goes from a file, by itself. */
  #fromFile(work: Work, held: number): boolean {
    return this.#files.tryAnswer(work, (error) => {
      if (error !== undefined) this.#break();
      this.#ended(held);
    });
  }

  #isData(offset: number, length: number): boolean {
    return this.#data.start <= offset && offset + length <= this.#data.end;
  }

  /** One chunk for each run: data, or a hole where the image knows that it reads as zeroes. */
  async #sparseRead(work: Work): Promise<true> {
    const runs = await this.#runs(work.offset, work.length);
    const last = runs.length - 1;
    const replies = runs.map(({ offset, bytes, zero }, i) => {
      const flags = i === last ? NBD_CHUNK_DONE : 0;
      return zero ? undefined : this.#replies.prepareRead(work, flags, offset, bytes);
    });
    const reads: Promise<void>[] = [];
    for (const [i, { offset }] of runs.entries()) {
      const reply = replies[i];
      if (reply !== undefined) reads.push(this.#export.backend.read(offset, reply.data));
    }
    const results = await Promise.allSettled(reads);
    const failed = results.find((r) => r.status === 'rejected');
    if (failed !== undefined) {
      for (const reply of replies) if (reply !== undefined) this.#replies.dropRead(reply);
      throw failed.reason;
    }
    for (const [i, { offset, bytes }] of runs.entries()) {
      const reply = replies[i];
      if (reply !== undefined) this.#replies.sendRead(reply);
      else this.#replies.hole(work, i === last ? NBD_CHUNK_DONE : 0, offset, bytes);
    }
    return true;
  }

  /** Data and zeroes in a range; neighbours of one kind are joined. */
  async #runs(offset: number, length: number): Promise<Run[]> {
    const out: Run[] = [];
    const { node } = this.#export.backend;
    const end = offset + length;
    for (let at = offset; at < end;) {
      const ahead = Math.min(at + LOOK_AHEAD, this.#size);
      const status = await chainStatus(node, undefined, at, Math.max(ahead, end) - at);
      const found = status.bytes === 0 ? end - at : status.bytes;
      if (!status.zero) this.#data = { start: at, end: at + found };
      const bytes = Math.min(found, end - at);
      const last = out[out.length - 1];
      if (last?.zero === status.zero) last.bytes += bytes;
      else out.push({ offset: at, bytes, zero: status.zero });
      at += bytes;
    }
    return out;
  }

  async #status(work: Work): Promise<true> {
    const inside = (offset: number, length: number): void => {
      const refused = this.#outside(work.type, offset, length);
      if (refused !== undefined) throw refused;
      if (length === 0) throw invalid('need non-zero length');
    };
    await answerStatus(work, this.#contexts, this.#extended, this.#replies, inside);
    return true;
  }
}

/** Whether the bytes behind a header are its payload. */
function hasPayload(r: NbdRequest): boolean {
  if (r.type === NbdCmd.write) return true;
  return (r.flags & NbdCmdFlag.payloadLen) !== 0;
}

function invalid(why: string): BlockError {
  return new BlockError('EINVAL', why);
}

function tooLong(work: Work): BlockError {
  return invalid(`len (${work.length}) is larger than max len (${NBD_MAX_PAYLOAD})`);
}
