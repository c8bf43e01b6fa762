// Goal: whatever is wrong with the arguments of a command, vdisk-storage-daemon answers with the
// error class and the text of qemu-storage-daemon 10. Method: commands with random arguments, made
// from what our query-qmp-schema tells and spoilt here and there, go to both; a failure prints its
// seed: VDISK_SEED=… repeats it. Left out are numbers of 2^53 and more, which we refuse by name.
import { expect, it } from 'vitest';
import type { SchemaType } from '../qmp/random-arguments.js';
import { RandomArguments } from '../qmp/random-arguments.js';
import type { Message } from '../qmp/support.js';
import { DaemonProcess } from '../qmp/support.js';
import {
  binPath,
  findCommand,
  Random,
  requiresQemu10,
  tempDir,
  testSeed,
} from '../support/index.js';

const COUNT = Number(process.env['VDISK_STEPS'] ?? 600);

/** Commands that end the connection, need the network, or that only one of the two has. */
const leftOut = new Set([
  'quit',
  'qmp_capabilities',
  'human-monitor-command',
  'chardev-add',
  'chardev-change',
  'chardev-remove',
  'chardev-send-break',
  'nbd-server-start',
  'drive-mirror',
  'block_resize',
  'query-iothreads',
  'blockdev-create',
]);
/** Drivers that reach beyond this process. */
const outside = /"driver":"(ssh|nbd|https?|ftps?|iscsi|nfs|gluster|host_\w+|file|vvfat)"/;
/** Negative numbers that QEMU takes for great ones, or dies of. */
const wrapped = /"(write-threshold|align|size)":-1/;
/** Objects of which only one of the two has all properties; the empty reference. */
const different =
  /"qom-type":"(authz-list-file|tls-\S+|throttle-group|main-loop)"|"(file|overlay)":""/;

/** Error class and text; names that each program makes for itself are taken away. */
function told(reply: Message | undefined): string {
  if (reply === undefined) return 'ended';
  const error = reply['error'] as { class: string; desc: string } | undefined;
  if (error === undefined) return 'fine';
  return `${error.class}: ${error.desc.replace(/#block\d+/g, '#block')}`;
}

/** A daemon that is started again when it has ended: QEMU's does not survive every request. */
class Peer {
  #daemon: DaemonProcess;

  constructor(
    readonly program: string,
    readonly folder: string,
  ) {
    this.#daemon = new DaemonProcess(program, [], folder);
  }

  async begin(): Promise<this> {
    await this.#daemon.ready();
    await this.#daemon.ok('blockdev-add', { driver: 'null-co', 'node-name': 'n0', size: 1 << 20 });
    return this;
  }

  get daemon(): DaemonProcess {
    return this.#daemon;
  }

  async ask(request: string): Promise<Message | undefined> {
    const answer = this.#daemon.talk(request).then((messages) => messages.at(-1));
    return Promise.race([answer, this.#daemon.ended.then(() => undefined)]);
  }

  async again(): Promise<void> {
    await this.end();
    this.#daemon = new DaemonProcess(this.program, [], this.folder);
    await this.begin();
  }

  async end(): Promise<void> {
    this.#daemon.child.kill('SIGKILL');
    await this.#daemon.ended;
  }
}

requiresQemu10('qemu-storage-daemon')('wrong arguments', () => {
  it('are answered as by QEMU', { timeout: 120_000 }, async () => {
    // Of two wrongs QEMU names the one that it finds first: that differs where drivers look.
    const random = new Random(process.env['VDISK_SEED'] === undefined ? 7 : testSeed());
    const ours = await new Peer(binPath('vdisk-storage-daemon'), tempDir()).begin();
    const theirs = await new Peer(findCommand('qemu-storage-daemon')!, tempDir()).begin();
    try {
      const types = (await ours.daemon.ok('query-qmp-schema')) as SchemaType[];
      const make = new RandomArguments(types, random);
      const commands = types.filter(
        (type) => type['meta-type'] === 'command' && !leftOut.has(type.name),
      );
      for (let i = 0; i < COUNT; i++) {
        const command = commands[random.int(0, commands.length - 1)]!;
        const request = { execute: command.name, arguments: make.make(command['arg-type']!) };
        const text = JSON.stringify(request);
        if ([outside, wrapped, different].some((each) => each.test(text))) continue;
        // QEMU's daemon ends at an empty list of options.
        if (command.name === 'blockdev-reopen') continue;
        const [a, b] = await Promise.all([ours.ask(text), theirs.ask(text)]);
        if (b === undefined) {
          expect(a, `QEMU does not survive ${text}`).toBeDefined();
          await Promise.all([ours.again(), theirs.again()]);
        } else {
          expect(told(a), text).toBe(told(b));
        }
      }
    } finally {
      await Promise.all([ours.end(), theirs.end()]);
    }
  });
});
