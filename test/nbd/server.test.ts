// Goal: what the server offers beyond plain requests: exports by name, metadata contexts, holes in
// replies, flags, and an end that loses nothing. Method: a client by hand over simulated sockets.
import { describe, expect, it } from 'vitest';
import { DirtyBitmap } from '../../src/block/dirty-bitmap.js';
import { NbdExport } from '../../src/export/nbd/export.js';
import {
  encodeOption,
  NbdChunk,
  NbdCmd,
  NbdCmdFlag,
  NbdFlag,
  NbdInfo,
  NbdOption,
  NbdReader,
  NbdReply,
  nbdText,
  NbdWriter,
} from '../../src/wire/nbd.js';
import { createImage, Iov, prepareCreate } from '../../src/index.js';
import type { NodeOptions } from '../../src/index.js';
import { FakeFiles, fakeHost, filled, readBytes, settle, testGraph } from '../support/index.js';
import type { Served } from './support.js';
import {
  contextData,
  DISK_BYTES,
  goData,
  none,
  openClient,
  RawClient,
  request,
  serve,
} from './support.js';

const KiB = 1024;

async function greeted(served: Served): Promise<RawClient> {
  const client = await RawClient.connect(served);
  await client.greet();
  return client;
}

function bitmap(name: string, ...ranges: readonly (readonly [number, number])[]): DirtyBitmap {
  const more = { granularity: 65536, enabled: true, persistent: false };
  const out = new DirtyBitmap({ name, bytes: DISK_BYTES, ...more });
  for (const [offset, bytes] of ranges) out.set(offset, bytes);
  return out;
}

/** Contexts of an answer: number and name. */
function contexts(answers: readonly { type: number; data: Uint8Array }[]): [number, string][] {
  return answers
    .filter((a) => a.type === NbdReply.metaContext)
    .map(({ data }) => {
      const r = new NbdReader(data);
      return [r.u32() ?? -1, nbdText(r.rest())];
    });
}

interface Status {
  readonly id: number;
  readonly extents: [number, number][];
}

/** The answer to one status request: a chunk for each context. */
async function statuses(client: RawClient): Promise<Status[]> {
  const out: Status[] = [];
  for (;;) {
    const { type, payload, flags } = await client.answer();
    const wide = type === NbdChunk.blockStatusExt;
    expect(wide || type === NbdChunk.blockStatus).toBe(true);
    const r = new NbdReader(payload);
    const id = r.u32() ?? -1;
    const count = wide ? r.u32() : undefined;
    const extents: [number, number][] = [];
    while (r.left > 0) {
      extents.push(wide ? [r.u64() ?? 0, r.u64() ?? 0] : [r.u32() ?? 0, r.u32() ?? 0]);
    }
    if (count !== undefined) expect(count).toBe(extents.length);
    out.push({ id, extents });
    if ((flags & 1) !== 0) return out;
  }
}

