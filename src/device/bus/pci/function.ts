/**
 * One PCI function: configuration space, base address registers, capabilities, interrupt pin
 * (PCI Local Bus Specification 3.0, chapter 6).
 *
 * Invariants
 *  P1  A base address register decodes only while the command register says so, at an address
 *      other than 0 and without wrapping around the space.
 *  P2  DMA reads zeroes and writes nothing while the bus master bit is off.
 *  P3  Guests change only the bits that the write mask names.
 */
import type { GuestMemory } from '../../../host/guest-memory.js';
import { assert } from '../../../lib/assert.js';
import type { AccessSize, IoRegion, Mapping, RegionMapper } from '../space.js';

/** Offsets in configuration space. */
export const PciConfig = {
  vendor: 0x00,
  device: 0x02,
  command: 0x04,
  status: 0x06,
  revision: 0x08,
  progIf: 0x09,
  classCode: 0x0a,
  headerType: 0x0e,
  bar0: 0x10,
  subsystemVendor: 0x2c,
  subsystem: 0x2e,
  capabilities: 0x34,
  interruptLine: 0x3c,
  interruptPin: 0x3d,
} as const;

const COMMAND_IO = 1;
const COMMAND_MEMORY = 2;
const COMMAND_MASTER = 4;
const COMMAND_NO_INTX = 0x400;
/** Bits of the command register that guests may set. */
const COMMAND_MASK = 0x0547;
const STATUS_INTX = 0x08;
const STATUS_CAPABILITIES = 0x10;
/** Error bits of the status register, cleared by writing ones. */
const STATUS_CLEAR = 0xf9;

export interface PciIdentity {
  readonly vendor: number;
  readonly device: number;
  /** Base class and subclass: 0x0101 is IDE. */
  readonly classCode: number;
  readonly progIf?: number;
  readonly revision?: number;
  readonly subsystemVendor?: number;
  readonly subsystem?: number;
  /** 1 to 4 for INTA to INTD; absent: it raises no interrupts. */
  readonly interruptPin?: number;
  /** Value of the header type register, the bit for several functions included. */
  readonly headerType?: number;
}

export interface BarInit {
  readonly kind: 'io' | 'memory';
  /** A power of two. */
  readonly region: IoRegion;
  readonly is64?: boolean;
  readonly prefetchable?: boolean;
}

interface Bar extends BarInit {
  readonly index: number;
  mapped: { readonly space: RegionMapper; readonly mapping: Mapping } | undefined;
}

/** What a function needs of the bus that it is on. */
export interface PciUplink {
  readonly ports: RegionMapper;
  readonly mmio: RegionMapper;
  readonly memory: GuestMemory;
  /** Level of an interrupt pin (1 to 4) of this function. */
  setPin(pin: number, level: boolean): void;
  /** Sends a message-signalled interrupt. */
  sendMessage(address: number, data: number): void;
}

export class PciFunction {
  readonly config = new Uint8Array(256);
  /** Bits that a guest may change. */
  readonly writable = new Uint8Array(256);
  /** Bits that a guest clears by writing ones. */
  readonly clearable = new Uint8Array(256);
  /** Called after a guest's write to configuration space. */
  onConfigWrite: ((offset: number, bytes: number) => void) | undefined;
  /** Called before a guest's read of configuration space, to bring it up to date. */
  onConfigRead: ((offset: number, bytes: number) => void) | undefined;
  /** Memory as this function may reach it (P2). */
  readonly memory: GuestMemory;
  readonly #bars: Bar[] = [];
  readonly #view = new DataView(this.config.buffer);
  readonly #pin: number;
  #uplink: PciUplink | undefined;
  #intx = false;
  #nextCapability = 0x40;
  #lastCapability = 0;

