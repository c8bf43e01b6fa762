/** `-drive` and `drive_add`: from an old option list to a backend with a name. */
import { Backend } from '../../block/backend.js';
import type { ErrorAction } from '../../block/backend.js';
import { dropLimits, setLimits } from '../../block/backend-limits.js';
import type { NodeOptions } from '../../block/driver.js';
import type { BlockGraph } from '../../block/graph.js';
import type { ThrottleLimits } from '../../block/throttle-group.js';
import { throttleLimits } from '../../block/throttle-group.js';
import { Perm } from '../../block/types.js';
import type { Drive, DriveInterface } from '../../monitor/machine.js';
import { QmpError } from '../../monitor/qmp-error.js';
import { optBool, optNumber } from '../../options/opt-values.js';
import { OptionError } from '../../options/option-error.js';
import { parseOpts } from '../../options/qemu-opts.js';
import { parseValue } from '../../options/schema.js';
import type { ImageHow } from '../io/image.js';
import { defaultHow, openUnnamed, parseAioMode, parseCacheMode } from '../io/image.js';

const interfaces: readonly DriveInterface[] = [
  'none',
  'ide',
  'scsi',
  'floppy',
  'pflash',
  'mtd',
  'sd',
  'virtio',
  'xen',
];

/** Devices on one bus of an interface; absent: any number. */
const perBus: Partial<Record<DriveInterface, number>> = { ide: 2, scsi: 7, floppy: 2 };

/** Names that options had once. */
const renamed: readonly (readonly [string, string])[] = [
  ['iops', 'throttling.iops-total'],
  ['iops_rd', 'throttling.iops-read'],
  ['iops_wr', 'throttling.iops-write'],
  ['bps', 'throttling.bps-total'],
  ['bps_rd', 'throttling.bps-read'],
  ['bps_wr', 'throttling.bps-write'],
  ['iops_max', 'throttling.iops-total-max'],
  ['iops_rd_max', 'throttling.iops-read-max'],
  ['iops_wr_max', 'throttling.iops-write-max'],
  ['bps_max', 'throttling.bps-total-max'],
  ['bps_rd_max', 'throttling.bps-read-max'],
  ['bps_wr_max', 'throttling.bps-write-max'],
  ['iops_size', 'throttling.iops-size'],
  ['group', 'throttling.group'],
  ['readonly', 'read-only'],
];

/** The options of one drive; what is taken is gone. */
class Options {
  readonly id: string | undefined;
  readonly #values: Map<string, string>;

  constructor(text: string) {
    const { id, values } = parseOpts(text);
    this.id = id;
    this.#values = new Map(values);
    for (const [from, to] of renamed) this.#rename(from, to);
  }

