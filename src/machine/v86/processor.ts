/**
 * The npm package v86 as processor and chipset of a machine: processor, interrupt controllers,
 * timers, real-time clock, keyboard, display and serial ports are its own; PCI, disks, firmware's
 * configuration and power management are the machine's.
 *
 * Invariants
 *  V1  Interrupts never enter the processor inside an access to a register: compiled code still
 *      has registers in local variables then. The flag that lets them in is masked meanwhile.
 *  V2  No view of the guest's memory lives longer than the call that made it (see V86Ram).
 *  V3  What a guest does cannot end the process: an exception out of the emulator stops the
 *      guest, and `onFault` tells of it.
 */
import { assert } from '../../lib/assert.js';
import type { V86Cpu, V86Emulator, V86Package } from '../../host/v86.js';
import type { IoRegion } from '../../device/bus/space.js';
import type { Machine } from '../machine.js';
import type { Processor } from '../processor.js';
import { checkHooks } from './hooks.js';
import { FixedFunction } from './pci.js';
import { V86Ram } from './ram.js';
import { TextScreen } from './screen.js';
import { SerialPort } from './serial.js';

const INTERRUPT_FLAG = 0x200;
/** Interrupt inputs that the emulator's controllers have. */
const INPUTS = 16;
/** Ports that stay the emulator's although the machine has them: real-time clock and CMOS. */
const OWN_PORTS = [0x70, 0x71];
/** Ports of its floppy and IDE controllers, which are left out. */
const HIDDEN_PORTS: readonly (readonly [number, number])[] = [
  [0x170, 0x178],
  [0x376, 0x377],
  [0x3f0, 0x3f6],
  [0x3f7, 0x3f8],
  [0xb000, 0xb010],
  [0xb400, 0xb410],
];
/**
 * Where memory-mapped registers of PCI devices may be, but for the display's: firmware begins
 * at the top, systems place what comes later from behind the RAM on.
 */
const HOLES: readonly (readonly [number, number])[] = [
  [0x8000_0000, 0xe000_0000],
  [0xe800_0000, 0xfeb0_0000],
  [0xfeb2_0000, 0xfec0_0000],
];
/** The local APIC's interrupt command register, and "to itself". */
const APIC_COMMAND = 0xfee0_0300;
const TO_ITSELF = 1 << 18;
const MESSAGES = 0xfee0_0000;
const MESSAGES_END = 0xfef0_0000;
/** CMOS bytes that tell of the machine, not of time. */
const CMOS_FROM = 0x10;
const CMOS_TO = 0x60;
const CMOS_CENTURY = [0x32, 0x37];
/** Its display: bus position there, length of the frame buffer, slot here. */
const DISPLAY = 0x12 << 3;
const DISPLAY_BYTES = 8 * 1024 * 1024;
const DISPLAY_SLOT = 2;
/** A register of the host bridge that says that firmware's place is RAM already. */
const PAM0 = 0x59;
const PAM0_RAM = 0x10;
const RESET_CONTROL = 0xcf9;

export interface V86Init {
  readonly package: V86Package;
  /** RAM; the emulator takes multiples of 128 KiB and less than 2 GiB. */
  readonly ramBytes: number;
  /** The BIOS image. */
  readonly firmware: Uint8Array;
  /** The display's BIOS; absent: there is no display on the bus. */
  readonly videoFirmware?: Uint8Array;
  /** 1 to 4. */
  readonly serialPorts?: number;
  /** The guest asks for a reset; default: the machine is reset. */
  readonly onReset?: () => void;
  /** The emulator failed, as with a triple fault; the guest stands still for ever. */
  readonly onFault?: (error: unknown) => void;
}

const MOST_RAM = 2 ** 31 - 128 * 1024;

export class V86Processor implements Processor {
  readonly ram: V86Ram;
  readonly serial: readonly SerialPort[];
  /** What its display shows in text modes. */
  readonly screen = new TextScreen();
  readonly #emulator: V86Emulator;
  readonly #cpu: V86Cpu;
  readonly #init: V86Init;
  readonly #reboot: () => void;
  #machine: Machine | undefined;
  /** Ports whose accesses go to the machine. */
  readonly #claimed = new Uint8Array(0x1_0000);
  #inGuest = false;
  #isFailed = false;
  #isRunning = false;

