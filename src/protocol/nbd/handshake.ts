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
    const { style, noZeroes } = await this.#begin();
    if (style === 'old') return this.#oldStyle();
    if (style === 'plain') return this.#exportName(noZeroes, false);
    return this.#negotiate(noZeroes);
  }

  /** Reads the greeting and starts TLS. */
  async #begin(): Promise<{ style: 'old' | 'plain' | 'fixed'; noZeroes: boolean }> {
    const { startTls } = this.#want;
    const head = copyView(await this.#reader.take(16));
    if (head.getBigUint64(0) !== NBD_INIT_MAGIC) {
      throw new BlockError('EINVAL', 'Bad initial magic received');
    }
    const magic = head.getBigUint64(8);
    const old = magic === NBD_CLIENT_MAGIC;
    if (!old && magic !== NBD_OPTION_MAGIC) {
      throw new BlockError('EINVAL', 'Bad server magic received');
    }
    const flags = old ? 0 : copyView(await this.#reader.take(2)).getUint16(0);
    const fixed = flags & NbdHandshake.fixedNewstyle;
    const noZeroes = flags & NbdHandshake.noZeroes;
    if (fixed === 0 && startTls !== undefined) {
      throw new BlockError('EINVAL', 'Server does not support STARTTLS');
    }
    if (old) return { style: 'old', noZeroes: false };
    this.#send(new NbdWriter().u32(fixed | noZeroes).done());
    if (startTls !== undefined) await this.#startTls(startTls);
    return { style: fixed === 0 ? 'plain' : 'fixed', noZeroes: noZeroes !== 0 };
  }

  /** Asks for all exports and what is to be known of each, then says goodbye. */
  async list(): Promise<NbdListing[]> {
    const { style: dialect } = await this.#begin();
    if (dialect === 'old') {
      const { size, flags } = await this.#oldStyle();
      return [{ name: '', description: '', size, flags, blocks: undefined, ...noStyle }];
    }
    if (dialect === 'plain') {
      throw new BlockError('EINVAL', 'Server does not support export lists');
    }
    const style = await this.#replyStyle();
    const replies = await this.#simpleOption(NbdOption.list);
    const last = replies[replies.length - 1];
    if (last?.type !== NbdReply.ack && last?.type !== NbdReply.errUnsup) {
      throw refused(last, NbdOption.list);
    }
    const out: NbdListing[] = [];
    for (const reply of replies) {
      const named = serverReply(reply);
      if (named === undefined) continue;
      const info = await this.#info(named.name);
      const contexts = style.structured ? await this.#listContexts(named.name) : [];
      out.push({ ...named, ...info, ...style, contexts });
    }
    this.#send(encodeOption(NbdOption.abort, new Uint8Array(0)));
    await this.#reader.stream.end();
    return out;
  }

  /** Nothing from a server that does not know the option. */
  async #info(name: string): Promise<Info> {
    const data = new NbdWriter().counted(name).u16(1).u16(NbdInfo.blockSize).done();
    const replies = await this.#option(NbdOption.info, data);
    const last = replies[replies.length - 1];
    if (last?.type === NbdReply.errUnsup) return readInfos([]);
    if (last?.type !== NbdReply.ack) throw refused(last, NbdOption.info);
    return readInfos(replies);
  }

  async #listContexts(name: string): Promise<string[]> {
    const data = new NbdWriter().counted(name).u32(0).done();
    const replies = await this.#option(NbdOption.listMetaContext, data);
    if (replies[replies.length - 1]?.type !== NbdReply.ack) return [];
    const found = replies.filter(({ type }) => type === NbdReply.metaContext);
    return found.map((reply) => nbdText(reply.data.subarray(4)));
  }

  async #oldStyle(): Promise<NbdAgreement> {
    if (this.#want.exportName !== '') {
      throw new BlockError('EINVAL', 'Server does not support non-empty export names');
    }
    const v = copyView(await this.#reader.take(8 + 4 + 124));
    return this.#agreement(readU64(v, 0), v.getUint32(8) & 0xffff, {});
  }

  async #startTls(start: (reader: StreamReader) => Promise<StreamReader>): Promise<void> {
    const [reply] = await this.#simpleOption(NbdOption.startTls);
    if (reply?.type === NbdReply.errUnsup) {
      throw new BlockError('EINVAL', "Server don't support STARTTLS option");
    }
    if (reply?.type !== NbdReply.ack) throw refused(reply, NbdOption.startTls);
    if (this.#reader.queue.length > 0) {
      throw new BlockError('EINVAL', 'Server sent data before the TLS handshake');
    }
    this.#reader = await start(this.#reader);
  }

  async #negotiate(noZeroes: boolean): Promise<NbdAgreement> {
    const style = await this.#replyStyle();
    const contextId = style.structured ? await this.#metaContext() : undefined;
    return this.#go({ ...style, contextId }, noZeroes);
  }

  /** The newest kind of replies that the server knows. */
  async #replyStyle(): Promise<{ structured: boolean; extended: boolean }> {
    const [ext] = await this.#simpleOption(NbdOption.extendedHeaders);
    if (ext?.type === NbdReply.ack) return { structured: true, extended: true };
    const [reply] = await this.#simpleOption(NbdOption.structuredReply);
    return { structured: reply?.type === NbdReply.ack, extended: false };
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
    if (last?.type === NbdReply.errUnsup && !got.extended) {
      await this.#findName();
      return this.#exportName(noZeroes, got.structured);
    }
    if (last?.type !== NbdReply.ack) throw refused(last, NbdOption.go);
    const info = readInfos(replies);
    if (info.size === undefined) {
      throw new BlockError('EINVAL', 'Server did not send NBD_INFO_EXPORT');
    }
    return this.#agreement(info.size, info.flags ?? 0, got, info.blocks);
  }

  /** EXPORT_NAME says no by hanging up: a server that can list is asked for the name first. */
  async #findName(): Promise<void> {
    const { exportName } = this.#want;
    if (exportName === '') return;
    const replies = await this.#simpleOption(NbdOption.list);
    if (replies[replies.length - 1]?.type !== NbdReply.ack) return;
    const names = replies.flatMap((reply) => serverReply(reply)?.name ?? []);
    if (names.includes(exportName)) return;
    throw new BlockError('EINVAL', `No export with name '${printable(exportName)}' available`);
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
    if (size % blocks.min !== 0) {
      throw new BlockError(
        'EINVAL',
        `export length ${size} is not multiple of minimum block size ${blocks.min}`,
      );
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

interface Info {
  readonly size: number | undefined;
  readonly flags: number | undefined;
  readonly blocks: Blocks | undefined;
}

/** What a server tells of an export to somebody who does not use it. */
export interface NbdListing extends Info {
  readonly name: string;
  readonly description: string;
  readonly structured: boolean;
  readonly extended: boolean;
  /** Names of metadata contexts. */
  readonly contexts: readonly string[];
}

const noStyle = { structured: false, extended: false, contexts: [] };

/** Name and description of a reply to LIST; undefined when it is another reply. */
function serverReply(reply: OptionReply): { name: string; description: string } | undefined {
  if (reply.type !== NbdReply.server) return undefined;
  const r = new NbdReader(reply.data);
  const name = r.counted();
  if (name === undefined) throw new BlockError('EINVAL', 'Malformed reply to NBD_OPT_LIST');
  return { name, description: nbdText(r.rest()) };
}

function readInfos(replies: readonly OptionReply[]): Info {
  const info: { size?: number; flags?: number; blocks?: Blocks } = {};
  for (const { type, data } of replies) {
    if (type !== NbdReply.info) continue;
    const r = new NbdReader(data);
    const kind = r.u16();
    if (kind === NbdInfo.export) {
      info.size = r.u64() ?? Number.NaN;
      info.flags = r.u16() ?? 0;
      if (Number.isNaN(info.size)) throw new BlockError('EINVAL', 'Malformed NBD_INFO_EXPORT');
    } else if (kind === NbdInfo.blockSize) {
      info.blocks = readBlocks(r);
    }
  }
  return { size: info.size, flags: info.flags, blocks: info.blocks };
}

/** The options' names in messages; others have none. */
const optionNames: Readonly<Record<number, string>> = {
  [NbdOption.exportName]: 'export name',
  [NbdOption.abort]: 'abort',
  [NbdOption.list]: 'list',
  [NbdOption.startTls]: 'starttls',
  [NbdOption.info]: 'info',
  [NbdOption.go]: 'go',
};

/** QEMU's words for an option that the server refused, with the server's own below. */
function refused(reply: OptionReply | undefined, option: number): BlockError {
  const place = `option ${option} (${optionNames[option] ?? '<unknown>'})`;
  const texts: Readonly<Record<number, string>> = {
    [NbdReply.errUnsup]: `Unsupported option type ${place}`,
    [NbdReply.errPolicy]: `Denied by server for ${place}`,
    [NbdReply.errInvalid]: `Invalid parameters for ${place}`,
    [NbdReply.errPlatform]: `Server lacks support for ${place}`,
    [NbdReply.errTlsReqd]: `TLS negotiation required before ${place}`,
    [NbdReply.errUnknown]: 'Requested export not available',
    [NbdReply.errShutdown]: `Server shutting down before ${place}`,
    [NbdReply.errBlockSizeReqd]: `Server requires INFO_BLOCK_SIZE for ${place}`,
  };
  const type = reply?.type ?? 0;
  const hints: string[] = [];
  if (type === NbdReply.errTlsReqd) hints.push('Did you forget a valid tls-creds?');
  const said = reply === undefined ? '' : nbdText(reply.data);
  if (said !== '') hints.push(`server reported: ${printable(said)}`);
  const text = texts[type] ?? `Unknown error code when asking for ${place}`;
  return new BlockError('EINVAL', text, hints.length === 0 ? {} : { hint: hints.join('\n') });
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

async function negotiating<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (e) {
    if (!(e instanceof HostError)) throw e;
    // What TLS says is complete; what broke while a message was awaited needs words before it.
    if (e.code === 'EACCES' || e.code === 'EINVAL') throw new BlockError(e.code, e.message);
    const text = `Failed to negotiate with the server: ${e.message}`;
    throw new BlockError(e.code, text, { cause: e });
  }
}

/** Agrees with the server on an export. Throws BlockError; the caller closes the stream. */
export function clientHandshake(
  reader: StreamReader,
  want: HandshakeRequest,
): Promise<NbdAgreement> {
  return negotiating(new ClientHandshake(reader, want).run());
}

/** All that a server offers. Throws BlockError; the stream is closed when all went well. */
export function listExports(
  reader: StreamReader,
  startTls: HandshakeRequest['startTls'],
): Promise<NbdListing[]> {
  return negotiating(new ClientHandshake(reader, { exportName: '', context: '', startTls }).list());
}
