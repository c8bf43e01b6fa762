/** What an instance offers for snapshots; the code behind it loads when it is used. */
import type { SnapshotCapability } from '../../block/driver.js';
import type { Qcow2Image } from './image.js';

const load = (): Promise<typeof import('./snapshots.js')> => import('./snapshots.js');
const loadState = (): Promise<typeof import('./vm-state.js')> => import('./vm-state.js');

export function snapshotCapability(image: Qcow2Image): SnapshotCapability {
  return {
    list: async () => (await load()).listSnapshots(image),
    create: async (wanted) => (await load()).createSnapshot(image, wanted),
    apply: async (key) => (await load()).applySnapshot(image, key),
    delete: async (id, name) => (await load()).deleteSnapshot(image, id, name),
    openState: async (id, name) => (await loadState()).openSnapshotState(image, id, name),
    loadTemporary: async (id, name) => (await load()).loadTemporary(image, id, name),
  };
}
