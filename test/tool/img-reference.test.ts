// Goal: docs/img.md, the man page and the completion scripts say what the commands are declared to
// take. Method: they are made again from the declarations and compared;
// VDISK_WRITE_DOCS=1 npx vitest run test/tool/img-reference writes them.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { imgCommands, imgSpec } from '../../src/tool/img/main.js';
import { manPage, markdownReference } from '../../src/tool/reference.js';
import { version } from '../../src/tool/version.js';
import { binPath, requires, rootPath, runOk } from '../support/index.js';

const MARK = '<!-- From here on: made from the declarations';
const page = rootPath('docs/img.md');
const man = rootPath('docs/man/vdisk-img.1');
const write = process.env['VDISK_WRITE_DOCS'] !== undefined;

async function entries(): Promise<Parameters<typeof markdownReference>[1]> {
  return Promise.all(imgCommands.map((each) => each.load()));
}

describe('the reference', () => {
  it('docs/img.md is that of the declarations', async () => {
    const text = readFileSync(page, 'utf8');
    const at = text.indexOf('\n', text.indexOf(MARK)) + 1;
    const wanted = `${text.slice(0, at)}\n${markdownReference('vdisk-img', await entries())}`;
    if (write) writeFileSync(page, wanted);
    else expect(text).toBe(wanted);
  });

  it('docs/man/vdisk-img.1 is that of the declarations', async () => {
    const wanted = manPage('vdisk-img', imgSpec.summary, version, await entries());
    if (write) writeFileSync(man, wanted);
    else expect(existsSync(man) ? readFileSync(man, 'utf8') : '').toBe(wanted);
  });

  it('the list of commands and each command have one summary', async () => {
    for (const each of imgCommands) {
      const { spec } = await each.load();
      expect(spec.name).toBe(each.name);
      expect(spec.summary).toBe(each.summary);
    }
  });
});

requires('bash')('completion in bash', () => {
  it('offers subcommands, options and words of options', async () => {
    const { stdout } = await runOk(binPath('vdisk'), ['completion', 'bash']);
    const complete = (...words: string[]): string[] => {
      const list = words.map((word) => `'${word}'`).join(' ');
      const script = `${stdout}\nCOMP_WORDS=(${list}); COMP_CWORD=${String(words.length - 1)}
        _vdisk_complete; echo "\${COMPREPLY[*]}"`;
      return spawnSync('bash', ['-c', script], { encoding: 'utf8' }).stdout.trim().split(' ');
    };
    expect(complete('vdisk', 'i')).toEqual(['img', 'io']);
    expect(complete('vdisk-img', 'co')).toEqual(['commit', 'compare', 'convert']);
    expect(complete('vdisk', 'img', 'check', '-r', '')).toEqual(['leaks', 'all']);
    expect(complete('vdisk-img', 'convert', '-O', 'qc')).toEqual(['qcow2']);
    expect(complete('vdisk-img', 'info', '--out')).toEqual(['--output']);
    expect(complete('vdisk', 'io', '--image')).toEqual(['--image-opts']);
  });
});
