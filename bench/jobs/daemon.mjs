// The storage daemon beside qemu-storage-daemon: commands of QMP, one after another, and requests
// of 4 KiB by fio on an export over a Unix socket.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { connect } from 'node:net';
import { dirname, join } from 'node:path';
import { client, fio, nbdImage, NBD_IMAGE } from './nbd.mjs';

const COMMANDS = 5000;
const daemons = new Map();
process.on('exit', () => {
  for (const { child } of daemons.values()) child.kill('SIGKILL');
});

/** The daemon of a tool, which is started when it is first asked for. */
async function daemonOf(tool, { dir, img }) {
  const known = daemons.get(tool.name);
  if (known !== undefined) return known;
  const ours = tool.name === 'vdisk';
  const folder = dirname(ours ? img : tool.path);
  const program = join(folder, `${ours ? 'vdisk' : 'qemu'}-storage-daemon`);
  const [qmp, nbd] = ['qmp', 'nbd'].map((name) => join(dir, `daemon-${tool.name}-${name}.sock`));
  const args = [
    ...['--blockdev', `driver=file,filename=${join(dir, NBD_IMAGE)},node-name=f,aio=io_uring`],
    ...['--blockdev', 'driver=raw,file=f,node-name=d'],
    ...['--nbd-server', `addr.type=unix,addr.path=${nbd}`],
    ...['--export', 'type=nbd,id=e,node-name=d,name=d,writable=on'],
    ...['--chardev', `socket,id=c,path=${qmp},server=on,wait=off`, '--monitor', 'chardev=c'],
  ];
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'inherit'] });
  const daemon = { child, qmp, uri: `nbd+unix:///d?socket=${nbd}` };
  daemons.set(tool.name, daemon);
  for (let i = 0; i < 500 && !existsSync(qmp); i++) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return daemon;
}

/** Milliseconds that commands take of which each waits for the answer to the last. */
function converse(path, command) {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    let left = COMMANDS;
    let text = '';
    let before = 0;
    socket.on('error', reject);
    socket.on('data', (piece) => {
      text += piece;
      let end;
      while ((end = text.indexOf('\n')) >= 0) {
        const line = text.slice(0, end);
        text = text.slice(end + 1);
        if (line.includes('"QMP"')) {
          socket.write('{"execute":"qmp_capabilities"}\n');
          continue;
        }
        if (before === 0) before = performance.now();
        if (left-- > 0) {
          socket.write(`${command}\n`);
          continue;
        }
        resolve(performance.now() - before);
        socket.destroy();
      }
    });
  });
}

function qmpJob(command, args) {
  const text = JSON.stringify({ execute: command, ...(args && { arguments: args }) });
  return {
    name: `qmp ${COMMANDS} x ${command}`,
    needs: [nbdImage],
    async measure(tool, context) {
      const { qmp } = await daemonOf(tool, context);
      return { ms: await converse(qmp, text), kib: 0 };
    },
  };
}

function fioJob(rw, depth) {
  return {
    name: `daemon fio ${rw} 4k depth ${depth}`,
    needs: [nbdImage],
    async measure(tool, context) {
      const { uri } = await daemonOf(tool, context);
      const [program, args] = fio(rw, '4k', depth, depth === 1 ? 100 : 300)(uri);
      return { ms: await client(program, args), kib: 0 };
    },
  };
}

export const daemonJobs = [
  qmpJob('query-block'),
  qmpJob('query-named-block-nodes', { flat: true }),
  ...['randread', 'randwrite'].flatMap((rw) => [1, 16, 64].map((depth) => fioJob(rw, depth))),
];
