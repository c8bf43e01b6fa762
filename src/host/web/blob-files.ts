/** Files of a web page: blobs that the user chose or that were fetched, by name, read-only. */
import type { FileLimits, FileStat, HostFile, HostFiles } from '../file.js';
import { HostError } from '../file.js';
import type { Iov } from '../../lib/iov.js';

const limits: FileLimits = {
  requestAlignment: 1,
  memoryAlignment: 1,
  maxTransfer: 16 * 1024 * 1024,
  optimalTransfer: 64 * 1024,
  discardAlignment: 0,
};

function refused(what: string): Promise<never> {
  return Promise.reject(new HostError('EROFS', `A blob cannot be changed: ${what}`));
}

function unsupported(what: string): Promise<never> {
  return Promise.reject(new HostError('ENOTSUP', `Blobs have no ${what}`));
}

function blobFile(path: string, blob: Blob): HostFile {
  return {
    path,
    kind: 'regular',
    engine: 'node-fs',
    limits,
    writable: false,
    direct: false,
    size: () => Promise.resolve(blob.size),
    allocatedBytes: () => Promise.resolve(blob.size),
    read: async (offset: number, iov: Iov): Promise<number> => {
      const bytes = await blob.slice(offset, offset + iov.bytes).arrayBuffer();
      iov.copyFrom(new Uint8Array(bytes));
      return bytes.byteLength;
    },
    write: () => refused('write'),
    flush: () => Promise.resolve(),
    truncate: () => refused('truncate'),
    allocate: () => refused('allocate'),
    punchHole: () => refused('punch a hole'),
    zeroRange: () => refused('zero a range'),
    extentAt: () => Promise.resolve(undefined),
    copyFrom: () => unsupported('copy in the kernel'),
    tryLock: () => unsupported('locks'),
    testLock: () => unsupported('locks'),
    setDirect: (direct) => (direct ? unsupported('direct access') : Promise.resolve()),
    dropCache: () => Promise.resolve(),
    close: () => Promise.resolve(),
  };
}

/** Shows `blobs` as files; names are as images refer to them (`base.qcow2`, `dir/disk.raw`). */
export function blobFiles(blobs: ReadonlyMap<string, Blob>): HostFiles {
  const find = (path: string): Blob => {
    const blob = blobs.get(path.replace(/^\.\//, ''));
    if (blob === undefined) throw new HostError('ENOENT', `There is no blob named '${path}'`);
    return blob;
  };
  return {
    open: async (path, options) => {
      if (options.writable) throw new HostError('EROFS', 'Blobs are read-only');
      if (options.direct) throw new HostError('EINVAL', 'Blobs have no direct access');
      return Promise.resolve(blobFile(path, find(path)));
    },
    stat: async (path): Promise<FileStat> =>
      Promise.resolve({ kind: 'regular', size: find(path).size, identity: path }),
    unlink: () => refused('unlink'),
    engines: () => Promise.resolve([]),
    dirname: (path) => path.slice(0, Math.max(0, path.lastIndexOf('/'))),
    join: (base, name) => (base === '' ? name : `${base}/${name}`),
    isAbsolute: (path) => path.startsWith('/'),
  };
}
