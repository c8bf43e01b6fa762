// Goal: TLS with certificates and with shared keys works with QEMU's and libnbd's tools in both
// directions, and refuses who is not meant. Method: certificates made here with openssl; each
// pair of ends that fits reads the disk, each that does not is refused.
import { execFileSync } from 'node:child_process';
import { chmodSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { RunResult } from '../support/index.js';
import { binPath, missingCommands, Random, requires, run, tempDir } from '../support/index.js';
import { freePort, startNbd, startNbdkit, startProcess, untilPort } from './nbd-support.js';

let pki = '';
const io = binPath('vdisk-io');
const nbd = binPath('vdisk-nbd');

function openssl(...args: string[]): void {
  execFileSync('openssl', args, { cwd: pki, stdio: ['ignore', 'ignore', 'pipe'] });
}

/** A key and a certificate signed by `ca` (of `folder`), as QEMU names the files. */
function certificate(folder: string, end: 'server' | 'client', name: string, ca = 'good'): void {
  const dir = join(pki, folder);
  mkdirSync(dir, { recursive: true });
  const key = join(dir, `${end}-key.pem`);
  const request = join(dir, `${end}.csr`);
  const extensions = join(dir, `${end}.ext`);
  const usage = end === 'server' ? 'serverAuth' : 'clientAuth';
  const names = end === 'server' ? `subjectAltName=DNS:${name},IP:127.0.0.1\n` : '';
  writeFileSync(
    extensions,
    `basicConstraints=critical,CA:FALSE\nkeyUsage=digitalSignature,keyEncipherment\n` +
      `extendedKeyUsage=${usage}\n${names}`,
  );
  openssl(
    ...['req', '-newkey', 'rsa:2048', '-nodes', '-keyout', key, '-out', request],
    ...['-subj', `/O=Test Works/CN=${name}`],
  );
  openssl(
    ...['x509', '-req', '-in', request, '-CA', `${ca}-ca.pem`, '-CAkey', `${ca}-ca.key`],
    ...['-CAcreateserial', '-days', '2', '-extfile', extensions],
    ...['-out', join(dir, `${end}-cert.pem`)],
  );
  openssl('x509', '-in', `${ca}-ca.pem`, '-out', join(dir, 'ca-cert.pem'));
}

beforeAll(() => {
  if (missingCommands('openssl').length > 0) return;
  pki = mkdtempSync(join(tmpdir(), 'vdisk-pki-'));
  for (const ca of ['good', 'bad']) {
    openssl(
      ...['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', `/CN=${ca} CA`],
      ...['-keyout', `${ca}-ca.key`, '-out', `${ca}-ca.pem`],
      ...['-addext', 'basicConstraints=critical,CA:TRUE'],
      ...['-addext', 'keyUsage=critical,keyCertSign,cRLSign'],
    );
  }
  certificate('server', 'server', 'localhost');
  certificate('elsewhere', 'server', 'elsewhere.example');
  certificate('alice', 'client', 'alice');
  certificate('bob', 'client', 'bob');
  certificate('mallory', 'client', 'alice', 'bad');
  mkdirSync(join(pki, 'nobody'));
  openssl('x509', '-in', 'good-ca.pem', '-out', join(pki, 'nobody/ca-cert.pem'));
  mkdirSync(join(pki, 'psk'));
  const key = (byte: string): string => byte.repeat(32);
  const keys = `alice:${key('5a')}\nqemu:${key('17')}\n`;
  writeFileSync(join(pki, 'psk/keys.psk'), keys);
  mkdirSync(join(pki, 'wrong-psk'));
  writeFileSync(join(pki, 'wrong-psk/keys.psk'), `alice:${key('5b')}\nqemu:${key('18')}\n`);
  chmodSync(join(pki, 'psk/keys.psk'), 0o600);
});

afterAll(() => {
  if (pki !== '') rmSync(pki, { recursive: true, force: true });
});

function makeDisk(): string {
  const path = join(tempDir(), 'disk.raw');
  const data = Buffer.alloc(1024 * 1024, 0x42);
  data.set(new Random(3).bytes(4096), 65536);
  writeFileSync(path, data);
  return path;
}

const x509 = (folder: string, endpoint: string, more = ''): string =>
  `tls-creds-x509,id=tls0,endpoint=${endpoint},dir=${join(pki, folder)}${more}`;
const psk = (folder: string, endpoint: string, more = ''): string =>
  `tls-creds-psk,id=tls0,endpoint=${endpoint},dir=${join(pki, folder)}${more}`;

interface Client {
  readonly object?: string;
  readonly command?: string;
  readonly hostname?: string;
}

/** Reads the disk with an io tool over a server's socket, under TLS where credentials are given. */
function read(socket: string, client: Client): Promise<RunResult> {
  const { object, command = io, hostname } = client;
  const objects = object === undefined ? [] : ['--object', object];
  const tls = object === undefined ? '' : ',tls-creds=tls0';
  const name = hostname === undefined ? '' : `,tls-hostname=${hostname}`;
  const spec = `driver=nbd,server.type=unix,server.path=${socket}${tls}${name}`;
  return run(command, [...objects, '-r', '-c', 'read -P 0x42 0 64k', '--image-opts', spec]);
}

function expectRead({ stdout, stderr, status }: RunResult): void {
  expect(stderr).toBe('');
  expect(stdout).toContain('read 65536/65536');
  expect(stdout).not.toContain('failed');
  expect(status).toBe(0);
}

function expectRefused(result: RunResult, why: RegExp | string): void {
  expect(result.status).toBe(1);
  expect(result.stderr + result.stdout).toMatch(why);
}

const serverArgs = (object: string): readonly string[] => [
  ...['--object', object, '--tls-creds', 'tls0', '-f', 'raw', makeDisk()],
];

requires('openssl')('certificates', () => {
  it('a client that is known is served; others, and plain ones, are not', async () => {
    const { socket } = await startNbd(serverArgs(x509('server', 'server')));
    expectRead(await read(socket, { object: x509('alice', 'client'), hostname: 'localhost' }));
    expectRefused(
      await read(socket, {}),
      /TLS negotiation required[\s\S]*forget a valid tls-creds/,
    );
    const stranger = { object: x509('mallory', 'client'), hostname: 'localhost' };
    expectRefused(await read(socket, stranger), /./);
    const nobody = { object: x509('nobody', 'client'), hostname: 'localhost' };
    expectRefused(await read(socket, nobody), /./);
    expectRead(await read(socket, { object: x509('bob', 'client'), hostname: 'localhost' }));
  });

  it('the name of the server counts, and tls-hostname says which', async () => {
    const { socket } = await startNbd(serverArgs(x509('elsewhere', 'server')));
    const object = x509('alice', 'client');
    const wrong = await read(socket, { object, hostname: 'localhost' });
    expectRefused(wrong, 'Certificate does not match the hostname localhost');
    expectRefused(await read(socket, { object }), 'No hostname for certificate validation');
    expectRead(await read(socket, { object, hostname: 'elsewhere.example' }));
    const loose = x509('alice', 'client', ',verify-peer=off');
    expectRead(await read(socket, { object: loose, hostname: 'localhost' }));
  });

  it('over TCP the name is the one that was connected to', async () => {
    const port = await freePort();
    const args = ['-t', '-e', '0', '-b', '127.0.0.1', '-p', String(port)];
    const server = startProcess(nbd, [...args, ...serverArgs(x509('server', 'server'))]);
    await untilPort(port, server);
    const tcp = (host: string): Promise<RunResult> => {
      const at = `driver=nbd,server.type=inet,server.host=${host},server.port=${port}`;
      const object = x509('alice', 'client');
      const options = `${at},tls-creds=tls0`;
      const command = ['-c', 'read -P 0x42 0 64k', '--image-opts', options];
      return run(io, ['--object', object, '-r', ...command]);
    };
    expectRead(await tcp('localhost'));
    expectRead(await tcp('127.0.0.1'));
    const list = ['--list', '-b', '127.0.0.1', '-p', String(port), '--tls-creds', 'tls0'];
    const listed = await run(nbd, [...list, '--object', x509('alice', 'client')]);
    expect(listed.stdout).toContain('exports available: 1');
    const hostname = ['--tls-hostname', 'other.example'];
    const refused = await run(nbd, [...list, ...hostname, '--object', x509('alice', 'client')]);
    expectRefused(refused, 'does not match the hostname other.example');
  });

  it('--tls-authz lets in whom the list names', async () => {
    const name = 'CN=alice,O=Test Works';
    const rules = JSON.stringify({
      'qom-type': 'authz-simple',
      id: 'authz0',
      identity: name,
    });
    const authz = ['--object', rules, '--tls-authz', 'authz0'];
    const { socket } = await startNbd([...authz, ...serverArgs(x509('server', 'server'))]);
    const hostname = 'localhost';
    expectRead(await read(socket, { object: x509('alice', 'client'), hostname }));
    expectRefused(await read(socket, { object: x509('bob', 'client'), hostname }), /./);
    expectRead(await read(socket, { object: x509('alice', 'client'), hostname }));
  });

  it('wrong ends and missing files are told at start', async () => {
    const disk = makeDisk();
    const start = (object: string): Promise<RunResult> =>
      run(nbd, ['--object', object, '--tls-creds', 'tls0', '-f', 'raw', disk]);
    const client = await start(x509('alice', 'client'));
    expectRefused(client, 'Expected TLS credentials for a server endpoint');
    expectRefused(await start(x509('nowhere', 'server')), 'Unable to access credentials');
    expectRefused(await start(x509('alice', 'server')), 'server-cert.pem');
  });
});

requires('openssl')('shared keys', () => {
  it('who has the key is served', async () => {
    const { socket } = await startNbd(serverArgs(psk('psk', 'server')));
    expectRead(await read(socket, { object: psk('psk', 'client') }));
    expectRead(await read(socket, { object: psk('psk', 'client', ',username=alice') }));
    expectRefused(await read(socket, { object: psk('wrong-psk', 'client') }), /./);
    const missing = psk('psk', 'client', ',username=carol');
    expectRefused(await read(socket, { object: missing }), /./);
    expectRefused(await read(socket, {}), 'TLS negotiation required');
    expectRead(await read(socket, { object: psk('psk', 'client') }));
  });
});

describe('other programs', () => {
  requires('openssl', 'qemu-io')('qemu-io and our server', () => {
    it('certificates and keys', async () => {
      const by509 = await startNbd(serverArgs(x509('server', 'server')));
      const hostname = 'localhost';
      const command = 'qemu-io';
      const object = x509('alice', 'client');
      expectRead(await read(by509.socket, { command, object, hostname }));
      const mallory = x509('mallory', 'client');
      expectRefused(await read(by509.socket, { command, object: mallory, hostname }), /./);
      expectRefused(await read(by509.socket, { command }), 'TLS negotiation required');
      const byKey = await startNbd(serverArgs(psk('psk', 'server')));
      expectRead(await read(byKey.socket, { command, object: psk('psk', 'client') }));
      const wrong = psk('wrong-psk', 'client');
      expectRefused(await read(byKey.socket, { command, object: wrong }), /./);
    });
  });

  requires('openssl', 'qemu-nbd')('our client and qemu-nbd', () => {
    it('certificates and keys', async () => {
      const command = 'qemu-nbd';
      const hostname = 'localhost';
      const by509 = await startNbd(serverArgs(x509('server', 'server')), { command });
      expectRead(await read(by509.socket, { object: x509('alice', 'client'), hostname }));
      const mallory = x509('mallory', 'client');
      expectRefused(await read(by509.socket, { object: mallory, hostname }), /./);
      expectRefused(await read(by509.socket, {}), 'TLS negotiation required');
      const byKey = await startNbd(serverArgs(psk('psk', 'server')), { command });
      expectRead(await read(byKey.socket, { object: psk('psk', 'client') }));
      expectRefused(await read(byKey.socket, { object: psk('wrong-psk', 'client') }), /./);
    });
  });

  requires('openssl', 'nbdinfo')('nbdinfo and our server', () => {
    it('certificates and keys', async () => {
      const disk = serverArgs(x509('server', 'server'));
      const by509 = await startNbd(disk);
      // libnbd names the files of both ends in one folder.
      const uri = (scheme: string, user: string, socket: string, more: string): string =>
        `${scheme}+unix://${user}/?socket=${socket}&${more}`;
      const folder = (name: string): string => `tls-certificates=${join(pki, name)}`;
      // Without a name in the URI libnbd takes localhost's.
      const good = await run('nbdinfo', [
        '--size',
        uri('nbds', 'localhost', by509.socket, folder('alice')),
      ]);
      expect(good.stdout.trim(), good.stderr).toBe('1048576');
      const byKey = await startNbd(serverArgs(psk('psk', 'server')));
      const keys = `tls-psk-file=${join(pki, 'psk/keys.psk')}`;
      const shared = await run('nbdinfo', ['--size', uri('nbds', 'alice@', byKey.socket, keys)]);
      expect(shared.stdout.trim(), shared.stderr).toBe('1048576');
      const plain = await run('nbdinfo', ['--size', by509.uri]);
      expect(plain.status).not.toBe(0);
    });
  });

  requires('openssl', 'nbdkit')('our client and nbdkit', () => {
    it('certificates, keys, and a server that offers TLS to those who want it', async () => {
      const certificates = ['--tls-certificates', join(pki, 'server'), 'file', makeDisk()];
      const hostname = 'localhost';
      const alice = { object: x509('alice', 'client'), hostname };
      const by509 = await startNbdkit(['--tls=require', '--tls-verify-peer', ...certificates]);
      expectRead(await read(by509.socket, alice));
      const mallory = { object: x509('mallory', 'client'), hostname };
      expectRefused(await read(by509.socket, mallory), /./);
      expectRefused(await read(by509.socket, {}), /./);
      const either = await startNbdkit(['--tls=on', ...certificates]);
      expectRead(await read(either.socket, alice));
      expectRead(await read(either.socket, {}));
      const keys = ['--tls=require', '--tls-psk', join(pki, 'psk/keys.psk')];
      const byKey = await startNbdkit([...keys, 'file', makeDisk()]);
      expectRead(await read(byKey.socket, { object: psk('psk', 'client', ',username=alice') }));
    });

    it('a server that has no TLS is not used by a client that wants it', async () => {
      const { socket } = await startNbdkit(['--tls=off', 'file', makeDisk()]);
      const refused = await read(socket, { object: psk('psk', 'client') });
      expectRefused(refused, /STARTTLS|starttls/);
      const old = await startNbdkit(['-o', 'file', makeDisk()]);
      const result = await read(old.socket, { object: psk('psk', 'client') });
      expectRefused(result, 'Server does not support STARTTLS');
    });
  });
});
