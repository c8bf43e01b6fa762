// Goal: x-blockdev-amend adds and erases keys of an image that is in use, needs a password that
// opens it, and refuses what loses the data unless forced. Method: the steps of QEMU's iotest 295
// on a real file, through a monitor in this process; texts are those of its reference.
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { binPath, runOk, tempDir } from '../support/index.js';
import type { Client, Message } from './support.js';
import { TestMonitor } from './support.js';

let monitor: TestMonitor;
let client: Client;
let filename: string;

const secret = (id: string): string[] => ['--object', `secret,id=${id},data=word-${id}`];

const open = (id: string): Promise<Message> =>
  client.execute('blockdev-add', {
    driver: 'qcow2',
    'node-name': 'disk',
    encrypt: { format: 'luks', 'key-secret': id },
    file: { driver: 'file', filename },
  });

/** Runs the job to its end; resolves to its error. */
async function amend(options: Message, more: Message = {}): Promise<unknown> {
  const encrypt = { format: 'luks', ...options };
  const args = { 'node-name': 'disk', 'job-id': 'j', options: { driver: 'qcow2', encrypt } };
  const from = client.lines.seen.length;
  const reply = await client.execute('x-blockdev-amend', { ...args, ...more });
  if ('error' in reply) return (reply['error'] as Message)['desc'];
  await client.lines.until((seen) =>
    seen.slice(from).some((each) => {
      const data = each['data'] as Message | undefined;
      return each['event'] === 'JOB_STATUS_CHANGE' && data?.['status'] === 'concluded';
    }),
  );
  const [job] = (await client.ok('query-jobs')) as Message[];
  await client.ok('job-dismiss', { id: 'j' });
  return job?.['error'];
}

const add = (id: string, more: Message = {}): Promise<unknown> =>
  amend({ state: 'active', 'new-secret': id, 'iter-time': 10, ...more });

beforeEach(async () => {
  filename = join(tempDir(), 'disk.qcow2');
  const encrypt = 'encrypt.format=luks,encrypt.key-secret=a,encrypt.iter-time=10';
  const args = ['create', '-q', '-f', 'qcow2', ...secret('a'), '-o', encrypt, filename, '1M'];
  await runOk(binPath('vdisk-img'), args);
  monitor = new TestMonitor();
  client = await monitor.connect();
  for (const id of ['a', 'b', 'c']) {
    await client.ok('object-add', { 'qom-type': 'secret', id, data: `word-${id}` });
  }
  expect(await open('a')).toEqual({ return: {} });
});

afterEach(() => monitor.close());

it('adds keys for whom a password opens the image, and erases others', async () => {
  expect(await add('b')).toBeUndefined();
  expect(await add('c', { keyslot: 1 })).toBe(
    'Refusing to overwrite active keyslot 1 - please erase it first',
  );
  expect(await amend({ state: 'inactive', 'old-secret': 'a' })).toBeUndefined();
  // The password that it was opened with opens nothing any more.
  expect(await add('c')).toBe('Invalid password, cannot unlock any keyslot');
  expect(await add('c', { secret: 'b' })).toBeUndefined();
  expect(await amend({ state: 'inactive', 'old-secret': 'c' })).toBeUndefined();
  expect(await amend({ state: 'inactive', 'old-secret': 'b' })).toBe(
    'All the active keyslots match the (old) password that was given and erasing them will ' +
      'erase all the data in the image irreversibly - refusing operation',
  );
  await client.ok('blockdev-del', { 'node-name': 'disk' });
  expect(await open('a')).toEqual({
    error: { class: 'GenericError', desc: 'Invalid password, cannot unlock any keyslot' },
  });
  expect(await open('b')).toEqual({ return: {} });
  const last = { state: 'inactive', 'old-secret': 'b' };
  expect(await amend(last, { force: true })).toBeUndefined();
});

it('refuses other nodes and drivers, and holds the node while it runs', async () => {
  expect(await amend({ state: 'active' }, { 'node-name': 'x' })).toBe(
    "Cannot find device='' nor node-name='x'",
  );
  expect(await amend({ state: 'active' }, { options: { driver: 'raw' } })).toBe(
    "x-blockdev-amend doesn't support changing the block driver",
  );
  expect(await amend({ state: 'none' })).toBe("Parameter 'state' does not accept value 'none'");
  expect(await client.ok('query-jobs')).toEqual([]);
  await client.ok('blockdev-del', { 'node-name': 'disk' });
});
