// Goal: no client can harm the server: each breach ends in an error reply or the end of that
// connection, and the others go on. Method: a client by hand over simulated sockets; after each
// breach an honest connection reads the disk.
import { describe, expect, it } from 'vitest';
import {
  encodeOption,
  NBD_MAX_PAYLOAD,
  NbdChunk,
  NbdCmd,
  NbdCmdFlag,
  NbdOption,
  NbdReply,
  NbdWriter,
} from '../../src/wire/nbd.js';
import { Random, readBytes, same, settle, testSeed } from '../support/index.js';
import type { Served } from './support.js';
import { contextData, DISK_BYTES, goData, none, RawClient, request, serve } from './support.js';

const content = new Random(1).bytes(8192);
const EINVAL = 22;
const ENOSPC = 28;
const EPERM = 1;

const connect = (served: Served): Promise<RawClient> => RawClient.connect(served);

/** Others are served: a new connection reads what the disk holds. */
async function expectAlive(served: Served): Promise<void> {
  const client = await connect(served);
  await client.enter();
  client.send(request(NbdCmd.read, { offset: 1000, length: 5000 }));
  same((await client.answer(5000)).payload, content.subarray(1000, 6000));
  client.send(request(NbdCmd.disc));
  await client.closed();
}

async function enter(
  served: Served,
  style: 'simple' | 'structured' | 'extended' = 'simple',
): Promise<RawClient> {
  const client = await connect(served);
  await client.enter(style);
  return client;
}

const header = (magic: bigint, option: number, length: number): Uint8Array => {
  const out = new Uint8Array(16);
  const v = new DataView(out.buffer);
  v.setBigUint64(0, magic);
  v.setUint32(8, option);
  v.setUint32(12, length);
  return out;
};

const IHAVEOPT = 0x49484156454f5054n;

