// Goal: `vdisk graph` draws what stands on what. Method: an image on another, as a list for dot and
// as SVG; and the graph of a program, through its monitor.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { dotPicture, svgPicture } from '../../src/monitor/graph-picture.js';
import { binPath, run, runOk, tempDir } from '../support/index.js';

it('names stay inside their labels', () => {
  const edge = { parent: 2, child: 1, name: 'root', perm: ['write'], 'shared-perm': [] };
  const facts = {
    nodes: [
      { id: 2, type: 'block-backend', name: '' },
      { id: 1, type: 'block-driver', name: 'a"<b>\\' },
    ],
    edges: [edge],
  };
  const about = new Map([['a"<b>\\', ['raw']]]);
  expect(dotPicture(facts, about)).toContain('n1 [label="a\\"<b>\\\\\\nraw"];');
  expect(dotPicture(facts, about)).toContain('n2 -> n1 [label="root w"];');
  const svg = svgPicture(facts, about);
  expect(svg).toContain('>a"&lt;b&gt;\\</text>');
  expect(svg).toContain('>(backend)</text>');
});

it('images and programs are drawn', async () => {
  const folder = tempDir();
  const [base, top] = [join(folder, 'base.qcow2'), join(folder, 'top.qcow2')];
  const create = ['create', '-q', '-f', 'qcow2'];
  await runOk(binPath('vdisk-img'), [...create, base, '1M']);
  await runOk(binPath('vdisk-img'), [...create, '-b', base, '-F', 'qcow2', top]);
  const dot = await runOk(binPath('vdisk'), ['graph', top]);
  expect(dot.stdout).toMatch(/^digraph blocks \{\n/);
  expect(dot.stdout.match(/label="backing r"/g)).toHaveLength(1);
  expect(dot.stdout.match(/ -> /g)).toHaveLength(4);
  const svg = await runOk(binPath('vdisk'), ['graph', '--output', 'svg', top]);
  expect(svg.stdout.match(/<rect /g)).toHaveLength(5);
  const socket = join(folder, 'qmp.sock');
  const machine = spawn(
    binPath('vdisk-system'),
    [
      '-nodefaults',
      '-M',
      'none',
      '-display',
      'none',
      '-qmp',
      `unix:${socket},server,nowait`,
    ].concat(['-drive', `if=none,id=d0,file=${top}`]),
    { stdio: 'ignore' },
  );
  try {
    while (!existsSync(socket)) await pause(10);
    const live = await runOk(binPath('vdisk'), ['graph', '--qmp', socket]);
    expect(live.stdout).toContain('label="d0\\nblock-backend"');
    expect(live.stdout.match(/ -> /g)).toHaveLength(4);
  } finally {
    machine.kill('SIGTERM');
  }
  expect(await new Promise((resolve) => machine.once('close', resolve))).toBe(0);
  const none = await run(binPath('vdisk'), ['graph', '--qmp', join(folder, 'x')]);
  expect(none.stderr).toMatch(/^vdisk: Could not connect to '.*x': No such file or directory\n$/);
});
