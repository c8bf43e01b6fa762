// NBD servers as processes in tests: started, waited for, ended with the test.
import { spawn } from 'node:child_process';
import { connect } from 'node:net';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import type { Backend, OpenFlags } from '../../src/index.js';
import { randomOperations } from '../conformance/random-operations.js';
import type { Random } from '../support/index.js';
import { binPath, FakeFiles, findCommand, tempDir, testGraph } from '../support/index.js';

export const vdiskNbd = (): string => binPath('vdisk-nbd');

export interface ServerProcess {
  readonly pid: number;
  /** What it printed so far. */
  said(): string;
  /** Ends it and waits; the exit status. */
  stop(signal?: NodeJS.Signals): Promise<number>;
  readonly ended: Promise<number>;
}

/** Runs a server in the foreground until the test ends. */
export function startProcess(
  command: string,
  args: readonly string[],
  env: Record<string, string> = {},
): ServerProcess {
  const path = findCommand(command) ?? command;
  const child = spawn(path, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...env },
  });
  let text = '';
  child.stdout.on('data', (chunk: Buffer) => (text += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (text += chunk.toString()));
  const ended = new Promise<number>((resolve) => {
    child.once('close', (code) => {
      resolve(code ?? 128);
    });
    child.once('error', (e) => {
      text += e.message;
      resolve(127);
    });
  });
  const stop = async (signal: NodeJS.Signals = 'SIGTERM'): Promise<number> => {
    child.kill(signal);
    const timer = setTimeout(() => child.kill('SIGKILL'), 10_000);
    const status = await ended;
    clearTimeout(timer);
    return status;
  };
  // Some servers wait for their clients, which may end later than this.
  onTestFinished(async () => {
    await stop('SIGKILL');
  });
  return { pid: child.pid ?? 0, said: () => text, stop, ended };
}

/** Whether somebody listens there. */
function tryConnect(where: string | number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = typeof where === 'number' ? connect(where, '127.0.0.1') : connect(where);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => {
      resolve(false);
    });
  });
}

/** Waits until a socket's file is there (that does not use up a client), or the process ends. */
export async function untilSocket(path: string, server: ServerProcess): Promise<void> {
  let over = false;
  void server.ended.then(() => (over = true));
  for (let i = 0; i < 1000; i++) {
    if (existsSync(path)) return;
    if (over as boolean) throw new Error(`the server ended: ${server.said()}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error(`no socket ${path}: ${server.said()}`);
}

/** Waits until a TCP port answers; uses up a connection. */
export async function untilPort(port: number, server: ServerProcess): Promise<void> {
  for (let i = 0; i < 1000; i++) {
    if (await tryConnect(port)) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error(`nobody at port ${String(port)}: ${server.said()}`);
}

/** A TCP port that is free now. */
export async function freePort(): Promise<number> {
  const { createServer } = await import('node:net');
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const at = server.address();
      server.close(() => {
        resolve(typeof at === 'object' && at !== null ? at.port : 0);
      });
    });
  });
}

export interface OnSocket {
  readonly server: ServerProcess;
  readonly socket: string;
  readonly uri: string;
}

/** `vdisk-nbd ARGS` (or another qemu-nbd) on a Unix socket of its own. */
export async function startNbd(
  args: readonly string[],
  { exportName = '', command = vdiskNbd() } = {},
): Promise<OnSocket> {
  const socket = join(tempDir(), 'nbd.sock');
  const server = startProcess(command, ['-k', socket, '-t', '-e', '0', ...args]);
  await untilSocket(socket, server);
  return { server, socket, uri: uriOf(socket, exportName) };
}

/** `nbdkit ARGS` on a Unix socket of its own. */
export async function startNbdkit(args: readonly string[], exportName = ''): Promise<OnSocket> {
  const socket = join(tempDir(), 'nbdkit.sock');
  const server = startProcess('nbdkit', ['-f', '-U', socket, ...args]);
  await untilSocket(socket, server);
  return { server, socket, uri: uriOf(socket, exportName) };
}

export function uriOf(socket: string, exportName = ''): string {
  return `nbd+unix:///${exportName}?socket=${socket}`;
}

/** JSON that a program printed, of the type that the test says it has. */
export function parseJson<T>(text: string): T {
  return JSON.parse(text.slice(text.search(/[[{]/))) as T;
}

/** Opens when somebody listens there. */
export async function openUri(
  uri: string,
  flags: Partial<OpenFlags> = { writable: true },
): Promise<Backend> {
  const graph = testGraph();
  const spec = { filename: uri, options: { driver: 'raw' }, flags: { unmap: true, ...flags } };
  for (let i = 0; ; i++) {
    try {
      return await graph.openBackend(spec);
    } catch (e) {
      if (i >= 500 || !String(e).includes('Connection refused')) throw e;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}

/** Random requests against a model, many at once. */
export async function exercise(uri: string, random: Random, rounds = 15): Promise<void> {
  const backend = await openUri(uri);
  const graph = testGraph();
  const again = (): Promise<never> => Promise.reject(new Error('not reopened here'));
  const disk = { backend, graph, files: new FakeFiles(), again };
  await randomOperations(disk, random, { rounds, atOnce: 16 });
  await backend.flush();
  await backend.detach();
}
