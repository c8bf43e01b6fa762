/** Queries of character devices. */
import { t } from '../../options/schema.js';
import { chardevBackends, supportedBackends } from '../chardevs.js';
import { definePlainCommand } from '../command.js';

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

export const chardevCommands = [queryChardev, queryChardevBackends];
