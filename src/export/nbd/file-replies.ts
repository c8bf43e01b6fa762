/**
 * Replies to long reads whose data goes from the file's cached pages to the socket without being
 * copied here.
 *
 * That pays when several connections wait for this one thread. A client that is alone copies
 * sooner what was just copied into the processor's cache than what the file's pages hold.
 *
 * The header goes first, so a read that fails afterwards cannot be told to the client any more:
 * the connection is broken off. What the socket does not take at once is asked for again when it
 * takes more, so that nothing of the image is held for a client that does not read: it may be
 * drained, changed and closed meanwhile.
 */
import type { Backend } from '../../block/backend.js';
import { BlockError } from '../../block/errors.js';
import type { ByteStream } from '../../host/socket.js';
import { Iov } from '../../lib/iov.js';
import type { NbdRequest } from '../../wire/nbd.js';
import type { Replies } from './replies.js';
import type { ReplyMemory } from './reply-memory.js';

/** Copied when the socket is full: the kernel tells when it has taken them. */
const STEP_BYTES = 16 * 1024;
const nothing = new Uint8Array(0);

interface FileReply {
  readonly work: NbdRequest;
  /** `error`: the connection cannot be used any more. */
  readonly settle: (error: unknown) => void;
}

export class FileReplies {
  readonly #stream: ByteStream;
  readonly #backend: Backend;
  readonly #replies: Replies;
  readonly #memory: ReplyMemory;
  readonly #queue: FileReply[] = [];
  #busy = false;
  #broken: unknown;

  constructor(stream: ByteStream, backend: Backend, replies: Replies, memory: ReplyMemory) {
    this.#stream = stream;
    this.#backend = backend;
    this.#replies = replies;
    this.#memory = memory;
  }

  /**
   * Answers a read in this way, if its data stands in a file; false: it has to be read. `settle`
   * is called when the reply has left; with an error, the stream is of no more use.
   */
  // hot: bench/nbd
  tryAnswer(work: NbdRequest, settle: (error: unknown) => void): boolean {
    if (this.#stream.trySendFile === undefined) return false;
    const run = this.#backend.tryFileRun(work.offset, work.length);
    if (run?.file.isCached?.(run.offset, run.bytes) !== true) return false;
    this.#queue.push({ work, settle });
    if (!this.#busy) this.#next();
    return true;
  }

  /** Sends replies until one has to wait for the socket. */
  // hot: bench/nbd
  #next(): void {
    this.#busy = true;
    for (let reply = this.#queue.shift(); reply !== undefined; reply = this.#queue.shift()) {
      if (this.#broken !== undefined) {
        reply.settle(this.#broken);
        continue;
      }
      const { work } = reply;
      this.#replies.flush();
      const { head, slab } = this.#replies.readHeader(work);
      const sent = this.#send(work, 0, head) - head.byteLength;
      if (sent < 0) {
        this.#stream.write([head.subarray(head.byteLength + sent)], (taken) => {
          if (taken) slab.release();
        });
      } else {
        slab.release();
      }
      if (sent === work.length) {
        reply.settle(undefined);
        continue;
      }
      this.#replies.hold(true);
      void this.#finish(reply, Math.max(0, sent));
      return;
    }
    this.#busy = false;
  }

  /** Sends `head` and from `at` on what goes at once; where the reply stands then. */
  #send({ offset, length }: NbdRequest, at: number, head: Uint8Array): number {
    const run = this.#backend.tryFileRun(offset + at, length - at);
    return run === undefined ? at : at + (this.#stream.trySendFile?.(head, run) ?? 0);
  }

  /** Sends the rest of a reply as the socket takes it, then those that wait. */
  async #finish({ work, settle }: FileReply, sent: number): Promise<void> {
    try {
      for (let at = sent; at < work.length; at = this.#send(work, at, nothing)) {
        at += await this.#copy(work, at);
      }
    } catch (e) {
      this.#broken = e;
    }
    settle(this.#broken);
    this.#replies.hold(false);
    this.#next();
  }

  /** Reads and writes the next bytes; how many, when the socket took them. */
  async #copy({ offset, length }: NbdRequest, at: number): Promise<number> {
    const bytes = Math.min(STEP_BYTES, length - at);
    const buffer = this.#memory.buffer(bytes);
    const data = buffer.bytes.subarray(0, bytes);
    await this.#backend.read(offset + at, Iov.of(data));
    const taken = await new Promise<boolean>((resolve) => this.#stream.write([data], resolve));
    if (!taken) throw new BlockError('ECONNRESET', 'The client does not take its reply');
    buffer.release();
    return bytes;
  }
}
