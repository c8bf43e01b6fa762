/** `ide-cd`: a CD/DVD drive (ATAPI) on an IDE channel or SATA port. */
import type { Backend } from '../../block/backend.js';
import { assert } from '../../lib/assert.js';
import { OptionError } from '../../options/option-error.js';
import type { Infer } from '../../options/schema.js';
import { t } from '../../options/schema.js';
import { attachBackend, blockProperties, errorProperties } from '../bus/block-properties.js';
import type { Claim } from '../bus/block-properties.js';
import type { Device, DeviceInit, DeviceType } from '../bus/device.js';
import { declareDevice } from '../bus/device.js';
import type { Drive } from '../bus/drive.js';
import { deviceName } from '../bus/drive.js';
import type { IdePlace } from '../bus/ide/bus.js';
import { IdeBus } from '../bus/ide/bus.js';
import { ideNames, ideProperties } from '../bus/ide/names.js';
import { CdDrive } from '../bus/cd-drive.js';
import { cdUser } from '../bus/cd-user.js';
import { PacketDevice } from './packet.js';

const properties = t.struct('ide-cd', { ...blockProperties, ...errorProperties, ...ideProperties });

type Properties = Infer<typeof properties>;

export class IdeCd implements Device {
  readonly type: DeviceType;
  readonly id: string | undefined;
  readonly buses = [];
  readonly bootindex: number;
  readonly bus: IdeBus;
  readonly #init: DeviceInit<Properties>;
  #drive: Drive | undefined;
  #cd: CdDrive | undefined;
  #unit: number | undefined;

  constructor(init: DeviceInit<Properties>) {
    this.#init = init;
    this.type = init.type;
    this.id = init.id;
    this.bootindex = init.options.bootindex;
    assert(init.bus instanceof IdeBus, 'ide-cd is on an IDE bus');
    this.bus = init.bus;
  }

  get drive(): Drive | undefined {
    return this.#drive;
  }

  async realize(): Promise<void> {
    const { options, context } = this.#init;
    const place = this.bus.place(options.unit);
    // Without `drive=` it is a drive that nothing can be put into by name.
    await attachBackend(context, options, (backend, claim) => this.#attach(backend, claim, place));
  }

  async #attach(backend: Backend, claim: Claim, place: IdePlace): Promise<void> {
    const { options, context } = this.#init;
    const number = this.bus.index * 2 + place.number;
    const names = ideNames(options, 'QEMU DVD-ROM', number);
    for (const [name, value, wanted] of [
      ['logical_block_size', options.logical_block_size, 512],
      ['physical_block_size', options.physical_block_size, 512],
    ] as const) {
      if (value !== 0 && value !== wanted) {
        throw new OptionError(`${name} must be ${wanted} for IDE`, name);
      }
    }
    const name = deviceName(this.#init);
    const cd = new CdDrive({
      get drive(): Drive {
        return drive;
      },
      model: names.model,
      version: names.version,
      trayMoved: (open) => {
        context.emit('DEVICE_TRAY_MOVED', {
          device: backend.name,
          id: name.qdev,
          'tray-open': open,
        });
      },
    });
    const drive = await claim({
      user: cdUser(name, cd, backend),
      isReadOnly: true,
      resized: () => undefined,
    });
    this.#drive = drive;
    this.#cd = cd;
    this.#unit = place.number;
    this.bus.attach(place.number, this, new PacketDevice(place.unit, drive, cd, names));
  }

  firmwarePath(): string {
    return this.bus.firmwarePath(this.#unit ?? 0);
  }

  reset(): void {
    this.#drive?.abandon();
    this.#cd?.reset();
  }

  async unrealize(): Promise<void> {
    if (this.#unit !== undefined) this.bus.detach(this.#unit);
    this.#unit = undefined;
    await this.#drive?.release();
    this.#drive = undefined;
  }
}

export const ideCdDevice = declareDevice({
  name: 'ide-cd',
  bus: 'IDE',
  category: 'storage',
  description: 'virtual IDE CD-ROM',
  properties,
  create: (init) => new IdeCd(init),
});
