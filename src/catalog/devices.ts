/** The list of devices. A new device is a folder in `device/` and a line here. */
import type { DeviceType } from '../device/bus/device.js';
import { ideCdDevice } from '../device/ide-cd/device.js';
import { ideHdDevice } from '../device/ide-hd/device.js';
import { piix3IdeDevice } from '../device/piix3-ide/device.js';

export const deviceTypes: readonly DeviceType[] = [piix3IdeDevice, ideHdDevice, ideCdDevice];

/** Other names of devices. */
export const deviceAliases: Readonly<Record<string, string>> = {
  ahci: 'ich9-ahci',
  'virtio-blk': 'virtio-blk-pci',
};
