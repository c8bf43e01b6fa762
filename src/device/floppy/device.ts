/** `floppy`: a drive on a floppy controller. */
import type { Backend } from '../../block/backend.js';
import { assert } from '../../lib/assert.js';
import { OptionError } from '../../options/option-error.js';
import type { Infer } from '../../options/schema.js';
import { t } from '../../options/schema.js';
import type { Claim } from '../bus/block-properties.js';
import { attachBackend, blockProperties, blockSizes } from '../bus/block-properties.js';
import type { BiosFloppy, Device, DeviceInit, DeviceType } from '../bus/device.js';
import { declareDevice } from '../bus/device.js';
import type { Drive } from '../bus/drive.js';
import { deviceName } from '../bus/drive.js';
import { FloppyBus } from '../bus/floppy/bus.js';
import { FloppyDrive, SECTOR } from '../bus/floppy/drive.js';
import type { FloppyType } from '../bus/floppy/geometry.js';
import { floppyCmosTypes, floppyGeometry } from '../bus/floppy/geometry.js';
import { floppyTypeProperty } from '../bus/floppy/properties.js';

const { bootindex: _bootindex, ...shared } = blockProperties;

const properties = t.struct('floppy', {
  ...shared,
  unit: t.optional(t.uint({ bits: 32 }, { doc: 'drive 0 or 1; default: the first free' })),
  'drive-type': floppyTypeProperty('auto', 'auto: as the medium has it that is there at first'),
});

type Properties = Infer<typeof properties>;

class Floppy implements Device {
  readonly type: DeviceType;
  readonly id: string | undefined;
  readonly buses = [];
  readonly bus: FloppyBus;
  readonly #init: DeviceInit<Properties>;
  #drive: Drive | undefined;
  #floppy: FloppyDrive | undefined;
  #unit: number | undefined;

  constructor(init: DeviceInit<Properties>) {
    this.#init = init;
    this.type = init.type;
    this.id = init.id;
    assert(init.bus instanceof FloppyBus, 'floppy is on a floppy bus');
    this.bus = init.bus;
  }

  get drive(): Drive | undefined {
    return this.#drive;
  }

  get bootindex(): number {
    return this.bus.bootindexOf(this.#unit ?? 0);
  }

  firmwarePath(): string {
    return this.bus.firmwarePath(this.#unit ?? 0);
  }

  biosFloppy(): BiosFloppy | undefined {
    if (this.#unit === undefined || this.#floppy === undefined) return undefined;
    return { number: this.#unit, cmosType: floppyCmosTypes[this.#floppy.type] };
  }

  async realize(): Promise<void> {
    const { options, context } = this.#init;
    const unit = this.bus.place(options.unit);
    const whole = { ...options, bootindex: -1, rerror: 'report', werror: 'report' } as const;
    await attachBackend(context, whole, (backend, claim) => this.#attach(backend, claim, unit));
  }

  async #attach(backend: Backend, claim: Claim, unit: number): Promise<void> {
    const { options } = this.#init;
    const sizes = blockSizes({ ...options, bootindex: -1 });
    if (sizes.logical !== SECTOR || sizes.physical !== SECTOR) {
      throw new OptionError('Physical and logical block size must be 512 for floppy');
    }
    for (const [name, action] of [
      ['rerror', backend.onReadError],
      ['werror', backend.onWriteError],
    ] as const) {
      // What is refused by QEMU, too: the controller has no way to repeat a request.
      const usual = name === 'rerror' ? 'report' : 'enospc';
      if (action !== usual && action !== 'report') {
        throw new OptionError(`fdc doesn't support drive option ${name}`);
      }
    }
    this.#drive = await claim({
      user: {
        ...deviceName(this.#init),
        isRemovable: true,
        hasTray: false,
        isTrayOpen: false,
        isLocked: false,
        requestEject: () => undefined,
        mediumChanged: () => {
          void this.#drive?.followMedium();
          this.#floppy?.mediumChanged();
        },
        moveTray: () => undefined,
      },
      isReadOnly: !backend.isInserted || backend.node.staysReadOnly,
      resized: () => undefined,
    });
    this.#unit = unit;
    this.#floppy = new FloppyDrive(this.#kind(this.#drive, unit), this.#drive);
    this.bus.drives[unit] = this.#floppy;
  }

  /** Its kind: as it was said, as the medium is, or as the controller falls back. */
  #kind(drive: Drive, unit: number): FloppyType {
    const said = this.#init.options['drive-type'];
    if (said !== 'auto') return said;
    const known = this.bus.typeOf(unit);
    if (known !== undefined) return known;
    const medium = drive.isInserted
      ? floppyGeometry(Math.floor(drive.bytes / SECTOR), undefined)
      : undefined;
    return medium?.drive ?? this.bus.fallback;
  }

  reset(): void {
    this.#drive?.abandon();
  }

  async unrealize(): Promise<void> {
    if (this.#unit !== undefined) this.bus.drives[this.#unit] = undefined;
    this.#unit = undefined;
    this.#floppy = undefined;
    await this.#drive?.release();
    this.#drive = undefined;
  }
}

export const floppyDevice = declareDevice({
  name: 'floppy',
  bus: 'floppy-bus',
  category: 'storage',
  description: 'virtual floppy drive',
  properties,
  create: (init) => new Floppy(init),
});