  private constructor(init: V86Init, emulator: V86Emulator) {
    this.#init = init;
    this.#emulator = emulator;
    const { cpu } = emulator.v86;
    this.#cpu = cpu;
    this.ram = new V86Ram(cpu);
    const { uart0, uart1, uart2, uart3 } = cpu.devices;
    this.serial = [uart0, uart1, uart2, uart3].flatMap((uart, i) =>
      uart === undefined ? [] : [this.#serialPort(uart, i)],
    );
    this.#reboot = cpu.reboot_internal.bind(cpu);
    this.screen.watch(emulator.screen_adapter);
  }

  /** Throws Error when the package is not as it should be, RangeError for too much RAM. */
  static async create(init: V86Init): Promise<V86Processor> {
    if (init.ramBytes > MOST_RAM) {
      throw new RangeError(`The processor v86 takes less than 2 GiB of RAM`);
    }
    const count = init.serialPorts ?? 1;
    const emulator = new init.package.V86({
      wasm_fn: (imports) => init.package.instantiate(imports),
      memory_size: init.ramBytes,
      bios: { buffer: init.firmware.slice().buffer },
      acpi: true,
      autostart: false,
      disable_keyboard: true,
      disable_mouse: true,
      disable_speaker: true,
      log_level: 0,
      uart1: count > 1,
      uart2: count > 2,
      uart3: count > 3,
    });
    await new Promise<void>((resolve) => {
      emulator.add_listener('emulator-loaded', () => {
        resolve();
      });
    });
    checkHooks(emulator, init.package.version);
    return new V86Processor(init, emulator);
  }

  #serialPort(uart: { readonly input: readonly number[] }, number: number): SerialPort {
    const port = new SerialPort(uart, (byte) => {
      this.#emulator.bus.send(`serial${String(number)}-input`, byte);
    });
    this.#emulator.add_listener(`serial${String(number)}-output-byte`, (byte) => {
      if (typeof byte === 'number') port.onByte(byte);
    });
    return port;
  }

  connect(machine: Machine): void {
    assert(this.#machine === undefined, 'a processor serves one machine');
    this.#machine = machine;
    this.#takePorts(machine);
    this.#takeMemory(machine);
    this.#takeLoop();
    this.#cpu.reboot_internal = (): void => {
      this.#requestReset();
    };
    this.#cpu.devices.acpi.timer = (): number => 100;
    machine.interrupts.onChange = (input, level): void => {
      if (input < INPUTS) this.#setInput(input, level);
    };
    machine.ports.map(RESET_CONTROL, this.#resetControl);
    if (this.#init.videoFirmware !== undefined) this.#addDisplay(machine, this.#init.videoFirmware);
  }

  #addDisplay(machine: Machine, firmware: Uint8Array): void {
    const space = this.#cpu.devices.pci.device_spaces[DISPLAY];
    assert(space !== undefined, 'the emulator has no display');
    machine.pci.attach(DISPLAY_SLOT << 3, new FixedFunction(space, [DISPLAY_BYTES]));
    machine.fwCfg.setFile('vgaroms/vgabios.bin', firmware);
  }

  // --- what the guest reaches

  #takePorts(machine: Machine): void {
    const { ports } = machine;
    const claim = (): void => {
      this.#claimed.fill(0);
      for (const [from, to] of HIDDEN_PORTS) this.#claimed.fill(1, from, to);
      for (const { base, end } of ports.mappings) this.#claimed.fill(1, base, end);
      for (const port of OWN_PORTS) this.#claimed[port] = 0;
    };
    ports.onChange = claim;
    claim();
    const { io } = this.#cpu;
    const own = {
      read8: io.port_read8.bind(io),
      read16: io.port_read16.bind(io),
      read32: io.port_read32.bind(io),
      write8: io.port_write8.bind(io),
      write16: io.port_write16.bind(io),
      write32: io.port_write32.bind(io),
    };
    const claimed = this.#claimed;
    io.port_read8 = (port) => (claimed[port] === 1 ? ports.read(port, 1) : own.read8(port));
    io.port_read16 = (port) => (claimed[port] === 1 ? ports.read(port, 2) : own.read16(port));
    io.port_read32 = (port) => (claimed[port] === 1 ? ports.read(port, 4) | 0 : own.read32(port));
    io.port_write8 = (port, value): void => {
      if (claimed[port] === 1) ports.write(port, 1, value);
      else own.write8(port, value);
    };
    io.port_write16 = (port, value): void => {
      if (claimed[port] === 1) ports.write(port, 2, value);
      else own.write16(port, value);
    };
    io.port_write32 = (port, value): void => {
      if (claimed[port] === 1) ports.write(port, 4, value);
      else own.write32(port, value);
    };
  }

  #takeMemory(machine: Machine): void {
    const { mmio } = machine;
    const cpu = this.#cpu;
    for (const [from, to] of HOLES) {
      cpu.io.mmap_register(
        from,
        to - from,
        (address) => mmio.read(address >>> 0, 1),
        (address, value) => {
          mmio.write(address >>> 0, 1, value);
        },
        (address) => mmio.read(address >>> 0, 4) | 0,
        (address, value) => {
          mmio.write(address >>> 0, 4, value >>> 0);
        },
      );
    }
    const own = cpu.mmap_write16.bind(cpu);
    cpu.mmap_write16 = (address, value): void => {
      const at = address >>> 0;
      if (HOLES.some(([from, to]) => at >= from && at < to)) mmio.write(at, 2, value);
      else own(address, value);
    };
  }

  #takeLoop(): void {
    const cpu = this.#cpu;
    const slice = cpu.main_loop.bind(cpu);
    cpu.main_loop = (): number => {
      if (!this.#isRunning) return 100;
      for (const port of this.serial) port.feed();
      this.#inGuest = true;
      try {
        const wait = slice();
        // A processor that waits for less than a millisecond would spin.
        return cpu.in_hlt[0] !== 0 && wait < 1 ? 1 : wait;
      } catch (e) {
        this.#fail(e);
        return 100;
      } finally {
        this.#inGuest = false;
      }
    };
  }

  #fail(error: unknown): void {
    this.#isFailed = true;
    this.stop();
    this.#init.onFault?.(error);
  }

  // --- interrupts

  #setInput(input: number, level: boolean): void {
    this.#withoutInterrupts(() => {
      if (level) this.#cpu.device_raise_irq(input);
      else this.#cpu.device_lower_irq(input);
    });
  }

  sendMessage(address: number, data: number): void {
    if (address < MESSAGES || address >= MESSAGES_END) {
      const bytes = new Uint8Array(4);
      new DataView(bytes.buffer).setUint32(0, data, true);
      this.ram.write(address, bytes);
      return;
    }
    this.#withoutInterrupts(() => {
      this.#cpu.write32(APIC_COMMAND | 0, (data & 0xff) | TO_ITSELF);
    });
  }

  /** V1 */
  #withoutInterrupts(work: () => void): void {
    if (!this.#inGuest) {
      work();
      return;
    }
    const { flags } = this.#cpu;
    const before = flags[0] ?? 0;
    flags[0] = before & ~INTERRUPT_FLAG;
    work();
    flags[0] = before;
  }

  // --- life

  run(): void {
    if (this.#isFailed || this.#isRunning) return;
    this.#isRunning = true;
    void this.#emulator.run();
  }

  stop(): void {
    if (!this.#isRunning) return;
    this.#isRunning = false;
    void this.#emulator.stop();
  }

  #requestReset(): void {
    if (this.#init.onReset !== undefined) this.#init.onReset();
    else this.#machine?.reset();
  }

  reset(): void {
    const machine = this.#machine;
    if (machine === undefined) return;
    const bridge = machine.pci.functions.get(0);
    if (bridge !== undefined) bridge.config[PAM0] = PAM0_RAM;
    for (let at = CMOS_FROM; at < CMOS_TO; at++) {
      if (CMOS_CENTURY.includes(at)) continue;
      this.#cpu.devices.rtc.cmos_write(at, machine.cmos.bytes[at] ?? 0);
    }
    this.#reboot();
  }

  readonly #resetControl: IoRegion = {
    name: 'reset-control',
    bytes: 1,
    read: () => 0,
    write: (_offset, _size, value) => {
      if ((value & 4) !== 0) this.#requestReset();
    },
  };

  /** The lines of the text screen. */
  screenText(): readonly string[] {
    return this.#emulator.screen_adapter.get_text_screen();
  }

  /** Scan codes (set 1) of keys pressed and released. */
  sendKeys(codes: readonly number[]): void {
    for (const code of codes) this.#emulator.bus.send('keyboard-code', code);
  }

  async close(): Promise<void> {
    this.#isRunning = false;
    this.#machine = undefined;
    await this.#emulator.destroy();
  }
}
