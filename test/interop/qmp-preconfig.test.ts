// Goal: -preconfig lets the same commands through as QEMU's does, and refuses the others with its
// text. Method: every command that both have, without arguments, to both.
import { expect, it } from 'vitest';
import { binPath, findCommand, requiresQemu10 } from '../support/index.js';
import { DaemonProcess } from '../qmp/support.js';

const program = 'qemu-system-x86_64';
const args = ['-nodefaults', '-machine', 'none', '-display', 'none', '-preconfig'];
/** They end what is compared (QEMU dies of the third one where its modules are another build's). */
const leftOut = new Set(['quit', 'x-exit-preconfig', 'qom-list-types', 'qmp_capabilities']);

interface Reply {
  readonly error?: { readonly class: string; readonly desc: string };
}

requiresQemu10(program)('-preconfig', () => {
  it('refuses what QEMU refuses', { timeout: 60_000 }, async () => {
    const start = (path: string): DaemonProcess =>
      new DaemonProcess(path, args, undefined, ['-qmp', 'stdio']);
    const ours = start(binPath('vdisk-system'));
    const theirs = start(findCommand(program)!);
    await Promise.all([ours.ready(), theirs.ready()]);
    const known = async (of: DaemonProcess): Promise<string[]> =>
      ((await of.ok('query-commands')) as { name: string }[]).map(({ name }) => name);
    const both = new Set(await known(theirs));
    const refused: Record<'ours' | 'theirs', string[]> = { ours: [], theirs: [] };
    for (const name of (await known(ours)).filter((each) => both.has(each) && !leftOut.has(each))) {
      const text = `The command '${name}' is permitted only after machine initialization`;
      for (const [who, peer] of Object.entries({ ours, theirs })) {
        const { error } = (await peer.execute(name)) as Reply;
        if (error?.desc.startsWith(text) !== true) continue;
        expect(error).toEqual({ class: 'GenericError', desc: `${text} has completed` });
        refused[who === 'ours' ? 'ours' : 'theirs'].push(name);
      }
    }
    expect(refused.ours).toEqual(refused.theirs);
    expect(refused.ours.length).toBeGreaterThan(30);
    for (const each of [ours, theirs]) each.child.kill('SIGKILL');
  });
});
