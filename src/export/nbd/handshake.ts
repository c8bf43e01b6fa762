/**
 * The server's half of the handshake: fixed newstyle with its options, until a client
 * enters transmission, ends the session or breaks the rules (proto.md, "Handshake").
 *
 * Rules
 *  H1  With TLS demanded, nothing but STARTTLS and ABORT is answered before TLS.
 *  H2  After STARTTLS all earlier choices (structured replies, contexts) are forgotten.
 *  H3  Contexts chosen for one export name hold for GO with that name only, and a new choice,
 *      good or bad, takes the place of the one before.
 *  H4  The replies to one option have left, or nearly, before the next option is looked at: a
 *      client that asks and does not listen does not fill our memory.
 */
import type { StreamReader } from '../../host/stream-reader.js';
import { HostError } from '../../host/file.js';
import {
  encodeOptionReply,
  NBD_INIT_MAGIC,
  NBD_MAX_OPTION,
  NBD_MAX_STRING,
  NBD_OPTION_MAGIC,
  NbdHandshake,
  NbdInfo,
  NbdOption,
  NbdReader,
  NbdReply,
  NbdWriter,
  nbdText,
} from '../../wire/nbd.js';
import type { NbdContext, NbdExport } from './export.js';
import { DIRTY_BITMAP } from './export.js';

/** What the handshake needs of the server. */
export interface HandshakeServer {
  readonly tls: 'off' | 'offered' | 'required';
  find(name: string): NbdExport | undefined;
  list(): Iterable<NbdExport>;
  /** Runs TLS on the connection; rejects when the client is refused. */
  startTls(reader: StreamReader): Promise<StreamReader>;
}

/** A context that the client chose, with the number it goes by in replies. */
export interface ChosenContext {
  readonly id: number;
  readonly context: NbdContext;
}

export interface Negotiated {
  readonly reader: StreamReader;
  readonly export: NbdExport;
  /** Length in bytes that the client was told. */
  readonly size: number;
  readonly structured: boolean;
  readonly extended: boolean;
  readonly contexts: readonly ChosenContext[];
}

/** Longest list of context queries; a longer one is refused. */
const MAX_QUERIES = 1024;

class Handshake {
  #reader: StreamReader;
  readonly #server: HandshakeServer;
  #secure = false;
  #noZeroes = false;
  #structured = false;
  #extended = false;
  #contextsFor: string | undefined;
  #contexts: ChosenContext[] = [];
  #replies: Uint8Array[] = [];
  /** Length of the export of the last reply. */
  #told = 0;

  constructor(reader: StreamReader, server: HandshakeServer) {
    this.#reader = reader;
    this.#server = server;
  }

  async run(): Promise<Negotiated | undefined> {
    this.#send(
      new NbdWriter()
        .bytes(u64(NBD_INIT_MAGIC))
        .bytes(u64(NBD_OPTION_MAGIC))
        .u16(NbdHandshake.fixedNewstyle | NbdHandshake.noZeroes)
        .done(),
    );
    await this.#flush();
    const flags = new NbdReader(await this.#reader.take(4)).u32() ?? 0;
    const known = NbdHandshake.fixedNewstyle | NbdHandshake.noZeroes;
    if ((flags & ~known) !== 0) throw new HostError('EPROTO', 'Unknown client flags');
    this.#noZeroes = (flags & NbdHandshake.noZeroes) !== 0;
    if ((flags & NbdHandshake.fixedNewstyle) === 0) return this.#plainNewstyle();
    for (;;) {
      const outcome = await this.#option();
      await this.#flush();
      if (outcome !== 'next') return outcome;
    }
  }

  /** A client without the fixed dialect may only name an export. */
  async #plainNewstyle(): Promise<Negotiated | undefined> {
    const { option, data } = await this.#readOption();
    if (option !== NbdOption.exportName || this.#mustSecure()) return undefined;
    const outcome = this.#exportName(data);
    await this.#flush();
    return outcome;
  }

