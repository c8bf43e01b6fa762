#!/usr/bin/env node
// npm run setup:guest: gets what tests need to boot a guest, into .cache/guest: Debian's i386
// kernel, an initial RAM disk of its modules with Debian's busybox-static, and GRUB's rescue
// images. Nothing is installed: packages are downloaded by apt-get and unpacked. Firmware is that
// of the package seabios. Tests skip by name while this has not been done.
//
// Each step that fails says what is missing and ends with status 1.
import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { hashOf, root, tryRead, writeAtomically } from './files.mjs';

const folder = join(root, '.cache/guest');
const work = join(folder, 'work');
const suite = 'bookworm';

/** Drivers that the guest can load, and a file system; what they depend on comes along. */
const wanted = [
  ...['ata_piix', 'ahci', 'virtio_pci', 'virtio_blk', 'sd_mod', 'sr_mod', 'floppy'],
  ...['ext4', 'isofs', 'crc32c_generic', 'button'],
];

class Refusal extends Error {}

function run(command, args, options = {}) {
  const result = spawnSync(command, args, { encoding: 'utf8', ...options });
  if (result.error !== undefined) throw new Refusal(`${command} cannot run: ${result.error.code}`);
  if (result.status !== 0) {
    const said = `${result.stdout}${result.stderr}`.trim().split('\n').slice(-3).join('\n');
    throw new Refusal(`${command} ${args.slice(-2).join(' ')} failed:\n${said}`);
  }
  return result.stdout;
}

/** Settings of an apt that knows i386 packages, beside the one of the machine. */
function aptOptions() {
  const state = join(work, 'apt');
  for (const sub of ['lists/partial', 'cache/archives/partial', 'state']) {
    mkdirSync(join(state, sub), { recursive: true });
  }
  writeFileSync(join(state, 'status'), '');
  const settings = {
    'APT::Architecture': 'i386',
    'APT::Architectures': 'i386',
    'APT::Sandbox::User': 'root',
    'Dir::State': join(state, 'state'),
    'Dir::State::Lists': join(state, 'lists'),
    'Dir::State::status': join(state, 'status'),
    'Dir::Cache': join(state, 'cache'),
  };
  return Object.entries(settings).flatMap(([name, value]) => ['-o', `${name}=${value}`]);
}

/** Downloads packages and unpacks them into one folder, which it returns. */
function unpack(packages, options) {
  const out = join(work, 'root');
  mkdirSync(out, { recursive: true });
  run('apt-get', [...options, '-q', 'download', ...packages], { cwd: work });
  for (const name of packages) {
    const file = readdirSync(work).find((each) => each.startsWith(`${name}_`));
    if (file === undefined) throw new Refusal(`apt-get downloaded no ${name}`);
    run('dpkg-deb', ['-x', join(work, file), out]);
  }
  return out;
}

/** The newest kernel for processors without PAE that the package lists know. */
function kernelPackage(options) {
  const found = run('apt-cache', [...options, 'search', '--names-only', '^linux-image-6.*-686$']);
  const names = found.split('\n').map((line) => line.split(' ')[0]);
  const plain = names.filter((name) => /^linux-image-[0-9.]+-[0-9]+-686$/.test(name));
  const number = (name) => Number(/-(\d+)-686$/.exec(name)[1]);
  plain.sort((a, b) => number(b) - number(a));
  if (plain.length === 0) throw new Refusal(`no kernel linux-image-*-686 of ${suite} is known`);
  return plain[0];
}

/** Files of modules in the order in which they can be loaded. */
function modulesInOrder(modules) {
  const files = new Map();
  const visit = (path) => {
    for (const entry of readdirSync(path, { withFileTypes: true })) {
      const inner = join(path, entry.name);
      if (entry.isDirectory()) visit(inner);
      else if (entry.name.endsWith('.ko')) {
        files.set(basename(entry.name, '.ko').replaceAll('-', '_'), inner);
      }
    }
  };
  visit(modules);
  const ordered = new Map();
  const add = (name) => {
    const file = files.get(name);
    if (file === undefined || ordered.has(name)) return;
    const depends = /\0depends=([^\0]*)\0/.exec(readFileSync(file, 'latin1'))?.[1] ?? '';
    const soft = name === 'ext4' ? ['crc32c_generic'] : [];
    for (const each of [...soft, ...depends.split(',')]) add(each.replaceAll('-', '_'));
    ordered.set(name, file);
  };
  for (const name of wanted) add(name);
  return [...ordered.values()];
}

