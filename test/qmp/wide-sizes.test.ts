// Goal: sizes that no image has, up to those that fill 64 bits, are refused by each format in
// QEMU's words, with nothing made; QMP alone refuses none of them. Method: requests as text, for
// such numbers are no numbers of JavaScript; the answers are those of QEMU 10's own suite.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { tempDir } from '../support/index.js';
import type { Client, Message } from './support.js';
import { TestMonitor } from './support.js';

let monitor: TestMonitor;
let client: Client;

beforeEach(async () => {
  monitor = new TestMonitor();
  client = await monitor.connect();
});

afterEach(async () => {
  await monitor.close();
});

async function request(text: string): Promise<Message> {
  const id = String(Math.random());
  client.send(`${text.replace(/\}$/, `, "id": "${id}"}`)}\n`);
  const seen = await client.lines.until1((message) => message['id'] === id);
  return seen.find((message) => message['id'] === id) ?? {};
}

/** What the job that makes an image says went wrong. */
async function creation(options: string): Promise<unknown> {
  const args = `{"job-id": "make", "options": {${options}, "file": "file"}}`;
  expect(await request(`{"execute": "blockdev-create", "arguments": ${args}}`)).toMatchObject({
    return: {},
  });
  const concluded = ({ data }: Message): boolean =>
    (data as Message | undefined)?.['status'] === 'concluded';
  await client.lines.until1(concluded);
  const [job] = (await client.ok('query-jobs')) as Message[];
  await client.ok('job-dismiss', { id: 'make' });
  return job?.['error'];
}

const beyond = 'offset(9223372036854775296) exceeds maximum(9223372035781033984)';
const vdi = (size: string): string =>
  `Unsupported VDI image size (size is ${size}, max supported is 0x1fffff8000000)`;

describe('an image of a size that cannot be', () => {
  it.each([
    ['qcow2', '1234', 'Image size must be a multiple of 512 bytes'],
    ['qcow2', '18446744073709551104', 'Could not resize image: Image size cannot be negative'],
    ['qcow2', '9223372036854775808', 'Could not resize image: Image size cannot be negative'],
    ['qcow2', '9223372036854775296', `Could not resize image: ${beyond}`],
    [
      'qcow2',
      '9223372035781033984',
      'Could not resize image: Failed to grow the L1 table: File too large',
    ],
    ['vdi', '18446744073709551104', vdi('0xfffffffffffffe00')],
    ['vdi', '9223372036854775808', vdi('0x8000000000000000')],
    ['parallels', '9223372036854775808', 'Image size is too large for this cluster size'],
    ['parallels', '4503599627370497', 'Image size is too large for this cluster size'],
    ['vhdx', '18446744073709551104', 'Image size too large; max of 64TB'],
  ])('%s of %s bytes', async (format, size, text) => {
    const filename = join(tempDir(), 'file');
    writeFileSync(filename, '');
    await client.ok('blockdev-add', { driver: 'file', filename, 'node-name': 'file' });
    expect(await creation(`"driver": "${format}", "size": ${size}`)).toBe(text);
    expect((await client.ok('query-named-block-nodes')) as unknown[]).toHaveLength(1);
  });
});

describe('block_resize', () => {
  it.each([
    ['9223372036854775296', beyond],
    ['9223372036854775808', "Invalid parameter type for 'size', expected: integer"],
    ['-9223372036854775808', "Parameter 'size' expects a >0 size"],
  ])('to %s is refused', async (size, desc) => {
    await client.ok('blockdev-add', { driver: 'null-co', size: 4096, 'node-name': 'n' });
    const args = `{"node-name": "n", "size": ${size}}`;
    const reply = await request(`{"execute": "block_resize", "arguments": ${args}}`);
    expect(reply['error']).toMatchObject({ desc });
  });
});