describe('handshake', () => {
  const endings: Record<string, readonly Uint8Array[]> = {
    'unknown client flags': [new NbdWriter().u32(0x80000003).done()],
    'a wrong magic of an option': [
      new NbdWriter().u32(3).done(),
      header(0x1234n, NbdOption.list, 0),
    ],
    'an option of 4 GiB': [
      new NbdWriter().u32(3).done(),
      header(IHAVEOPT, NbdOption.list, 0xffffffff),
    ],
    'an export name that is too long': [
      new NbdWriter().u32(3).done(),
      encodeOption(NbdOption.exportName, new Uint8Array(5000).fill(65)),
    ],
    'an export that is not there, the old way': [
      new NbdWriter().u32(3).done(),
      encodeOption(NbdOption.exportName, new Uint8Array([65])),
    ],
    'options without the fixed dialect': [
      new NbdWriter().u32(2).done(),
      encodeOption(NbdOption.list, none),
    ],
  };
  it.each(Object.entries(endings))('%s ends the connection', async (_name, pieces) => {
    const served = await serve({ content });
    const client = await connect(served);
    await client.take(18);
    client.send(...pieces);
    await client.closed();
    await settle();
    expect(served.server.clients).toBe(0);
    await expectAlive(served);
  });

  const refusals: Record<string, readonly [number, Uint8Array, number]> = {
    'unknown options': [77, none, NbdReply.errUnsup],
    'the long-dead PEEK_EXPORT': [4, none, NbdReply.errUnsup],
    'LIST with data': [NbdOption.list, new Uint8Array(1), NbdReply.errInvalid],
    'STRUCTURED_REPLY with data': [
      NbdOption.structuredReply,
      new Uint8Array(1),
      NbdReply.errInvalid,
    ],
    'EXTENDED_HEADERS with data': [
      NbdOption.extendedHeaders,
      new Uint8Array(1),
      NbdReply.errInvalid,
    ],
    'STARTTLS without TLS': [NbdOption.startTls, none, NbdReply.errPolicy],
    'GO without data': [NbdOption.go, none, NbdReply.errInvalid],
    'GO with a name longer than its data': [
      NbdOption.go,
      new NbdWriter().u32(100).text('x').done(),
      NbdReply.errInvalid,
    ],
    'GO with fewer requests than it says': [
      NbdOption.go,
      new NbdWriter().counted('').u16(3).u16(0).done(),
      NbdReply.errInvalid,
    ],
    'GO with a name of 5000 bytes': [
      NbdOption.go,
      new NbdWriter().counted('x'.repeat(5000)).u16(0).done(),
      NbdReply.errInvalid,
    ],
    'GO for no export': [NbdOption.go, goData('nowhere'), NbdReply.errUnknown],
    'an option longer than any': [NbdOption.info, new Uint8Array(70_000), NbdReply.errTooBig],
    'contexts before structured replies': [
      NbdOption.setMetaContext,
      contextData('', 'base:allocation'),
      NbdReply.errInvalid,
    ],
  };
  it.each(Object.entries(refusals))('%s: refused, and the talk goes on', async (_name, row) => {
    const [option, data, type] = row;
    const served = await serve({ content });
    const client = await connect(served);
    await client.greet();
    expect((await client.option(option, data)).at(-1)?.type).toBe(type);
    expect((await client.option(NbdOption.list)).map((a) => a.type)).toEqual([
      NbdReply.server,
      NbdReply.ack,
    ]);
    expect((await client.option(NbdOption.abort)).at(-1)?.type).toBe(NbdReply.ack);
    await client.closed();
  });

  it('malformed lists of contexts are refused and forget the choice before', async () => {
    const served = await serve({ content });
    const client = await connect(served);
    await client.greet();
    await client.option(NbdOption.structuredReply);
    const set = NbdOption.setMetaContext;
    expect(await client.option(set, contextData('', 'base:allocation'))).toHaveLength(2);
    const many = new NbdWriter().counted('').u32(0xffffffff).done();
    const short = new NbdWriter().counted('').u32(2).counted('base:allocation').done();
    const behind = new NbdWriter().bytes(contextData('', 'base:allocation')).u32(1).done();
    for (const data of [many, short, behind, none]) {
      expect((await client.option(set, data)).at(-1)?.type).toBe(NbdReply.errInvalid);
    }
    await client.option(NbdOption.go, goData(''));
    client.send(request(NbdCmd.blockStatus, { length: 512 }));
    expect((await client.answer()).errno).toBe(EINVAL);
  });

  it('styles of replies are chosen once, newer ones not taken back', async () => {
    const served = await serve({ content });
    const client = await connect(served);
    await client.greet();
    const { structuredReply, extendedHeaders } = NbdOption;
    const types = [];
    for (const option of [structuredReply, structuredReply, extendedHeaders, extendedHeaders]) {
      types.push((await client.option(option)).at(-1)?.type);
    }
    expect(types).toEqual([NbdReply.ack, NbdReply.errInvalid, NbdReply.ack, NbdReply.errInvalid]);
    const again = (await client.option(structuredReply)).at(-1)?.type;
    expect(again).toBe(NbdReply.errExtHeaderReqd);
  });

  it('a flood of options whose answers nobody takes stays in the sender', async () => {
    const served = await serve({ content });
    const client = await connect(served);
    await client.greet();
    client.stream.pause();
    const flood = Array.from({ length: 20_000 }, () => encodeOption(NbdOption.list, none));
    expect(client.stream.write(flood)).toBe(false);
    let drained = 0;
    client.stream.onDrain = (): void => void drained++;
    for (let i = 0; i < 50; i++) await settle();
    expect(drained).toBe(0);
    await expectAlive(served);
    await served.clock.advance(10_000);
    expect(served.errors).toEqual(['fake: The client took too long to agree']);
  });

  it('silence and slow loris end after the time limit, in which others are served', async () => {
    const served = await serve({ content, handshakeMs: 3000 });
    const silent = await connect(served);
    const slow = await connect(served);
    const bytes = new NbdWriter().u32(3).bytes(encodeOption(NbdOption.list, none)).done();
    let ended = 0;
    for (const each of [silent, slow]) void each.closed().then(() => ended++);
    for (let at = 0; at < 5; at++) {
      slow.send(bytes.subarray(at, at + 1));
      await served.clock.advance(500);
    }
    expect(ended).toBe(0);
    await expectAlive(served);
    await served.clock.advance(500);
    await settle();
    expect(ended).toBe(2);
    expect(served.server.clients).toBe(0);
    expect(served.errors).toHaveLength(2);
  });

  it('the time limit ends with the handshake; 0 is none', async () => {
    const served = await serve({ content, handshakeMs: 3000 });
    const client = await enter(served);
    await served.clock.advance(100_000);
    client.send(request(NbdCmd.read, { offset: 0, length: 512 }));
    same((await client.answer(512)).payload, content.subarray(0, 512));
  });
});

