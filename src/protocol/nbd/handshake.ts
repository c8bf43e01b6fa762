/**
 * The client's half of the handshake (proto.md): fixed newstyle, newest features
 * first; older servers get older requests.
 *
 * Nothing that a server sends is believed beyond its length: option replies are bounded,
 * and a reply to another option than the one asked ends the session.
 */
import { BlockError } from '../../block/errors.js';
import type { StreamReader } from '../../host/stream-reader.js';
import { HostError } from '../../host/file.js';
import {
  encodeOption,
  NBD_CLIENT_MAGIC,
  NBD_INIT_MAGIC,
  NBD_MAX_OPTION,
  NBD_OPTION_MAGIC,
  NBD_OPTION_REPLY_MAGIC,
  NbdFlag,
  NbdHandshake,
  NbdInfo,
  NbdOption,
  NbdReader,
  NbdReply,
  nbdText,
  NbdWriter,
  readU64,
} from '../../wire/nbd.js';

export interface HandshakeRequest {
  readonly exportName: string;
  /** Metadata context for block status (`base:allocation` or another). */
  readonly context: string;
  /** Turns the connection into a TLS one; undefined: plain. */
  readonly startTls: ((reader: StreamReader) => Promise<StreamReader>) | undefined;
}

/** What the server agreed to. */
export interface NbdAgreement {
  readonly reader: StreamReader;
  readonly size: number;
  readonly flags: number;
  readonly structured: boolean;
  readonly extended: boolean;
  /** Number of the metadata context; undefined when the server has none. */
  readonly contextId: number | undefined;
  readonly minBlock: number;
  readonly preferredBlock: number;
  readonly maxBlock: number;
}

/** Most replies to one option. */
const MAX_REPLIES = 65_536;

interface OptionReply {
  readonly type: number;
  readonly data: Uint8Array;
}

class ClientHandshake {
  #reader: StreamReader;
  readonly #want: HandshakeRequest;

  constructor(reader: StreamReader, want: HandshakeRequest) {
    this.#reader = reader;
    this.#want = want;
  }

  async run(): Promise<NbdAgreement> {
    const head = copyView(await this.#reader.take(16));
    if (head.getBigUint64(0) !== NBD_INIT_MAGIC) {
      throw new BlockError('EINVAL', 'Bad initial magic received');
    }
    const magic = head.getBigUint64(8);
    if (magic === NBD_CLIENT_MAGIC) return this.#oldStyle();
    if (magic !== NBD_OPTION_MAGIC) throw new BlockError('EINVAL', 'Bad server magic received');
    const flags = copyView(await this.#reader.take(2)).getUint16(0);
    const fixed = (flags & NbdHandshake.fixedNewstyle) !== 0;
    const noZeroes = (flags & NbdHandshake.noZeroes) !== 0;
    const answer =
      (fixed ? NbdHandshake.fixedNewstyle : 0) | (noZeroes ? NbdHandshake.noZeroes : 0);
    this.#send(new NbdWriter().u32(answer).done());
    if (!fixed) {
      if (this.#want.startTls !== undefined) {
        throw new BlockError('EINVAL', 'Server does not support STARTTLS');
      }
      return this.#exportName(noZeroes, false);
    }
    if (this.#want.startTls !== undefined) await this.#startTls(this.#want.startTls);
    return this.#negotiate(noZeroes);
  }

  async #oldStyle(): Promise<NbdAgreement> {
    if (this.#want.startTls !== undefined) {
      throw new BlockError('EINVAL', 'Server does not support STARTTLS');
    }
    if (this.#want.exportName !== '') {
      throw new BlockError('EINVAL', 'Server does not support non-empty export names');
    }
    const v = copyView(await this.#reader.take(8 + 4 + 124));
    return this.#agreement(readU64(v, 0), v.getUint32(8) & 0xffff, {});
  }

  async #startTls(start: (reader: StreamReader) => Promise<StreamReader>): Promise<void> {
    const [reply] = await this.#simpleOption(NbdOption.startTls);
    if (reply?.type !== NbdReply.ack) {
      throw this.#refused(reply, 'Server rejected request for STARTTLS');
    }
    if (this.#reader.queue.length > 0) {
      throw new BlockError('EINVAL', 'Server sent data before the TLS handshake');
    }
    this.#reader = await start(this.#reader);
  }

  async #negotiate(noZeroes: boolean): Promise<NbdAgreement> {
    const [ext] = await this.#simpleOption(NbdOption.extendedHeaders);
    if (ext?.type === NbdReply.errTlsReqd) throw this.#refused(ext, 'Server requires TLS');
    const extended = ext?.type === NbdReply.ack;
    let structured = extended;
    if (!structured) {
      const [reply] = await this.#simpleOption(NbdOption.structuredReply);
      structured = reply?.type === NbdReply.ack;
    }
    const contextId = structured ? await this.#metaContext() : undefined;
    return this.#go({ structured, extended, contextId }, noZeroes);
  }

  async #metaContext(): Promise<number | undefined> {
    const { exportName, context } = this.#want;
    const data = new NbdWriter().counted(exportName).u32(1).counted(context).done();
    const replies = await this.#option(NbdOption.setMetaContext, data);
    for (const { type, data: reply } of replies) {
      if (type !== NbdReply.metaContext) continue;
      const r = new NbdReader(reply);
      const id = r.u32();
      if (nbdText(r.rest()) === context) return id;
      throw new BlockError('EINVAL', 'Server replied with an unknown metadata context');
    }
    return undefined;
  }

