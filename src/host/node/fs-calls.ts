/**
 * Calls of node:fs as promises that reject with HostError, shared by the engines. Those of
 * fs.promises would do, but loading them takes two milliseconds of each start.
 */
import * as fs from 'node:fs';
import type { FileKind, FileOpenOptions, FileStat, HostError } from '../file.js';
import { toHostError } from './errors.js';

/** One call of node:fs as a promise of its result. */
export function call<T>(
  start: (done: (error: Error | null, value: T) => void) => void,
): Promise<T> {
  return new Promise((resolve, reject) => {
    start((error, value) => {
      if (error === null) resolve(value);
      else reject(toHostError(error));
    });
  });
}

export function closeFd(fd: number): Promise<void> {
  return call<undefined>((done) => {
    fs.close(fd, (error) => {
      done(error ?? null, undefined);
    });
  });
}

export function fstat(fd: number): Promise<fs.Stats> {
  return call<fs.Stats>((done) => {
    fs.fstat(fd, done);
  });
}

/** Whether the same call may succeed when tried again. */
export function isTransient(error: HostError): boolean {
  return error.code === 'EINTR' || error.code === 'EAGAIN';
}

export function kindOf(stat: fs.Stats | fs.BigIntStats): FileKind {
  if (stat.isFile()) return 'regular';
  if (stat.isBlockDevice()) return 'block';
  return stat.isCharacterDevice() ? 'char' : 'other';
}

/** Size of a block device from sysfs; st_size is 0 for them. */
export async function blockDeviceBytes(rdev: number): Promise<number> {
  const major = (rdev >> 8) & 0xfff;
  const minor = (rdev & 0xff) | ((rdev >> 12) & 0xfff00);
  const text = await call<string>((done) => {
    fs.readFile(`/sys/dev/block/${major}:${minor}/size`, 'utf8', done);
  });
  return Number(text) * 512;
}

/** Opens with the flags of open(2) for `options`. */
export function openFd(path: string, options: FileOpenOptions): Promise<number> {
  const { O_RDWR, O_RDONLY, O_DIRECT, O_CREAT, O_TRUNC, O_EXCL } = fs.constants;
  let flags = options.writable ? O_RDWR : O_RDONLY;
  if (options.direct) flags |= O_DIRECT;
  if (options.create !== undefined) flags |= O_CREAT;
  if (options.create === 'truncate') flags |= O_TRUNC;
  if (options.create === 'exclusive') flags |= O_EXCL;
  return call<number>((done) => {
    fs.open(path, flags, options.mode ?? 0o644, done);
  });
}

/** stat() of the port: size of devices too, identity independent of the name. */
export async function statPath(path: string): Promise<FileStat> {
  const stat = await call<fs.BigIntStats>((done) => {
    fs.stat(path, { bigint: true }, done);
  });
  const kind = stat.isDirectory() ? 'directory' : kindOf(stat);
  const device = kind === 'block' || kind === 'char';
  return {
    kind,
    size: kind === 'block' ? await blockDeviceBytes(Number(stat.rdev)) : Number(stat.size),
    ...(device ? {} : { modified: String(stat.mtimeNs) }),
    identity: device ? `${kind}:${stat.rdev}` : `${stat.dev}:${stat.ino}`,
    times: {
      modifiedMs: Number(stat.mtimeMs),
      changedMs: Number(stat.ctimeMs),
      accessedMs: Number(stat.atimeMs),
    },
  };
}

export async function unlinkPath(path: string): Promise<void> {
  await call<undefined>((done) => {
    fs.unlink(path, (error) => {
      done(error, undefined);
    });
  });
}

export function listFolder(path: string): Promise<readonly string[]> {
  return call<string[]>((done) => {
    fs.readdir(path, done);
  });
}
