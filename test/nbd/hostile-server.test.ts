// Goal: a server that breaks the rules, or just breaks, gives the client an error and never wrong
// data. Method: a server by hand over simulated sockets, which plays a scene for each connection.
import { describe, expect, it } from 'vitest';
import type { Backend } from '../../src/index.js';
import { chainStatus } from '../../src/index.js';
import type { HandshakeRequest } from '../../src/protocol/nbd/handshake.js';
import { clientHandshake, listExports } from '../../src/protocol/nbd/handshake.js';
import { StreamReader } from '../../src/host/stream-reader.js';
import {
  encodeOptionReply,
  NbdChunk,
  NbdFlag,
  NbdInfo,
  NbdOption,
  NbdReply,
  NbdWriter,
} from '../../src/wire/nbd.js';
import { failure, FakeSockets, Random, readBytes, same, settle } from '../support/index.js';
import { streamPair } from '../support/index.js';
import { address, none, openClient } from './support.js';

type Style = 'simple' | 'structured' | 'extended';

const DISK = 64 * 1024;
const data = new Random(2).bytes(DISK);
const u64 = (value: bigint): Uint8Array => {
  const b = new Uint8Array(8);
  new DataView(b.buffer).setBigUint64(0, value);
  return b;
};
const MAGIC = u64(0x4e42444d41474943n);
const OPTION = u64(0x49484156454f5054n);

const greeting = (flags = 3): Uint8Array =>
  new NbdWriter().bytes(MAGIC).bytes(OPTION).u16(flags).done();

/** The server's side of one connection. */
class Scene {
  readonly reader: StreamReader;

  constructor(reader: StreamReader) {
    this.reader = reader;
  }

  send(bytes: Uint8Array): void {
    this.reader.stream.write([bytes]);
  }

  async u32(at: number, bytes: number): Promise<number> {
    const b = (await this.reader.take(bytes)).slice();
    return new DataView(b.buffer).getUint32(at);
  }

  /** Takes an option; its number. */
  async option(): Promise<number> {
    const head = new DataView((await this.reader.take(16)).slice().buffer);
    await this.reader.take(head.getUint32(12));
    return head.getUint32(8);
  }

  reply(option: number, type: number, payload: Uint8Array = none): void {
    this.send(encodeOptionReply(option, type, payload));
  }

  /** An honest handshake up to transmission. */
  async agree(style: Style, flags: number = NbdFlag.hasFlags): Promise<void> {
    this.send(greeting());
    await this.reader.take(4);
    for (;;) {
      const option = await this.option();
      if (option === NbdOption.extendedHeaders && style !== 'extended') {
        this.reply(option, NbdReply.errUnsup);
      } else if (option === NbdOption.structuredReply && style === 'simple') {
        this.reply(option, NbdReply.errUnsup);
      } else if (option === NbdOption.setMetaContext) {
        const name = new NbdWriter().u32(5).text('base:allocation').done();
        this.reply(option, NbdReply.metaContext, name);
        this.reply(option, NbdReply.ack);
      } else if (option === NbdOption.go) {
        const info = new NbdWriter().u16(NbdInfo.export).u64(DISK).u16(flags).done();
        this.reply(option, NbdReply.info, info);
        this.reply(option, NbdReply.ack);
        return;
      } else {
        this.reply(option, NbdReply.ack);
      }
    }
  }

  /** Takes a request without payload: its cookie's two halves. */
  async request(style: Style): Promise<{ high: number; low: number }> {
    const b = (await this.reader.take(style === 'extended' ? 32 : 28)).slice();
    const v = new DataView(b.buffer);
    return { high: v.getUint32(8), low: v.getUint32(12) };
  }
}

/** Sockets whose server plays `scene`; after it the connection ends. */
async function play(scene: (s: Scene) => Promise<void>): Promise<FakeSockets> {
  const sockets = new FakeSockets();
  await sockets.listen(address, (stream) => {
    const end = (): void => void stream.end();
    scene(new Scene(new StreamReader(stream))).then(end, end);
  });
  return sockets;
}

