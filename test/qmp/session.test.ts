// Goal: QMP as clients of QEMU know it: greeting, negotiation, ids, order, errors, events; and no
// input that kills the monitor or makes it grow. Method: clients over fake sockets that cut bytes
// anywhere; texts are those that qemu-storage-daemon 10 gave for the same input.
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FakeClock, settle } from '../support/index.js';
import { isReply, TestMonitor } from './support.js';
import type { Client, Message } from './support.js';

let monitor: TestMonitor;

beforeEach(() => {
  monitor = new TestMonitor();
});

afterEach(async () => {
  await monitor.close();
});

const generic = (desc: string): Message => ({ error: { class: 'GenericError', desc } });

/** What answers a line that is not a request of a right form. */
async function answer(client: Client, text: string | Uint8Array): Promise<Message> {
  const from = client.lines.seen.length;
  client.send(text);
  const seen = await client.lines.until((all) => all.slice(from).some(isReply));
  return seen.slice(from).find(isReply) ?? {};
}

describe('negotiation', () => {
  it('begins with a greeting that offers oob', async () => {
    const client = await monitor.connect(false);
    const [greeting] = await client.lines.until((seen) => seen.length > 0);
    expect(greeting).toEqual({
      QMP: {
        version: { qemu: { micro: 2, minor: 0, major: 10 }, package: 'test' },
        capabilities: ['oob'],
      },
    });
  });

  it('takes no command before, and itself only once', async () => {
    const client = await monitor.connect(false);
    const early = {
      class: 'CommandNotFound',
      desc: "Expecting capabilities negotiation with 'qmp_capabilities'",
    };
    expect(await client.execute('query-version')).toEqual({ error: early });
    expect(await client.execute('foo')).toEqual({ error: early });
    expect(await client.execute('qmp_capabilities', { enable: ['foo'] })).toEqual(
      generic("Parameter 'null' does not accept value 'foo'"),
    );
    expect(await client.execute('qmp_capabilities', { enable: ['oob'] })).toEqual({ return: {} });
    expect(await client.execute('qmp_capabilities')).toEqual({
      error: {
        class: 'CommandNotFound',
        desc: 'Capabilities negotiation is already complete, command ignored',
      },
    });
  });
});

describe('requests', () => {
  const wrong: readonly (readonly [string, string])[] = [
    ['{"execute":1}', "QMP input member 'execute' must be a string"],
    ['[]', 'QMP input must be a JSON object'],
    ['1\n', 'QMP input must be a JSON object'],
    ['{"foo":1}', "QMP input member 'foo' is unexpected"],
    ['{}', "QMP input lacks member 'execute'"],
    ['{"execute":"quit","arguments":[]}', "QMP input member 'arguments' must be an object"],
    ['{"execute":"quit","arguments":{"a":1}}', "Parameter 'a' is unexpected"],
    ['{"execute":"quit","foo":1}', "QMP input member 'foo' is unexpected"],
    ['{"__proto__":{"execute":"quit"}}', "QMP input member '__proto__' is unexpected"],
    ['{"execute":"quit","__proto__":1}', "QMP input member '__proto__' is unexpected"],
    ['{"a":1,"a":2}', 'JSON parse error, duplicate key'],
    ['}', 'JSON parse error, expecting value'],
    ['abc\n', "JSON parse error, invalid keyword 'abc'"],
    ['{"exec-oob":"quit"}', "QMP input member 'exec-oob' is unexpected"],
    [
      '{"execute":"blockdev-add","arguments":{"driver":"__proto__"}}',
      "Parameter 'driver' does not accept value '__proto__'",
    ],
    [
      '{"execute":"blockdev-add","arguments":{"driver":"null-co","node-name":"a","__proto__":{}}}',
      "Parameter '__proto__' is unexpected",
    ],
    [
      '{"execute":"blockdev-add","arguments":{"driver":"null-co","node-name":"a","size":1.0}}',
      "Invalid parameter type for 'size', expected: integer",
    ],
  ];
  it.each(wrong)('%s', async (text, desc) => {
    const client = await monitor.connect();
    expect(await answer(client, text)).toEqual(generic(desc));
    expect(await client.execute('query-block')).toEqual({ return: [] });
    expect(monitor.quits).toBe(0);
  });

  it('names commands that there are not, whatever they are called', async () => {
    const client = await monitor.connect();
    for (const name of ['foo', '__proto__', 'constructor', 'toString', '']) {
      expect(await client.execute(name)).toEqual({
        error: { class: 'CommandNotFound', desc: `The command ${name} has not been found` },
      });
    }
  });

  it('gives back the id as it came, after the same members as QEMU', async () => {
    const client = await monitor.connect();
    const ids = ['1', '"x"', '{"a": [1.5, null]}', '18446744073709551615', '1e2'];
    for (const id of ids) {
      const from = client.lines.seen.length;
      client.send(`{"id": ${id}, "execute": "query-block"}`);
      await client.lines.until((seen) => seen.length > from);
      const reply = client.lines.seen.at(-1);
      expect(reply).toEqual({ return: [], id: JSON.parse(id) as unknown });
    }
  });

  it('are answered in order, however the bytes are cut', async () => {
    const client = await monitor.connect();
    const from = client.lines.seen.length;
    const text = Array.from({ length: 40 }, (_, id) => `{'execute': 'query-block', 'id': ${id}}`);
    for (const byte of new TextEncoder().encode(text.join(''))) client.send(Uint8Array.of(byte));
    const seen = await client.lines.until((all) => all.length === from + 40);
    expect(seen.slice(from).map((each) => each['id'])).toEqual(
      Array.from({ length: 40 }, (_, i) => i),
    );
  });

  it('out of band is refused at once by what cannot do it', async () => {
    const client = await monitor.connect(false);
    await client.ok('qmp_capabilities', { enable: ['oob'] });
    expect(await answer(client, '{"exec-oob":"query-version"}')).toEqual(
      generic('The command query-version does not support OOB'),
    );
    expect(await answer(client, '{"exec-oob":"quit","execute":"quit"}')).toEqual(
      generic("QMP input member 'execute' clashes with 'exec-oob'"),
    );
    expect(await answer(client, '{"exec-oob":1}')).toEqual(
      generic("QMP input member 'exec-oob' must be a string"),
    );
  });

  it('come over several lines where the monitor is pretty', async () => {
    const client = await monitor.connect(false, true);
    let text = '';
    client.stream.onData = (piece): void => {
      text += new TextDecoder().decode(piece);
    };
    client.send('{"execute":"qmp_capabilities"}');
    await settle();
    expect(text).toContain('{\r\n    "return": {\r\n    }\r\n}\r\n');
  });
});