  async #go(got: Features, noZeroes: boolean): Promise<NbdAgreement> {
    const { exportName } = this.#want;
    const data = new NbdWriter().counted(exportName).u16(1).u16(NbdInfo.blockSize).done();
    const replies = await this.#option(NbdOption.go, data);
    const last = replies[replies.length - 1];
    if (last?.type === NbdReply.errUnsup) return this.#exportName(noZeroes, got.structured);
    if (last?.type !== NbdReply.ack) throw this.#refused(last, 'Requested export not available');
    const info: { size?: number; flags?: number; blocks?: Blocks } = {};
    for (const { type, data: reply } of replies) {
      if (type === NbdReply.info) readInfo(new NbdReader(reply), info);
    }
    if (info.size === undefined) {
      throw new BlockError('EINVAL', 'Server did not send NBD_INFO_EXPORT');
    }
    return this.#agreement(info.size, info.flags ?? 0, got, info.blocks);
  }

  /** The way before GO: the server closes the connection when it does not like the name. */
  async #exportName(noZeroes: boolean, structured: boolean): Promise<NbdAgreement> {
    const name = new NbdWriter().text(this.#want.exportName).done();
    this.#send(encodeOption(NbdOption.exportName, name));
    const v = copyView(await this.#reader.take(10));
    if (!noZeroes) await this.#reader.take(124);
    return this.#agreement(readU64(v, 0), v.getUint16(8), { structured });
  }

  #agreement(
    size: number,
    flags: number,
    got: Partial<Features>,
    blocks: Blocks = { min: 1, preferred: 4096, max: 32 * 1024 * 1024 },
  ): NbdAgreement {
    if (!Number.isSafeInteger(size)) {
      throw new BlockError('EFBIG', 'The size of the export is above the limit of 2^53 - 1 bytes');
    }
    return {
      reader: this.#reader,
      size,
      flags: (flags & NbdFlag.hasFlags) !== 0 ? flags : 0,
      structured: got.structured ?? false,
      extended: got.extended ?? false,
      contextId: got.contextId,
      minBlock: blocks.min,
      preferredBlock: blocks.preferred,
      maxBlock: blocks.max,
    };
  }

  #simpleOption(option: number): Promise<OptionReply[]> {
    return this.#option(option, new Uint8Array(0));
  }

  /** Sends an option and collects its replies up to the ACK or error. */
  async #option(option: number, data: Uint8Array): Promise<OptionReply[]> {
    this.#send(encodeOption(option, data));
    const out: OptionReply[] = [];
    for (;;) {
      const reply = await this.#readReply(option);
      out.push(reply);
      if (reply.type === NbdReply.ack || reply.type >= 0x80000000) return out;
      if (out.length > MAX_REPLIES) throw new BlockError('EINVAL', 'Server sent too many replies');
    }
  }

  async #readReply(option: number): Promise<OptionReply> {
    const v = copyView(await this.#reader.take(20));
    if (v.getBigUint64(0) !== NBD_OPTION_REPLY_MAGIC) {
      throw new BlockError('EINVAL', 'Unexpected option reply magic');
    }
    if (v.getUint32(8) !== option) {
      throw new BlockError(
        'EINVAL',
        `Unexpected option type ${v.getUint32(8)}, expected ${option}`,
      );
    }
    const length = v.getUint32(16);
    if (length > NBD_MAX_OPTION) throw new BlockError('EINVAL', 'Option reply is too long');
    return { type: v.getUint32(12), data: (await this.#reader.take(length)).slice() };
  }

  #refused(reply: OptionReply | undefined, what: string): BlockError {
    const said = reply === undefined || reply.data.byteLength === 0 ? '' : nbdText(reply.data);
    const hint = said === '' ? {} : { hint: `server reported: ${printable(said)}` };
    return new BlockError('EINVAL', what, hint);
  }

  #send(bytes: Uint8Array): void {
    this.#reader.stream.write([bytes]);
  }
}