describe('exports', () => {
  it('are listed with their descriptions and found by name', async () => {
    const served = await serve();
    const { backend } = served;
    const init = { backend, writable: false, multiConn: true };
    served.server.add(new NbdExport({ ...init, name: 'zwei', description: 'der zweite' }));
    served.server.add(new NbdExport({ ...init, name: 'ü'.repeat(2048) }));
    expect(() => {
      served.server.add(new NbdExport({ ...init, name: 'zwei' }));
    }).toThrow("NBD server already has export named 'zwei'");
    expect(() => {
      served.server.add(new NbdExport({ ...init, name: 'x'.repeat(4097) }));
    }).toThrow('too long');
    const client = await greeted(served);
    const listed = (await client.option(NbdOption.list)).slice(0, -1).map(({ data }) => {
      const r = new NbdReader(data);
      return [r.counted(), nbdText(r.rest())];
    });
    expect(listed).toEqual([
      ['', ''],
      ['zwei', 'der zweite'],
      ['ü'.repeat(2048), ''],
    ]);
    const answers = await client.option(NbdOption.info, goData('zwei'));
    const infos = new Map(
      answers.slice(0, -1).map(({ data }) => [new NbdReader(data).u16(), data.subarray(2)]),
    );
    expect(nbdText(infos.get(NbdInfo.description) ?? none)).toBe('der zweite');
    const r = new NbdReader(infos.get(NbdInfo.export) ?? none);
    expect(r.u64()).toBe(DISK_BYTES);
    const { hasFlags, readOnly, sendFlush, sendFua, canMultiConn, sendCache } = NbdFlag;
    const flags = hasFlags | readOnly | sendFlush | sendFua | canMultiConn | sendCache;
    expect(r.u16()).toBe(flags);
    const b = new NbdReader(infos.get(NbdInfo.blockSize) ?? none);
    expect([b.u32(), b.u32(), b.u32()]).toEqual([1, 4096, 32 * KiB * KiB]);
  });

  it('the old way of naming one, with and without zeroes', async () => {
    const served = await serve();
    for (const [flags, bytes] of [
      [3, 10],
      [1, 134],
      [0, 134],
    ] as const) {
      const client = await RawClient.connect(served);
      await client.greet(flags);
      client.send(encodeOption(NbdOption.exportName, none));
      const answer = new NbdReader(await client.take(bytes));
      expect(answer.u64()).toBe(DISK_BYTES);
      client.send(request(NbdCmd.read, { length: 512 }));
      expect((await client.answer(512)).payload).toEqual(new Uint8Array(512));
    }
  });

  it('one in use is not taken away softly; hard ends its clients, not others', async () => {
    const served = await serve();
    const { backend, server } = served;
    server.add(new NbdExport({ name: 'b', backend, writable: true, multiConn: false }));
    const user = await RawClient.connect(served);
    await user.enter('simple', 'b');
    const other = await RawClient.connect(served);
    await other.enter();
    await expect(server.remove('b', false)).rejects.toThrow("export 'b' still in use");
    await server.remove('b', true);
    await user.closed();
    other.send(request(NbdCmd.flush));
    expect((await other.answer()).errno).toBe(0);
    const late = await greeted(served);
    const [answer] = await late.option(NbdOption.go, goData('b'));
    expect(answer?.type).toBe(NbdReply.errUnknown);
  });
});

