/** Commands on devices, and what there are of devices and machines. */
import { deviceTypes } from '../../catalog/devices.js';
import { deviceAliases } from '../../catalog/devices.js';
import { describeFields } from '../../options/help.js';
import { t } from '../../options/schema.js';
import type { Command } from '../command.js';
import { defineCommand, definePlainCommand } from '../command.js';
import type { MonitorContext } from '../context.js';
import type { MachineControl } from '../machine.js';
import { QmpError } from '../qmp-error.js';
import { propertyInfo } from './qom.js';

function machineOf({ machine }: MonitorContext): MachineControl {
  if (machine === undefined) throw new QmpError('There is no machine');
  return machine;
}

const deviceAdd: Command = {
  ...defineCommand({
    name: 'device_add',
    doc: 'Adds a device. Beside these arguments it takes the properties of the device.',
    args: t.struct('q_obj_device_add-arg', {
      driver: t.str({ doc: 'kind of device' }),
      bus: t.optional(t.str({ doc: 'bus that it goes on' })),
      id: t.optional(t.str({ doc: 'its name' })),
    }),
    since: '0.13',
    run: (context, args) => machineOf(context).addDevice(args),
  }),
  takesMore: true,
};

const deviceDel = defineCommand({
  name: 'device_del',
  doc: 'Asks for a device to go. The event DEVICE_DELETED tells when it has gone.',
  args: t.struct('q_obj_device_del-arg', { id: t.str({ doc: 'its name' }) }),
  since: '0.14',
  run: (context, { id }) => machineOf(context).removeDevice(id),
});

const listProperties = defineCommand({
  name: 'device-list-properties',
  doc: 'Tells the properties of a kind of device.',
  args: t.struct('q_obj_device-list-properties-arg', { typename: t.str() }),
  returns: t.arrayOf(propertyInfo),
  since: '1.2',
  run: (_context, { typename }) => {
    const name = deviceAliases[typename] ?? typename;
    const type = deviceTypes.find((each) => each.name === name);
    if (type === undefined) throw new QmpError(`Device '${typename}' not found`, 'DeviceNotFound');
    return describeFields(type.properties).map((row) => ({
      name: row.name,
      type: row.type === 'string' ? 'str' : row.type,
      description: row.meta.doc,
      'default-value': typeof row.meta.default === 'bigint' ? undefined : row.meta.default,
    }));
  },
});

const typeInfo = t.struct('ObjectTypeInfo', {
  name: t.str(),
  abstract: t.optional(t.bool()),
  parent: t.optional(t.str()),
});

/** The abstract types that devices descend from. */
const abstractTypes = [
  { name: 'object', abstract: true },
  { name: 'device', abstract: true, parent: 'object' },
  { name: 'pci-device', abstract: true, parent: 'device' },
  { name: 'isa-device', abstract: true, parent: 'device' },
  { name: 'ide-device', abstract: true, parent: 'device' },
] as const;

const parents: Readonly<Record<string, string>> = {
  PCI: 'pci-device',
  ISA: 'isa-device',
  IDE: 'ide-device',
};

const listTypes = defineCommand({
  name: 'qom-list-types',
  doc: 'Tells the kinds of devices.',
  args: t.struct('q_obj_qom-list-types-arg', {
    implements: t.optional(t.str({ doc: 'only those that descend from this type' })),
    abstract: t.optional(t.bool({ doc: 'include types that only others descend from' })),
  }),
  returns: t.arrayOf(typeInfo),
  since: '1.1',
  run: (_context, args) => {
    const devices = deviceTypes.map(({ name, bus }) => ({
      name,
      parent: parents[bus] ?? 'device',
    }));
    const all: { name: string; abstract?: boolean; parent?: string }[] = [
      ...(args.abstract === true ? abstractTypes : []),
      ...devices,
    ];
    const wanted = args.implements;
    if (wanted === undefined || wanted === 'object') return all;
    const descends = (name: string | undefined): boolean => {
      if (name === wanted) return true;
      const parent =
        abstractTypes.find((each) => each.name === name) ?? devices.find((d) => d.name === name);
      return parent !== undefined && 'parent' in parent && descends(parent.parent);
    };
    return all.filter(({ name }) => descends(name));
  },
});

const machineInfo = t.struct('MachineInfo', {
  name: t.str(),
  alias: t.optional(t.str()),
  'is-default': t.optional(t.bool()),
  'cpu-max': t.int(),
  'hotpluggable-cpus': t.bool(),
  'numa-mem-supported': t.bool(),
  deprecated: t.bool(),
  'default-ram-id': t.optional(t.str()),
});

const machines = [
  { name: 'pc-i440fx-10.0', alias: 'pc', 'is-default': true, 'default-ram-id': 'pc.ram' },
  { name: 'pc-q35-10.0', alias: 'q35', 'default-ram-id': 'pc.ram' },
  { name: 'none' },
];

const queryMachines = definePlainCommand({
  name: 'query-machines',
  doc: 'Tells the kinds of machines.',
  returns: t.arrayOf(machineInfo),
  since: '1.2',
  run: () =>
    machines.map((each) => ({
      ...each,
      'cpu-max': 1,
      'hotpluggable-cpus': false,
      'numa-mem-supported': false,
      deprecated: false,
    })),
});

export const deviceCommands = [
  deviceAdd,
  deviceDel,
  listProperties,
  listTypes,
  queryMachines,
] as const;
