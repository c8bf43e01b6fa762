/**
 * A PC that carries devices: RAM, ports, memory-mapped registers, PCI, interrupt inputs, CMOS and
 * firmware's configuration, and a clock. A processor may belong to it; without one whoever drives
 * it (qtest, an emulator, a test) reads and writes ports and memory.
 *
 * Order of life: construct → start → add devices → begin → (add, remove, reset, pause, resume)*
 * → close. Without a processor there is nothing to begin.
 */
import { Backend } from '../block/backend.js';
import type { BlockGraph } from '../block/graph.js';
import { Perm } from '../block/types.js';
import { deviceAliases, deviceTypes } from '../catalog/devices.js';
import type { GuestClock } from '../device/bus/clock.js';
import type { Bus, Device, DeviceContext, DeviceType } from '../device/bus/device.js';
import { IsaBus } from '../device/bus/isa.js';
import { PciBus, PciConfigPorts } from '../device/bus/pci/bus.js';
import { IoSpace } from '../device/bus/space.js';
import { OptionError } from '../options/option-error.js';
import type { Chipset, MachineType } from './chipset.js';
import { pcChipset, q35Chipset } from './chipset.js';
import { hostClock } from './clock.js';
import { Cmos } from './cmos.js';
import { Dma8237 } from './dma8237.js';
import type { BootOptions } from './boot.js';
import { publishBoot, publishBootOrder } from './boot.js';
import { FwCfg, textItem } from './fw-cfg.js';
import { Interrupts } from './interrupts.js';
import type { LinuxBoot } from './linux-boot.js';
import { LINUX_ROM } from './linux-boot.js';
import { PowerControl } from './power.js';
import type { MachineRam, Processor } from './processor.js';
import { GuestRam } from './ram.js';
import { checkHotplug, PciHotplug, pciBuses } from './hotplug.js';

export type { MachineType } from './chipset.js';

/** Why the guest stands still. */
export type PauseReason = 'paused' | 'io-error' | 'prelaunch' | 'shutdown' | 'internal-error';

/** `-global DRIVER.PROPERTY=VALUE`. */
export interface GlobalProperty {
  readonly driver: string;
  readonly property: string;
  readonly value: string;
}

export interface MachineInit {
  readonly graph: BlockGraph;
  readonly type: MachineType;
  /** RAM; default 128 MiB, or what the processor has. */
  readonly ramBytes?: number;
  /** Executes the guest; it ends with the machine. */
  readonly processor?: Processor;
  /** Default: one that goes with the host's. */
  readonly clock?: GuestClock;
  readonly boot?: BootOptions;
  readonly globals?: readonly GlobalProperty[];
  /**
   * Slots 2 and 3 (pc) or 1 and 2 (q35) stay free, where QEMU has a display and a network card
   * by default, so that devices without an address come to the same slots.
   */
  readonly keepDefaultSlots?: boolean;
  /** The guest begins standing still. */
  readonly isPaused?: boolean;
  /** Events for monitors: BLOCK_IO_ERROR, DEVICE_TRAY_MOVED. */
  readonly emit?: (name: string, data: Readonly<Record<string, unknown>>) => void;
  /** A device that was taken out had this drive, which goes with it. */
  readonly onDriveLeft?: (drive: Backend) => Promise<void>;
  /** The guest switched itself off; it stands still from then on. */
  readonly onPowerOff?: () => void;
  /** The guest stopped or goes on, whoever caused it. */
  readonly onRunState?: (isRunning: boolean, reason: PauseReason) => void;
}

/** Properties of a device as given: `driver`, `id`, `bus`, and its own. */
export type DeviceProperties = Readonly<Record<string, unknown>>;

const DEFAULT_RAM = 128 * 1024 * 1024;
const PC_HOLE = 0xe000_0000;
const Q35_HOLE = 0xb000_0000;
const DEFAULT_BOOT = 'cad';
/** The system control interrupt, and where the pc's power management function is. */
const SCI = 9;
const POWER_MANAGEMENT = 0x0b;
/** The general-purpose event that says that PCI devices come or shall go. */
const PCI_EVENT = 1;

/** How a device comes. */
interface Arrival {
  /** A part of the machine. */
  readonly isOwn?: boolean;
  /** The machine attaches it for a drive. */
  readonly isBoard?: boolean;
  readonly isHotplug?: boolean;
}

