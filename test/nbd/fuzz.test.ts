// Goal: no bytes, whatever they are, harm either end. Method: sessions made at random from good
// messages, then damaged; a server must go on serving others, a client must settle every request
// and give no wrong data. A failure prints its seed; VDISK_SEED=n repeats it. VDISK_FUZZ_ROUNDS=n
// runs so many rounds instead of the fixed number (npm run fuzz:nbd runs until it is stopped).
import { describe, expect, it } from 'vitest';
import { NbdExport } from '../../src/export/nbd/export.js';
import {
  encodeOption,
  encodeOptionReply,
  NbdChunk,
  NbdCmd,
  NbdInfo,
  NbdOption,
  NbdReply,
  NbdWriter,
} from '../../src/wire/nbd.js';
import { Iov, nodeStatus } from '../../src/index.js';
import { StreamReader } from '../../src/host/stream-reader.js';
import { FakeSockets, Random, same, settle, testSeed } from '../support/index.js';
import type { Served } from './support.js';
import {
  address,
  contextData,
  goData,
  none,
  openClient,
  RawClient,
  request,
  serve,
} from './support.js';

const ROUNDS = Number(process.env['VDISK_FUZZ_ROUNDS'] ?? 300);
const timeout = Math.max(60_000, ROUNDS * 500);

/** Some bytes changed, lost, doubled, or put in between. */
function damage(random: Random, bytes: Uint8Array): Uint8Array {
  let out = bytes.slice();
  for (let n = random.int(0, 3); n > 0 && out.length > 0; n--) {
    const at = random.int(0, out.length - 1);
    const to = Math.min(out.length, at + random.int(1, 40));
    const [before, middle, after] = [out.slice(0, at), out.slice(at, to), out.slice(to)];
    switch (random.int(0, 5)) {
      case 0:
        out[at] = random.int(0, 255);
        break;
      case 1:
        out[at] = (out[at] ?? 0) ^ (1 << random.int(0, 7));
        break;
      case 2:
        out = new Uint8Array(Buffer.concat([before, after]));
        break;
      case 3:
        out = new Uint8Array(Buffer.concat([before, middle, middle, after]));
        break;
      case 4:
        out = new Uint8Array(Buffer.concat([before, random.bytes(middle.length), middle, after]));
        break;
      default:
        out.fill(random.pick([0, 0xff]), at, to);
    }
  }
  return out;
}

function randomOption(random: Random): Uint8Array {
  const option = random.pick([...Object.values(NbdOption), random.int(0, 20)]);
  const name = random.pick(['', '', 'safe', 'x'.repeat(random.int(0, 5000))]);
  const queries = ['base:allocation', 'qemu:', 'base:', 'y'.repeat(random.int(0, 300))];
  const data = random.pick([
    none,
    goData(name),
    contextData(name, random.pick(queries), random.pick(queries)),
    random.bytes(random.int(0, 100)),
  ]);
  return encodeOption(option, data);
}

function randomRequest(random: Random, extended: boolean): Uint8Array {
  const type = random.pick([...Object.values(NbdCmd), random.int(0, 20)]);
  const offset = random.pick([0, random.int(0, 1 << 20), 2 ** 40, 2 ** 52]);
  const most = random.pick([512, 65536, 1 << 20, 2 ** 31]);
  const length = random.int(0, most);
  const flags = random.chance(0.3) ? random.int(0, 63) : 0;
  const head = request(type, { offset, length, flags, cookieLow: random.int(0, 9) }, extended);
  const payload = type === NbdCmd.write ? random.bytes(Math.min(length, 100_000)) : none;
  return new Uint8Array(Buffer.concat([head, payload]));
}

