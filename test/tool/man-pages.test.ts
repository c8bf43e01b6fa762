// Goal: the man pages say what the tools are declared to take, and man and groff read them without
// a warning. Method: they are made again from the declarations and compared;
// VDISK_WRITE_DOCS=1 npx vitest run test/tool/man-pages writes them.
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { manPages } from '../../src/tool/pages.js';
import { manPage } from '../../src/tool/reference.js';
import { version } from '../../src/tool/version.js';
import { requires, rootPath, run } from '../support/index.js';

const names = [
  'vdisk',
  'vdisk-img',
  'vdisk-io',
  'vdisk-nbd',
  'vdisk-storage-daemon',
  'vdisk-system',
];
const pathOf = (name: string): string => rootPath(`docs/man/${name}.1`);

it('docs/man is what the declarations say', async () => {
  const pages = await manPages();
  expect(pages.map(({ name }) => name)).toEqual(names);
  for (const page of pages) {
    const path = pathOf(page.name);
    const wanted = manPage(page, version);
    expect(wanted).toMatch(/^[\n -~]*$/);
    if (process.env['VDISK_WRITE_DOCS'] !== undefined) writeFileSync(path, wanted);
    else expect(existsSync(path) ? readFileSync(path, 'utf8') : '').toBe(wanted);
  }
  expect(readdirSync(rootPath('docs/man')).sort()).toEqual(names.map((name) => `${name}.1`).sort());
});

requires('groff')('groff', () => {
  it.each(names)('renders %s without a warning', async (name) => {
    const { status, stderr, stdout } = await run('groff', ['-man', '-ww', '-Tascii', pathOf(name)]);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toContain('User Commands');
  });
});

requires('man', 'col')('man', () => {
  it.each(names)('shows %s without a warning', async (name) => {
    const env = { ...process.env, MANWIDTH: '80', LC_ALL: 'C.UTF-8', MAN_KEEP_FORMATTING: '' };
    const { status, stderr, stdout } = await run('man', ['--warnings', '-l', pathOf(name)], {
      env,
    });
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toContain(`${name} - `);
  });
});
