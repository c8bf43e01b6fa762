// Short ways to open images in tests. Everything is closed when the test ends.
import { onTestFinished } from 'vitest';
import type { Backend, BlockGraph, GraphOptions } from '../../src/index.js';
import { createGraph, Iov } from '../../src/index.js';

/** A graph that closes with the test. */
export function testGraph(options?: GraphOptions): BlockGraph {
  const graph = createGraph(options);
  onTestFinished(async () => {
    await graph.close();
  });
  return graph;
}

/** The message of the error that a promise rejects with; fails the test when it does not. */
export async function failure(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => {
      throw new Error('no error where one was expected');
    },
    (e: unknown) => (e instanceof Error ? e.message : String(e)),
  );
}

/** The errno name of the error that a promise rejects with. */
export async function failureCode(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => {
      throw new Error('no error where one was expected');
    },
    (e: unknown) => (e instanceof Error && 'code' in e ? String(e.code) : String(e)),
  );
}

interface Readable {
  read(offset: number, iov: Iov): Promise<void>;
}

/** Bytes [offset, offset + bytes) of a backend, node or child. */
export async function readBytes(
  disk: Readable,
  offset: number,
  bytes: number,
): Promise<Uint8Array> {
  const out = new Uint8Array(bytes).fill(0xa5);
  await disk.read(offset, Iov.of(out));
  return out;
}

/** `bytes` times `value`. */
export function filled(bytes: number, value: number): Iov {
  return Iov.of(new Uint8Array(bytes).fill(value));
}

/** Detaches all backends of a test, so that files are closed before they are looked at. */
export async function detachAll(...backends: Backend[]): Promise<void> {
  for (const b of backends) await b.detach();
}

/** Compares long byte strings, which `toEqual` takes seconds for. */
export function same(got: Uint8Array, want: Uint8Array, what = 'bytes'): void {
  if (Buffer.compare(got, want) === 0) return;
  if (got.length !== want.length) {
    throw new Error(`${what}: ${got.length} of them, expected ${want.length}`);
  }
  const first = got.findIndex((b, i) => b !== want[i]);
  let n = 0;
  for (let i = first; i < got.length; i++) if (got[i] !== want[i]) n++;
  throw new Error(
    `${what}: ${n} differ, the first at ${first}: ${got[first]}, expected ${want[first]}`,
  );
}
