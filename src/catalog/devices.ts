/** The list of devices. A new device is a folder in `device/` and a line here. */
import type { DeviceType } from '../device/bus/device.js';
import { floppyDevice } from '../device/floppy/device.js';
import { ich9AhciDevice } from '../device/ich9-ahci/device.js';
import { ideCdDevice } from '../device/ide-cd/device.js';
import { ideHdDevice } from '../device/ide-hd/device.js';
import { isaFdcDevice } from '../device/isa-fdc/device.js';
import { lsi53c810Device, lsi53c895aDevice } from '../device/lsi53c895a/device.js';
import {
  pciBridgeDevice,
  pciePciBridgeDevice,
  pcieRootPortDevice,
} from '../device/pci-bridges/device.js';
import { piix3IdeDevice } from '../device/piix3-ide/device.js';
import { scsiCdDevice, scsiHdDevice } from '../device/scsi-disks/device.js';
import { virtioBlkPciDevice } from '../device/virtio-blk-pci/device.js';
import { virtioMousePciDevice } from '../device/virtio-mouse-pci/device.js';
import { virtioScsiPciDevice } from '../device/virtio-scsi-pci/device.js';

export const deviceTypes: readonly DeviceType[] = [
  piix3IdeDevice,
  ich9AhciDevice,
  isaFdcDevice,
  floppyDevice,
  ideHdDevice,
  ideCdDevice,
  virtioBlkPciDevice,
  virtioScsiPciDevice,
  lsi53c895aDevice,
  lsi53c810Device,
  scsiHdDevice,
  scsiCdDevice,
  pciBridgeDevice,
  pciePciBridgeDevice,
  pcieRootPortDevice,
  virtioMousePciDevice,
];

/** Other names of devices. */
export const deviceAliases: Readonly<Record<string, string>> = {
  ahci: 'ich9-ahci',
  'virtio-blk': 'virtio-blk-pci',
  lsi: 'lsi53c895a',
  'virtio-scsi': 'virtio-scsi-pci',
  'virtio-mouse': 'virtio-mouse-pci',
};
