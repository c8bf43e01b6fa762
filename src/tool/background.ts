/**
 * `--fork` and `--daemonize`: the same command runs again in a process of its own, which tells
 * through a pipe when clients can connect; until then its messages appear here.
 */
import { spawn } from 'node:child_process';
import { closeSync, openSync, writeSync } from 'node:fs';
import { constants } from 'node:os';
import type { Program } from './program.js';

/** Tells the new process where the pipe is and how many listening sockets it got. */
const VARIABLE = 'VDISK_BACKGROUND';
/** Descriptors begin here after standard input, output and error. */
const FIRST = 3;

interface Forked {
  readonly ready: number;
  readonly fds: number;
}

let forked: Forked | undefined;

/** What this process was told by the one that started it in the background. */
function tryForked(): Forked | undefined {
  const m = /^(\d+),(\d+)$/.exec(process.env[VARIABLE] ?? '');
  if (m === null) return forked;
  forked = { ready: Number(m[1]), fds: Number(m[2]) };
  Reflect.deleteProperty(process.env, VARIABLE);
  return forked;
}

/** How many listening sockets a process in the background got; undefined in any other. */
export function forkedFds(): number | undefined {
  return tryForked()?.fds;
}

/**
 * Starts this command in the background, with the listening sockets `fds`. Resolves to the exit
 * status when it serves or has failed; to undefined in the process that is to serve.
 */
export function runInBackground(
  program: Program,
  fds: readonly number[],
): Promise<number | undefined> {
  if (tryForked() !== undefined) return Promise.resolve(undefined);
  const ready = FIRST + fds.length;
  const child = spawn(process.execPath, [...process.execArgv, ...process.argv.slice(1)], {
    detached: true,
    stdio: ['ignore', 'ignore', 'pipe', ...fds, 'pipe'],
    env: { ...process.env, [VARIABLE]: `${String(ready)},${String(fds.length)}` },
  });
  child.stderr?.on('data', (piece: Buffer) => {
    program.output.err(piece.toString());
  });
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.stdio[ready]?.once('data', () => {
      resolve(0);
    });
    child.once('close', (status, signal) => {
      resolve(status ?? 128 + (signal === null ? 0 : constants.signals[signal]));
    });
  });
}

/** In a process in the background: tells the one that waits, and lets its terminal go. */
export async function reportReady(): Promise<void> {
  const told = tryForked();
  if (told === undefined) return;
  writeSync(told.ready, 'R');
  closeSync(told.ready);
  // Whoever reads the messages of the first process shall see their end.
  closeSync(2);
  openSync('/dev/null', 'w');
}