describe('handshake', () => {
  const info = (write: (w: NbdWriter) => NbdWriter): Uint8Array => write(new NbdWriter()).done();
  const blocks = (min: number, preferred: number, max: number): Uint8Array =>
    info((w) => w.u16(NbdInfo.blockSize).u32(min).u32(preferred).u32(max));
  const size = (n: number): Uint8Array => info((w) => w.u16(NbdInfo.export).u64(n).u16(1));

  /** Plays up to GO, then answers with `replies` and ACK. */
  async function failureOfGo(...replies: Uint8Array[]): Promise<string> {
    const sockets = await play(async (s) => {
      s.send(greeting());
      await s.reader.take(4);
      for (let option = await s.option(); ; option = await s.option()) {
        if (option !== NbdOption.go) {
          s.reply(option, NbdReply.errUnsup);
          continue;
        }
        for (const reply of replies) s.reply(option, NbdReply.info, reply);
        s.reply(option, NbdReply.ack);
      }
    });
    return failure(openClient(sockets));
  }

  it('nonsense instead of a greeting', async () => {
    const wrong = await play(async (s) => s.send(new Uint8Array(18).fill(65)));
    expect(await failure(openClient(wrong))).toContain('Bad initial magic received');
    const half = await play(async (s) =>
      s.send(new NbdWriter().bytes(MAGIC).bytes(MAGIC).u16(3).done()),
    );
    expect(await failure(openClient(half))).toContain('Bad server magic received');
  });

  it('the end of the connection at any byte of the handshake', async () => {
    const info = new NbdWriter().u16(NbdInfo.export).u64(DISK).u16(1).done();
    const whole = new NbdWriter()
      .bytes(greeting())
      .bytes(encodeOptionReply(NbdOption.extendedHeaders, NbdReply.errUnsup, none))
      .bytes(encodeOptionReply(NbdOption.structuredReply, NbdReply.errUnsup, none))
      .bytes(encodeOptionReply(NbdOption.go, NbdReply.info, info))
      .bytes(encodeOptionReply(NbdOption.go, NbdReply.ack, none))
      .done();
    for (let n = 0; n < whole.length; n++) {
      const sockets = await play(async (s) => s.send(whole.subarray(0, n)));
      const message = await failure(openClient(sockets));
      expect(message, `after ${n} bytes`).toMatch(/Failed to negotiate|closed the connection/);
    }
  });

  it('replies with a wrong magic, to another option, too long, without end', async () => {
    const answer = (bytes: Uint8Array): Promise<FakeSockets> =>
      play(async (s) => {
        s.send(greeting());
        await s.reader.take(4);
        await s.option();
        s.send(bytes);
        await s.reader.take(1);
      });
    const good = encodeOptionReply(NbdOption.extendedHeaders, NbdReply.ack, none);
    const magic = good.slice();
    magic[3] = 0x77;
    expect(await failure(openClient(await answer(magic)))).toContain('option reply magic');
    const other = encodeOptionReply(NbdOption.list, NbdReply.ack, none);
    expect(await failure(openClient(await answer(other)))).toContain('Unexpected option type 3');
    const long = good.slice();
    long.fill(0xff, 16);
    expect(await failure(openClient(await answer(long)))).toContain('too long');
    const info = encodeOptionReply(NbdOption.extendedHeaders, NbdReply.info, none);
    const flood = new NbdWriter();
    for (let i = 0; i < 66_000; i++) flood.bytes(info);
    expect(await failure(openClient(await answer(flood.done())))).toContain('too many replies');
  });

  it('impossible sizes and blocks', async () => {
    expect(await failureOfGo()).toContain('did not send NBD_INFO_EXPORT');
    expect(await failureOfGo(size(2 ** 54))).toContain('limit of 2^53');
    expect(await failureOfGo(info((w) => w.u16(NbdInfo.export).u32(1)))).toContain('Malformed');
    expect(await failureOfGo(size(1000), blocks(512, 4096, 65536))).toContain('not multiple');
    expect(await failureOfGo(size(4096), blocks(0, 4096, 65536))).toContain('minimum block size');
    expect(await failureOfGo(size(4096), blocks(3, 4096, 65536))).toContain('minimum block size');
    const huge = blocks(1 << 20, 1 << 20, 1 << 21);
    expect(await failureOfGo(size(1 << 21), huge)).toContain('minimum block size 1048576');
    expect(await failureOfGo(size(4096), blocks(512, 1000, 65536))).toContain('preferred block');
    expect(await failureOfGo(size(4096), blocks(512, 4096, 100))).toContain('maximum block size');
  });

  it('a context that was not asked for, and lists that are no lists', async () => {
    const sockets = await play(async (s) => {
      s.send(greeting());
      await s.reader.take(4);
      s.reply(await s.option(), NbdReply.ack);
      const context = await s.option();
      const name = new NbdWriter().u32(1).text('base:other').done();
      s.reply(context, NbdReply.metaContext, name);
      s.reply(context, NbdReply.ack);
      await s.reader.take(1);
    });
    expect(await failure(openClient(sockets))).toContain('unknown metadata context');
    const list = await play(async (s) => {
      s.send(greeting());
      await s.reader.take(4);
      s.reply(await s.option(), NbdReply.ack);
      const option = await s.option();
      s.reply(option, NbdReply.server, new NbdWriter().u32(0xffff).text('a').done());
      s.reply(option, NbdReply.ack);
      await s.reader.take(1);
    });
    const reader = new StreamReader(await list.connect(address));
    expect(await failure(listExports(reader, undefined))).toContain('Malformed reply');
  });

  it('TLS that is asked for is never left out', async () => {
    const want: HandshakeRequest = {
      exportName: '',
      context: 'base:allocation',
      startTls: (reader) => Promise.resolve(reader),
    };
    const meet = async (scene: (s: Scene) => Promise<void>): Promise<string> => {
      const [a, b] = streamPair();
      void scene(new Scene(new StreamReader(b))).catch(() => undefined);
      return failure(clientHandshake(new StreamReader(a), want));
    };
    const begin = async (s: Scene): Promise<number> => {
      s.send(greeting());
      await s.reader.take(4);
      const option = await s.option();
      expect(option).toBe(NbdOption.startTls);
      return option;
    };
    const old = new NbdWriter().bytes(MAGIC).bytes(u64(0x00420281861253n)).done();
    expect(await meet(async (s) => s.send(old))).toBe('Server does not support STARTTLS');
    expect(await meet(async (s) => s.send(greeting(2)))).toBe('Server does not support STARTTLS');
    const answers = async (s: Scene, type: number): Promise<void> => s.reply(await begin(s), type);
    expect(await meet((s) => answers(s, NbdReply.errUnsup))).toContain('support STARTTLS option');
    expect(await meet((s) => answers(s, NbdReply.errPolicy))).toContain('Denied by server');
    const early = async (s: Scene): Promise<void> => {
      const option = await begin(s);
      const ack = encodeOptionReply(option, NbdReply.ack, none);
      s.send(new NbdWriter().bytes(ack).bytes(ack).done());
    };
    expect(await meet(early)).toBe('Server sent data before the TLS handshake');
  });
});

