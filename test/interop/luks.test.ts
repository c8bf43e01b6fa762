// Goal: LUKS volumes that we write open with QEMU and cryptsetup, and theirs with us.
// Method: volumes in memory, dumped to files for the peers; payload bytes compared.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { LuksStorage } from '../../src/block/crypto/luks.js';
import { createLuks, luksDefaults, openLuks } from '../../src/block/crypto/luks.js';
import { xtsOverEcb } from '../../src/block/crypto/sector-cipher.js';
import { legacyAes } from '../../src/block/crypto/legacy-aes.js';
import { nodeCrypto } from '../../src/host/node/crypto.js';
import { nodeHost } from '../../src/host/node/index.js';
import { binPath, requires, run, tempDir } from '../support/index.js';

const host = { ...nodeHost(), crypto: nodeCrypto() };
const password = new TextEncoder().encode('hunter2 und noch mehr');

function memoryStorage(bytes: Uint8Array): LuksStorage {
  return {
    read: (offset, out) => {
      out.set(bytes.subarray(offset, offset + out.byteLength));
      return Promise.resolve();
    },
    write: (offset, data) => {
      bytes.set(data, offset);
      return Promise.resolve();
    },
    flush: () => Promise.resolve(),
  };
}

/**
 * A volume of 1 MiB by qemu-img. Version 7 sometimes reads the clock of its own thread twice in
 * one tick when it measures how fast it derives keys, and gives up; then it is asked again.
 */
async function createTheirs(secret: string, options: string, file: string): Promise<void> {
  const args = ['create', '-q', '-f', 'luks', '--object', secret, '-o', options, file, '1M'];
  for (let left = 20; ; left--) {
    const { status, stderr } = await run('qemu-img', args);
    if (status === 0) return;
    if (left === 0 || !stderr.includes('accurate CPU usage')) throw new Error(stderr);
  }
}

const combos = [
  { name: 'defaults', options: {}, q: '' },
  {
    name: 'aes-128 cbc essiv sha1',
    options: { cipher: 'aes-128', mode: 'cbc', hash: 'sha1', ivgen: 'essiv', ivgenHash: 'sha256' },
    q: 'cipher-alg=aes-128,cipher-mode=cbc,hash-alg=sha1,ivgen-alg=essiv,ivgen-hash-alg=sha256',
  },
  {
    name: 'aes-256 cbc plain sha512',
    options: { cipher: 'aes-256', mode: 'cbc', hash: 'sha512', ivgen: 'plain' },
    q: 'cipher-alg=aes-256,cipher-mode=cbc,hash-alg=sha512,ivgen-alg=plain',
  },
] as const;

describe('LUKS passwords', () => {
  it('are added, erased and refused as asked', async () => {
    const bytes = new Uint8Array(3 * 1024 * 1024);
    const storage = memoryStorage(bytes);
    const volume = await createLuks(host, storage, password, luksDefaults({ iterTimeMs: 10 }));
    const other = new TextEncoder().encode('second');
    await expect(openLuks(host, storage, other)).rejects.toThrow('Invalid password');
    await volume.addPassword(other, { iterTimeMs: 10 });
    await openLuks(host, storage, other);
    await volume.erasePassword(password);
    await expect(openLuks(host, storage, password)).rejects.toThrow('Invalid password');
    await expect(volume.erasePassword(other)).rejects.toThrow('refusing operation');
    await expect(volume.eraseSlot(1)).rejects.toThrow('only active keyslot 1');
    await openLuks(host, storage, other);
  });

  it('must be UTF-8, or nothing is made or lost', async () => {
    const dir = tempDir();
    const [secret, image] = [join(dir, 'secret'), join(dir, 'image')];
    writeFileSync(secret, Buffer.of(0x3a, 0xff));
    const object = `secret,id=sec0,file=${secret}`;
    const args = ['create', '-q', '-f', 'luks', '--object', object, '-o', 'key-secret=sec0'];
    const create = (): ReturnType<typeof run> => run(binPath('vdisk-img'), [...args, image, '1M']);
    const made = await create();
    expect(made.stderr).toBe(`vdisk-img: ${image}: Data from secret sec0 is not valid UTF-8\n`);
    expect(existsSync(image)).toBe(false);
    writeFileSync(image, 'there before');
    expect((await create()).status).toBe(1);
    expect(readFileSync(image, 'utf8')).toBe('there before');
  });

  it('survive a crash between key material and header (L1)', async () => {
    const bytes = new Uint8Array(3 * 1024 * 1024);
    const whole = memoryStorage(bytes);
    const volume = await createLuks(host, whole, password, luksDefaults({ iterTimeMs: 10 }));
    const before = bytes.slice();
    const cut: LuksStorage = {
      ...whole,
      write: (offset, data) =>
        offset === 0 ? Promise.reject(new Error('power cut')) : whole.write(offset, data),
    };
    const reopened = await openLuks(host, cut, password);
    await expect(reopened.addPassword(password, { iterTimeMs: 10 })).rejects.toThrow('power cut');
    expect(Buffer.compare(bytes.subarray(0, 592), before.subarray(0, 592))).toBe(0);
    const again = await openLuks(host, whole, password);
    expect(again.header.uuid).toBe(volume.header.uuid);
  });
});

