// Goal: docs/devices.md says what devices are declared to take. Method: its generated part is made
// again and compared; VDISK_WRITE_DOCS=1 npx vitest run test/device/reference writes it.
import { readFileSync, writeFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { deviceTypes } from '../../src/catalog/devices.js';
import { deviceReference } from '../../src/machine/device-help.js';
import { rootPath } from '../support/index.js';

it('the reference is what the declarations say', () => {
  const path = rootPath('docs/devices.md');
  const text = readFileSync(path, 'utf8');
  const mark = '<!-- generated from the declarations in src/device -->\n';
  const before = text.slice(0, text.indexOf(mark) + mark.length);
  const wanted = `${before}\n${deviceReference(deviceTypes)}`;
  if (process.env['VDISK_WRITE_DOCS'] !== undefined) writeFileSync(path, wanted);
  else expect(text).toBe(wanted);
});
