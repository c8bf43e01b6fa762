// Goal: docs/hmp.md lists the commands of the human monitor as they are declared. Method: the page
// is made again and compared; VDISK_WRITE_DOCS=1 writes it.
import { readFileSync, writeFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import type { HmpCommand } from '../../src/monitor/hmp/command.js';
import { hmpCommands, infoCommands } from '../../src/monitor/hmp/commands/index.js';
import { rootPath } from '../support/index.js';

const row = ({ name, params, help }: HmpCommand): string => {
  const words = `${name.replaceAll('|', ' or ')} ${params.replace(`${name} `, '')}`.trim();
  return `| \`${words.replaceAll('|', '\\|')}\` | ${help} |`;
};

const page = (): string =>
  [
    '# The human monitor',
    '',
    'Made from the declarations in `src/monitor/hmp`; do not edit.',
    '',
    "`vdisk-system -monitor stdio` shows a prompt and takes QEMU's commands, with line editing and",
    'history; QMP has `human-monitor-command` for them. A size without a suffix is in MiB. Text in',
    'quotes is one word: `qemu-io d0 "read 0 64k"`.',
    '',
    '| command | what it does |',
    '|---|---|',
    ...hmpCommands.map(row),
    '',
    '| `info …` | what it shows |',
    '|---|---|',
    ...infoCommands.map(row),
    '',
  ].join('\n');

it('docs/hmp.md tells what is declared', () => {
  const path = rootPath('docs', 'hmp.md');
  if (process.env['VDISK_WRITE_DOCS'] !== undefined) writeFileSync(path, page());
  expect(readFileSync(path, 'utf8')).toBe(page());
});
