/**
 * Drivers `file`, `host_device` and `host_cdrom`: files and devices of the host.
 *
 * The three differ in what they accept (a regular file, or a device) and in whether a
 * new area is known to be zero. Names: `PATH`, `file:PATH`, `host_device:PATH`,
 * `host_cdrom:PATH`; plain paths of devices go to the device drivers by themselves.
 *
 * Not supported: `pr-manager` (refused by name); medium detection and tray of a CD-ROM;
 * zoned devices. The creation options `nocow` and `extent_size_hint` are hints to btrfs and
 * XFS; they are accepted and have no effect.
 */
import type { CreateContext, Driver, OpenContext } from '../../block/driver.js';
import { reopenNames } from '../../block/node-options.js';
import { BlockError, errorCode, errorText, messageOf, withErrno } from '../../block/errors.js';
import type { Preallocation } from '../../block/types.js';
import type { HostFile, HostFiles } from '../../host/file.js';
import { createOnExisting, existingCreateOptions } from '../../block/create-existing.js';
import { createOptions } from '../../options/create-options.js';
import { parseValue } from '../../options/schema.js';
import { hasLocks, ImageLocks, unlocked } from './image-locks.js';
import { FileInstance } from './instance.js';
import type { FileOptions } from './options.js';
import { fileBlockdevCreate, fileOptionNames, fileOptions } from './options.js';
import { truncateRegular } from './truncate.js';
import { Perm } from '../../block/types.js';

type Name = 'file' | 'host_device' | 'host_cdrom';

function filesOf(files: HostFiles | undefined): HostFiles {
  if (files === undefined) throw new BlockError('ENOTSUP', 'There is no file system here');
  return files;
}

/** `scheme:PATH` → PATH, kept from looking like a protocol name itself. */
function parseFilename(scheme: Name, filename: string): { filename: string } {
  const prefix = `${scheme}:`;
  if (!filename.startsWith(prefix)) return { filename };
  const path = filename.slice(prefix.length);
  return { filename: /^[^/]*:/.test(path) ? `./${path}` : path };
}

type Engine = 'auto' | 'threads' | 'native' | 'io_uring' | 'node-fs';

async function chooseEngine(files: HostFiles, aio: FileOptions['aio']): Promise<Engine> {
  if (aio === undefined) return 'auto';
  const engines = await files.engines();
  if (engines.includes(aio)) return aio;
  // node:fs runs its calls on a pool of threads, too.
  if (aio === 'threads' && engines.includes('node-fs')) return 'node-fs';
  throw new BlockError('EINVAL', `aio=${aio} was specified, but is not supported in this build.`);
}

/** Opens with QEMU's words for what can go wrong. */
async function openHostFile(
  files: HostFiles,
  path: string,
  how: { writable: boolean; direct: boolean; engine: Engine; maxBatch: number },
): Promise<HostFile> {
  try {
    return await files.open(path, how);
  } catch (e) {
    const code = errorCode(e);
    // An engine that cannot be used says so in QEMU's words.
    if (messageOf(e).startsWith('Unable to use ')) throw e;
    const why =
      how.direct && code === 'EINVAL' ? 'filesystem does not support O_DIRECT' : errorText(e);
    throw new BlockError(code, `Could not open '${path}': ${why}`, { cause: e });
  }
}

function checkKind(name: Name, { kind, path }: Pick<HostFile, 'kind' | 'path'>): void {
  if (name === 'file') {
    if (kind === 'regular') return;
    throw new BlockError('EINVAL', `'${name}' driver requires '${path}' to be a regular file`);
  }
  if (kind === 'block' || kind === 'char') return;
  throw new BlockError(
    'EINVAL',
    `'${name}' driver requires '${path}' to be either a character or block device`,
  );
}

async function wantsLocks(file: HostFile, locking: FileOptions['locking']): Promise<boolean> {
  if (locking === 'off') return false;
  const there = await hasLocks(file);
  if (!there && locking === 'on') {
    throw new BlockError(
      'ENOTSUP',
      'locking=on was specified, but file locks are not available on this host',
    );
  }
  return there;
}

function readOptions(name: Name, context: OpenContext): FileOptions {
  const { filename } = context.options;
  if (filename === undefined || filename === '') {
    throw new BlockError('EINVAL', `The '${name}' block driver requires a file name`);
  }
  const options = parseValue(fileOptions, context.options, { from: 'opts' });
  const manager = options['pr-manager'];
  if (manager !== undefined) {
    throw new BlockError('ENOTSUP', `pr-manager '${manager}': vdisk has no reservation helpers`);
  }
  return options;
}