describe('TLS that is demanded', () => {
  const tls = { endpoint: 'server', psk: { keys: new Map() }, verifyPeer: true } as const;

  it('is not got around: nothing is told or done before it', async () => {
    const served = await serve({ content, tls });
    for (const [option, data] of [
      [NbdOption.list, none],
      [NbdOption.info, goData('')],
      [NbdOption.go, goData('')],
      [NbdOption.structuredReply, none],
      [NbdOption.extendedHeaders, none],
      [NbdOption.setMetaContext, contextData('', 'base:allocation')],
      [NbdOption.listMetaContext, contextData('')],
      [99, none],
    ] as const) {
      const client = await connect(served);
      await client.greet();
      const answers = await client.option(option, data);
      expect(answers.map((a) => a.type)).toEqual([NbdReply.errTlsReqd]);
    }
    const old = await connect(served);
    await old.greet();
    old.send(encodeOption(NbdOption.exportName, none));
    await expect(old.take(1)).rejects.toThrow();
    const plain = await connect(served);
    await plain.greet(2);
    plain.send(encodeOption(NbdOption.exportName, none));
    await expect(plain.take(1)).rejects.toThrow();
  });

  it('plain bytes behind STARTTLS end the connection', async () => {
    const served = await serve({ content, tls });
    const client = await connect(served);
    await client.greet();
    const { startTls, list } = NbdOption;
    client.send(encodeOption(startTls, none), encodeOption(list, none));
    await expect(client.take(1)).rejects.toThrow();
    await settle();
    expect(served.errors).toEqual(['fake: Data was sent before the TLS handshake']);
  });

  it('STARTTLS with data is refused', async () => {
    const served = await serve({ content, tls });
    const client = await connect(served);
    await client.greet();
    const [answer] = await client.option(NbdOption.startTls, new Uint8Array(3));
    expect(answer?.type).toBe(NbdReply.errInvalid);
  });
});