/** All that a client would say. */
function session(random: Random): Uint8Array {
  const out = new NbdWriter().u32(random.chance(0.9) ? 3 : random.int(0, 4));
  const style = random.int(0, 2);
  const rest = (): void => {
    if (random.chance(0.5)) out.bytes(randomOption(random));
  };
  rest();
  if (style === 1) out.bytes(encodeOption(NbdOption.structuredReply, none));
  if (style === 2) out.bytes(encodeOption(NbdOption.extendedHeaders, none));
  rest();
  const contexts = contextData('', 'base:allocation', 'qemu:allocation-depth');
  if (random.chance()) out.bytes(encodeOption(NbdOption.setMetaContext, contexts));
  rest();
  out.bytes(encodeOption(NbdOption.go, goData('')));
  for (let n = random.int(0, 12); n > 0; n--) out.bytes(randomRequest(random, style === 2));
  return out.done();
}

const safe = new Random(9).bytes(8192);

async function expectAlive(served: Served): Promise<void> {
  const client = await RawClient.connect(served);
  await client.enter('structured', 'safe');
  client.send(request(NbdCmd.read, { offset: 100, length: 8000 }));
  same((await client.answer()).payload.subarray(8), safe.subarray(100, 8100));
  client.send(request(NbdCmd.disc));
  await client.closed();
}

describe('clients', () => {
  it('the server survives each, and others are served meanwhile', { timeout }, async () => {
    const seed = testSeed();
    const random = new Random(seed);
    const served = await serve({ random, export: { allocationDepth: true } });
    const other = await serve({ content: safe });
    const { backend } = other;
    served.server.add(new NbdExport({ name: 'safe', backend, writable: false, multiConn: true }));
    for (let round = 0; round < ROUNDS; round++) {
      const client = await RawClient.connect(served);
      if (random.chance(0.2)) client.stream.pause();
      const bytes = damage(random, session(random));
      for (let at = 0; at < bytes.length;) {
        const n = random.int(1, 4000);
        client.send(bytes.subarray(at, at + n));
        at += n;
        if (random.chance(0.2)) await settle();
      }
      if (round % 10 === 0) await expectAlive(served);
      if (random.chance()) client.stream.destroy();
      else void client.stream.end();
      await settle();
      await served.clock.advance(10_000);
      if (served.server.clients > 0) client.stream.destroy();
      for (let i = 0; i < 200 && served.server.clients > 0; i++) await settle();
      expect(served.server.clients, `round ${round} of seed ${seed}`).toBe(0);
    }
    await expectAlive(served);
  });
});

describe('servers', () => {
  it(
    'any damage to their bytes ends in errors: every request settles, memory stays whole',
    { timeout },
    async () => {
      const seed = testSeed();
      const random = new Random(seed);
      const served = await serve({ random, content: safe });
      for (let round = 0; round < ROUNDS; round++) {
        const sockets = new FakeSockets(random);
        // A client waits for what was promised: sooner or later each connection ends, those too
        // that the client makes when it has lost one.
        const patience = async (end: () => void): Promise<void> => {
          for (let i = 0; i < 200; i++) await settle();
          end();
        };
        // In the middle: what the server says is damaged now and then, and at last cut off.
        await sockets.listen(address, (near) => {
          void served.sockets.connect(address).then((far) => {
            let left = random.int(1, 60);
            const end = (): void => {
              near.destroy();
              far.destroy();
            };
            void patience(end);
            near.onData = (piece): void => void far.write([piece]);
            near.onClose = end;
            far.onClose = end;
            far.onData = (piece): void => {
              near.write([random.chance(0.1) ? damage(random, piece) : piece]);
              if (--left === 0) end();
            };
          });
        });
        const client = await openClient(sockets, {}).catch(() => undefined);
        if (client === undefined) continue;
        const guarded = Array.from({ length: 8 }, () => new Uint8Array(6000).fill(0xa5));
        const work = guarded.map((memory, i) =>
          client.read(i * 512, Iov.of(memory.subarray(1000, 5000))),
        );
        work.push(client.write(65536, Iov.of(new Uint8Array(3000))), client.flush());
        const status = nodeStatus(client.node, 0, 1 << 20, true);
        await Promise.allSettled([...work, status]);
        for (const memory of guarded) {
          const outside = [...memory.subarray(0, 1000), ...memory.subarray(5000)];
          expect(
            outside.every((b) => b === 0xa5),
            `round ${round} of seed ${seed}`,
          ).toBe(true);
        }
        await client.detach();
        await client.graph.close();
      }
    },
  );

  it('damage to headers never passes for data', { timeout }, async () => {
    const seed = testSeed();
    const random = new Random(seed);
    const data = random.bytes(1 << 20);
    let right = 0;
    for (let round = 0; round < ROUNDS; round++) {
      const style = random.pick(['simple', 'structured', 'extended'] as const);
      const sockets = new FakeSockets(random);
      await sockets.listen(address, (stream) => {
        const reader = new StreamReader(stream);
        answer(reader, style, data, random).then(
          () => void stream.end(),
          () => void stream.end(),
        );
      });
      const client = await openClient(sockets);
      const offset = random.int(0, 500_000);
      const memory = new Uint8Array(random.int(128, 20_000));
      const got = await client.read(offset, Iov.of(memory)).then(
        () => true,
        () => false,
      );
      if (got) {
        right++;
        same(memory, data.subarray(offset, offset + memory.length), `round ${round}, seed ${seed}`);
      }
      await client.detach();
      await client.graph.close();
    }
    // One in four is not damaged.
    expect(right).toBeGreaterThan(ROUNDS / 8);
  });
});