describe.each(combos)('LUKS $name', ({ options, q }) => {
  requires('qemu-img', 'qemu-io')('with QEMU', () => {
    it('reads what QEMU wrote', async () => {
      const dir = tempDir();
      const file = `${dir}/theirs.luks`;
      const secret = `secret,id=s,data=${Buffer.from(password).toString()}`;
      const o = ['key-secret=s,iter-time=10', q].filter((x) => x !== '').join(',');
      await createTheirs(secret, o, file);
      const io = await run('qemu-io', [
        '--object',
        secret,
        '--image-opts',
        '-c',
        'write -P 0xa7 64k 8k',
        `driver=luks,key-secret=s,file.filename=${file}`,
      ]);
      expect(io.status).toBe(0);
      const bytes = new Uint8Array(readFileSync(file));
      const volume = await openLuks(host, memoryStorage(bytes), password);
      const at = volume.payloadOffset + 65536;
      const data = bytes.slice(at, at + 8192);
      await volume.cipher.decrypt(data, 65536 / 512);
      expect(data.every((b) => b === 0xa7)).toBe(true);
    });

    it('writes what QEMU reads', async () => {
      const dir = tempDir();
      const file = `${dir}/ours.luks`;
      const bytes = new Uint8Array(4 * 1024 * 1024);
      const made = await createLuks(
        host,
        memoryStorage(bytes),
        password,
        luksDefaults({ ...options, iterTimeMs: 10 }),
      );
      const data = new Uint8Array(8192).fill(0x5c);
      await made.cipher.encrypt(data, 8);
      bytes.set(data, made.payloadOffset + 4096);
      writeFileSync(file, bytes);
      const secret = `secret,id=s,data=${Buffer.from(password).toString()}`;
      const io = await run('qemu-io', [
        '--object',
        secret,
        '--image-opts',
        '-c',
        'read -P 0x5c 4k 8k',
        `driver=luks,key-secret=s,file.filename=${file}`,
      ]);
      expect(io.stdout).toContain('read 8192/8192 bytes at offset 4096');
      expect(io.stdout).not.toContain('verification failed');
    });
  });
});

describe('XTS', () => {
  it('over ECB equals the OpenSSL mode', () => {
    const crypto = nodeCrypto();
    const key = Uint8Array.from({ length: 64 }, (_, i) => i * 3);
    const iv = Uint8Array.from({ length: 16 }, (_, i) => 255 - i);
    const plain = Uint8Array.from({ length: 512 }, (_, i) => (i * 7) & 255);
    const a = plain.slice();
    crypto.tryCipher('aes-256', 'xts', key)?.encrypt(a, iv);
    const data = crypto.tryCipher('aes-256', 'ecb', key.subarray(0, 32));
    const tweak = crypto.tryCipher('aes-256', 'ecb', key.subarray(32));
    if (data === undefined || tweak === undefined) throw new Error('no AES');
    const b = plain.slice();
    xtsOverEcb(data, tweak).encrypt(b, iv);
    expect(b).toEqual(a);
    xtsOverEcb(data, tweak).decrypt(b, iv);
    expect(b).toEqual(plain);
  });

  it('legacy AES takes the guest sector as IV', async () => {
    const cipher = legacyAes(nodeCrypto(), new TextEncoder().encode('x'));
    const one = new Uint8Array(512).fill(9);
    const two = new Uint8Array(1024).fill(9);
    await cipher.encrypt(one, 6);
    await cipher.encrypt(two, 5);
    expect(two.subarray(512)).toEqual(one);
    expect(two.subarray(0, 512)).not.toEqual(one);
  });
});
