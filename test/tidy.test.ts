// Goal: tools/tidy.mjs reports each kind of breach, and nothing on a sound tree. Method: small
// trees in a temporary folder, one breach each, run as the lint does.
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { rootPath, run, tempDir } from './support/index.js';

async function tidyOf(files: Record<string, string>) {
  const root = tempDir();
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, name)), { recursive: true });
    writeFileSync(join(root, name), text);
  }
  const { status, stdout } = await run(process.execPath, [rootPath('tools/tidy.mjs'), '.'], {
    cwd: root,
  });
  return { status, lines: stdout.split('\n').filter((line) => line !== '') };
}

const importing = (specifier: string) => `export { x } from '${specifier}';\n`;
const fixme = ['FIX', 'ME'].join('');

describe('tidy accepts', () => {
  const sound: Record<string, Record<string, string>> = {
    'imports downwards': {
      'src/lib/a.ts': 'export const x = 1;\n',
      'src/block/node.ts': importing('../lib/a.js') + importing('../host/file.js'),
      'src/format/qcow2/driver.ts': importing('./header.js') + importing('../../block/node.js'),
      'src/protocol/nbd.ts': importing('../wire/nbd.js'),
      'src/export/nbd/server.ts': importing('../../wire/nbd.js'),
      'src/device/nvme/nvme.ts': importing('../bus/pci.js'),
      'src/job/mirror.ts': importing('../filter/throttle.js') + importing('./job.js'),
    },
    'node: and packages in the adapter, node: in tools and tests': {
      'src/host/node/files.ts': importing('node:fs') + importing('node-gyp-build'),
      'src/tool/version.ts': importing('../../package.json'),
      'src/tool/img/info.ts': importing('node:fs') + importing('../../format/raw/driver.js'),
      'src/lib/a.test.ts': importing('node:fs') + importing('../block/node.js'),
    },
    'both entries': {
      'src/index.ts': importing('./host/node/files.js') + importing('./catalog/drivers.js'),
      'src/web.ts': importing('./host/web/blob.js') + importing('./catalog/drivers.js'),
    },
    'an import that only a comment or a string names': {
      'src/lib/a.ts':
        `// import x from 'node:fs';\n/* from '../block/x.js' */\n` +
        `export const s = "copied from 'node:fs'" + 'or from ' + '../block/x.js';\n` +
        'export const t = `import "../block/n.js"`;\n',
    },
    "functions of one's own with names that Node has too": {
      'src/job/a.ts': 'export const process = (x: number) => x;\nprocess(1);\n',
    },
    'a long line with an exception': {
      'src/lib/a.ts': `export const s = '${'x'.repeat(100)}';\n`,
      'tools/tidy-exceptions.json':
        '[{ "file": "src/lib/a.ts", "rule": "line-length", "reason": "a table that stays whole" }]',
    },
  };
  for (const [name, files] of Object.entries(sound)) {
    it(name, async () => {
      expect(await tidyOf(files)).toEqual({ status: 0, lines: [] });
    });
  }
});

describe('tidy refuses', () => {
  const bad: [name: string, file: string, text: string, said: string][] = [
    ['an import upwards', 'src/lib/a.ts', importing('../block/n.js'), 'src/lib may not import'],
    ['wire in block', 'src/block/a.ts', importing('../wire/nbd.js'), 'may not import src/wire'],
    [
      'a type-only import upwards',
      'src/options/a.ts',
      `import type { T } from '../block/n.js';\n`,
      'src/options may not import src/block',
    ],
    [
      'an import() type upwards',
      'src/lib/a.ts',
      `export type T = import('../block/n.js').T;\n`,
      'src/lib may not import src/block',
    ],
    [
      'a dynamic import upwards',
      'src/block/a.ts',
      `export const f = () => import('../format/raw/driver.js');\n`,
      'src/block may not import src/format',
    ],
    [
      'an import over several lines',
      'src/lib/a.ts',
      `import {\n  x,\n} from\n  '../host/file.js';\n`,
      'src/lib may not import src/host',
    ],
    [
      'sibling formats',
      'src/format/qcow2/a.ts',
      importing('../raw/driver.js'),
      'src/format/qcow2 may not import src/format/raw',
    ],
    ['sibling filters', 'src/filter/a.ts', importing('./b.js'), 'src/filter/a may not import'],
    ['sibling devices', 'src/device/nvme/a.ts', importing('../ide/b.js'), 'siblings'],
    ['node: in the core', 'src/block/a.ts', importing('node:fs'), 'import node:'],
    ['node: in a port', 'src/host/file.ts', importing('node:fs'), 'import node:'],
    ['a package in the core', 'src/format/raw/a.ts', importing('fast-check'), 'package'],
    ['the web host in a tool', 'src/tool/a.ts', importing('../host/web/b.js'), 'host/web'],
    ['the other host', 'src/web.ts', importing('./host/node/b.js'), 'may not import src/host/node'],
    ['a tool in the library', 'src/web.ts', importing('./tool/img/a.js'), 'may not import'],
    ['the entry in the core', 'src/job/a.ts', importing('../index.js'), 'may not import src/index'],
    ['a file outside src', 'src/tool/a.ts', importing('../../tools/a.js'), 'leaves src/'],
    ['the manifest in the core', 'src/lib/a.ts', importing('../../package.json'), 'leaves src/'],
    ['an import without .js', 'src/lib/a.ts', importing('./b'), 'does not end in .js'],
    ['an unknown folder', 'src/helpers/a.ts', 'export {};\n', 'not in the table'],
    ['Buffer in the core', 'src/lib/a.ts', 'export const b = Buffer.from([]);\n', 'node-name'],
    ['process in the core', 'src/job/a.ts', 'export const p = process.pid;\n', 'node-name'],
    ['a long line', 'test/a.ts', `// ${'x'.repeat(98)}\n`, 'line-length: 101 columns'],
    ['a long file', 'native/a.cc', '//\n'.repeat(600), 'file-length: 600 lines'],
    ['a leftover mark', 'src/lib/a.ts', `// ${fixme}: later\n`, 'mark'],
    [
      'an exception without need',
      'tools/tidy-exceptions.json',
      '[{ "file": "src/lib/a.ts", "rule": "line-length", "reason": "once it was too long" }]',
      'is excused',
    ],
  ];
  for (const [name, file, text, said] of bad) {
    it(name, async () => {
      const { status, lines } = await tidyOf({ [file]: text });
      expect(lines).toHaveLength(1);
      expect(lines[0]).toContain(said);
      expect(status).toBe(1);
    });
  }

  it('an exception without a reason', async () => {
    const { lines } = await tidyOf({
      'test/a.ts': `// ${'x'.repeat(98)}\n`,
      'tools/tidy-exceptions.json': '[{ "file": "test/a.ts", "rule": "line-length" }]',
    });
    expect(lines.join()).toContain('has no reason');
  });
});
