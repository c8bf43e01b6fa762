// Debian packages, for machines where the set-up may install some: root, with apt-get.
import { spawnSync } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';

/** Absolute path of a command; undefined when the machine does not have it. */
export function findCommand(name) {
  const folders = (process.env.PATH ?? '').split(delimiter).filter(Boolean);
  for (const folder of [...folders, '/usr/local/sbin', '/usr/sbin', '/sbin']) {
    try {
      accessSync(join(folder, name), constants.X_OK);
      return join(folder, name);
    } catch {
      // Not in this folder: look in the next.
    }
  }
  return undefined;
}

/** Why nothing can be installed here; undefined when it can. */
export function cannotInstall() {
  if (process.getuid?.() !== 0) return 'not root';
  if (findCommand('apt-get') === undefined) return 'no apt-get';
  return undefined;
}

let updated = false;

/** Installs packages; returns those that could not be. Says what it does through `say`. */
export function install(packages, say) {
  if (packages.length === 0) return [];
  say(`apt-get install ${packages.join(' ')}`);
  if (aptInstall(packages)) return [];
  if (!updated) {
    updated = true;
    apt(['update']);
    if (aptInstall(packages)) return [];
  }
  if (packages.length === 1) return packages;
  return packages.filter((name) => !aptInstall([name]));
}

function aptInstall(packages) {
  return apt(['install', '-y', '--no-install-recommends', ...packages]);
}

function apt(args) {
  const { status } = spawnSync('apt-get', ['-q', '-o', 'DPkg::Lock::Timeout=300', ...args], {
    stdio: ['ignore', 'ignore', 'ignore'],
    env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
    timeout: 900_000,
  });
  return status === 0;
}