/** One entry of a cpio archive in the format "newc". */
function cpioEntry(name, mode, data = Buffer.alloc(0), device = [0, 0]) {
  const pad = (bytes) => Buffer.concat([bytes, Buffer.alloc(-bytes.length & 3)]);
  const fields = [0, mode, 0, 0, 1, 0, data.length, 0, 0, ...device, name.length + 1, 0];
  const head = fields.map((value) => value.toString(16).padStart(8, '0')).join('');
  return Buffer.concat([pad(Buffer.from(`070701${head}${name}\0`)), pad(data)]);
}

const applets = [
  ...['sh', 'mount', 'umount', 'insmod', 'cat', 'echo', 'md5sum', 'dd', 'sync', 'poweroff'],
  ...['reboot', 'sleep', 'head', 'sed', 'tail', 'grep', 'ls', 'dmesg', 'mkdir', 'mknod'],
];

function makeInitrd(busybox, modules, init) {
  const folders = ['bin', 'dev', 'proc', 'sys', 'mnt', 'lib'];
  const parts = folders.map((name) => cpioEntry(name, 0o40755));
  parts.push(cpioEntry('bin/busybox', 0o100755, readFileSync(busybox)));
  for (const name of applets) {
    parts.push(cpioEntry(`bin/${name}`, 0o120777, Buffer.from('busybox')));
  }
  for (const file of modules) {
    parts.push(cpioEntry(`lib/${basename(file)}`, 0o100644, readFileSync(file)));
  }
  const order = modules.map((file) => basename(file)).join('\n');
  parts.push(cpioEntry('lib/order', 0o100644, Buffer.from(`${order}\n`)));
  parts.push(cpioEntry('init', 0o100755, readFileSync(init)));
  parts.push(cpioEntry('dev/console', 0o20600, undefined, [5, 1]));
  parts.push(cpioEntry('TRAILER!!!', 0));
  return gzipSync(Buffer.concat(parts), { level: 6 });
}

function main() {
  const stamp = join(folder, '.stamp');
  const fresh = hashOf([join(root, 'tools/guest.mjs'), join(root, 'tools/guest-init.sh')]);
  if (tryRead(stamp) === fresh) return;
  rmSync(work, { recursive: true, force: true });
  mkdirSync(work, { recursive: true });
  const options = aptOptions();
  console.error('setup:guest: fetching the lists of i386 packages');
  // An index that is out of step does no harm while another one has the packages.
  const lists = spawnSync('apt-get', [...options, '-q', 'update'], { encoding: 'utf8' });
  if (lists.error !== undefined) throw new Refusal(`apt-get cannot run: ${lists.error.code}`);
  const kernel = kernelPackage(options);
  console.error(`setup:guest: fetching ${kernel}, busybox-static, grub-rescue-pc`);
  const out = unpack([kernel, 'busybox-static', 'grub-rescue-pc'], options);
  const release = kernel.replace('linux-image-', '');
  const modules = modulesInOrder(join(out, 'lib/modules', release));
  const initrd = makeInitrd(join(out, 'bin/busybox'), modules, join(root, 'tools/guest-init.sh'));
  writeFileSync(join(folder, 'initrd.img'), initrd);
  copyFileSync(join(out, `boot/vmlinuz-${release}`), join(folder, 'vmlinuz'));
  for (const name of ['grub-rescue-cdrom.iso', 'grub-rescue-floppy.img']) {
    copyFileSync(join(out, 'usr/lib/grub-rescue', name), join(folder, name));
  }
  rmSync(work, { recursive: true, force: true });
  writeAtomically(stamp, fresh);
  console.error(`setup:guest: ${release} with ${modules.length} modules is in .cache/guest`);
}

try {
  main();
} catch (e) {
  if (!(e instanceof Refusal)) throw e;
  const left = existsSync(join(folder, '.stamp')) ? ' (an older one stays)' : '';
  console.error(`setup:guest: ${e.message}\nGuests for tests cannot be set up here${left}.`);
  process.exitCode = 1;
}
