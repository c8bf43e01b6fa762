/**
 * Devices: what every model declares, and its life.
 *
 *   create → realize → (reset | guest accesses)* → unrealize
 *
 * `create` checks the properties and takes nothing; `realize` takes its place on the bus and its
 * drive, or throws and then holds nothing; after `unrealize` it is gone from both. `reset` may
 * come at any time between.
 */
import type { Backend } from '../../block/backend.js';
import type { GuestMemory } from '../../host/guest-memory.js';
import type { Host } from '../../host/host.js';
import { OptionError } from '../../options/option-error.js';
import type { Decl, Infer, ParseHow } from '../../options/schema.js';
import { parseValue } from '../../options/schema.js';
import type { GuestClock } from './clock.js';
import type { DmaChannel } from './dma.js';
import type { Drive } from './drive.js';
import type { GeometryGuess } from './geometry.js';
import type { IrqLine } from './interrupt.js';
import type { IoSpace } from './space.js';

/** Kinds of buses; a device is made for one of them, `System` being none at all. */
export type BusKind = 'PCI' | 'ISA' | 'IDE' | 'SCSI' | 'floppy-bus' | 'System';

/** Heading under which `-device help` lists a device. */
export type DeviceCategory = 'bridge' | 'storage' | 'input' | 'misc';

/** A place for devices. */
export interface Bus {
  readonly kind: BusKind;
  /** `ide.0`, `pci.0`. */
  readonly name: string;
  /** No device without an explicit place finds room. */
  readonly isFull: boolean;
  /** No device comes or goes while the guest runs. */
  readonly refusesHotplug?: boolean;
  /** Devices go at once when they are asked to; default: when the guest lets them. */
  readonly removesAtOnce?: boolean;
}

/** How the guest goes on or stands still. */
export interface RunState {
  isRunning(): boolean;
  /** The guest stops because of an I/O error of a device. */
  stopForError(): void;
  /** Resolves when the guest runs (again), or at once. */
  whenRunning(): Promise<void>;
}

/** What a machine gives its devices. */
export interface DeviceContext {
  readonly host: Host;
  readonly memory: GuestMemory;
  readonly ports: IoSpace;
  readonly mmio: IoSpace;
  readonly clock: GuestClock;
  /** One more line to an ISA interrupt, 0 to 15. */
  isaIrq(this: void, number: number): IrqLine;
  /** A channel of the ISA bus's DMA controller, 0 to 7. */
  isaDma(this: void, number: number): DmaChannel;
  readonly run: RunState;
  /**
   * The drive, or a backend on the node, that a property `drive=` names; undefined: a backend
   * without a medium. Throws OptionError.
   */
  backend(this: void, name: string | undefined): Promise<Backend>;
  /** A device is done with a backend: one on a node goes, and so does a drive's, named or not. */
  releaseBackend(this: void, backend: Backend): Promise<void>;
  /** Tells the monitor of an event. */
  emit(this: void, name: string, data: Readonly<Record<string, unknown>>): void;
}

/** A disk as CMOS describes it; `number` counts the units of both channels. */
export interface BiosDisk extends GeometryGuess {
  readonly number: number;
}

/** A floppy drive as CMOS describes it. */
export interface BiosFloppy {
  readonly number: number;
  /** As of byte 0x10: 2 for 1.2 MB, 4 for 1.44 MB, 5 for 2.88 MB. */
  readonly cmosType: number;
}

/** A device of a machine. */
export interface Device {
  readonly type: DeviceType;
  /** As the user named it; undefined: anonymous. */
  readonly id: string | undefined;
  /** Where it is. */
  readonly bus: Bus | undefined;
  /** A part of it that is a device of its own among the machine's objects: its name there. */
  readonly part?: string;
  /** Buses that it brings, known once it is realized. */
  readonly buses: readonly Bus[];
  /** The drive that it shows to the guest. */
  readonly drive: Drive | undefined;
  /** Its order among what firmware boots from; -1 or undefined: none. */
  readonly bootindex?: number | undefined;
  /** Its name in firmware's paths (`/pci@i0cf8/ide@1,1/drive@0/disk@0`), where it has one. */
  firmwarePath?(): string;
  /** Its slot on the root bus, for a PCI device. */
  pciSlot?(): number | undefined;
  /** What CMOS tells of a disk on one of the machine's own IDE channels. */
  biosDisk?(): BiosDisk | undefined;
  /** What CMOS tells of a floppy drive. */
  biosFloppy?(): BiosFloppy | undefined;
  /** Geometry that firmware is told to believe: cylinders, heads, sectors; zeroes: none. */
  logicalGeometry?(): readonly [number, number, number] | undefined;
  realize(): Promise<void>;
  reset(): void;
  unrealize(): Promise<void>;
}

/** What a device is made with. */
export interface DeviceInit<T> {
  readonly type: DeviceType;
  readonly id: string | undefined;
  /** Where QEMU has it among a machine's objects. */
  readonly qomPath: string;
  readonly bus: Bus | undefined;
  readonly context: DeviceContext;
  readonly options: T;
}

/** What one says of a kind of device. */
export interface DeviceDeclaration<D extends Decl> {
  readonly name: string;
  readonly bus: BusKind;
  readonly category: DeviceCategory;
  readonly description: string;
  /** A struct of its properties; help, checks and reference come from it. */
  readonly properties: D;
  /** Default true; parts of a chipset are nothing that a user adds. */
  readonly userCreatable?: boolean;
  /** Default false: it comes with the machine only. */
  readonly hotpluggable?: boolean;
  readonly create: (init: DeviceInit<Infer<D>>) => Device;
}

/** The description of a kind of device; the catalogue lists them. */
export interface DeviceType {
  readonly name: string;
  readonly bus: BusKind;
  readonly category: DeviceCategory;
  readonly description: string;
  readonly properties: Decl;
  readonly userCreatable: boolean;
  readonly hotpluggable: boolean;
  /** Checks the properties and makes a device. Throws OptionError. */
  readonly create: (
    init: Omit<DeviceInit<unknown>, 'options' | 'type'>,
    properties: Readonly<Record<string, unknown>>,
    from: ParseHow['from'],
  ) => Device;
}

/** Makes a declaration into what the catalogue lists. */
export function declareDevice<D extends Decl>(declaration: DeviceDeclaration<D>): DeviceType {
  const { name, properties } = declaration;
  const type: DeviceType = {
    name,
    bus: declaration.bus,
    category: declaration.category,
    description: declaration.description,
    properties,
    userCreatable: declaration.userCreatable ?? true,
    hotpluggable: declaration.hotpluggable ?? false,
    create: (init, given, from) => {
      const options = parseValue(properties, given, {
        from,
        unexpected: (path) => new OptionError(`Property '${name}.${path}' not found`, path),
      });
      return declaration.create({ ...init, type, options });
    },
  };
  return type;
}