async function open(name: Name, context: OpenContext): Promise<FileInstance> {
  const options = readOptions(name, context);
  const files = filesOf(context.host.files);
  const { flags } = context;
  const { filename } = options;
  // To open a pipe would wait for its other end.
  const stat = await files.stat(filename).catch(() => undefined);
  if (stat?.kind === 'other') checkKind(name, { kind: stat.kind, path: filename });
  const engine = await chooseEngine(files, options.aio);
  const maxBatch = options['aio-max-batch'];
  const openAgain = (writable: boolean, direct: boolean): Promise<HostFile> =>
    openHostFile(files, filename, { writable, direct, engine, maxBatch });
  // With auto-read-only the file is opened for writing when somebody is about to write.
  const file = await openAgain(flags.writable && !flags.autoReadOnly, flags.cache.direct);
  try {
    checkKind(name, file);
    if (options.aio === 'native' && !flags.cache.direct) {
      throw new BlockError(
        'EINVAL',
        'aio=native was specified, but it requires cache.direct=on, which was not specified.',
      );
    }
    const locking = await wantsLocks(file, options.locking);
    return new FileInstance({ file, filename, flags, locking, openAgain });
  } catch (e) {
    await file.close();
    throw e;
  }
}

const createSet = createOptions({
  size: { type: 'size', help: 'Virtual disk size' },
  preallocation: {
    type: 'str',
    help: 'Preallocation mode (allowed values: off, falloc, full)',
  },
  nocow: { type: 'bool', help: 'Turn off copy-on-write (valid only on btrfs)' },
  extent_size_hint: { type: 'size', help: 'Extent size hint for the image file, 0 to disable' },
});

const preallocationModes: readonly string[] = ['off', 'metadata', 'falloc', 'full'];

function preallocationOf(value: string | number | boolean | undefined): Preallocation {
  const mode = value ?? 'off';
  const found = preallocationModes.find((m) => m === mode);
  if (found === undefined) {
    const text = `invalid parameter value: ${String(mode)}`;
    throw new BlockError('EINVAL', text);
  }
  return found as Preallocation;
}

/** Creates or empties the file under the locks that keep other users of it away. */
async function create(context: CreateContext): Promise<void> {
  const files = filesOf(context.host.files);
  const { filename: path } = parseFilename('file', context.filename);
  const size = roundUp(context.values.size ?? 0);
  const prealloc = preallocationOf(context.values['preallocation']);
  let file: HostFile;
  try {
    file = await files.open(path, {
      writable: true,
      direct: false,
      engine: 'auto',
      create: 'keep',
      mode: 0o644,
    });
  } catch (e) {
    throw withErrno(`Could not create '${path}'`, e);
  }
  try {
    const locks = new ImageLocks(file);
    const locking = await hasLocks(file);
    const state = { perm: Perm.write | Perm.resize, shared: Perm.all & ~Perm.resize };
    if (locking) {
      await locks.take(state);
      await locks.check(state);
    }
    await truncateRegular(file, 0, 'off');
    await truncateRegular(file, size, prealloc);
    if (locking) await locks.giveBack(unlocked);
  } finally {
    await file.close();
  }
}

const roundUp = (bytes: number): number => Math.ceil(bytes / 512) * 512;

function driver(name: Name): Driver {
  return {
    name,
    kind: 'protocol',
    schemes: [name],
    needsFile: false,
    optionNames: fileOptionNames,
    blockdev: fileOptions,
    reopenOptions: reopenNames(fileOptions),
    // QEMU's default; here the engine stays what it is.
    reopenDefaults: { aio: 'threads' },
    parseFilename: (filename) => parseFilename(name, filename),
    open: (context) => open(name, context),
  };
}

export const fileDriver: Driver = {
  ...driver('file'),
  createOptions: createSet,
  create,
  blockdevCreate: fileBlockdevCreate,
};

export const hostDeviceDriver: Driver = {
  ...driver('host_device'),
  createOptions: existingCreateOptions,
  create: (context) => createOnExisting(context, 'host_device'),
  probePath: (_path, kind) => (kind === 'block' || kind === 'char' ? 50 : 0),
};

export const hostCdromDriver: Driver = {
  ...driver('host_cdrom'),
  probePath: (path, kind) =>
    kind === 'block' && /^\/dev\/(cdrom|dvd|sr\d|scd\d)/.test(path) ? 100 : 0,
};
