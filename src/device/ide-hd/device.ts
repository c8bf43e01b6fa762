/** `ide-hd`: an ATA disk on an IDE channel or SATA port. */
import { assert } from '../../lib/assert.js';
import { OptionError } from '../../options/option-error.js';
import type { Infer } from '../../options/schema.js';
import { t } from '../../options/schema.js';
import {
  blockProperties,
  blockSizes,
  attachBackend,
  diskGeometry,
  errorProperties,
  geometryProperties,
} from '../bus/block-properties.js';
import type { Claim } from '../bus/block-properties.js';
import type { BiosDisk, Device, DeviceInit, DeviceType } from '../bus/device.js';
import { declareDevice } from '../bus/device.js';
import type { Drive } from '../bus/drive.js';
import { deviceName, fixedUser } from '../bus/drive.js';
import type { GeometryGuess, Translation } from '../bus/geometry.js';
import type { IdePlace } from '../bus/ide/bus.js';
import { IdeBus } from '../bus/ide/bus.js';
import type { Backend } from '../../block/backend.js';
import { ideNames, ideProperties } from '../bus/ide/names.js';
import { AtaDisk } from './disk.js';

const properties = t.struct('ide-hd', {
  ...blockProperties,
  ...errorProperties,
  ...geometryProperties,
  ...ideProperties,
  'bios-chs-trans': t.enumOf('auto', 'none', 'lba', 'large', 'rechs', {
    name: 'BiosAtaTranslation',
    default: 'auto',
    doc: 'Logical CHS translation algorithm, auto/none/lba/large/rechs',
  }),
  rotation_rate: t.uint({ bits: 16 }, { default: 0, doc: 'rounds a minute; 1: solid state' }),
});

type Properties = Infer<typeof properties>;

/** What an ATA disk's IDENTIFY and CMOS can hold. */
const bounds = { cylinders: 65535, heads: 16, sectors: 255 };

export class IdeHd implements Device {
  readonly type: DeviceType;
  readonly id: string | undefined;
  readonly buses = [];
  readonly bootindex: number;
  readonly #init: DeviceInit<Properties>;
  readonly bus: IdeBus;
  #drive: Drive | undefined;
  #unit: number | undefined;
  #geometry: GeometryGuess | undefined;

  constructor(init: DeviceInit<Properties>) {
    this.#init = init;
    this.type = init.type;
    this.id = init.id;
    this.bootindex = init.options.bootindex;
    assert(init.bus instanceof IdeBus, 'ide-hd is on an IDE bus');
    this.bus = init.bus;
  }

  get drive(): Drive | undefined {
    return this.#drive;
  }

  biosDisk(): BiosDisk | undefined {
    if (this.#geometry === undefined || this.#unit === undefined) return undefined;
    if (!this.bus.isInCmos) return undefined;
    return { ...this.#geometry, number: this.bus.index * 2 + this.#unit };
  }

  async realize(): Promise<void> {
    const { options, context } = this.#init;
    if (options.drive === undefined) throw new OptionError('No drive specified');
    const place = this.bus.place(options.unit);
    await attachBackend(context, options, (backend, claim) => this.#attach(backend, claim, place));
  }

  async #attach(backend: Backend, claim: Claim, place: IdePlace): Promise<void> {
    const { options } = this.#init;
    if (!backend.isInserted) throw new OptionError('Device needs media, but drive is empty');
    if (backend.node.staysReadOnly) throw new OptionError("Can't use a read-only drive");
    const number = this.bus.index * 2 + place.number;
    const names = ideNames(options, 'QEMU HARDDISK', number);
    const sizes = blockSizes(options);
    if (sizes.logical !== 512) throw new OptionError('logical_block_size must be 512 for IDE');
    const drive = await claim({
      user: fixedUser(deviceName(this.#init)),
      isReadOnly: false,
      resized: () => undefined,
    });
    this.#drive = drive;
    const guess = await diskGeometry(options, bounds, backend);
    const chosen = options['bios-chs-trans'];
    const translation: Translation = chosen === 'auto' ? guess.translation : chosen;
    const geometry = { ...guess, translation };
    const disk = new AtaDisk({
      unit: place.unit,
      drive,
      names,
      geometry,
      physicalExponent: Math.log2(sizes.physical / 512),
      rotationRate: options.rotation_rate,
      queueDepth: this.bus.queueDepth,
    });
    this.#unit = place.number;
    this.#geometry = geometry;
    this.bus.attach(place.number, this, disk);
  }

  firmwarePath(): string {
    return this.bus.firmwarePath(this.#unit ?? 0);
  }

  logicalGeometry(): readonly [number, number, number] | undefined {
    const { lcyls, lheads, lsecs } = this.#init.options;
    return lcyls === 0 && lheads === 0 && lsecs === 0 ? undefined : [lcyls, lheads, lsecs];
  }

  /** Its controller resets the unit. */
  reset(): void {
    this.#drive?.abandon();
  }

  async unrealize(): Promise<void> {
    if (this.#unit !== undefined) this.bus.detach(this.#unit);
    this.#unit = undefined;
    await this.#drive?.release();
    this.#drive = undefined;
  }
}

export const ideHdDevice = declareDevice({
  name: 'ide-hd',
  bus: 'IDE',
  category: 'storage',
  description: 'virtual IDE disk',
  properties,
  create: (init) => new IdeHd(init),
});