/** An honest handshake; then one read answered in parts, a byte of whose headers is changed. */
async function answer(
  reader: StreamReader,
  style: 'simple' | 'structured' | 'extended',
  data: Uint8Array,
  random: Random,
): Promise<void> {
  const send = (bytes: Uint8Array): void => void reader.stream.write([bytes]);
  send(new NbdWriter().bytes(new TextEncoder().encode('NBDMAGICIHAVEOPT')).u16(3).done());
  await reader.take(4);
  for (let entered = false; !entered;) {
    const head = new DataView((await reader.take(16)).slice().buffer);
    await reader.take(head.getUint32(12));
    const option = head.getUint32(8);
    const refused =
      (option === NbdOption.extendedHeaders && style !== 'extended') ||
      (option === NbdOption.structuredReply && style === 'simple');
    const info = new NbdWriter().u16(NbdInfo.export).u64(data.length).u16(1).done();
    if (option === NbdOption.go) send(encodeOptionReply(option, NbdReply.info, info));
    send(encodeOptionReply(option, refused ? NbdReply.errUnsup : NbdReply.ack, none));
    entered = option === NbdOption.go;
  }
  const extended = style === 'extended';
  const head = new DataView((await reader.take(extended ? 32 : 28)).slice().buffer);
  const cookie = head.getUint32(12);
  const offset = head.getUint32(20);
  const length = extended ? head.getUint32(28) : head.getUint32(24);
  const headers: Uint8Array[] = [];
  const bodies: Uint8Array[] = [];
  const cut = style === 'simple' ? length : random.int(64, length - 64);
  for (const [start, end] of [
    [0, cut],
    [cut, length],
  ] as const) {
    if (start === end) continue;
    const w = new NbdWriter();
    if (style === 'simple') {
      w.u32(0x67446698).u32(0).u32(0).u32(cookie);
    } else {
      w.u32(extended ? 0x6e8a278c : 0x668e33ef).u16(end === length ? 1 : 0);
      w.u16(NbdChunk.offsetData).u32(0).u32(cookie);
      if (extended) w.u64(offset);
      if (extended) w.u64(end - start + 8);
      else w.u32(end - start + 8);
      w.u64(offset + start);
    }
    headers.push(w.done());
    bodies.push(data.subarray(offset + start, offset + end));
  }
  if (random.chance(0.75)) {
    const header = random.pick(headers);
    const at = random.int(0, header.length - 1);
    // The offset that extended headers repeat is for people who debug.
    const repeated = extended && at >= 16 && at < 24;
    if (!repeated) header[at] = (header[at] ?? 0) ^ random.int(1, 255);
  }
  for (const [i, header] of headers.entries()) {
    send(header);
    send(bodies[i] ?? none);
  }
  await settle();
}
