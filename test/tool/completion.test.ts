// Goal: bash and zsh complete subcommands, options, their values and the keys of -o.
// Method: the scripts run in the shells themselves: bash's function with the words that bash would
// give it, zsh on a pseudo-terminal where the Tab key is pressed.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { binPath, requires, runOk, tempDir } from '../support/index.js';

const folder = tempDir({ keep: true });

afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

beforeAll(async () => {
  for (const shell of ['bash', 'zsh']) {
    const { stdout } = await runOk(binPath('vdisk'), ['completion', shell]);
    writeFileSync(join(folder, shell), stdout);
  }
  writeFileSync(join(folder, 'my disk.raw'), '');
  writeFileSync(join(folder, 'other.raw'), '');
});

/** What bash offers for a line, whose words are given as it splits them. */
function offered(...words: string[]): string[] {
  const list = words.map((word) => `'${word}'`).join(' ');
  const script = `source ./bash
    complete -p vdisk vdisk-img vdisk-io vdisk-nbd >/dev/null || exit 1
    COMP_WORDS=(${list}); COMP_CWORD=${String(words.length - 1)}
    _vdisk_complete; printf '%s\\n' "\${COMPREPLY[@]}"`;
  const { status, stdout, stderr } = spawnSync('bash', ['--norc', '-c', script], {
    encoding: 'utf8',
    cwd: folder,
  });
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  return stdout.split('\n').filter((line) => line !== '');
}

requires('bash')('completion in bash', () => {
  it('offers tools and subcommands', () => {
    expect(offered('vdisk', 'i')).toEqual(['img', 'io']);
    expect(offered('vdisk', 'co').sort()).toEqual(['compact', 'completion']);
    expect(offered('vdisk', 'completion', '')).toEqual(['bash', 'zsh']);
    expect(offered('vdisk-img', 'co')).toEqual(['commit', 'compare', 'convert']);
    expect(offered('/usr/bin/vdisk', 'img', 'sn')).toEqual(['snapshot']);
  });

  it('offers options and their values', () => {
    expect(offered('vdisk-img', 'info', '--out')).toEqual(['--output']);
    expect(offered('vdisk', 'img', 'check', '-r', '')).toEqual(['leaks', 'all']);
    expect(offered('vdisk-img', 'convert', '-O', 'qc').sort()).toEqual(['qcow', 'qcow2']);
    expect(offered('vdisk-img', 'convert', '-t', 'w')).toEqual(['writeback', 'writethrough']);
    expect(offered('vdisk', 'io', '--image')).toEqual(['--image-opts']);
    expect(offered('vdisk', 'vm', '--dri')).toEqual(['--drive']);
    expect(offered('vdisk-nbd', '--discard', '')).toEqual(['ignore', 'unmap']);
    expect(offered('vdisk-img', 'info', '--output', '=', 'js')).toEqual(['json']);
    expect(offered('vdisk', 'explain', '--output', '=')).toEqual(['human', 'json']);
  });

  it('offers keys and values of -o for the format that is named', () => {
    expect(offered('vdisk-img', 'create', '-f', 'qcow2', '-o', 'clu')).toEqual(['cluster_size=']);
    const convert = ['vdisk-img', 'convert', '-O', 'qcow2', '-o'];
    expect(offered(...convert, 'extended_l2', '=', 'on,comp')).toEqual([
      'on,compression_type=',
      'on,compat=',
    ]);
    expect(offered(...convert, 'compression_type', '=')).toEqual(['zlib', 'zstd']);
    expect(offered(...convert, 'compression_type', '=', 'zs')).toEqual(['zstd']);
    expect(offered('vdisk-img', 'create', '-f', 'raw', '-o', 'comp')).toEqual([]);
    expect(offered('vdisk-img', 'amend', '-f', 'qcow2', '-o', 'lazy')).toEqual(['lazy_refcounts=']);
  });

  it('offers files where files go, spaces and all', () => {
    expect(offered('vdisk-img', 'info', 'my')).toEqual(['my disk.raw']);
    expect(offered('vdisk-img', 'convert', '-O', 'qcow2', 'o')).toEqual(['other.raw']);
    expect(offered('vdisk-img', 'create', '-b', 'o')).toEqual(['other.raw']);
    expect(offered('vdisk-img', 'dd', 'i')).toEqual(['if=']);
    expect(offered('vdisk-img', 'dd', 'if', '=', 'oth')).toEqual(['other.raw']);
    expect(offered('vdisk-io', '-c', 'read 0 1', 'oth')).toEqual(['other.raw']);
  });
});

requires('zsh')('completion in zsh', () => {
  /** The words of a line in which \t is the Tab key. */
  function typed(line: string): string {
    const script = `zmodload zsh/zpty
      zpty z zsh -f -i
      zpty -w z 'PS1= PS2= RPS1=; autoload -Uz compinit; compinit -u -D; source ./zsh'
      zpty -w z 'unsetopt beep; vdisk() { print -r -- "$*" > out }; vdisk-img() { vdisk "$@" }'
      zpty -w z $'${line.replaceAll('\t', '\\t')}'
      zpty -w z 'exit'
      while zpty -r z text; do print -r -- "$text"; done`;
    rmSync(join(folder, 'out'), { force: true });
    const { stdout } = spawnSync('zsh', ['-f', '-c', script], {
      encoding: 'utf8',
      cwd: folder,
      timeout: 30_000,
      env: { ...process.env, TERM: 'dumb' },
    });
    const out = join(folder, 'out');
    return existsSync(out) ? readFileSync(out, 'utf8').trim() : stdout;
  }

  it('completes what Tab is pressed for', () => {
    expect(typed('vdisk-img che\t -r le\t --output=js\t oth\t')).toBe(
      'check -r leaks --output=json other.raw',
    );
    expect(typed('vdisk img conv\t -O qcow2\t -o clu\t64k,extended\ton')).toBe(
      'img convert -O qcow2 -o cluster_size=64k,extended_l2=on',
    );
    expect(typed('vdisk exp\t --output=j\t')).toBe('explain --output=json');
  });
});
