/** The port through which a monitor reaches the machine that it belongs to. */
import type { Backend } from '../block/backend.js';
import type { Migration } from './migration/migration.js';
import type { MachineSnapshots } from './migration/snapshots.js';
import type { Decl } from '../options/schema.js';

/** QMP's RunState, as far as machines of ours can be in one. */
export type RunState =
  | 'finish-migrate'
  | 'inmigrate'
  | 'internal-error'
  | 'io-error'
  | 'paused'
  | 'postmigrate'
  | 'prelaunch'
  | 'restore-vm'
  | 'running'
  | 'save-vm'
  | 'shutdown';

/** How a `-drive` argument says that its drive is attached. */
export type DriveInterface =
  'none' | 'ide' | 'scsi' | 'floppy' | 'pflash' | 'mtd' | 'sd' | 'virtio' | 'xen';

/** One drive: a backend with a name, and where it wants to be attached. */
export interface Drive {
  readonly id: string;
  readonly backend: Backend;
  readonly interface: DriveInterface;
  readonly bus: number;
  readonly unit: number;
  readonly media: 'disk' | 'cdrom';
}

/** A device as monitors see it. */
export interface DeviceFacts {
  /** Its place: `/machine/peripheral/ID`, `/machine/peripheral-anon/device[N]`, … */
  readonly path: string;
  readonly type: string;
  readonly bus: string | undefined;
  /** The properties that devices of this type have. */
  readonly declared: Decl;
  /** Those that were given, as they were. */
  readonly properties: Readonly<Record<string, unknown>>;
}

/** What a program with a machine adds to its monitors; a storage daemon has none. */
export interface MachineControl {
  /** `-name` */
  readonly vmName: string | undefined;
  /** `-uuid`; zeroes where there is none. */
  readonly uuid: string;
  readonly runState: RunState;
  /** The guest stops; images are flushed. Event STOP. */
  stop(): Promise<void>;
  /** The guest goes on. Event RESUME. Throws QmpError where it cannot. */
  cont(): Promise<void>;
  /** Taking the machine elsewhere, and waiting for one. */
  readonly migration: Migration;
  /** The machine and its disks as they were at some moment. */
  readonly snapshots: MachineSnapshots;
  /** `-preconfig`: the machine is not there yet. */
  readonly isBeingMade: boolean;
  /** A processor runs a guest. */
  readonly hasProcessor: boolean;
  /** Makes the machine, and lets its guest go. Throws QmpError; the program then ends. */
  make(): Promise<void>;
  /** Runs `work` when no command is carried out. */
  exclusively<T>(work: () => Promise<T>): Promise<T>;
  /** As the reset button. Event RESET. */
  reset(): void;
  /** As the power button. Event POWERDOWN. */
  powerDown(): void;
  /**
   * Adds a device: `driver`, `id`, `bus`, and its properties, or a text as of `-device`. Throws
   * OptionError, BlockError.
   */
  addDevice(given: Readonly<Record<string, unknown>> | string): Promise<void>;
  /** Asks for a device to go; DEVICE_DELETED tells when it has. Throws QmpError, OptionError. */
  removeDevice(id: string): Promise<void>;
  /** All devices. */
  devices(): readonly DeviceFacts[];
  /** Drives of `-drive` and `drive_add`, by name. */
  readonly drives: ReadonlyMap<string, Drive>;
  /** As a `-drive` argument. Throws OptionError, QmpError or BlockError. */
  addDrive(text: string): Promise<Drive>;
  /** Forgets a drive's name; its backend closes unless a device still has it. */
  removeDrive(id: string): Promise<void>;
  /** Opens a node for the monitor of `driver=…,node-name=…`, with old option lists' rules. */
  addNode(text: string): Promise<void>;
  /**
   * Runs a command of the exerciser (`read 0 64k`) on a backend. What it prints goes to the
   * program's standard output, and what it complains of to `complain`.
   */
  runIo(backend: Backend, line: string, complain: (text: string) => void): Promise<void>;
}