describe('transmission', () => {
  it.each(['simple', 'structured', 'extended'] as const)(
    'a wrong magic ends the connection (%s)',
    async (style) => {
      const served = await serve({ content });
      const client = await enter(served, style);
      client.send(new Uint8Array(32).fill(0x5a));
      await client.closed();
      await expectAlive(served);
    },
  );

  const bad: Record<string, readonly [Parameters<typeof request>[0], object, number]> = {
    'an unknown command': [99, { length: 512 }, EINVAL],
    'an unknown flag': [NbdCmd.read, { flags: 0x4000, length: 512 }, EINVAL],
    'NO_HOLE on a read': [NbdCmd.read, { flags: NbdCmdFlag.noHole, length: 512 }, EINVAL],
    'a read of 32 MiB and a byte': [NbdCmd.read, { length: NBD_MAX_PAYLOAD + 1 }, EINVAL],
    'a read across the end': [NbdCmd.read, { offset: DISK_BYTES - 1, length: 2 }, EINVAL],
    'a read behind the end': [NbdCmd.read, { offset: DISK_BYTES + 1, length: 1 }, EINVAL],
    'a read at 2^63': [NbdCmd.read, { offset: 2 ** 63, length: 1 }, EINVAL],
    'a trim across the end': [NbdCmd.trim, { offset: 512, length: DISK_BYTES }, EINVAL],
    'a cache across the end': [NbdCmd.cache, { offset: 512, length: DISK_BYTES }, EINVAL],
    'zeroes across the end': [NbdCmd.writeZeroes, { offset: 512, length: DISK_BYTES }, ENOSPC],
    'status without contexts': [NbdCmd.blockStatus, { length: 512 }, EINVAL],
  };
  it.each(Object.entries(bad))('%s: an error, and the next is served', async (_name, row) => {
    const [type, more, errno] = row;
    const served = await serve({ content });
    for (const style of ['simple', 'structured', 'extended'] as const) {
      const client = await enter(served, style);
      const extended = style === 'extended';
      client.send(request(type, more, extended));
      expect((await client.answer()).errno).toBe(errno);
      client.send(request(NbdCmd.flush, {}, extended));
      expect((await client.answer()).errno).toBe(0);
    }
  });

  it('writes to a read-only export fail, one and all, and change nothing', async () => {
    const served = await serve({ content, export: { writable: false } });
    const client = await enter(served);
    const range = { offset: 0, length: 512 };
    client.send(request(NbdCmd.write, range), new Uint8Array(512));
    client.send(request(NbdCmd.trim, range), request(NbdCmd.writeZeroes, range));
    for (let i = 0; i < 3; i++) expect((await client.answer()).errno).toBe(EPERM);
    same(await readBytes(served.backend, 0, 512), content.subarray(0, 512));
  });

  it('a payload that is too long is read past and refused; the next request counts', async () => {
    const served = await serve({ content });
    for (const style of ['simple', 'extended'] as const) {
      const client = await enter(served, style);
      const extended = style === 'extended';
      const flags = extended ? NbdCmdFlag.payloadLen : 0;
      const length = NBD_MAX_PAYLOAD + 4096;
      client.send(request(NbdCmd.write, { length, flags }, extended));
      const piece = new Uint8Array(1024 * 1024).fill(0x25);
      for (let left = length; left > 0; left -= piece.length) {
        client.send(piece.subarray(0, Math.min(left, piece.length)));
        await settle();
      }
      expect((await client.answer()).errno).toBe(EINVAL);
      client.send(request(NbdCmd.read, { length: 512 }, extended));
      same((await client.answer(512)).payload.slice(-512), content.subarray(0, 512));
    }
  });

  it('a payload of 2^60 bytes ends the connection', async () => {
    const served = await serve({ content });
    const client = await enter(served, 'extended');
    const flags = NbdCmdFlag.payloadLen;
    client.send(request(NbdCmd.write, { length: 2 ** 60, flags }, true));
    await client.closed();
    await expectAlive(served);
  });

  it('reads that nobody takes: few are begun, the rest waits in the sender', async () => {
    const served = await serve({ content });
    const client = await enter(served);
    client.stream.pause();
    let begun = 0;
    const { backend } = served;
    const read = backend.read.bind(backend);
    backend.read = (...args): Promise<void> => {
      begun++;
      return read(...args);
    };
    for (let i = 0; i < 5000; i++) client.send(request(NbdCmd.read, { length: DISK_BYTES }));
    for (let i = 0; i < 100; i++) await settle();
    expect(begun).toBeLessThan(32);
    await expectAlive(served);
  });

  it('a client that disconnects at any byte of a session harms nobody', async () => {
    const served = await serve({ content });
    const whole = new NbdWriter()
      .u32(3)
      .bytes(encodeOption(NbdOption.structuredReply, none))
      .bytes(encodeOption(NbdOption.setMetaContext, contextData('', 'base:allocation')))
      .bytes(encodeOption(NbdOption.go, goData('')))
      .bytes(request(NbdCmd.read, { length: 4096 }))
      .bytes(request(NbdCmd.blockStatus, { length: 4096 }))
      .bytes(request(NbdCmd.write, { offset: 65536, length: 64 }))
      .bytes(new Uint8Array(64).fill(1))
      .bytes(request(NbdCmd.disc))
      .done();
    const writeEnds = whole.length - 28;
    for (let n = 0; n <= whole.length; n++) {
      const hard = n % 2 === 0;
      const client = await connect(served);
      client.send(whole.subarray(0, n));
      await settle();
      const before = (await readBytes(served.backend, 65536, 1))[0];
      expect(before, `after ${n} bytes`).toBe(n < writeEnds ? 0 : 1);
      if (hard) client.stream.destroy();
      else void client.stream.end();
      await settle();
      expect(served.server.clients, `after ${n} bytes`).toBe(0);
    }
    await expectAlive(served);
  });

  it('the same session is understood in pieces of any length', async () => {
    const random = new Random(testSeed());
    const served = await serve({ content, random });
    const client = await enter(served, 'extended');
    const data = random.bytes(3000);
    const write = { offset: 9000, length: 3000, flags: NbdCmdFlag.payloadLen };
    client.send(request(NbdCmd.write, write, true), data);
    expect((await client.answer()).errno).toBe(0);
    client.send(request(NbdCmd.read, { offset: 9000, length: 3000 }, true));
    const answer = await client.answer();
    expect(answer.type).toBe(NbdChunk.offsetData);
    same(answer.payload.subarray(8), data);
  });
});

describe('limits', () => {
  it('more connections than allowed wait for their turn', async () => {
    const served = await serve({ content, maxConnections: 2 });
    const first = await enter(served);
    await enter(served);
    const third = await connect(served);
    let greeted = false;
    const greeting = third.take(18).then(() => (greeted = true));
    await settle();
    expect(greeted).toBe(false);
    first.send(request(NbdCmd.disc));
    await greeting;
    expect(served.server.clients).toBe(2);
  });

  it('one that waits and leaves does not take a place', async () => {
    const served = await serve({ content, maxConnections: 1 });
    const first = await enter(served);
    const gone = await connect(served);
    gone.stream.destroy();
    await settle();
    first.send(request(NbdCmd.disc));
    await first.closed();
    await expectAlive(served);
  });
});
