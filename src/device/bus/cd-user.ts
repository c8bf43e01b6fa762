/** A CD/DVD drive as the monitor's media commands see it. */
import type { Backend, BackendUser } from '../../block/backend.js';
import type { CdDrive } from './cd-drive.js';
import type { DeviceName } from './drive.js';

export function cdUser(name: DeviceName, cd: CdDrive, backend: Backend): BackendUser {
  return {
    ...name,
    isRemovable: true,
    hasTray: true,
    get isTrayOpen(): boolean {
      return cd.isTrayOpen;
    },
    get isLocked(): boolean {
      return cd.isLocked;
    },
    requestEject: (force) => {
      cd.requestEject();
      if (force) cd.isLocked = false;
    },
    mediumChanged: (isInserted) => {
      cd.mediumChanged(isInserted);
    },
    moveTray: (open) => {
      // What came in while the tray was open is new to the guest when it closes.
      if (open !== cd.isTrayOpen) cd.mediumChanged(!open && backend.isInserted);
      cd.moveTray(open);
    },
  };
}