  constructor(identity: PciIdentity) {
    const view = this.#view;
    view.setUint16(PciConfig.vendor, identity.vendor, true);
    view.setUint16(PciConfig.device, identity.device, true);
    this.config[PciConfig.revision] = identity.revision ?? 0;
    this.config[PciConfig.progIf] = identity.progIf ?? 0;
    view.setUint16(PciConfig.classCode, identity.classCode, true);
    this.config[PciConfig.headerType] = identity.headerType ?? 0;
    view.setUint16(PciConfig.subsystemVendor, identity.subsystemVendor ?? 0x1af4, true);
    view.setUint16(PciConfig.subsystem, identity.subsystem ?? 0x1100, true);
    this.#pin = identity.interruptPin ?? 0;
    this.config[PciConfig.interruptPin] = this.#pin;
    this.allow(PciConfig.command, COMMAND_MASK, 2);
    this.allow(0x0c, 0xff, 1);
    this.allow(PciConfig.interruptLine, 0xff, 1);
    this.clearable[PciConfig.status + 1] = STATUS_CLEAR;
    this.memory = this.#masterMemory();
  }

  /** Lets guests change the bits of `mask` at `offset`, `width` bytes wide. */
  allow(offset: number, mask: number, width: AccessSize): void {
    for (let i = 0; i < width; i++) this.writable[offset + i] = (mask >>> (8 * i)) & 0xff;
  }

  /** Declares a base address register; before the function is on a bus. */
  addBar(index: number, init: BarInit): void {
    const { bytes } = init.region;
    assert((bytes & (bytes - 1)) === 0, `a BAR of ${bytes} bytes is no power of two`);
    const at = PciConfig.bar0 + 4 * index;
    const isIo = init.kind === 'io';
    const type = isIo ? 1 : (init.is64 === true ? 4 : 0) | (init.prefetchable === true ? 8 : 0);
    this.#view.setUint32(at, type, true);
    this.allow(at, (~(bytes - 1) & (isIo ? 0xffff_fffc : 0xffff_fff0)) >>> 0, 4);
    if (init.is64 === true) this.allow(at + 4, 0xffff_ffff, 4);
    this.#bars.push({ ...init, index, mapped: undefined });
  }

  /**
   * Adds a capability with this id and body (what follows the two bytes of id and link) and
   * returns its offset; guests find the last added first. `at`: where it has to stand.
   */
  addCapability(id: number, body: Uint8Array, at?: number): number {
    const offset = at ?? this.#nextCapability;
    const end = (offset + 2 + body.length + 3) & ~3;
    assert(end <= 256, 'capabilities do not fit');
    if (at === undefined) this.#nextCapability = end;
    this.config[offset] = id;
    this.config[offset + 1] = this.#lastCapability;
    this.config.set(body, offset + 2);
    this.#lastCapability = offset;
    this.config[PciConfig.capabilities] = offset;
    this.config[PciConfig.status] = this.config[PciConfig.status]! | STATUS_CAPABILITIES;
    return offset;
  }

  connect(uplink: PciUplink): void {
    this.#uplink = uplink;
  }

