// Goal: docs/qmp-reference.md says what the monitor is declared to take, every command and event is
// documented, and introspection is sound. Method: made again from the declarations;
// VDISK_WRITE_DOCS=1 npx vitest run test/qmp/reference writes it.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { blockdevTypes } from '../../src/catalog/blockdev-types.js';
import { drivers } from '../../src/catalog/drivers.js';
import { commands, systemProgramCommands } from '../../src/monitor/commands/index.js';
import { eventKinds } from '../../src/monitor/event-kinds.js';
import { qmpReference } from '../../src/monitor/reference.js';
import { introspect } from '../../src/options/introspect.js';
import { rootPath } from '../support/index.js';

const types = blockdevTypes(drivers);
const common = new Set(commands.map(({ name }) => name));

it('the reference is what the declarations say', () => {
  const path = rootPath('docs/qmp-reference.md');
  const wanted = qmpReference(systemProgramCommands, common, eventKinds, types);
  if (process.env['VDISK_WRITE_DOCS'] !== undefined) writeFileSync(path, wanted);
  else expect(existsSync(path) ? readFileSync(path, 'utf8') : '').toBe(wanted);
});

it('every command and event is documented once', () => {
  for (const list of [systemProgramCommands, eventKinds]) {
    expect(new Set(list.map(({ name }) => name)).size).toBe(list.length);
    for (const { name, doc } of list) expect(`${name}: ${doc}`).toMatch(/: [A-Z].*\.$/);
  }
});

it('introspection refers only to what it tells, and tells nothing twice', () => {
  const schema = introspect(systemProgramCommands, eventKinds, types);
  const names = new Set(schema.map((info) => info['name']));
  expect(names.size).toBe(schema.length);
  const check = (name: unknown): void => {
    if (name !== undefined) expect(names).toContain(name);
  };
  for (const info of schema) {
    for (const key of ['arg-type', 'ret-type', 'element-type']) check(info[key]);
    const members = (info['members'] ?? []) as { type?: string }[];
    const variants = (info['variants'] ?? []) as { type: string }[];
    for (const { type } of [...members, ...variants]) check(type);
  }
  // Enough for libvirt's question: does blockdev-add's file driver know aio=io_uring?
  expect(JSON.stringify(schema)).toContain('io_uring');
});