interface Chunk {
  readonly type: number;
  readonly flags?: number;
  readonly payload?: Uint8Array;
  readonly length?: number;
  readonly cookie?: number;
  readonly offset?: number;
}

function chunk(style: Style, low: number, c: Chunk): Uint8Array {
  const { type, flags = 1, payload = none, length = payload.length, cookie = low } = c;
  const w = new NbdWriter().u32(style === 'extended' ? 0x6e8a278c : 0x668e33ef);
  w.u16(flags).u16(type).u32(0).u32(cookie);
  if (style === 'extended') w.u64(c.offset ?? 0).u64(length);
  else w.u32(length);
  return w.bytes(payload).done();
}

const simple = (low: number, errno = 0, magic = 0x67446698): Uint8Array =>
  new NbdWriter().u32(magic).u32(errno).u32(0).u32(low).done();

const dataPayload = (offset: number, bytes: number): Uint8Array =>
  new NbdWriter()
    .u64(offset)
    .bytes(data.subarray(offset, offset + bytes))
    .done();

describe('transmission', () => {
  /** Plays an honest handshake, then answers the first request with what `answer` makes. */
  async function open(
    style: Style,
    answer: (low: number, high: number) => readonly Uint8Array[],
    flags?: number,
  ): Promise<Backend> {
    const sockets = await play(async (s) => {
      await s.agree(style, flags);
      const { low, high } = await s.request(style);
      for (const bytes of answer(low, high)) s.send(bytes);
      // What comes next is not answered: the scene ends.
      await settle();
    });
    return openClient(sockets);
  }

  const BYTES = 4096;
  const whole: Chunk = { type: NbdChunk.offsetData, payload: dataPayload(0, BYTES) };
  const part = (offset: number, bytes: number, flags = 0): Chunk => {
    return { type: NbdChunk.offsetData, flags, payload: dataPayload(offset, bytes) };
  };
  const hole = (offset: number, bytes: number, flags = 1): Chunk => {
    const payload = new NbdWriter().u64(offset).u32(bytes).done();
    return { type: NbdChunk.offsetHole, flags, payload };
  };
  const error = (errno: number, text = ''): Uint8Array => {
    const bytes = new TextEncoder().encode(text);
    return new NbdWriter().u32(errno).u16(bytes.length).bytes(bytes).done();
  };

  const wrong: Record<string, readonly Chunk[]> = {
    'another cookie': [{ ...whole, cookie: 4711 }],
    'an unknown kind of chunk': [{ type: 77 }],
    'a NONE chunk that goes on': [{ type: NbdChunk.none, flags: 0 }],
    'a NONE chunk with content': [{ type: NbdChunk.none, payload: new Uint8Array(4) }],
    'nothing but the end': [{ type: NbdChunk.none }],
    'data without data': [{ type: NbdChunk.offsetData, payload: u64(0n) }],
    'data in front of the range': [part(0, 16), { ...part(8192, 16), flags: 1 }],
    'data that begins before it ends': [part(0, 2048), part(2047, 2049, 1)],
    'the same data twice': [part(0, BYTES), part(0, BYTES, 1)],
    'less than all': [part(0, BYTES - 1, 1)],
    'a gap in the middle': [part(0, 1000), part(1001, BYTES - 1001, 1)],
    'more than all': [part(0, BYTES + 1, 1)],
    'a chunk of 4 GiB': [{ ...whole, length: 0xfffffff0 }],
    'a hole and data over each other': [part(0, 2048), hole(1024, 3072)],
    'a hole of nothing': [hole(0, 0, 0), { ...whole }],
    'a hole behind the range': [part(0, BYTES), hole(BYTES, 1)],
    'a hole with a short payload': [{ type: NbdChunk.offsetHole, payload: new Uint8Array(8) }],
    'an error chunk without text length': [{ type: NbdChunk.error, payload: new Uint8Array(4) }],
    'an error that is none': [{ type: NbdChunk.error, payload: error(0) }],
    'an error at an offset not asked for': [
      {
        type: NbdChunk.errorOffset,
        payload: new NbdWriter().u32(5).u16(0).u64(100_000).done(),
      },
    ],
    'an unknown error chunk': [{ type: 0x8888, payload: error(5) }],
    'an error among data': [{ ...part(0, 2048) }, { type: NbdChunk.error, payload: error(5) }],
    'an error that allows to go on, then all data': [
      { type: NbdChunk.error, flags: 0, payload: error(5) },
      whole,
    ],
    'block status instead of data': [
      { type: NbdChunk.blockStatus, payload: new NbdWriter().u32(5).u32(512).u32(0).done() },
    ],
  };
  describe.each(['structured', 'extended'] as const)('%s replies to a read', (style) => {
    it.each(Object.entries(wrong))('%s', async (_name, chunks) => {
      const backend = await open(style, (low) => chunks.map((c) => chunk(style, low, c)));
      await expect(readBytes(backend, 0, BYTES)).rejects.toThrow();
    });

    it('an honest one is taken, in any order and with holes', async () => {
      const backend = await open(style, (low) =>
        [part(1024, 1024), hole(2048, 2048, 0), part(0, 1024, 1)].map((c) => chunk(style, low, c)),
      );
      const expected = data.slice(0, BYTES).fill(0, 2048);
      same(await readBytes(backend, 0, BYTES), expected);
    });

    it('the end of the connection at any byte of a reply', async () => {
      const answer = (low: number): Uint8Array =>
        new NbdWriter()
          .bytes(chunk(style, low, part(0, 64)))
          .bytes(chunk(style, low, hole(64, 64)))
          .done();
      const { length } = answer(1);
      for (let n = 0; n < length; n++) {
        const backend = await open(style, (low) => [answer(low).subarray(0, n)]);
        await expect(readBytes(backend, 0, 128), `after ${n} bytes`).rejects.toThrow();
      }
      const backend = await open(style, (low) => [answer(low)]);
      same(await readBytes(backend, 0, 128), data.slice(0, 128).fill(0, 64));
    });

    it('simple replies where others were agreed on', async () => {
      const backend = await open(style, (low) => [simple(low), data.subarray(0, BYTES)]);
      await expect(readBytes(backend, 0, BYTES)).rejects.toThrow();
    });

    const extent = (id: number, ...runs: readonly (readonly [number, number])[]): Uint8Array => {
      const w = new NbdWriter().u32(id);
      if (style === 'extended') w.u32(runs.length);
      for (const [bytes, flags] of runs) {
        if (style === 'extended') w.u64(bytes).u64(flags);
        else w.u32(bytes).u32(flags);
      }
      return w.done();
    };
    const type = style === 'extended' ? NbdChunk.blockStatusExt : NbdChunk.blockStatus;
    const other = style === 'extended' ? NbdChunk.blockStatus : NbdChunk.blockStatusExt;
    const statuses: Record<string, readonly Chunk[]> = {
      'of another context': [{ type, payload: extent(6, [512, 0]) }],
      'of no runs': [{ type, payload: extent(5) }],
      'with a run of nothing': [{ type, payload: extent(5, [0, 0]) }],
      'with half a run': [{ type, payload: extent(5, [512, 0]).subarray(0, -1) }],
      'of the other width': [{ type: other, payload: extent(5, [512, 0]) }],
      'given twice': [
        { type, flags: 0, payload: extent(5, [512, 0]) },
        { type, payload: extent(5, [512, 0]) },
      ],
      'left out': [{ type: NbdChunk.none }],
      'with data instead': [{ type: NbdChunk.offsetData, payload: dataPayload(0, 512) }],
    };
    it.each(Object.entries(statuses))('block status %s', async (_name, chunks) => {
      const backend = await open(style, (low) => chunks.map((c) => chunk(style, low, c)));
      await expect(chainStatus(backend.node, undefined, 0, 65536)).rejects.toThrow();
    });

    it('block status with a run longer than was asked for is cut', async () => {
      const payload = extent(5, [0xf000_0000, 3]);
      const backend = await open(style, (low) => [chunk(style, low, { type, payload })]);
      const status = await chainStatus(backend.node, undefined, 0, 65536);
      expect(status).toMatchObject({ bytes: 65536, zero: true, data: false });
    });
  });

  it.each(['simple', 'structured', 'extended'] as const)(
    'replies to nobody, twice, and with a wrong magic (%s)',
    async (style) => {
      const good = (low: number): readonly Uint8Array[] =>
        style === 'simple' ? [simple(low), data.subarray(0, BYTES)] : [chunk(style, low, whole)];
      const magic = await open(style, () => [new Uint8Array(64).fill(0x33)]);
      expect(await failure(readBytes(magic, 0, BYTES))).not.toBe('');
      const twice = await open(style, (low) => [...good(low), ...good(low)]);
      same(await readBytes(twice, 0, BYTES), data.subarray(0, BYTES));
      await settle();
      await expect(readBytes(twice, 0, BYTES)).rejects.toThrow();
      const nobody = await open(style, (low) => good(low + 1));
      await expect(readBytes(nobody, 0, BYTES)).rejects.toThrow();
    },
  );

  it('an error number that is unknown is EINVAL, one with data behind it ends all', async () => {
    const odd = await open('simple', (low) => [simple(low, 4711)]);
    await expect(readBytes(odd, 0, 512)).rejects.toMatchObject({ code: 'EINVAL' });
    const behind = await open('simple', (low) => [simple(low, 5), data.subarray(0, 512)]);
    await expect(readBytes(behind, 0, 512)).rejects.toMatchObject({ code: 'EIO' });
    await settle();
    await expect(readBytes(behind, 0, 512)).rejects.toThrow();
  });

  it('structured replies where none were agreed on', async () => {
    const backend = await open('simple', (low) => [chunk('structured', low, whole)]);
    await expect(readBytes(backend, 0, BYTES)).rejects.toThrow();
  });

  it('a read-only export is not opened for writing', async () => {
    const flags = NbdFlag.hasFlags | NbdFlag.readOnly;
    const message = await failure(open('structured', () => [], flags));
    expect(message).toContain('request on write denied without write permission');
  });
});