  /** Takes the function off its bus. */
  disconnect(): void {
    for (const bar of this.#bars) this.#unmap(bar);
    this.setIntx(false);
    this.#uplink = undefined;
  }

  /** What reset does to the header: no decoding, no bus mastering, addresses gone, no interrupt. */
  reset(): void {
    this.setIntx(false);
    this.config[PciConfig.command] = 0;
    this.config[PciConfig.command + 1] = 0;
    this.config[PciConfig.status + 1] = this.config[PciConfig.status + 1]! & ~STATUS_CLEAR;
    this.config[PciConfig.interruptLine] = 0;
    this.config[0x0c] = 0;
    for (const bar of this.#bars) {
      const at = PciConfig.bar0 + 4 * bar.index;
      this.#view.setUint32(at, this.#view.getUint32(at, true) & (bar.kind === 'io' ? 3 : 15), true);
      if (bar.is64 === true) this.#view.setUint32(at + 4, 0, true);
    }
    this.#updateBars();
  }

  /** What the bus gives it; undefined: it is on none. */
  get uplink(): PciUplink | undefined {
    return this.#uplink;
  }

  get isMaster(): boolean {
    return (this.config[PciConfig.command]! & COMMAND_MASTER) !== 0;
  }

  /** A value of configuration space, as the device sees it. */
  get16(offset: number): number {
    return this.#view.getUint16(offset, true);
  }

  get32(offset: number): number {
    return this.#view.getUint32(offset, true);
  }

  set16(offset: number, value: number): void {
    this.#view.setUint16(offset, value, true);
  }

  set32(offset: number, value: number): void {
    this.#view.setUint32(offset, value, true);
  }

  /** A guest's read of configuration space; `offset` and `size` stay inside a 32-bit register. */
  readConfig(offset: number, size: AccessSize): number {
    this.onConfigRead?.(offset, size);
    let value = 0;
    for (let i = 0; i < size && offset + i < 256; i++) {
      value += this.config[offset + i]! * 2 ** (8 * i);
    }
    return value;
  }

  /** A guest's write to configuration space. */
  writeConfig(offset: number, size: AccessSize, value: number): void {
    for (let i = 0; i < size && offset + i < 256; i++) {
      const at = offset + i;
      const byte = (value >>> (8 * i)) & 0xff;
      const mask = this.writable[at]!;
      const kept = this.config[at]! & ~mask & ~(byte & this.clearable[at]!);
      this.config[at] = kept | (byte & mask);
    }
    if (offset < PciConfig.command + 2 || (offset >= PciConfig.bar0 && offset < 0x28)) {
      this.#updateBars();
      this.#updateIntx();
    }
    this.onConfigWrite?.(offset, size);
  }

  /** Level of the function's interrupt pin. */
  setIntx(level: boolean): void {
    this.#intx = level;
    const status = this.config[PciConfig.status]!;
    this.config[PciConfig.status] = level ? status | STATUS_INTX : status & ~STATUS_INTX;
    this.#updateIntx();
  }

  sendMessage(address: number, data: number): void {
    if (this.isMaster) this.#uplink?.sendMessage(address, data);
  }

  #updateIntx(): void {
    if (this.#pin === 0) return;
    const off = (this.config[PciConfig.command + 1]! & (COMMAND_NO_INTX >> 8)) !== 0;
    this.#uplink?.setPin(this.#pin, this.#intx && !off);
  }

  #updateBars(): void {
    for (const bar of this.#bars) {
      const address = this.#decodes(bar);
      if (bar.mapped !== undefined && bar.mapped.mapping.base !== address) this.#unmap(bar);
      if (address !== undefined && bar.mapped === undefined && this.#uplink !== undefined) {
        const space = bar.kind === 'io' ? this.#uplink.ports : this.#uplink.mmio;
        bar.mapped = { space, mapping: space.map(address, bar.region) };
      }
    }
  }

  /** Where a register decodes; undefined: nowhere (P1). */
  #decodes({ kind, index, is64, region }: Bar): number | undefined {
    const command = this.config[PciConfig.command]!;
    if ((command & (kind === 'io' ? COMMAND_IO : COMMAND_MEMORY)) === 0) return undefined;
    const at = PciConfig.bar0 + 4 * index;
    const low = this.#view.getUint32(at, true);
    const high = is64 === true ? this.#view.getUint32(at + 4, true) : 0;
    const address = high * 2 ** 32 + ((low & (kind === 'io' ? ~3 : ~15)) >>> 0);
    const limit = kind === 'io' ? 0x1_0000 : is64 === true ? 2 ** 52 : 2 ** 32;
    // The all-ones pattern with which the size is found out is no address either.
    if (address === 0 || address + region.bytes >= limit) return undefined;
    return address;
  }

  #unmap(bar: Bar): void {
    bar.mapped?.space.unmap(bar.mapped.mapping);
    bar.mapped = undefined;
  }

  #masterMemory(): GuestMemory {
    const target = (): GuestMemory | undefined =>
      this.isMaster ? this.#uplink?.memory : undefined;
    return {
      read: (address, out): void => {
        const memory = target();
        if (memory === undefined) out.fill(0);
        else memory.read(address, out);
      },
      write: (address, data): void => {
        target()?.write(address, data);
      },
      tryView: (address, bytes) => target()?.tryView(address, bytes),
    };
  }
}