  async #readOption(): Promise<{ option: number; length: number; data: Uint8Array }> {
    const head = new DataView((await this.#reader.take(16)).slice().buffer);
    if (head.getBigUint64(0) !== NBD_OPTION_MAGIC) {
      throw new HostError('EPROTO', 'Bad magic of an option');
    }
    const option = head.getUint32(8);
    const length = head.getUint32(12);
    if (length > NBD_MAX_OPTION) {
      if (length > 32 * 1024 * 1024) throw new HostError('EPROTO', 'An option is too long');
      await this.#reader.skip(length);
      return { option, length, data: new Uint8Array(0) };
    }
    return { option, length, data: (await this.#reader.take(length)).slice() };
  }

  async #option(): Promise<Negotiated | undefined | 'next'> {
    const { option, length, data } = await this.#readOption();
    if (length > NBD_MAX_OPTION) {
      if (option === NbdOption.exportName) return undefined;
      return this.#refuse(option, NbdReply.errTooBig, 'Option is too long');
    }
    if (this.#mustSecure()) return this.#beforeTls(option, data);
    switch (option) {
      case NbdOption.exportName:
        return this.#exportName(data);
      case NbdOption.abort:
        this.#reply(option, NbdReply.ack);
        return undefined;
      case NbdOption.list:
        return this.#list(data);
      case NbdOption.startTls:
        return this.#startTls(data);
      case NbdOption.info:
      case NbdOption.go:
        return this.#info(option, data);
      case NbdOption.structuredReply:
        return this.#structuredReply(data);
      case NbdOption.extendedHeaders:
        return this.#extendedHeaders(data);
      case NbdOption.listMetaContext:
      case NbdOption.setMetaContext:
        return this.#metaContext(option, data);
      default:
        return this.#refuse(option, NbdReply.errUnsup, `Unsupported option ${option}`);
    }
  }

  #mustSecure(): boolean {
    return this.#server.tls === 'required' && !this.#secure;
  }

  /** H1. */
  #beforeTls(option: number, data: Uint8Array): Promise<'next'> | 'next' | undefined {
    if (option === NbdOption.startTls) return this.#startTls(data);
    if (option === NbdOption.exportName) return undefined;
    if (option === NbdOption.abort) {
      this.#reply(option, NbdReply.ack);
      return undefined;
    }
    return this.#refuse(option, NbdReply.errTlsReqd, 'Option not permitted before TLS');
  }

  async #startTls(data: Uint8Array): Promise<'next'> {
    const option = NbdOption.startTls;
    if (data.byteLength > 0) {
      return this.#refuse(option, NbdReply.errInvalid, 'STARTTLS takes no data');
    }
    if (this.#server.tls === 'off') {
      return this.#refuse(option, NbdReply.errPolicy, 'TLS not configured');
    }
    if (this.#secure) return this.#refuse(option, NbdReply.errInvalid, 'TLS is on already');
    if (this.#reader.queue.length > 0) {
      // Plain bytes behind STARTTLS would later pass for protected ones.
      throw new HostError('EPROTO', 'Data was sent before the TLS handshake');
    }
    // In one go: what comes next from the client is for TLS already.
    this.#reader.stream.write([encodeOptionReply(option, NbdReply.ack, new Uint8Array(0))]);
    this.#reader = await this.#server.startTls(this.#reader);
    this.#secure = true;
    this.#structured = false;
    this.#extended = false;
    this.#contextsFor = undefined;
    this.#contexts = [];
    return 'next';
  }

  #exportName(data: Uint8Array): Negotiated | undefined {
    const found = data.byteLength > NBD_MAX_STRING ? undefined : this.#server.find(nbdText(data));
    // The dialect has no error reply here: the connection ends.
    if (found === undefined || this.#extended) return undefined;
    this.#told = found.size;
    const reply = new NbdWriter().u64(this.#told).u16(found.flags(this.#structured, false));
    if (!this.#noZeroes) reply.bytes(new Uint8Array(124));
    this.#send(reply.done());
    return this.#enter(found);
  }

  #enter(found: NbdExport): Negotiated {
    return {
      reader: this.#reader,
      export: found,
      size: this.#told,
      structured: this.#structured,
      extended: this.#extended,
      contexts: this.#contextsFor === found.name ? this.#contexts : [],
    };
  }

  #list(data: Uint8Array): 'next' {
    if (data.byteLength > 0) {
      return this.#refuse(NbdOption.list, NbdReply.errInvalid, 'LIST takes no data');
    }
    for (const e of this.#server.list()) {
      const entry = new NbdWriter().counted(e.name).text(e.description ?? '');
      this.#reply(NbdOption.list, NbdReply.server, entry.done());
    }
    return this.#reply(NbdOption.list, NbdReply.ack);
  }

  #info(option: number, data: Uint8Array): Negotiated | 'next' {
    const r = new NbdReader(data);
    const name = r.counted();
    const count = r.u16();
    if (name === undefined || count === undefined || r.left !== count * 2) {
      return this.#refuse(option, NbdReply.errInvalid, 'Malformed request for information');
    }
    const wanted = new Set<number>();
    for (let i = 0; i < count; i++) wanted.add(r.u16() ?? 0);
    const found = this.#server.find(name);
    if (found === undefined) {
      return this.#refuse(option, NbdReply.errUnknown, `export '${shortName(name)}' not present`);
    }
    this.#sendInfo(option, found, wanted);
    const sizes = found.blockSizes();
    if (option === NbdOption.info && sizes.min > 1 && !wanted.has(NbdInfo.blockSize)) {
      const text = 'request NBD_INFO_BLOCK_SIZE to use this export';
      return this.#refuse(option, NbdReply.errBlockSizeReqd, text);
    }
    this.#reply(option, NbdReply.ack);
    return option === NbdOption.go ? this.#enter(found) : 'next';
  }

