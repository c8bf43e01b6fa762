/** `scsi-hd` and `scsi-cd`: a disk, and a CD/DVD drive, on a SCSI bus. */
import type { Backend } from '../../block/backend.js';
import { assert } from '../../lib/assert.js';
import { OptionError } from '../../options/option-error.js';
import type { Infer } from '../../options/schema.js';
import { t } from '../../options/schema.js';
import type { Claim } from '../bus/block-properties.js';
import {
  attachBackend,
  blockProperties,
  blockSizes,
  diskGeometry,
  errorProperties,
  geometryProperties,
} from '../bus/block-properties.js';
import { cdUser } from '../bus/cd-user.js';
import { CdDrive } from '../bus/cd-drive.js';
import type { Device, DeviceInit, DeviceType } from '../bus/device.js';
import { declareDevice } from '../bus/device.js';
import type { DeviceName, Drive } from '../bus/drive.js';
import { deviceName, fixedUser } from '../bus/drive.js';
import type { ScsiPlace, ScsiUnit } from '../bus/scsi/bus.js';
import { ScsiBus } from '../bus/scsi/bus.js';
import { scsiProperties } from '../bus/scsi/properties.js';
import { ScsiCd } from './cd.js';
import type { DiskNames } from './disk.js';
import { ScsiDisk } from './disk.js';

/** What both kinds have, for its type. */
export const scsiShared = t.struct('ScsiShared', {
  ...blockProperties,
  ...errorProperties,
  ...scsiProperties,
});
const diskProperties = t.struct('scsi-hd', {
  ...blockProperties,
  ...errorProperties,
  ...geometryProperties,
  ...scsiProperties,
  removable: t.bool({ default: false, doc: 'the disk says that it can be taken out' }),
  dpofua: t.bool({ default: false, doc: 'accepted: forced unit access works in any case' }),
  rotation_rate: t.uint({ bits: 16 }, { default: 0, doc: 'rounds a minute; 1: solid state' }),
});
const cdProperties = t.struct('scsi-cd', {
  ...blockProperties,
  ...errorProperties,
  ...scsiProperties,
});

type Shared = Infer<typeof scsiShared>;

const nameLimits = { vendor: 8, product: 16, ver: 4, serial: 36 } as const;

function names(options: Shared, product: string, fallback: string): DiskNames {
  for (const [name, most] of Object.entries(nameLimits)) {
    const value = options[name as keyof typeof nameLimits] ?? '';
    if (value.length > most) throw new OptionError(`${name} is longer than ${most} characters`);
  }
  const serial = options.serial ?? '';
  return {
    vendor: options.vendor ?? 'QEMU',
    product: options.product ?? product,
    revision: options.ver ?? '2.5+',
    serial,
    identity: options.device_id ?? (serial === '' ? fallback : serial),
    wwn: options.wwn,
  };
}

/** What a unit's place and its drive have in common; the kinds differ in what they attach. */
abstract class ScsiDevice<P extends Shared> implements Device {
  readonly type: DeviceType;
  readonly id: string | undefined;
  readonly buses = [];
  readonly bootindex: number;
  readonly bus: ScsiBus;
  protected readonly init: DeviceInit<P>;
  #drive: Drive | undefined;
  #place: ScsiPlace | undefined;

  constructor(init: DeviceInit<P>) {
    this.init = init;
    this.type = init.type;
    this.id = init.id;
    this.bootindex = init.options.bootindex;
    assert(init.bus instanceof ScsiBus, 'a SCSI device is on a SCSI bus');
    this.bus = init.bus;
  }

  /** Looks at the backend, claims it, and gives the unit. */
  protected abstract unit(
    backend: Backend,
    claim: Claim,
    name: DeviceName,
  ): Promise<{ readonly drive: Drive; readonly unit: ScsiUnit }>;

  get drive(): Drive | undefined {
    return this.#drive;
  }

  async realize(): Promise<void> {
    const { context, options } = this.init;
    const place = this.bus.place(options.channel, options['scsi-id'], options.lun);
    await attachBackend(context, options, async (backend, claim) => {
      const { drive, unit } = await this.unit(backend, claim, deviceName(this.init));
      this.#drive = drive;
      this.#place = place;
      this.bus.attach(place, unit);
    });
  }

  firmwarePath(): string {
    return this.bus.firmwarePath(this.#place ?? { channel: 0, target: 0, lun: 0 });
  }

  reset(): void {
    const { channel = 0, target = 0, lun = 0 } = this.#place ?? {};
    this.bus.tryUnit(channel, target, lun)?.reset();
  }

  async unrealize(): Promise<void> {
    if (this.#place !== undefined) this.bus.detach(this.#place);
    this.#place = undefined;
    await this.#drive?.release();
    this.#drive = undefined;
  }
}

const bounds = { cylinders: 65535, heads: 255, sectors: 255 };

class ScsiHd extends ScsiDevice<Infer<typeof diskProperties>> {
  protected override async unit(
    backend: Backend,
    claim: Claim,
    name: DeviceName,
  ): Promise<{ drive: Drive; unit: ScsiUnit }> {
    const { options } = this.init;
    if (options.drive === undefined) throw new OptionError('drive property not set');
    if (!backend.isInserted) throw new OptionError('Device needs media, but drive is empty');
    const sizes = blockSizes(options);
    const isReadOnly = backend.node.staysReadOnly;
    const drive = await claim({ user: fixedUser(name), isReadOnly, resized: () => undefined });
    await diskGeometry(options, bounds, backend);
    const unit = new ScsiDisk({
      drive,
      names: names(options, 'QEMU HARDDISK', backend.name),
      sizes,
      isRemovable: options.removable,
      rotationRate: options.rotation_rate,
      dpofua: options.dpofua,
    });
    return { drive, unit };
  }

  logicalGeometry(): readonly [number, number, number] | undefined {
    const { lcyls, lheads, lsecs } = this.init.options;
    return lcyls === 0 && lheads === 0 && lsecs === 0 ? undefined : [lcyls, lheads, lsecs];
  }
}

class ScsiCdDevice extends ScsiDevice<Infer<typeof cdProperties>> {
  protected override async unit(
    backend: Backend,
    claim: Claim,
    name: DeviceName,
  ): Promise<{ drive: Drive; unit: ScsiUnit }> {
    const { options, context } = this.init;
    const { product, revision } = names(options, 'QEMU CD-ROM', '');
    const cd = new CdDrive({
      get drive(): Drive {
        return drive;
      },
      model: product,
      version: revision,
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
    return { drive, unit: new ScsiCd(cd, drive) };
  }
}

export const scsiHdDevice = declareDevice({
  name: 'scsi-hd',
  bus: 'SCSI',
  category: 'storage',
  description: 'virtual SCSI disk',
  properties: diskProperties,
  hotpluggable: true,
  create: (init) => new ScsiHd(init),
});

export const scsiCdDevice = declareDevice({
  name: 'scsi-cd',
  bus: 'SCSI',
  category: 'storage',
  description: 'virtual SCSI CD-ROM',
  properties: cdProperties,
  hotpluggable: true,
  create: (init) => new ScsiCdDevice(init),
});
