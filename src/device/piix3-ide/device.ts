/**
 * `piix3-ide`: the two ATA channels of the PIIX3 with bus-master DMA (82371SB data sheet, 2.3 and
 * 2.7): PCI function 8086:7010, ports 0x1f0 and 0x170, ISA interrupts 14 and 15.
 */
import { assert } from '../../lib/assert.js';
import { t } from '../../options/schema.js';
import type { Bus, Device, DeviceInit, DeviceType } from '../bus/device.js';
import { declareDevice } from '../bus/device.js';
import { IdeBus } from '../bus/ide/bus.js';
import { BusMaster, busMasterRegion } from '../bus/ide/bus-master.js';
import { IdeChannel } from '../bus/ide/channel.js';
import { PciBus } from '../bus/pci/bus.js';
import { PciFunction } from '../bus/pci/function.js';
import type { Mapping } from '../bus/space.js';

const properties = t.struct('piix3-ide', {
  addr: t.optional(t.str({ doc: 'slot and function, hexadecimal: 01.1' })),
});

/** Where the channels' command blocks and control registers are, and their interrupts. */
const places = [
  { command: 0x1f0, control: 0x3f6, irq: 14 },
  { command: 0x170, control: 0x376, irq: 15 },
] as const;

class Piix3Ide implements Device {
  readonly type: DeviceType;
  readonly id: string | undefined;
  readonly drive = undefined;
  readonly buses: Bus[] = [];
  readonly #init: DeviceInit<{ readonly addr?: string }>;
  readonly #function = new PciFunction({
    vendor: 0x8086,
    device: 0x7010,
    classCode: 0x0101,
    progIf: 0x80,
  });
  readonly #channels: IdeChannel[] = [];
  readonly #masters: [BusMaster, BusMaster];
  readonly #mappings: Mapping[] = [];
  readonly bus: PciBus;
  #devfn: number | undefined;

  constructor(init: DeviceInit<{ readonly addr?: string }>) {
    this.#init = init;
    this.type = init.type;
    this.id = init.id;
    assert(init.bus instanceof PciBus, 'piix3-ide is on a PCI bus');
    this.bus = init.bus;
    const { memory } = this.#function;
    this.#masters = [new BusMaster(memory), new BusMaster(memory)];
    this.#function.addBar(4, { kind: 'io', region: busMasterRegion(this.#masters) });
    this.#function.allow(0x40, 0xffff_ffff, 4);
  }

  async realize(): Promise<void> {
    const { context, options } = this.#init;
    this.#devfn = this.bus.take(options.addr, this.type.name, this.#function);
    places.forEach(({ command, control, irq }, index) => {
      const master = this.#masters[index === 0 ? 0 : 1];
      const channel = new IdeChannel({
        irq: context.isaIrq(irq),
        dma: (phase) => {
          master.offer(phase);
        },
        interrupted: () => {
          master.interrupted();
        },
      });
      this.#channels.push(channel);
      this.#mappings.push(context.ports.map(command, channel.command));
      this.#mappings.push(context.ports.map(control, channel.control));
      this.buses.push(
        new IdeBus({
          name: `ide.${index}`,
          units: channel.units,
          controllerPath: () => this.firmwarePath(),
          index,
          queueDepth: 0,
          isInCmos: true,
          changed: () => undefined,
        }),
      );
    });
  }

  firmwarePath(): string {
    return this.bus.pathOf(this.#devfn ?? 0, 'ide');
  }

  reset(): void {
    this.#function.reset();
    this.#function.set32(0x40, 0);
    for (const channel of this.#channels) channel.reset();
    for (const master of this.#masters) master.reset();
  }

  async unrealize(): Promise<void> {
    for (const mapping of this.#mappings.splice(0)) this.#init.context.ports.unmap(mapping);
    if (this.#devfn !== undefined) this.bus.detach(this.#devfn);
    this.#devfn = undefined;
  }
}

export const piix3IdeDevice = declareDevice({
  name: 'piix3-ide',
  bus: 'PCI',
  category: 'storage',
  description: 'two IDE channels of the PIIX3',
  properties,
  userCreatable: false,
  create: (init) => new Piix3Ide(init),
});
