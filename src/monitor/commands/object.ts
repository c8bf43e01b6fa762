/** Commands that create and delete objects. */
import { objectOptions } from '../../block/object-options.js';
import { t } from '../../options/schema.js';
import { defineCommand } from '../command.js';

const objectAdd = defineCommand({
  name: 'object-add',
  doc: 'Creates an object that options can refer to: a secret, a throttle group, credentials.',
  args: objectOptions,
  since: '2.0',
  givenOnly: true,
  run: ({ objects }, options) => objects.create(options, 'qmp'),
});

const objectDel = defineCommand({
  name: 'object-del',
  doc: 'Deletes an object that nobody uses.',
  args: t.struct('q_obj_object-del-arg', { id: t.str({ doc: 'ID of the object' }) }),
  since: '2.0',
  run: ({ objects }, { id }) => {
    objects.remove(id);
  },
});

export const objectCommands = [objectDel, objectAdd];