export class Machine {
  readonly type: MachineType;
  readonly graph: BlockGraph;
  readonly ports = new IoSpace(0xff);
  readonly mmio = new IoSpace(0);
  readonly ram: MachineRam;
  readonly clock: GuestClock;
  readonly interrupts = new Interrupts();
  readonly cmos: Cmos;
  readonly fwCfg: FwCfg;
  readonly dma: Dma8237;
  /** All devices, in the order in which they came. */
  readonly devices = new Set<Device>();
  readonly pci: PciBus;
  readonly isa = new IsaBus('isa.0');
  readonly #init: MachineInit;
  /** Power management; the q35 has none. */
  readonly power: PowerControl | undefined;
  readonly #chipset: Chipset;
  readonly #configPorts: PciConfigPorts;
  readonly #context: DeviceContext;
  /** Devices of the machine itself, which nobody takes away. */
  readonly #own = new Set<Device>();
  readonly #given = new WeakMap<Device, DeviceProperties>();
  readonly #hotplug: PciHotplug;
  /** Backends that were made for a `drive=` that names a node. */
  readonly #anonymous = new Set<Backend>();
  /** Devices without an id so far. */
  readonly #unnamed = { unattached: 0, 'peripheral-anon': 0 };
  #paused: PauseReason | undefined;
  #waiting: (() => void)[] = [];
  #bootOrder: string;
  /** Firmware's path of what it starts first. */
  #bootRom: string | undefined;

