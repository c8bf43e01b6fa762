// Goal: LUKS volumes that vdisk made, bare or inside a qcow2 image, are those of cryptsetup, and
// the other way round: header, key slots, passwords, master key and so the data.
// Method: cryptsetup on image files, which takes no device mapper for headers and passwords; its
// master key decrypts with OpenSSL what vdisk stored.
import { createDecipheriv } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { binPath, requires, run, runOk, tempDir } from '../support/index.js';

/** Passwords are derived many times. */
const SLOW = { timeout: 240_000 };
const img = binPath('vdisk-img');
const io = binPath('vdisk-io');
const passwords = { s0: 'first one', s1: 'second one', s2: 'third one' } as const;
const objects = Object.entries(passwords).flatMap(([id, data]) => [
  '--object',
  `secret,id=${id},data=${data}`,
]);

/** Whether cryptsetup opens the volume with a password. */
async function opens(file: string, password: string): Promise<boolean> {
  const args = ['open', '--type', 'luks1', '--test-passphrase', '--key-file', '-', file];
  const { status, stderr } = await run('cryptsetup', args, { input: password });
  if (status !== 0 && status !== 2) throw new Error(stderr);
  return status === 0;
}

async function masterKey(file: string, password: string): Promise<Buffer> {
  const key = `${file}.key`;
  const args = ['luksDump', '-q', '--dump-master-key', '--master-key-file', key, '--key-file', '-'];
  await runOk('cryptsetup', [...args, file], { input: password });
  return readFileSync(key);
}

/** Where vdisk finds a bare volume. */
const bare = (id: string): string[] => [
  ...objects,
  '--image-opts',
  `driver=luks,key-secret=${id},file.filename=a.img`,
];

// Those that cryptsetup opens without the kernel's device mapper.
const ciphers: readonly (readonly [string, string, string])[] = [
  ['aes-256,xts,plain64', 'aes-xts-plain64', '512'],
  ['aes-256,cbc,essiv', 'aes-cbc-essiv:sha256', '256'],
  ['aes-128,cbc,plain64', 'aes-cbc-plain64', '128'],
];

requires('cryptsetup')('cryptsetup', () => {
  it.each(ciphers)('opens what vdisk made: %s', SLOW, async (spec, name, bits) => {
    const cwd = tempDir();
    const file = join(cwd, 'a.img');
    const [cipher, mode, ivgen] = spec.split(',');
    const options = `cipher-alg=${cipher},cipher-mode=${mode},ivgen-alg=${ivgen}`;
    const hash = ivgen === 'essiv' ? ',ivgen-hash-alg=sha256' : '';
    const create = `key-secret=s0,iter-time=10,${options}${hash}`;
    await runOk(img, ['create', '-q', ...objects, '-f', 'luks', '-o', create, 'a.img', '1M'], {
      cwd,
    });
    const { stdout } = await runOk('cryptsetup', ['luksDump', file]);
    expect(stdout).toContain(`Cipher mode:   \t${name.slice(name.indexOf('-') + 1)}`);
    expect(stdout).toContain(`MK bits:       \t${bits}`);
    expect([await opens(file, passwords.s0), await opens(file, passwords.s1)]).toEqual([
      true,
      false,
    ]);
    // A key of cryptsetup's opens it here, one of vdisk's there; one that is erased nowhere.
    const second = join(cwd, 'second');
    writeFileSync(second, passwords.s1);
    const add = ['luksAddKey', '--pbkdf-force-iterations', '1000', '--key-file', '-', file, second];
    await runOk('cryptsetup', add, { input: passwords.s0 });
    await runOk(io, ['-c', 'write -P 7 64k 4k', ...bare('s1')], { cwd });
    const amend = async (words: string): Promise<void> => {
      await runOk(img, ['amend', '-o', words, ...bare('s0')], { cwd });
    };
    await amend('state=active,new-secret=s2,keyslot=6,iter-time=10');
    await amend('state=inactive,old-secret=s1');
    const opened = await Promise.all(Object.values(passwords).map((each) => opens(file, each)));
    expect(opened).toEqual([true, false, true]);
  });

  it.each(ciphers)('makes what vdisk opens: %s', SLOW, async (_spec, name, bits) => {
    const cwd = tempDir();
    const file = join(cwd, 'a.img');
    writeFileSync(file, Buffer.alloc(4 << 20));
    const how = ['--type', 'luks1', '--pbkdf-force-iterations', '1000'];
    const args = ['luksFormat', '-q', ...how, '--cipher', name, '--key-size', bits, file, '-'];
    await runOk('cryptsetup', args, { input: passwords.s0 });
    await runOk(io, ['-c', 'write -P 7 64k 4k', '-c', 'read -P 7 64k 4k', ...bare('s0')], { cwd });
    const wrong = await run(io, ['-c', 'read 0 512', ...bare('s1')], { cwd });
    expect([wrong.status, wrong.stderr]).toEqual([
      1,
      expect.stringContaining('Invalid password, cannot unlock any keyslot'),
    ]);
    if (name !== 'aes-xts-plain64') return;
    const key = await masterKey(file, passwords.s0);
    const payload = 512 * readFileSync(file).readUInt32BE(104);
    const sector = readFileSync(file).subarray(payload + 65536, payload + 66048);
    const iv = Buffer.alloc(16);
    iv.writeUInt32LE(128);
    const plain = createDecipheriv('aes-256-xts', key, iv).update(sector);
    expect(plain.equals(Buffer.alloc(512, 7))).toBe(true);
  });

  it('reads the header inside a qcow2 image, whose keys are amended', SLOW, async () => {
    const cwd = tempDir();
    const create = 'encrypt.format=luks,encrypt.key-secret=s0,encrypt.iter-time=10';
    const size = ['a.qcow2', '4M'];
    await runOk(img, ['create', '-q', ...objects, '-f', 'qcow2', '-o', create, ...size], { cwd });
    const where = 'driver=qcow2,encrypt.key-secret=s0,file.filename=a.qcow2';
    const amend = async (words: string): Promise<void> => {
      await runOk(img, ['amend', '-o', words, ...objects, '--image-opts', where], { cwd });
    };
    /** The clusters that the header extension names, with room for a payload behind them. */
    const volume = (): string => {
      const bytes = readFileSync(join(cwd, 'a.qcow2'));
      let at = bytes.readUInt32BE(100);
      while (bytes.readUInt32BE(at) !== 0x0537_be77) {
        at += 8 + Math.ceil(bytes.readUInt32BE(at + 4) / 8) * 8;
      }
      const [from, length] = [at + 8, at + 16].map((p) => Number(bytes.readBigUInt64BE(p)));
      const file = join(cwd, 'header');
      const header = bytes.subarray(from, from! + length!);
      writeFileSync(file, Buffer.concat([header, Buffer.alloc(4 << 20)]));
      return file;
    };
    const state = async (): Promise<boolean[]> => {
      const file = volume();
      return Promise.all(Object.values(passwords).map((each) => opens(file, each)));
    };
    expect(await state()).toEqual([true, false, false]);
    await amend('encrypt.state=active,encrypt.new-secret=s1,encrypt.iter-time=10');
    await amend(
      'encrypt.state=active,encrypt.new-secret=s2,encrypt.keyslot=7,encrypt.iter-time=10',
    );
    expect(await state()).toEqual([true, true, true]);
    await amend('encrypt.state=inactive,encrypt.old-secret=s1');
    expect(await state()).toEqual([true, false, true]);
  });
});
