// A server over simulated sockets and a client that speaks the protocol by hand, for tests in
// which one side breaks the rules.
import { onTestFinished } from 'vitest';
import type { NbdExportInit } from '../../src/export/nbd/export.js';
import { NbdExport } from '../../src/export/nbd/export.js';
import type { NbdServerInit } from '../../src/export/nbd/server.js';
import { NbdServer } from '../../src/export/nbd/server.js';
import type { ByteStream } from '../../src/host/socket.js';
import { StreamReader } from '../../src/host/stream-reader.js';
import type { Backend, NodeOptions } from '../../src/index.js';
import { Iov, nodeHost } from '../../src/index.js';
import type { NbdRequest } from '../../src/wire/nbd.js';
import {
  decodeReply,
  encodeOption,
  encodeRequest,
  NBD_OPTION_REPLY_MAGIC,
  NbdOption,
  NbdReply,
  NbdWriter,
  replyHeaderBytes,
} from '../../src/wire/nbd.js';
import type { Random } from '../support/index.js';
import { FakeClock, FakeSockets, fakeHost, testGraph } from '../support/index.js';

export const address = { type: 'unix', path: '/nbd' } as const;
export const none = new Uint8Array(0);

export interface Served {
  readonly server: NbdServer;
  readonly sockets: FakeSockets;
  readonly clock: FakeClock;
  readonly backend: Backend;
  readonly errors: string[];
}

export interface ServeInit extends Partial<NbdServerInit> {
  readonly options?: NodeOptions;
  readonly random?: Random;
  readonly export?: Partial<NbdExportInit>;
  /** First bytes of the disk. */
  readonly content?: Uint8Array;
}

export const DISK_BYTES = 1024 * 1024;

/** A server with one export of 1 MiB in memory, writable, whose name is empty. */
export async function serve(init: ServeInit = {}): Promise<Served> {
  const { options, random, export: own, content, ...more } = init;
  const clock = new FakeClock();
  const graph = testGraph();
  const backend = await graph.openBackend({
    options: options ?? { driver: 'memory', size: DISK_BYTES },
    flags: { writable: true, unmap: true },
  });
  if (content !== undefined) await backend.write(0, Iov.of(content));
  const sockets = new FakeSockets(random);
  const errors: string[] = [];
  const onError = (message: string): void => void errors.push(message);
  const server = new NbdServer({ sockets, clock, onError, ...more });
  server.add(new NbdExport({ name: '', backend, writable: true, multiConn: false, ...own }));
  await server.listen(address);
  onTestFinished(async () => {
    await clock.runUntil(server.close());
  });
  return { server, sockets, clock, backend, errors };
}

/** The export as vdisk's own client sees it. */
export async function openClient(
  sockets: FakeSockets,
  options: NodeOptions = {},
  clock = nodeHost().clock,
): Promise<Backend> {
  const graph = testGraph({
    host: { ...fakeHost(), clock, loadSockets: () => Promise.resolve(sockets) },
  });
  return graph.openBackend({
    options: { driver: 'nbd', server: address, ...options },
    flags: { writable: true, unmap: true },
  });
}

export interface OptionAnswer {
  readonly type: number;
  readonly data: Uint8Array;
}

export interface Answer {
  readonly cookie: number;
  readonly errno: number;
  readonly type: number | undefined;
  readonly flags: number;
  readonly payload: Uint8Array;
}

const view = (b: Uint8Array): DataView => new DataView(b.buffer, b.byteOffset, b.byteLength);

export function request(
  type: number,
  more: Partial<NbdRequest> = {},
  extended = false,
): Uint8Array {
  const out = new Uint8Array(extended ? 32 : 28);
  const whole = { type, flags: 0, cookieHigh: 7, cookieLow: 1, offset: 0, length: 0, ...more };
  encodeRequest(view(out), 0, whole, extended);
  return out;
}

/** Option data of INFO and GO. */
export function goData(name: string): Uint8Array {
  return new NbdWriter().counted(name).u16(1).u16(3).done();
}

export function contextData(name: string, ...queries: string[]): Uint8Array {
  const w = new NbdWriter().counted(name).u32(queries.length);
  for (const q of queries) w.counted(q);
  return w.done();
}

/** A client that does what the test says. */
export class RawClient {
  readonly stream: ByteStream;
  readonly reader: StreamReader;
  extended = false;

  constructor(stream: ByteStream) {
    this.stream = stream;
    this.reader = new StreamReader(stream);
  }

  static async connect(served: Served): Promise<RawClient> {
    return new RawClient(await served.sockets.connect(address));
  }

  send(...pieces: Uint8Array[]): void {
    this.stream.write(pieces);
  }

  async take(bytes: number): Promise<Uint8Array> {
    return (await this.reader.take(bytes)).slice();
  }

  /** Takes the greeting and answers it. */
  async greet(flags = 3): Promise<Uint8Array> {
    const greeting = await this.take(18);
    this.send(new NbdWriter().u32(flags).done());
    return greeting;
  }

  async optionAnswer(): Promise<OptionAnswer & { readonly option: number }> {
    const head = view(await this.take(20));
    if (head.getBigUint64(0) !== NBD_OPTION_REPLY_MAGIC) throw new Error('wrong magic of a reply');
    const data = await this.take(head.getUint32(16));
    return { option: head.getUint32(8), type: head.getUint32(12), data };
  }

  /** All answers to one option. */
  async option(option: number, data: Uint8Array = none): Promise<OptionAnswer[]> {
    this.send(encodeOption(option, data));
    const out: OptionAnswer[] = [];
    for (;;) {
      const answer = await this.optionAnswer();
      if (answer.option !== option) throw new Error('an answer to another option');
      out.push(answer);
      if (answer.type === NbdReply.ack || answer.type >= 0x80000000) return out;
    }
  }

  /** Into transmission, with simple, structured or extended replies. */
  async enter(style: 'simple' | 'structured' | 'extended' = 'simple', name = ''): Promise<void> {
    await this.greet();
    if (style === 'structured') await this.option(NbdOption.structuredReply);
    if (style === 'extended') await this.option(NbdOption.extendedHeaders);
    this.extended = style === 'extended';
    const answers = await this.option(NbdOption.go, goData(name));
    if (answers.at(-1)?.type !== NbdReply.ack) throw new Error('the server refused to go');
  }

  /** The next reply or chunk; `readBytes`: data behind a simple reply to a read. */
  async answer(readBytes = 0): Promise<Answer> {
    const magic = view(await this.take(4)).getUint32(0);
    const bytes = replyHeaderBytes(magic);
    if (bytes === undefined) throw new Error('wrong magic of a reply');
    const whole = new Uint8Array(bytes);
    view(whole).setUint32(0, magic);
    whole.set(await this.take(bytes - 4), 4);
    const h = decodeReply(view(whole), 0);
    const cookie = h.cookieLow;
    if (h.kind === 'simple') {
      const payload = h.errno === 0 ? await this.take(readBytes) : none;
      return { cookie, errno: h.errno, type: undefined, flags: 1, payload };
    }
    const payload = await this.take(h.length);
    const errno = h.type >= 0x8000 ? view(payload).getUint32(0) : 0;
    return { cookie, errno, type: h.type, flags: h.flags, payload };
  }

  /** Waits until the server has hung up, reading past what it still sends. */
  async closed(): Promise<void> {
    try {
      for (;;) await this.take(1);
    } catch {
      // The end.
    }
  }
}
