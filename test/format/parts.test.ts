// Goal: when one part of a request fails while a later part of the same request still waits for
// its table, the request tells the error, and no rejection is left that nobody handles. Method:
// images in simulated files of which reads of data fail at once and tables come late.
import { setImmediate as turn } from 'node:timers/promises';
import { expect, it, onTestFinished } from 'vitest';
import { createImage, prepareCreate } from '../../src/block/create.js';
import { Iov } from '../../src/index.js';
import { FakeFiles, fakeHost, failureCode, testGraph } from '../support/index.js';
import { HostError } from '../../src/host/file.js';

interface Case {
  readonly format: string;
  readonly options: string[];
  /** Where one table ends and the next begins, in bytes. */
  readonly border: number;
  /** Length of the data on either side, in bytes; no table is as long. */
  readonly half: number;
  /** What fails is the backing file, in which the first half lies. */
  readonly backing?: boolean;
}

const KiB = 1024;
const cases: readonly Case[] = [
  { format: 'qcow2', options: ['cluster_size=4k'], border: 2048 * KiB, half: 8 * KiB },
  {
    format: 'qcow2',
    options: ['cluster_size=4k'],
    border: 2048 * KiB,
    half: 8 * KiB,
    backing: true,
  },
  { format: 'vmdk', options: [], border: 32768 * KiB, half: 64 * KiB },
];

it.each(cases)(
  '%o: a read of which the first part fails first',
  async ({ format, options, border, half, backing = false }) => {
    const files = new FakeFiles();
    const host = fakeHost({ files });
    const graph = testGraph({ host });
    const request = { filename: '/t', format, size: 2 * border, optionTexts: options };
    const base = backing ? { backingFile: '/base', backingFormat: 'raw' } : {};
    if (backing) files.put('/base', new Uint8Array(2 * border).fill(7));
    await createImage(graph, await prepareCreate(graph, { ...request, ...base }));
    const spec = { options: { driver: format, file: { driver: 'file', filename: '/t' } } };
    const writer = await graph.openBackend({ ...spec, flags: { writable: true } });
    const from = backing ? border : border - half;
    await writer.write(from, Iov.of(new Uint8Array(border + half - from).fill(7)));
    await writer.detach();

    const unhandled: unknown[] = [];
    const listen = (e: unknown): void => void unhandled.push(e);
    process.on('unhandledRejection', listen);
    onTestFinished(() => void process.off('unhandledRejection', listen));
    const reader = await graph.openBackend(spec);
    let tables = 0;
    files.hold = async (op, path, _offset, bytes) => {
      if (op !== 'read') return;
      if (backing ? path === '/base' : bytes === half) throw new HostError('EIO');
      tables++;
      for (let i = 0; i < 5; i++) await turn();
    };
    expect(await failureCode(reader.read(border - half, Iov.alloc(2 * half)))).toBe('EIO');
    await turn();
    expect(unhandled).toEqual([]);
    expect(tables).toBe(2);
    files.hold = undefined;
    const bytes = new Uint8Array(2 * half);
    await reader.read(border - half, Iov.of(bytes));
    expect(bytes.every((b) => b === 7)).toBe(true);
    await reader.detach();
  },
);