describe('hostile input', () => {
  it('broken UTF-8 and stray bytes are told and passed over', async () => {
    const client = await monitor.connect();
    expect(await answer(client, Uint8Array.of(0xff, 0x0a))).toEqual(
      generic("JSON parse error, stray '\ufffd'"),
    );
    const text = Uint8Array.from([
      ...Buffer.from('{"execute": "'),
      0xc3,
      0x28,
      ...Buffer.from('"}'),
    ]);
    expect(await answer(client, text)).toEqual(
      generic(`JSON parse error, invalid UTF-8 sequence in string`),
    );
    expect(await client.execute('query-block')).toEqual({ return: [] });
  });

  it('depth ends at 1024', async () => {
    const client = await monitor.connect();
    expect(await answer(client, '['.repeat(2000))).toEqual(
      generic('JSON nesting depth limit exceeded'),
    );
  });

  it('a line of 100 MB is refused, and no more of it is kept than the limit', async () => {
    const client = await monitor.connect();
    const piece = new Uint8Array(5 * 1024 * 1024).fill(0x61);
    client.send('{"execute": "');
    let largest = 0;
    for (let i = 0; i < 20; i++) {
      client.send(piece);
      await settle();
      largest = Math.max(largest, process.memoryUsage().arrayBuffers);
    }
    expect(largest).toBeLessThan(300 * 1024 * 1024);
    await client.lines.until1((m) => JSON.stringify(m).includes('JSON token size limit exceeded'));
    client.send('"}\n');
    expect(await client.execute('query-block')).toEqual({ return: [] });
  });

  it('any number of them in one piece is answered one by one', async () => {
    const client = await monitor.connect();
    const count = 20_000;
    for (const junk of ['] ', '{} ']) {
      const from = client.lines.seen.length;
      client.send(junk.repeat(count));
      const seen = await client.lines.until((all) => all.length >= from + count);
      expect(seen.slice(from).every((message) => 'error' in message)).toBe(true);
      expect(seen.length).toBe(from + count);
    }
    expect(await client.execute('query-block-exports')).toEqual({ return: [] });
  });

  it('a client that goes in the middle of a request harms nobody', async () => {
    const one = await monitor.connect();
    const two = await monitor.connect();
    one.send('{"execute": "blockdev-add", "arguments": {"driver":');
    one.stream.destroy();
    await settle();
    expect(await two.execute('query-block')).toEqual({ return: [] });
  });
});

describe('events', () => {
  it('go to all clients that negotiated, with a time', async () => {
    const one = await monitor.connect();
    const two = await monitor.connect();
    const deaf = await monitor.connect(false);
    monitor.monitor.emit('BLOCK_EXPORT_DELETED', { id: 'e' });
    await settle();
    for (const client of [one, two]) {
      const [event] = client.events();
      expect(event).toMatchObject({ event: 'BLOCK_EXPORT_DELETED', data: { id: 'e' } });
      const { seconds, microseconds } = event?.['timestamp'] as Record<string, number>;
      expect(Math.abs((seconds ?? 0) - Date.now() / 1000)).toBeLessThan(60);
      expect(microseconds).toBeLessThan(1_000_000);
    }
    expect(deaf.events()).toEqual([]);
  });

  it('that come too often are held back, each source for itself; the last is told', async () => {
    const clock = new FakeClock();
    const own = new TestMonitor(clock);
    const client = await own.connect();
    const bad = (node: string, sector: number): void => {
      own.monitor.emit('QUORUM_REPORT_BAD', { 'node-name': node, 'sector-num': sector });
    };
    for (let i = 0; i < 5; i++) bad('a', i);
    bad('b', 9);
    const told = (): unknown[] =>
      client.events().map((e) => Object.values(e['data'] as Record<string, unknown>));
    await settle();
    expect(told()).toEqual([
      ['a', 0],
      ['b', 9],
    ]);
    await clock.advance(1000);
    await settle();
    expect(told().slice(2)).toEqual([['a', 4]]);
    await clock.advance(5000);
    await settle();
    bad('a', 7);
    await settle();
    expect(told().slice(3)).toEqual([['a', 7]]);
    await own.close();
  });
});