  constructor(init: MachineInit) {
    this.#init = init;
    this.#hotplug = new PciHotplug({
      buses: () => pciBuses(this.buses),
      depart: (device) => this.#depart(device),
      notify: () => this.power?.notify(PCI_EVENT),
      repeats: init.processor !== undefined,
    });
    this.type = init.type;
    this.graph = init.graph;
    const isPc = init.type === 'pc';
    this.ram =
      init.processor?.ram ?? new GuestRam(init.ramBytes ?? DEFAULT_RAM, isPc ? PC_HOLE : Q35_HOLE);
    this.clock = init.clock ?? hostClock(init.graph.host.clock);
    this.cmos = new Cmos(() => new Date());
    this.cmos.setMemory(this.ram.bytes, this.ram.lowBytes);
    this.fwCfg = new FwCfg(this.ram.bytes);
    publishBoot(this.fwCfg, init.boot ?? {});
    this.dma = new Dma8237(this.ram);
    this.dma.map(this.ports);
    this.#bootOrder = init.boot?.once ?? init.boot?.order ?? DEFAULT_BOOT;
    this.#paused = init.isPaused === true ? 'prelaunch' : undefined;
    this.#chipset = isPc ? pcChipset(this.interrupts) : q35Chipset(this.interrupts);
    this.pci = this.#makeBus(isPc ? 'pci.0' : 'pcie.0');
    if (init.keepDefaultSlots === true) {
      for (const slot of isPc ? [2, 3] : [1, 2]) this.pci.reserved.add(slot);
    }
    this.#configPorts = new PciConfigPorts((bus) => (bus === 0 ? this.pci : this.pci.tryBus(bus)));
    this.ports.map(0xcf8, this.#configPorts.address);
    this.ports.map(0xcfc, this.#configPorts.data);
    this.ports.map(0x70, this.cmos.region);
    this.ports.map(0x510, this.fwCfg.region);
    this.ports.map(isPc ? 0xae00 : 0xcc0, this.#hotplug.region);
    this.power = isPc ? this.#makePower() : undefined;
    this.#context = this.#makeContext();
  }

  #makeBus(name: string): PciBus {
    return new PciBus({
      name,
      ports: this.ports,
      mmio: this.mmio,
      memory: this.ram,
      setPin: (slot, pin, level) => {
        this.#chipset.setPin(slot, pin, level);
      },
      sendMessage: (address, data) => {
        if (this.#init.processor !== undefined) {
          this.#init.processor.sendMessage(address, data);
          return;
        }
        const bytes = new Uint8Array(4);
        new DataView(bytes.buffer).setUint32(0, data, true);
        this.ram.write(address, bytes);
      },
      firmwarePath: () => '/pci@i0cf8',
      refusesHotplug: this.type === 'q35',
    });
  }

  #makePower(): PowerControl {
    return new PowerControl({
      ports: this.ports,
      clock: this.clock,
      irq: this.interrupts.line(SCI),
      onPowerOff: () => {
        this.pause('shutdown');
        this.#init.onPowerOff?.();
      },
    });
  }

  #makeContext(): DeviceContext {
    return {
      host: this.graph.host,
      memory: this.ram,
      ports: this.ports,
      mmio: this.mmio,
      clock: this.clock,
      isaIrq: (number) => this.interrupts.line(number),
      isaDma: (number) => this.dma.channel(number),
      run: {
        isRunning: () => this.isRunning,
        stopForError: () => {
          this.pause('io-error');
        },
        whenRunning: () => this.whenRunning(),
      },
      backend: (name) => this.#backend(name),
      releaseBackend: (backend) => this.#releaseBackend(backend),
      emit: (name, data) => {
        this.#init.emit?.(name, data);
      },
    };
  }

  /** Makes the machine's own devices and resets everything. */
  async start(): Promise<void> {
    this.#chipset.attach(this.pci);
    if (this.type === 'pc') {
      await this.#addOwn({ driver: 'piix3-ide', addr: '1.1' });
      await this.#addOwn({ driver: 'isa-fdc' });
    } else await this.#addOwn({ driver: 'ich9-ahci', addr: '1f.2' });
    const management = this.pci.functions.get(POWER_MANAGEMENT);
    if (management !== undefined) this.power?.attach(management);
    this.#init.processor?.connect(this);
    this.#settle();
    this.#resetDevices();
  }

  #resetDevices(): void {
    for (const device of this.devices) device.reset();
    this.dma.reset();
    this.#chipset.reset();
    this.power?.reset();
    this.#configPorts.reset();
    this.ports.isTouched = false;
    this.mmio.isTouched = false;
  }

  /** All devices are there: firmware is told of them, and the guest runs unless it is paused. */
  begin(): void {
    const { processor } = this.#init;
    processor?.reset();
    if (this.isRunning) processor?.run();
  }

  /** A kernel that firmware starts before anything else, after each reset. */
  setLinux(boot: LinuxBoot): void {
    this.fwCfg.setFile(LINUX_ROM, boot.rom);
    this.ports.map(boot.port, boot.region(this.ram));
    this.#bootRom = `/rom@${LINUX_ROM}`;
    this.#settle();
  }

  async #addOwn(properties: DeviceProperties): Promise<void> {
    this.#own.add(await this.#create(properties, 'keyval', { isOwn: true }));
  }

  // --- devices

  /** A device's type by name or alias. Throws OptionError. */
  static deviceType(driver: string): DeviceType {
    const name = deviceAliases[driver] ?? driver;
    const type = deviceTypes.find((each) => each.name === name);
    if (type === undefined) {
      throw new OptionError(`'${driver}' is not a valid device model name`, 'driver');
    }
    return type;
  }

  /**
   * Adds a device: `-device`, and `device_add` when the guest runs. Texts are taken for values
   * unless `from` is 'qmp'. Throws OptionError or BlockError; then there is no new device.
   */
  async addDevice(
    properties: DeviceProperties,
    from: 'keyval' | 'qmp',
    isHotplug = false,
  ): Promise<Device> {
    const device = await this.#create(properties, from, { isHotplug });
    if (isHotplug) this.#hotplug.arrived(device);
    this.#settle();
    return device;
  }

  /** As addDevice, for a drive that the machine itself attaches. */
  async addBoardDevice(properties: DeviceProperties): Promise<void> {
    await this.#create(properties, 'keyval', { isBoard: true });
    this.#settle();
  }

  /** Where QEMU has a new device among a machine's objects. */
  #qomPath(id: string | undefined, isBoard: boolean): string {
    if (id !== undefined) return `/machine/peripheral/${id}`;
    const folder = isBoard ? 'unattached' : 'peripheral-anon';
    const number = this.#unnamed[folder]++;
    return `/machine/${folder}/device[${String(number)}]`;
  }

  async #create(
    given: DeviceProperties,
    from: 'keyval' | 'qmp',
    { isOwn = false, isBoard = false, isHotplug = false }: Arrival,
  ): Promise<Device> {
    const { driver, id, bus: busName, ...properties } = given;
    if (typeof driver !== 'string') throw new OptionError("Parameter 'driver' is missing");
    const type = Machine.deviceType(driver);
    if (!isOwn && !type.userCreatable) {
      throw new OptionError(`Parameter 'driver' expects a pluggable device type`);
    }
    const name = typeof id === 'string' ? id : undefined;
    if (name !== undefined && this.tryDevice(name) !== undefined) {
      throw new OptionError(`Duplicate device ID '${name}'`);
    }
    const bus = this.#findBus(type, typeof busName === 'string' ? busName : undefined);
    if (isHotplug) checkHotplug(type, bus);
    const globals: Record<string, unknown> = {};
    for (const each of this.#init.globals ?? []) {
      if (each.driver === type.name) globals[each.property] = each.value;
    }
    const device = type.create(
      { id: name, qomPath: this.#qomPath(name, isOwn || isBoard), bus, context: this.#context },
      { ...globals, ...properties },
      from,
    );
    await device.realize();
    this.devices.add(device);
    this.#given.set(device, { ...globals, ...properties });
    return device;
  }

  /** The device with an id. */
  tryDevice(id: string): Device | undefined {
    for (const device of this.devices) if (device.id === id) return device;
    return undefined;
  }

  /** The properties that a device was made with, as they were given. */
  propertiesOf(device: Device): DeviceProperties {
    return this.#given.get(device) ?? {};
  }

  /** Takes a device away at once, as if nobody used it. */
  async removeDevice(device: Device): Promise<void> {
    for (const bus of device.buses) {
      for (const each of [...this.devices]) if (each.bus === bus) await this.removeDevice(each);
    }
    this.devices.delete(device);
    await device.unrealize();
    this.#settle();
  }

  /**
   * Asks for a device to go. One on a PCI bus goes when the guest lets it (port 0xae08, on q35
   * 0xcc8) or at the next reset, others at once. Throws OptionError for devices that stay as long
   * as the machine.
   */
  async requestRemoval(device: Device): Promise<void> {
    if (device.bus?.refusesHotplug === true) {
      throw new OptionError(`Bus '${device.bus.name}' does not support hotplugging`);
    }
    if (!device.type.hotpluggable || this.#own.has(device)) {
      throw new OptionError(`Device '${device.type.name}' does not support hotplugging`);
    }
    if (device.bus?.removesAtOnce === true) await this.#depart(device);
    else this.#hotplug.ask(device);
  }

  /** Takes a device and what is behind it out, with their drives, and tells of it. */
  async #depart(device: Device): Promise<void> {
    for (const bus of device.buses) {
      for (const each of [...this.devices]) if (each.bus === bus) await this.#depart(each);
    }
    this.#hotplug.forget(device);
    const drive = device.drive?.backend;
    await this.removeDevice(device);
    if (drive !== undefined && this.graph.backends.get(drive.name) === drive) {
      await this.#init.onDriveLeft?.(drive);
    }
    const name = device.id === undefined ? {} : { device: device.id };
    const path = `/machine/peripheral/${device.id ?? ''}`;
    if (device.part !== undefined) {
      this.#init.emit?.('DEVICE_DELETED', { path: `${path}/${device.part}` });
    }
    this.#init.emit?.('DEVICE_DELETED', { ...name, path });
  }

  /** Requests that wait for the guest to go on are given up: it never will. */
  abandon(): void {
    for (const device of this.devices) device.drive?.abandon();
    this.resume();
  }

  /** Whether a device came with the machine. */
  isOwn(device: Device): boolean {
    return this.#own.has(device);
  }

  /** All buses. */
  get buses(): readonly Bus[] {
    return [this.pci, this.isa, ...[...this.devices].flatMap((device) => device.buses)];
  }

  #findBus(type: DeviceType, name: string | undefined): Bus | undefined {
    if (type.bus === 'System') return undefined;
    if (name !== undefined) {
      const found = this.buses.find((bus) => bus.name === name);
      if (found === undefined) throw new OptionError(`Bus '${name}' not found`);
      if (found.kind !== type.bus) {
        throw new OptionError(`Device '${type.name}' can't go on ${found.kind} bus`);
      }
      return found;
    }
    const candidates = this.buses.filter((bus) => bus.kind === type.bus);
    const found = candidates.find((bus) => !bus.isFull) ?? candidates[0];
    if (found === undefined) {
      throw new OptionError(`No '${type.bus}' bus found for device '${type.name}'`);
    }
    return found;
  }

  // --- drives

  async #backend(name: string | undefined): Promise<Backend> {
    if (name === undefined) {
      const empty = new Backend({ graph: this.graph, name: '', perm: 0, shared: Perm.all });
      this.#anonymous.add(empty);
      this.graph.deviceBackends.add(empty);
      return empty;
    }
    const drive = this.graph.backends.get(name);
    if (drive !== undefined) return drive;
    const node = this.graph.tryNode(name);
    if (node === undefined) {
      throw new OptionError(`Property 'drive' can't find value '${name}'`, 'drive');
    }
    const backend = new Backend({ graph: this.graph, name: '', perm: 0, shared: Perm.all });
    await backend.attach(node);
    backend.writeCache = node.flags.cache.writeback;
    this.#anonymous.add(backend);
    this.graph.deviceBackends.add(backend);
    return backend;
  }

  async #releaseBackend(backend: Backend): Promise<void> {
    this.graph.deviceBackends.delete(backend);
    if (this.#anonymous.delete(backend)) await backend.close();
    else await backend.setPerms({ perm: 0, shared: Perm.all });
  }

  // --- running

  get isRunning(): boolean {
    return this.#paused === undefined;
  }

  /** Why the guest stands still; undefined: it does not. */
  get pauseReason(): PauseReason | undefined {
    return this.#paused;
  }

  pause(reason: PauseReason): void {
    if (this.#paused !== undefined) return;
    this.#paused = reason;
    this.#init.processor?.stop();
    this.#init.onRunState?.(false, reason);
  }

  /** The guest goes on; requests that errors stopped are repeated. */
  resume(): void {
    const reason = this.#paused;
    if (reason === undefined) return;
    this.#paused = undefined;
    this.#init.processor?.run();
    this.#init.onRunState?.(true, reason);
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const go of waiting) go();
  }

  whenRunning(): Promise<void> {
    if (this.isRunning) return Promise.resolve();
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
    });
  }

  /** The reset button: devices, chipset, what firmware is told. RAM stays. */
  reset(): void {
    this.#bootOrder = this.#init.boot?.order ?? DEFAULT_BOOT;
    this.#resetDevices();
    this.#settle();
    this.#init.processor?.reset();
    void this.#hotplug.reset();
  }

  /** Brings up to date what firmware is told of drives and booting. */
  #settle(): void {
    this.cmos.setBoot(this.#bootOrder, this.#init.boot?.checkFloppy ?? true);
    const disks: (ReturnType<NonNullable<Device['biosDisk']>> | undefined)[] = [];
    const floppies = [0, 0];
    const lines: string[] = [];
    const order: { readonly index: number; readonly path: string }[] = [];
    for (const device of this.devices) {
      const disk = device.biosDisk?.();
      if (disk !== undefined) disks[disk.number] = disk;
      const floppy = device.biosFloppy?.();
      if (floppy !== undefined) floppies[floppy.number] = floppy.cmosType;
      const path = device.firmwarePath?.();
      if (path === undefined) continue;
      const logical = device.logicalGeometry?.();
      if (logical !== undefined) lines.push(`${path} ${logical.join(' ')}`);
      const index = device.bootindex ?? -1;
      if (index >= 0) order.push({ index, path });
    }
    this.cmos.setDisks(Array.from({ length: 4 }, (_, i) => disks[i]));
    this.cmos.setFloppies(floppies[0]!, floppies[1]!);
    this.fwCfg.setFile('bios-geometry', textItem(lines.join('\n')));
    order.sort((a, b) => a.index - b.index);
    const paths = order.map(({ path }) => path);
    if (this.#bootRom !== undefined) paths.unshift(this.#bootRom);
    publishBootOrder(this.fwCfg, paths, this.#init.boot ?? {});
  }

  // --- state (state/machine-state.ts)

  /** A processor executes a guest. */
  get hasProcessor(): boolean {
    return this.#init.processor !== undefined;
  }

  /** The guest has accessed a register since the last reset. */
  get isTouched(): boolean {
    return this.ports.isTouched || this.mmio.isTouched;
  }

  // --- memory, as a processor sees it

  /** Reads guest-physical memory, registers included. */
  readMemory(address: number, bytes: number): Uint8Array {
    const view = this.ram.tryView(address, bytes);
    if (view !== undefined) return view.slice();
    const out = new Uint8Array(bytes);
    this.ram.read(address, out);
    this.mmio.eachAccess(address, bytes, (at, size, place) => {
      let value = this.mmio.read(at, size);
      for (let i = 0; i < size; i++, value = Math.floor(value / 256)) out[place + i] = value & 0xff;
    });
    return out;
  }

  /** Writes guest-physical memory, registers included. */
  writeMemory(address: number, data: Uint8Array): void {
    const view = this.ram.tryView(address, data.length);
    if (view !== undefined) {
      view.set(data);
      return;
    }
    this.ram.write(address, data);
    this.mmio.eachAccess(address, data.length, (at, size, place) => {
      let value = 0;
      for (let i = 0; i < size; i++) value += data[place + i]! * 2 ** (8 * i);
      this.mmio.write(at, size, value);
    });
  }

  /** Ends the processor and takes all devices away. */
  async close(): Promise<void> {
    await this.#init.processor?.close();
    for (const device of [...this.devices].reverse()) {
      this.devices.delete(device);
      await device.unrealize();
    }
  }
}
