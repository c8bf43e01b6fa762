/** Finding the device that a command means. */
import type { Backend, BackendUser } from '../block/backend.js';
import type { BlockGraph } from '../block/graph.js';
import { QmpError } from './qmp-error.js';

export interface DeviceName {
  readonly device?: string | undefined;
  readonly id?: string | undefined;
}

/** By its id, or by a path with or without its ends. */
function isCalled({ qdev, qomPath }: BackendUser, name: string): boolean {
  const short = qomPath.replace(/^\/machine\/peripheral\//, '');
  return [qdev, qomPath, short, short.replace(/\/virtio-backend$/, '')].includes(name);
}

/** The backend of a device, by the device's ID or path. */
export function tryDevice(graph: BlockGraph, id: string): Backend | undefined {
  return allBackends(graph).find((each) => each.user !== undefined && isCalled(each.user, id));
}

/** The backend of a device, by its old name or by the id of the device. Throws QmpError. */
export function findDevice(graph: BlockGraph, { device, id }: DeviceName): Backend {
  if ((device === undefined) === (id === undefined)) {
    throw new QmpError("Need exactly one of 'device' and 'id'");
  }
  const found = device === undefined ? tryDevice(graph, id ?? '') : graph.backends.get(device);
  if (found !== undefined) return found;
  throw new QmpError(`Device '${device ?? id ?? ''}' not found`, 'DeviceNotFound');
}

/** Backends with a name, and those of devices that stand on a node. */
export function allBackends(graph: BlockGraph): Backend[] {
  return [...new Set([...graph.backends.values(), ...graph.deviceBackends])];
}
