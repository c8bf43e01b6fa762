import { spawn } from 'node:child_process';
import { constants } from 'node:os';

export interface RunOptions {
  /** Bytes or text for standard input; without it standard input is empty. */
  input?: Uint8Array | string;
  /** Milliseconds until the program is killed and run() rejects; 60 s when not given. */
  timeout?: number;
  cwd?: string;
  /** Variables on top of this process's own; undefined removes one. */
  env?: Record<string, string | undefined>;
}

export interface RunResult {
  /** Exit status; 128 + number for a program that a signal ended. */
  status: number;
  stdout: string;
  stderr: string;
  /** Standard output as bytes. */
  bytes: Uint8Array;
}

/**
 * Runs a program without a shell and waits for its end.
 * Rejects when it cannot be started or does not end in time (then with what it had printed).
 */
export async function run(
  command: string,
  args: readonly string[] = [],
  options: RunOptions = {},
): Promise<RunResult> {
  const timeout = options.timeout ?? 60_000;
  const { promise, resolve, reject } = deferred<RunResult>();
  const child = spawn(command, args, {
    cwd: options.cwd,
    env: { ...process.env, ...options.env },
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  const out: Buffer[] = [];
  const err: Buffer[] = [];
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    child.kill('SIGKILL');
  }, timeout);
  child.stdout.on('data', (chunk: Buffer) => out.push(chunk));
  child.stderr.on('data', (chunk: Buffer) => err.push(chunk));
  child.stdin.on('error', () => undefined); // The program may end without reading its input.
  child.stdin.end(options.input ?? '');
  child.on('error', (error) => {
    clearTimeout(timer);
    reject(error);
  });
  child.on('close', (code, signal) => {
    clearTimeout(timer);
    const bytes = Buffer.concat(out);
    const stderr = Buffer.concat(err).toString();
    const line = [command, ...args].join(' ');
    if (late) {
      reject(
        new Error(`no end within ${String(timeout)} ms: ${line}\n${bytes.toString()}${stderr}`),
      );
    } else {
      const status = code ?? 128 + (signal === null ? 0 : constants.signals[signal]);
      resolve({ status, stdout: bytes.toString(), stderr, bytes: new Uint8Array(bytes) });
    }
  });
  return promise;
}

/** As run(), but rejects, with everything printed, when the exit status is not 0. */
export async function runOk(
  command: string,
  args: readonly string[] = [],
  options: RunOptions = {},
): Promise<RunResult> {
  const result = await run(command, args, options);
  if (result.status !== 0) {
    const line = [command, ...args].join(' ');
    const said = `${result.stdout}${result.stderr}`;
    throw new Error(`exit status ${String(result.status)}: ${line}\n${said}`);
  }
  return result;
}

function deferred<T>(): {
  promise: Promise<T>;
  resolve: (value: T) => void;
  reject: (error: Error) => void;
} {
  let resolve!: (value: T) => void;
  let reject!: (error: Error) => void;
  const promise = new Promise<T>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  return { promise, resolve, reject };
}
