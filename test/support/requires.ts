import { execFileSync, spawnSync } from 'node:child_process';
import { accessSync, constants, mkdtempSync, rmdirSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { describe } from 'vitest';

const folders = [
  ...(process.env['PATH'] ?? '').split(delimiter),
  '/usr/local/sbin',
  '/usr/sbin',
  '/sbin',
].filter((folder) => folder !== '');

/** Absolute path of a command on PATH or in a sbin folder; undefined when there is none. */
export function findCommand(command: string): string | undefined {
  for (const path of command.includes('/') ? [command] : folders.map((f) => join(f, command))) {
    try {
      accessSync(path, constants.X_OK);
      if (statSync(path).isFile()) return path;
    } catch {
      // Not in this folder: look in the next.
    }
  }
  return undefined;
}

/** Commands that a machine may have without being able to do what they are for, and a try. */
const tries: Readonly<Record<string, { args: readonly string[]; lacks: string }>> = {
  losetup: { args: ['--find'], lacks: 'loop devices' },
  mount: { args: ['-t', 'tmpfs', '-o', 'size=4k', 'none'], lacks: 'the right to mount' },
  script: { args: ['-qec', 'true', '/dev/null'], lacks: 'pseudo-terminals' },
};

/** Modules of Debian's Python that tests use, by their package. */
const pythonModules: Readonly<Record<string, string>> = {
  'python3-libqcow': 'pyqcow',
  'python3-libvhdi': 'pyvhdi',
  'python3-libvmdk': 'pyvmdk',
};

export const debianPython = '/usr/bin/python3';

const found = new Map<string, string | undefined>();

/** What is lacking for a command to be of use here; undefined: nothing. */
function lackOf(command: string): string | undefined {
  const module = pythonModules[command];
  if (module !== undefined) {
    const { status } = spawnSync(debianPython, ['-c', `import ${module}`], { stdio: 'ignore' });
    return status === 0 ? undefined : command;
  }
  if (findCommand(command) === undefined) return command;
  const check = tries[command];
  if (check === undefined) return undefined;
  if (command === 'mount') return canMount(check.args) ? undefined : check.lacks;
  const { status } = spawnSync(command, check.args, { stdio: 'ignore' });
  return status === 0 ? undefined : check.lacks;
}

function canMount(args: readonly string[]): boolean {
  const folder = mkdtempSync(join(tmpdir(), 'vdisk-mount-'));
  const mounted = spawnSync('mount', [...args, folder], { stdio: 'ignore' }).status === 0;
  if (mounted) spawnSync('umount', [folder], { stdio: 'ignore' });
  rmdirSync(folder);
  return mounted;
}

/** Those of the commands that this machine does not have, or what they need and it lacks. */
export function missingCommands(...commands: string[]): string[] {
  return commands.flatMap((command) => {
    if (!found.has(command)) found.set(command, lackOf(command));
    return found.get(command) ?? [];
  });
}

/** What `requires` returns: `describe`, or a describe that is skipped and says why in its name. */
export type DescribeWithPeers = (name: string, body: () => void) => void;

/**
 * A `describe` for tests that need other programs:
 *
 *     requires('qemu-img', 'mke2fs')('images that qemu-img wrote', () => { … });
 *
 * Without one of them the block is skipped, its hooks do not run, and its name carries the reason,
 * which `npm test` lists at its end. Which package has a command stands in tools/peers.json.
 */
export function requires(...commands: string[]): DescribeWithPeers {
  const missing = missingCommands(...commands);
  if (missing.length === 0) return (name, body) => void describe(name, body);
  return (name, body) => void describe.skip(`${name} [needs ${missing.join(', ')}]`, body);
}

/** Whether the command is there and is QEMU's of version 10 or later (by `--version`). */
export function isQemu10(command: string): boolean {
  const path = findCommand(command);
  if (path === undefined) return false;
  const version = execFileSync(path, ['--version'], { encoding: 'utf8' });
  return Number(/(?:version|qemu-nbd) (\d+)\./.exec(version)?.[1] ?? 0) >= 10;
}

/**
 * As {@link requires}, for tests that compare what QEMU's tools print: older versions word
 * errors in other ways, and Debian 12 has 7.2. Debian's backports have 10.
 */
export function requiresQemu10(...commands: string[]): DescribeWithPeers {
  if (missingCommands(...commands).length > 0) return requires(...commands);
  const old = commands.filter((command) => !isQemu10(command));
  if (old.length === 0) return requires(...commands);
  return (name, body) => void describe.skip(`${name} [needs QEMU 10: ${old.join(', ')}]`, body);
}