describe('metadata contexts', () => {
  const names = [
    'base:allocation',
    'qemu:allocation-depth',
    'qemu:dirty-bitmap:one',
    'qemu:dirty-bitmap:two',
  ];
  const bitmaps = [bitmap('one', [65536, 65536]), bitmap('two')];

  it('LIST knows namespaces, SET whole names only', async () => {
    const served = await serve({ export: { allocationDepth: true, bitmaps } });
    const client = await greeted(served);
    await client.option(NbdOption.structuredReply);
    const ask = async (option: number, ...queries: string[]): Promise<string[]> =>
      contexts(await client.option(option, contextData('', ...queries))).map(([, name]) => name);
    const { listMetaContext: list, setMetaContext: set } = NbdOption;
    expect(await ask(list)).toEqual(names);
    expect(await ask(list, 'base:')).toEqual(names.slice(0, 1));
    expect(await ask(list, 'qemu:')).toEqual(names.slice(1));
    expect(await ask(list, 'qemu:dirty-bitmap:')).toEqual(names.slice(2));
    expect(await ask(list, 'other:', 'qemu:dirty-bitmap:two')).toEqual(names.slice(3));
    expect(await ask(set)).toEqual([]);
    expect(await ask(set, 'base:', 'nonsense', 'qemu:dirty-bitmap:one')).toEqual([names[2]]);
    const bad = await client.option(set, contextData('nowhere', 'base:allocation'));
    expect(bad.at(-1)?.type).toBe(NbdReply.errUnknown);
  });

  it.each(['structured', 'extended'] as const)('status of all at once (%s)', async (style) => {
    const served = await serve({ export: { allocationDepth: true, bitmaps } });
    await served.backend.write(128 * KiB, filled(64 * KiB, 1));
    const client = await greeted(served);
    const extended = style === 'extended';
    await client.option(extended ? NbdOption.extendedHeaders : NbdOption.structuredReply);
    const chosen = contexts(
      await client.option(NbdOption.setMetaContext, contextData('', ...names)),
    );
    await client.option(NbdOption.go, goData(''));
    const range = { offset: 0, length: DISK_BYTES };
    client.send(request(NbdCmd.blockStatus, range, extended));
    const all = await statuses(client);
    expect(all.map((s) => s.id)).toEqual(chosen.map(([id]) => id));
    for (const { extents } of all) {
      expect(extents.reduce((sum, [bytes]) => sum + bytes, 0)).toBe(DISK_BYTES);
    }
    expect(all[2]?.extents).toEqual([
      [65536, 0],
      [65536, 1],
      [DISK_BYTES - 131072, 0],
    ]);
    expect(all[3]?.extents).toEqual([[DISK_BYTES, 0]]);
    const flags = NbdCmdFlag.reqOne;
    client.send(request(NbdCmd.blockStatus, { ...range, flags }, extended));
    for (const { extents } of await statuses(client)) expect(extents).toHaveLength(1);
    const odd = { offset: 65536 + 100, length: 65436 + 1 };
    client.send(request(NbdCmd.blockStatus, odd, extended));
    const cut = await statuses(client);
    expect(cut[2]?.extents).toEqual([
      [65436, 1],
      [1, 0],
    ]);
  });

  it('a payload picks contexts, with extended headers', async () => {
    const served = await serve({ export: { allocationDepth: true, bitmaps } });
    const client = await greeted(served);
    await client.option(NbdOption.extendedHeaders);
    const data = contextData('', ...names);
    const chosen = contexts(await client.option(NbdOption.setMetaContext, data));
    await client.option(NbdOption.go, goData(''));
    const id = chosen[2]?.[0] ?? -1;
    const send = (payload: Uint8Array, offset = 0): void => {
      const { length } = payload;
      const head = { offset, length, flags: NbdCmdFlag.payloadLen };
      client.send(request(NbdCmd.blockStatus, head, true), payload);
    };
    send(new NbdWriter().u64(DISK_BYTES).u32(id).done());
    const [only, ...rest] = await statuses(client);
    expect(rest).toEqual([]);
    expect(only?.id).toBe(id);
    for (const [bad, offset] of [
      [new NbdWriter().u64(DISK_BYTES).u32(999).done(), 0],
      [new NbdWriter().u64(DISK_BYTES).u16(1).done(), 0],
      [new NbdWriter().u32(1).done(), 0],
      [new NbdWriter().u64(DISK_BYTES).u32(id).done(), 512],
      [new NbdWriter().u64(0).u32(id).done(), 0],
    ] as const) {
      send(bad, offset);
      expect((await client.answer()).errno).toBe(22);
    }
  });

  it('dirty bitmaps follow what clients write', async () => {
    const live = bitmap('live');
    const served = await serve({ export: { bitmaps: [live] } });
    served.backend.node.dirtyBitmaps.set('live', live);
    const other = await openClient(served.sockets, { 'x-dirty-bitmap': 'qemu:dirty-bitmap:live' });
    const dirty = async (): Promise<boolean[]> => {
      const out: boolean[] = [];
      for (let at = 0; at < 256 * KiB; at += 64 * KiB) {
        const s = await other.node.instance.blockStatus?.(at, 64 * KiB, true);
        out.push(s?.data === false);
      }
      return out;
    };
    expect(await dirty()).toEqual([false, false, false, false]);
    await other.write(100 * KiB, filled(512, 1));
    expect(await dirty()).toEqual([false, true, false, false]);
  });
});

describe('several connections of one client', () => {
  it.each([
    [true, 4],
    [false, 1],
  ])('are made when the server allows them: %s', async (multiConn, most) => {
    const content = Uint8Array.from({ length: DISK_BYTES }, (_, i) => i ^ (i >> 8));
    const served = await serve({ export: { multiConn }, content });
    const client = await openClient(served.sockets);
    const step = 4 * KiB;
    const offsets = Array.from({ length: DISK_BYTES / step }, (_, i) => i * step);
    let seen = 0;
    // Each busy moment opens one more, in the background.
    for (let round = 0; round < 8; round++) {
      const got = await Promise.all(offsets.map((o) => readBytes(client, o, step)));
      expect(Buffer.compare(Buffer.concat(got), content)).toBe(0);
      await settle();
      seen = Math.max(seen, served.server.clients);
    }
    await Promise.all(offsets.map((o, i) => client.write(o, filled(step, i))));
    await client.flush();
    expect(seen).toBe(most);
    expect((await readBytes(served.backend, 7 * step, 1))[0]).toBe(7);
  });
});

