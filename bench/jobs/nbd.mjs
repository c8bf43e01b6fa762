// NBD servers under fio and nbdcopy, over a Unix socket, loopback TCP and TLS, beside qemu-nbd and
// nbdkit on the same file. The client's own time counts: both servers get the same client.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { dirname, join } from 'node:path';

const MIB = 1024 * 1024;
export const NBD_IMAGE = 'nbd.raw';
const IMAGE = NBD_IMAGE;

/** 2 GiB of data that does not compress. */
export function nbdImage({ dir }) {
  const args = ['if=/dev/urandom', `of=${join(dir, IMAGE)}`, 'bs=1M', 'count=2048', 'status=none'];
  spawnSync('dd', args);
  mkdirSync(join(dir, 'psk'));
  writeFileSync(join(dir, 'psk/keys.psk'), `bench:${'5a'.repeat(32)}\n`);
}

const servers = new Map();
process.on('exit', () => {
  for (const { child } of servers.values()) child.kill('SIGKILL');
});

/** Command line of a server for one way to reach it. */
function commandOf(tool, { dir, img }, way, at) {
  if (tool.name === 'qemu' && way.peer === 'nbdkit') {
    const place = way.tcp ? ['-i', '127.0.0.1', '-p', String(at)] : ['-U', at];
    const tls = way.tls ? ['--tls=require', '--tls-psk', join(dir, 'psk/keys.psk')] : [];
    return ['nbdkit', ['-f', ...place, ...tls, 'file', join(dir, IMAGE)]];
  }
  const path = join(dirname(tool.name === 'vdisk' ? img : tool.path), `${toolName(tool)}-nbd`);
  const place = way.tcp ? ['-b', '127.0.0.1', '-p', String(at)] : ['-k', at];
  const object = `tls-creds-psk,id=tls0,endpoint=server,dir=${join(dir, 'psk')}`;
  const tls = way.tls ? ['--object', object, '--tls-creds', 'tls0'] : [];
  const rest = ['-f', 'raw', '-t', '-e', '16', '--aio=io_uring', join(dir, IMAGE)];
  return [path, [...place, ...tls, ...rest]];
}

const toolName = (tool) => (tool.name === 'vdisk' ? 'vdisk' : 'qemu');

function answers(port) {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    socket.once('connect', () => resolve(socket.destroy() !== undefined));
    socket.once('error', () => resolve(false));
  });
}

let nextPort = 20_000 + (process.pid % 20_000);

/** The URI of a server, which is started when it is first asked for. */
async function serverUri(tool, context, way) {
  const key = `${tool.name === 'vdisk' ? 'vdisk' : way.peer}-${way.tcp}-${way.tls}`;
  let server = servers.get(key);
  if (server === undefined) {
    const at = way.tcp ? nextPort++ : join(context.dir, `${key}.sock`);
    const [path, args] = commandOf(tool, context, way, at);
    const child = spawn(path, args, { stdio: ['ignore', 'ignore', 'inherit'] });
    const query = way.tls ? `&tls-psk-file=${join(context.dir, 'psk/keys.psk')}` : '';
    const scheme = way.tls ? 'nbds' : 'nbd';
    const user = way.tls ? 'bench@' : '';
    const uri = way.tcp
      ? `nbd://127.0.0.1:${at}`
      : `${scheme}+unix://${user}/?socket=${at}${query}`;
    server = { child, uri };
    servers.set(key, server);
    for (let i = 0; i < 500 && !(way.tcp ? await answers(at) : existsSync(at)); i++) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
  return server.uri;
}

/** Milliseconds of a client. */
export function client(command, args) {
  return new Promise((resolve, reject) => {
    const before = performance.now();
    const child = spawn(command, args, { stdio: ['ignore', 'ignore', 'pipe'] });
    let said = '';
    child.stderr.on('data', (chunk) => (said += chunk));
    child.on('error', reject);
    child.on('exit', (status) => {
      if (status === 0) resolve(performance.now() - before);
      else reject(new Error(`${command}: status ${status}\n${said}`));
    });
  });
}

function job(name, way, command) {
  const place = way.tls ? 'TLS' : way.tcp ? 'TCP' : 'Unix';
  return {
    name: `nbd ${place} ${name}${way.peer === 'nbdkit' ? ' (nbdkit)' : ''}`,
    needs: [nbdImage],
    async measure(tool, context) {
      const uri = await serverUri(tool, context, way);
      const [program, args] = command(uri);
      return { ms: await client(program, args), kib: 0 };
    },
  };
}

export const fio = (rw, size, depth, mib) => (uri) => [
  'fio',
  [
    ...['--name=nbd', '--ioengine=nbd', `--uri=${uri}`, `--rw=${rw}`, `--bs=${size}`],
    ...[`--iodepth=${depth}`, '--size=2000M', `--io_size=${mib * MIB}`, '--output-format=terse'],
  ],
];

function rowsOf(way) {
  const rows = [];
  for (const rw of ['randread', 'randwrite']) {
    for (const depth of [1, 16, 64]) {
      rows.push(
        job(`fio ${rw} 4k depth ${depth}`, way, fio(rw, '4k', depth, depth === 1 ? 100 : 300)),
      );
    }
  }
  for (const rw of ['read', 'write']) {
    rows.push(job(`fio ${rw} 64k depth 16`, way, fio(rw, '64k', 16, 2000)));
    rows.push(job(`fio ${rw} 1m depth 16`, way, fio(rw, '1m', 16, 2000)));
  }
  rows.push(job('nbdcopy 2 GiB', way, (uri) => ['nbdcopy', [uri, 'null:']]));
  return rows;
}

export const nbdJobs = ['qemu', 'nbdkit'].flatMap((peer) => [
  ...rowsOf({ peer, tcp: false, tls: false }),
  ...rowsOf({ peer, tcp: true, tls: false }),
  job('nbdcopy 2 GiB', { peer, tcp: false, tls: true }, (uri) => ['nbdcopy', [uri, 'null:']]),
]);
