/**
 * `isa-fdc`: a floppy controller of the kind of Intel's 82078 at ISA ports, with a bus for two
 * drives.
 */
import type { Infer } from '../../options/schema.js';
import { t } from '../../options/schema.js';
import type { Bus, Device, DeviceInit, DeviceType } from '../bus/device.js';
import { declareDevice } from '../bus/device.js';
import { OptionError } from '../../options/option-error.js';
import { FloppyBus } from '../bus/floppy/bus.js';
import type { FloppyType } from '../bus/floppy/geometry.js';
import { floppyTypeProperty } from '../bus/floppy/properties.js';
import type { IoRegion, Mapping } from '../bus/space.js';
import { FloppyController } from './controller.js';

const properties = t.struct('isa-fdc', {
  iobase: t.uint({ bits: 32 }, { default: 0x3f0, doc: 'first of its eight ports' }),
  irq: t.uint({ bits: 32 }, { default: 6, doc: 'ISA interrupt, 0 to 15' }),
  dma: t.uint({ bits: 32 }, { default: 2, doc: 'channel of the DMA controller, 0 to 7' }),
  fdtypeA: floppyTypeProperty('auto', 'kind of drive 0; auto: as the drive says'),
  fdtypeB: floppyTypeProperty('auto', 'kind of drive 1; auto: as the drive says'),
  fallback: floppyTypeProperty('288', 'kind of a drive that no medium and no property tells of'),
  bootindexA: t.int({ bits: 32 }, { default: -1, doc: 'order of drive 0 among what is booted' }),
  bootindexB: t.int({ bits: 32 }, { default: -1, doc: 'order of drive 1 among what is booted' }),
});

type Properties = Infer<typeof properties>;

/** Ports of the controller; the seventh belongs to an IDE channel. */
const FIRST_PORTS = 6;
const LAST_PORT = 7;

class IsaFdc implements Device {
  readonly type: DeviceType;
  readonly id: string | undefined;
  readonly bus: Bus | undefined;
  readonly buses: Bus[] = [];
  readonly drive = undefined;
  readonly #init: DeviceInit<Properties>;
  #controller: FloppyController | undefined;
  #mappings: Mapping[] = [];

  constructor(init: DeviceInit<Properties>) {
    this.#init = init;
    this.type = init.type;
    this.id = init.id;
    this.bus = init.bus;
    if (init.options.irq > 15) throw new OptionError('irq must be between 0 and 15', 'irq');
    if (init.options.dma > 7) throw new OptionError('dma must be between 0 and 7', 'dma');
  }

  async realize(): Promise<void> {
    const { context, options } = this.#init;
    const type = (name: 'fdtypeA' | 'fdtypeB'): FloppyType | undefined => {
      const value = options[name];
      return value === 'auto' ? undefined : value;
    };
    const bus = new FloppyBus({
      name: `${this.id ?? 'floppy-bus'}.0`,
      types: [type('fdtypeA'), type('fdtypeB')],
      fallback: options.fallback === 'auto' ? '288' : options.fallback,
      firmwarePath: () => `/pci@i0cf8/isa@1/fdc@${options.iobase.toString(16).padStart(4, '0')}`,
      bootindexes: [options.bootindexA, options.bootindexB],
    });
    const controller = new FloppyController({
      drives: bus.drives,
      irq: context.isaIrq(options.irq),
      dma: context.isaDma(options.dma),
      clock: context.clock,
    });
    this.buses.push(bus);
    this.#controller = controller;
    const region = (first: number, bytes: number): IoRegion => ({
      name: 'fdc',
      bytes,
      widest: 1,
      read: (offset) => controller.read(first + offset),
      write: (offset, _size, value) => {
        controller.write(first + offset, value);
      },
    });
    const { iobase } = options;
    this.#mappings = [
      context.ports.map(iobase, region(0, FIRST_PORTS)),
      context.ports.map(iobase + LAST_PORT, region(LAST_PORT, 1)),
    ];
  }

  reset(): void {
    this.#controller?.powerOn();
  }

  async unrealize(): Promise<void> {
    for (const mapping of this.#mappings.splice(0)) this.#init.context.ports.unmap(mapping);
    this.#controller?.close();
    this.#controller = undefined;
  }
}

export const isaFdcDevice = declareDevice({
  name: 'isa-fdc',
  bus: 'ISA',
  category: 'storage',
  description: 'floppy controller (82078)',
  properties,
  create: (init) => new IsaFdc(init),
});