describe('reads with holes', () => {
  /** An image of which only [128 KiB, 192 KiB) is data. */
  async function sparse(style: 'simple' | 'structured' | 'extended'): Promise<RawClient> {
    const files = new FakeFiles();
    const graph = testGraph({ host: fakeHost({ files }) });
    const create = { filename: '/disk', format: 'qcow2', size: DISK_BYTES };
    await createImage(graph, await prepareCreate(graph, create));
    const options: NodeOptions = { driver: 'qcow2', file: { driver: 'file', filename: '/disk' } };
    const backend = await graph.openBackend({ options, flags: { writable: true } });
    await backend.write(128 * KiB, filled(64 * KiB, 7));
    const served = await serve();
    served.server.add(new NbdExport({ name: 's', backend, writable: true, multiConn: false }));
    const client = await RawClient.connect(served);
    await client.enter(style, 's');
    return client;
  }

  it.each(['structured', 'extended'] as const)('send no zeroes (%s)', async (style) => {
    const client = await sparse(style);
    const extended = style === 'extended';
    client.send(request(NbdCmd.read, { length: 256 * KiB }, extended));
    const seen: [number | undefined, number, number][] = [];
    for (let last = false; !last;) {
      const { type, payload, flags } = await client.answer();
      const r = new NbdReader(payload);
      const offset = r.u64() ?? -1;
      const bytes = type === NbdChunk.offsetHole ? (r.u32() ?? -1) : r.left;
      if (type === NbdChunk.offsetData) expect(r.rest()).toEqual(new Uint8Array(bytes).fill(7));
      seen.push([type, offset, bytes]);
      last = (flags & 1) !== 0;
    }
    expect(seen).toEqual([
      [NbdChunk.offsetHole, 0, 128 * KiB],
      [NbdChunk.offsetData, 128 * KiB, 64 * KiB],
      [NbdChunk.offsetHole, 192 * KiB, 64 * KiB],
    ]);
    const flags = NbdCmdFlag.df;
    client.send(request(NbdCmd.read, { length: 256 * KiB, flags }, extended));
    const { type, payload } = await client.answer();
    expect(type).toBe(NbdChunk.offsetData);
    expect(payload.length).toBe(8 + 256 * KiB);
  });

  it('simple replies carry all', async () => {
    const client = await sparse('simple');
    client.send(request(NbdCmd.read, { length: 256 * KiB }));
    const { payload } = await client.answer(256 * KiB);
    expect([payload[0], payload[128 * KiB], payload[192 * KiB]]).toEqual([0, 7, 0]);
  });
});

describe('the end', () => {
  it('requests in flight are finished and answered before the server is closed', async () => {
    const served = await serve();
    const { backend, server } = served;
    const client = await RawClient.connect(served);
    await client.enter();
    let letGo: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => (letGo = resolve));
    const write = backend.write.bind(backend);
    backend.write = async (...args): Promise<void> => {
      await gate;
      return write(...args);
    };
    client.send(request(NbdCmd.write, { length: 512 }), new Uint8Array(512).fill(9));
    await settle();
    let closed = false;
    const closing = server.close().then(() => (closed = true));
    await settle();
    expect(closed).toBe(false);
    await expect(RawClient.connect(served)).rejects.toThrow();
    letGo();
    expect((await client.answer()).errno).toBe(0);
    await closing;
    expect((await readBytes(backend, 0, 1))[0]).toBe(9);
    await client.closed();
  });

  it('a client that takes no answers is broken off after some seconds', async () => {
    const served = await serve();
    const client = await RawClient.connect(served);
    await client.enter();
    client.stream.pause();
    for (let i = 0; i < 20; i++) client.send(request(NbdCmd.read, { length: DISK_BYTES }));
    await settle();
    const closing = served.server.close();
    await served.clock.runUntil(closing);
    expect(served.server.clients).toBe(0);
  });

  it('a client that only shakes hands does not hold it up', async () => {
    const served = await serve();
    await greeted(served);
    await served.server.close();
    expect(served.server.clients).toBe(0);
  });

  it('requests behind DISC are not done', async () => {
    const served = await serve();
    const client = await RawClient.connect(served);
    await client.enter();
    const write = request(NbdCmd.write, { length: 4 });
    client.send(write, new Uint8Array(4).fill(1), request(NbdCmd.disc), write, new Uint8Array(4));
    expect((await client.answer()).errno).toBe(0);
    await client.closed();
    expect(await readBytes(served.backend, 0, 1)).toEqual(new Uint8Array([1]));
  });

  it('a write in pieces over many buffers arrives whole', async () => {
    const served = await serve();
    const client = await openClient(served.sockets);
    const parts = Array.from({ length: 300 }, (_, i) => new Uint8Array(i + 1).fill(i));
    await client.write(5, Iov.from(parts));
    const got = await readBytes(served.backend, 5, (300 * 301) / 2);
    expect(Buffer.compare(got, Buffer.concat(parts))).toBe(0);
  });
});
