// Goal: docs/img.md and docs/vdisk.md say what the commands are declared to take.
// Method: they are made again from the declarations and compared;
// VDISK_WRITE_DOCS=1 npx vitest run test/tool/img-reference writes them.
import { readFileSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { imgCommands } from '../../src/tool/img/main.js';
import { vdiskCommands } from '../../src/tool/vdisk/commands.js';
import { markdownReference } from '../../src/tool/reference.js';
import { rootPath } from '../support/index.js';

const MARK = '<!-- From here on: made from the declarations';
const write = process.env['VDISK_WRITE_DOCS'] !== undefined;

describe('the reference', () => {
  it.each([
    ['docs/img.md', 'vdisk-img', imgCommands],
    ['docs/vdisk.md', 'vdisk', vdiskCommands],
  ] as const)('%s is that of the declarations', async (name, tool, commands) => {
    const page = rootPath(name);
    const entries = await Promise.all(commands.map((each) => each.load()));
    const text = readFileSync(page, 'utf8');
    const at = text.indexOf('\n', text.indexOf(MARK)) + 1;
    const wanted = `${text.slice(0, at)}\n${markdownReference(tool, entries)}`;
    if (write) writeFileSync(page, wanted);
    else expect(text).toBe(wanted);
  });

  it('the list of commands and each command have one summary', async () => {
    for (const each of [...imgCommands, ...vdiskCommands]) {
      const { spec } = await each.load();
      expect(spec.name).toBe(each.name);
      expect(spec.summary).toBe(each.summary);
    }
  });
});
