/** Commands on character devices. */
import { socketAddressLegacy } from '../../block/socket-address.js';
import type { Infer } from '../../options/schema.js';
import { t } from '../../options/schema.js';
import { chardevBackends, supportedBackends } from '../chardevs.js';
import { defineCommand, definePlainCommand } from '../command.js';
import { QmpError } from '../qmp-error.js';

const chardevInfo = t.struct('ChardevInfo', {
  label: t.str(),
  filename: t.str(),
  'frontend-open': t.bool(),
});

const queryChardev = definePlainCommand({
  name: 'query-chardev',
  doc: 'Lists the character devices and what they are connected to.',
  returns: t.arrayOf(chardevInfo),
  since: '0.14',
  run: ({ chardevs }) =>
    chardevs.list().map(({ id, filename, isTaken }) => ({
      label: id,
      filename,
      'frontend-open': isTaken,
    })),
});

const queryChardevBackends = definePlainCommand({
  name: 'query-chardev-backends',
  doc: 'Lists the kinds of character devices that can be made.',
  returns: t.arrayOf(t.struct('ChardevBackendInfo', { name: t.str() })),
  since: '2.0',
  run: () => chardevBackends.filter((each) => isSupported(each)).map((name) => ({ name })),
});

function isSupported(name: string): boolean {
  return supportedBackends.some((each) => each === name);
}

const common = t.struct('ChardevCommon', {});

const socket = t.struct('ChardevSocket', {
  addr: socketAddressLegacy,
  server: t.optional(t.bool({ doc: 'listen; default on' })),
  wait: t.optional(t.bool({ doc: 'answer when the first peer has come; default off' })),
});

/** QMP's ChardevBackend, as far as there are such devices. */
const backend = t.union('ChardevBackend', 'type', {
  null: t.struct('ChardevCommonWrapper', { data: common }),
  socket: t.struct('ChardevSocketWrapper', { data: socket }),
  stdio: t.struct('ChardevStdioWrapper', { data: common }),
});

/** The device as an argument of `--chardev` has it. */
function argumentOf(id: string, device: Infer<typeof backend>): string {
  const words: string[] = [device.type, `id=${id}`];
  if (device.type === 'socket') {
    const { addr, server, wait } = device.data;
    if (addr.type === 'unix') words.push(`path=${addr.data.path.replaceAll(',', ',,')}`);
    else if (addr.type === 'fd') words.push(`fd=${addr.data.str}`);
    else words.push(`host=${addr.data.host.replaceAll(',', ',,')}`, `port=${addr.data.port}`);
    const listens = server ?? true;
    words.push(`server=${listens ? 'on' : 'off'}`);
    if (listens) words.push(`wait=${wait === true ? 'on' : 'off'}`);
  }
  return words.join(',');
}

const chardevAdd = defineCommand({
  name: 'chardev-add',
  doc: 'Makes a character device.',
  args: t.struct('q_obj_chardev-add-arg', {
    id: t.str({ doc: 'its name' }),
    backend,
  }),
  returns: t.struct('ChardevReturn', { pty: t.optional(t.str()) }),
  since: '1.4',
  run: async ({ chardevs }, { id, backend: device }) => {
    if (chardevs.find(id) !== undefined) {
      throw new QmpError(`Chardev with id '${id}' already exists`);
    }
    await chardevs.add(argumentOf(id, device));
    return {};
  },
});

const chardevChange = defineCommand({
  name: 'chardev-change',
  doc: 'Makes a character device in the place of another, which nobody uses.',
  args: t.struct('q_obj_chardev-change-arg', {
    id: t.str({ doc: 'its name' }),
    backend,
  }),
  returns: t.struct('ChardevReturn', { pty: t.optional(t.str()) }),
  since: '2.10',
  run: async ({ chardevs }, { id, backend: device }) => {
    const old = chardevs.find(id);
    if (old === undefined) throw new QmpError(`Chardev '${id}' does not exist`);
    if (old.isTaken) {
      throw new QmpError(`Chardev user does not support chardev hotswap`);
    }
    await chardevs.replace(id, argumentOf(id, device));
    return {};
  },
});

const chardevRemove = defineCommand({
  name: 'chardev-remove',
  doc: 'Deletes a character device that nobody uses.',
  args: t.struct('q_obj_chardev-remove-arg', { id: t.str({ doc: 'its name' }) }),
  since: '1.4',
  run: async ({ chardevs }, { id }) => {
    const device = chardevs.find(id);
    if (device === undefined) throw new QmpError(`Chardev '${id}' not found`);
    if (device.isTaken) throw new QmpError(`Chardev '${id}' is busy`);
    await chardevs.remove(id);
  },
});

export const chardevCommands = [
  chardevRemove,
  chardevChange,
  chardevAdd,
  queryChardev,
  queryChardevBackends,
] as const;