  #sendInfo(option: number, found: NbdExport, wanted: ReadonlySet<number>): void {
    const send = (data: NbdWriter): void => {
      this.#reply(option, NbdReply.info, data.done());
    };
    if (wanted.has(NbdInfo.name)) send(new NbdWriter().u16(NbdInfo.name).text(found.name));
    if (found.description !== undefined) {
      send(new NbdWriter().u16(NbdInfo.description).text(found.description));
    }
    const sizes = found.blockSizes();
    const asked = option === NbdOption.info || wanted.has(NbdInfo.blockSize);
    const min = asked ? sizes.min : 1;
    send(new NbdWriter().u16(NbdInfo.blockSize).u32(min).u32(sizes.preferred).u32(sizes.max));
    const flags = found.flags(this.#structured, this.#extended);
    this.#told = found.size;
    send(new NbdWriter().u16(NbdInfo.export).u64(this.#told).u16(flags));
  }

  #structuredReply(data: Uint8Array): 'next' {
    const option = NbdOption.structuredReply;
    if (data.byteLength > 0) {
      return this.#refuse(option, NbdReply.errInvalid, 'STRUCTURED_REPLY takes no data');
    }
    if (this.#extended) {
      return this.#refuse(option, NbdReply.errExtHeaderReqd, 'extended headers already negotiated');
    }
    if (this.#structured) {
      return this.#refuse(option, NbdReply.errInvalid, 'structured reply already negotiated');
    }
    this.#structured = true;
    return this.#reply(option, NbdReply.ack);
  }

  #extendedHeaders(data: Uint8Array): 'next' {
    const option = NbdOption.extendedHeaders;
    if (data.byteLength > 0) {
      return this.#refuse(option, NbdReply.errInvalid, 'EXTENDED_HEADERS takes no data');
    }
    if (this.#extended) {
      return this.#refuse(option, NbdReply.errInvalid, 'extended headers already negotiated');
    }
    this.#structured = true;
    this.#extended = true;
    return this.#reply(option, NbdReply.ack);
  }

  #metaContext(option: number, data: Uint8Array): 'next' {
    if (!this.#structured) {
      const text = 'request option without negotiating structured replies';
      return this.#refuse(option, NbdReply.errInvalid, text);
    }
    if (option === NbdOption.setMetaContext) {
      this.#contextsFor = undefined;
      this.#contexts = [];
    }
    const r = new NbdReader(data);
    const name = r.counted();
    const count = r.u32();
    if (name === undefined || count === undefined || count > MAX_QUERIES) {
      return this.#refuse(option, NbdReply.errInvalid, 'Malformed list of contexts');
    }
    const queries: string[] = [];
    for (let i = 0; i < count; i++) {
      const query = r.counted();
      if (query === undefined) {
        return this.#refuse(option, NbdReply.errInvalid, 'Malformed list of contexts');
      }
      queries.push(query);
    }
    if (r.left > 0) return this.#refuse(option, NbdReply.errInvalid, 'Data after the contexts');
    const found = this.#server.find(name);
    if (found === undefined) {
      return this.#refuse(option, NbdReply.errUnknown, `export '${shortName(name)}' not present`);
    }
    const list = option === NbdOption.listMetaContext;
    const chosen = choose(found, queries, list);
    for (const { id, context } of chosen) {
      const reply = new NbdWriter().u32(list ? 0 : id).text(context.name);
      this.#reply(option, NbdReply.metaContext, reply.done());
    }
    if (!list) {
      this.#contextsFor = name;
      this.#contexts = chosen;
    }
    return this.#reply(option, NbdReply.ack);
  }

  #refuse(option: number, type: number, message: string): 'next' {
    return this.#reply(option, type, new NbdWriter().text(message).done());
  }

  #reply(option: number, type: number, data: Uint8Array = new Uint8Array(0)): 'next' {
    this.#send(encodeOptionReply(option, type, data));
    return 'next';
  }

  #send(bytes: Uint8Array): void {
    this.#replies.push(bytes);
  }

  /** H4. */
  async #flush(): Promise<void> {
    const replies = this.#replies;
    this.#replies = [];
    if (replies.length > 0) await this.#reader.send(replies);
  }
}

/** Contexts that queries name; when listing, a namespace alone names all of its own. */
function choose(found: NbdExport, queries: readonly string[], list: boolean): ChosenContext[] {
  const matches = (name: string): boolean => {
    if (list && queries.length === 0) return true;
    return queries.some((q) => {
      if (q === name) return true;
      if (!list) return false;
      if (q === 'base:' || q === 'qemu:') return name.startsWith(q);
      return q === DIRTY_BITMAP && name.startsWith(q);
    });
  };
  const all = found.contexts.map((context, id) => ({ id, context }));
  return all.filter(({ context }) => matches(context.name));
}

function u64(value: bigint): Uint8Array {
  const b = new Uint8Array(8);
  new DataView(b.buffer).setBigUint64(0, value);
  return b;
}

/** Negotiates; undefined when the client left in good order or named no known export. */
export function negotiate(
  reader: StreamReader,
  server: HandshakeServer,
): Promise<Negotiated | undefined> {
  return new Handshake(reader, server).run();
}

/** Characters of an export's name that a message shows. */
const SHOWN_NAME = 80;

/** Names in messages are cut where they are long. */
function shortName(name: string): string {
  return name.length > SHOWN_NAME ? `${name.slice(0, SHOWN_NAME)}...` : name;
}