interface Features {
  readonly structured: boolean;
  readonly extended: boolean;
  readonly contextId: number | undefined;
}

interface Blocks {
  readonly min: number;
  readonly preferred: number;
  readonly max: number;
}

function readInfo(r: NbdReader, info: { size?: number; flags?: number; blocks?: Blocks }): void {
  const type = r.u16();
  if (type === NbdInfo.export) {
    const size = r.u64();
    const flags = r.u16();
    if (size === undefined || flags === undefined) {
      throw new BlockError('EINVAL', 'Malformed NBD_INFO_EXPORT');
    }
    info.size = size;
    info.flags = flags;
  } else if (type === NbdInfo.blockSize) {
    info.blocks = readBlocks(r);
  }
}

function readBlocks(r: NbdReader): Blocks {
  const [min, preferred, max] = [r.u32() ?? 0, r.u32() ?? 0, r.u32() ?? 0];
  const power = (n: number): boolean => n > 0 && (n & (n - 1)) === 0;
  if (!power(min) || min > 65536) {
    throw new BlockError('EINVAL', `Server minimum block size ${min} is not valid`);
  }
  if (!power(preferred) || preferred < min) {
    throw new BlockError('EINVAL', `Server preferred block size ${preferred} is not valid`);
  }
  if (max < min) throw new BlockError('EINVAL', `Server maximum block size ${max} is not valid`);
  return { min, preferred, max: max - (max % min) };
}

/** Control characters of a server's text do not reach a terminal. */
function printable(text: string): string {
  return text.replace(/[^\x20-\x7e\u00a0-\uffff]/g, '?');
}

function copyView(bytes: Uint8Array): DataView {
  return new DataView(bytes.slice().buffer);
}

/** Agrees with the server on an export. Throws BlockError; the caller closes the stream. */
export async function clientHandshake(
  reader: StreamReader,
  want: HandshakeRequest,
): Promise<NbdAgreement> {
  try {
    return await new ClientHandshake(reader, want).run();
  } catch (e) {
    if (e instanceof HostError) {
      throw new BlockError(e.code, `Failed to negotiate with the server: ${e.message}`, {
        cause: e,
      });
    }
    throw e;
  }
}