  #rename(from: string, to: string): void {
    const value = this.take(from);
    if (value === undefined) return;
    if (this.#values.has(to)) {
      throw new OptionError(`'${to}' and its alias '${from}' can't be used at the same time`);
    }
    this.#values.set(to, value);
  }

  take(name: string): string | undefined {
    const value = this.#values.get(name);
    this.#values.delete(name);
    return value;
  }

  bool(name: string): boolean | undefined {
    const value = this.take(name);
    return value === undefined ? undefined : optBool(name, value);
  }

  number(name: string): number | undefined {
    const value = this.take(name);
    if (value === undefined) return undefined;
    return Number(optNumber(name, value));
  }

  /** Takes all whose names begin so, by what follows. */
  takeAll(start: string): Map<string, string> {
    const found = new Map<string, string>();
    for (const [name, value] of [...this.#values]) {
      if (!name.startsWith(start)) continue;
      found.set(name.slice(start.length), value);
      this.#values.delete(name);
    }
    return found;
  }

  rest(): NodeOptions {
    return Object.fromEntries(this.#values);
  }

  get isEmpty(): boolean {
    return this.#values.size === 0;
  }
}

/** Where a drive wants to be attached. */
interface Place {
  readonly interface: DriveInterface;
  readonly bus: number;
  readonly unit: number;
}

/** What drives are made with. */
export interface DriveSurroundings {
  readonly graph: BlockGraph;
  readonly drives: ReadonlyMap<string, Drive>;
  /** The interface that a machine has when none is named. */
  readonly defaultInterface: DriveInterface;
  readonly warn: (message: string) => void;
}

/** Makes a drive. Throws OptionError, QmpError or BlockError; then there is none. */
export async function makeDrive(
  text: string,
  around: DriveSurroundings,
  snapshot: boolean,
): Promise<Drive> {
  const options = new Options(text);
  const { graph } = around;
  const media = readMedia(options);
  const place = readPlace(options, around);
  const id = options.id ?? nameOf(place, media);
  const filename = options.take('file');
  const how = readHow(options, media, around.warn);
  if (snapshot) how.snapshot = true;
  const policy = readPolicy(options, place.interface);
  const limits = readLimits(options);
  const counting = readCounting(options);
  if (graph.backends.has(id)) throw new QmpError(`Duplicate ID '${id}' for drive`);
  if (graph.tryNode(id) !== undefined) {
    throw new QmpError(`Device name '${id}' conflicts with an existing node name`);
  }
  how.filename = filename === '' ? undefined : filename;
  const isEmpty =
    how.filename === undefined && options.isEmpty && how.options['driver'] === undefined;
  how.options = { ...options.rest(), ...how.options };
  const backend = isEmpty
    ? new Backend({ graph, name: id, perm: 0, shared: Perm.all })
    : await openUnnamed(graph, how);
  try {
    // Until a device has it, a drive hinders no other user of its node.
    if (backend.isInserted) {
      await backend.setPerms({ perm: Perm.consistentRead, shared: Perm.all });
    }
    backend.name = id;
    backend.writeCache = how.cache.writeback;
    backend.mediumFlags = { writable: !how.readOnly, unmap: how.unmap, cache: how.cache };
    backend.onReadError = policy.read;
    backend.onWriteError = policy.write;
    setLimits(backend, limits.limits, limits.group, id);
    counting(backend);
  } catch (e) {
    await backend.close();
    throw e;
  }
  graph.backends.set(id, backend);
  return { id, backend, media, ...place };
}

/** Takes a drive's name away; the backend closes unless a device has it. */
export async function forgetDrive(backend: Backend): Promise<void> {
  const { graph } = backend;
  const isUsed = backend.user !== undefined;
  dropLimits(backend);
  if (backend.isInserted) await backend.detach();
  graph.backends.delete(backend.name);
  backend.name = '';
  if (!isUsed) return;
  // The device stays, without a medium.
  graph.deviceBackends.add(backend);
  // Requests of the device fail from now on, and must not stop the guest.
  backend.onReadError = 'report';
  backend.onWriteError = 'report';
}

function readMedia(options: Options): 'disk' | 'cdrom' {
  const word = options.take('media') ?? 'disk';
  if (word === 'disk' || word === 'cdrom') return word;
  throw new OptionError(`'${word}' invalid media`);
}

function readPlace(options: Options, around: DriveSurroundings): Place {
  const word = options.take('if');
  const kind = word === undefined ? around.defaultInterface : interfaces.find((i) => i === word);
  if (kind === undefined) throw new OptionError(`unsupported bus type '${word ?? ''}'`);
  let bus = options.number('bus') ?? 0;
  let unit = options.number('unit');
  const index = options.number('index');
  const most = perBus[kind];
  if (index !== undefined && index !== -1) {
    if (bus !== 0 || unit !== undefined) {
      throw new OptionError('index cannot be used with bus and unit');
    }
    bus = most === undefined ? 0 : Math.floor(index / most);
    unit = most === undefined ? index : index % most;
  }
  const isTaken = (b: number, u: number): boolean =>
    [...around.drives.values()].some(
      (each) => each.interface === kind && each.bus === b && each.unit === u,
    );
  if (unit === undefined) {
    for (unit = 0; isTaken(bus, unit); unit++) {
      if (most === undefined || unit + 1 < most) continue;
      unit = -1;
      bus++;
    }
  }
  if (most !== undefined && unit >= most) {
    throw new OptionError(`unit ${String(unit)} too big (max is ${String(most - 1)})`);
  }
  if (isTaken(bus, unit)) {
    const where = `bus=${String(bus)}, unit=${String(unit)} (index=${String(index ?? -1)})`;
    throw new OptionError(`drive with ${where} exists`);
  }
  return { interface: kind, bus, unit };
}

/** The name of a drive that got none: `ide0-hd0`, `virtio0`, `floppy0`. */
function nameOf({ interface: kind, bus, unit }: Place, media: 'disk' | 'cdrom'): string {
  if (kind !== 'ide' && kind !== 'scsi') return `${kind}${String(unit)}`;
  return `${kind}${String(bus)}-${media === 'cdrom' ? 'cd' : 'hd'}${String(unit)}`;
}

/** How the image is opened. */
function readHow(
  options: Options,
  media: 'disk' | 'cdrom',
  warn: (message: string) => void,
): ImageHow {
  const how = defaultHow();
  const word = options.take('cache');
  const mode = word === undefined ? undefined : parseCacheMode(word);
  if (word !== undefined && mode === undefined) throw new OptionError('invalid cache option');
  // Single switches take precedence.
  how.cache = {
    writeback: options.bool('cache.writeback') ?? mode?.writeback ?? true,
    direct: options.bool('cache.direct') ?? mode?.direct ?? false,
    noFlush: options.bool('cache.no-flush') ?? mode?.noFlush ?? false,
  };
  const readOnly = options.bool('read-only') ?? false;
  how.readOnly = readOnly || media === 'cdrom';
  how.copyOnRead = options.bool('copy-on-read') ?? false;
  if (how.copyOnRead && how.readOnly) {
    warn('disabling copy-on-read on read-only drive');
    how.copyOnRead = false;
  }
  const aio = options.take('aio');
  how.aio = aio === undefined ? undefined : parseAioMode(aio);
  if (aio !== undefined && how.aio === undefined) throw new OptionError('invalid aio option');
  how.snapshot = options.bool('snapshot') ?? false;
  how.unmap = false;
  const format = options.take('format');
  const driver = options.take('driver');
  if (format !== undefined && driver !== undefined) {
    throw new OptionError("Cannot specify both 'driver' and 'format'");
  }
  const chosen = format ?? driver;
  const autoReadOnly = options.bool('auto-read-only') ?? true;
  how.options = {
    'auto-read-only': autoReadOnly,
    ...(chosen === undefined ? {} : { driver: chosen }),
  };
  return how;
}

interface Policy {
  readonly read: ErrorAction;
  readonly write: ErrorAction;
}

function readPolicy(options: Options, kind: DriveInterface): Policy {
  const action = (name: 'rerror' | 'werror', normal: ErrorAction): ErrorAction => {
    const word = options.take(name);
    if (word === undefined) return normal;
    if (!['ide', 'scsi', 'virtio', 'none'].includes(kind)) {
      throw new OptionError(`${name} is not supported by this bus type`);
    }
    const found = (['ignore', 'enospc', 'stop', 'report'] as const).find((each) => each === word);
    if (found !== undefined && !(name === 'rerror' && found === 'enospc')) return found;
    const what = name === 'rerror' ? 'read' : 'write';
    throw new OptionError(`'${word}' invalid ${what} error action`);
  };
  return { write: action('werror', 'enospc'), read: action('rerror', 'report') };
}

function readLimits(options: Options): {
  readonly limits: ThrottleLimits;
  readonly group: string | undefined;
} {
  const given = options.takeAll('throttling.');
  const group = given.get('group');
  given.delete('group');
  const numbers = [...given].map(([name, value]) => {
    return [name, Number(optNumber(`throttling.${name}`, value))] as const;
  });
  const limits = parseValue(throttleLimits, Object.fromEntries(numbers), { from: 'qmp' });
  return { limits, group };
}

/** What a drive counts, and over which times. */
function readCounting(options: Options): (backend: Backend) => void {
  const invalid = options.bool('stats-account-invalid');
  const failed = options.bool('stats-account-failed');
  const intervals = [...options.takeAll('stats-intervals.')].map(([name, value]) => {
    if (!/^\d+$/.test(name)) throw new OptionError(`Invalid option stats-intervals.${name}`);
    const seconds = Number(value);
    if (!/^\d+$/.test(value) || seconds === 0 || seconds > 0xffffffff) {
      throw new OptionError(`Invalid interval length: ${value}`);
    }
    return seconds;
  });
  return ({ accounting }) => {
    accounting.accountInvalid = invalid ?? accounting.accountInvalid;
    accounting.accountFailed = failed ?? accounting.accountFailed;
    for (const seconds of intervals) accounting.addInterval(seconds);
  };
}
