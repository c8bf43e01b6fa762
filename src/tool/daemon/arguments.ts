/** The command line of `vdisk-storage-daemon`: qemu-storage-daemon's grammar. */
import { command } from '../../options/getopt.js';
import type { Example } from '../reference.js';

/** What people mostly want, without the program's name. */
export const daemonExamples: readonly Example[] = [
  [
    '--blockdev driver=file,filename=disk.img,node-name=disk --nbd-server ' +
      'addr.type=unix,addr.path=nbd.sock --export type=nbd,id=e,node-name=disk,writable=on',
    'serve a raw image over NBD',
  ],
  [
    '--chardev socket,path=qmp.sock,server=on,wait=off,id=c --monitor chardev=c',
    'do nothing but listen for commands on a socket',
  ],
  ['--chardev stdio,id=c --monitor chardev=c', 'take commands from the terminal'],
];

export const daemonSpec = command({
  name: 'vdisk-storage-daemon',
  summary: 'open and export disk images under the control of a QMP monitor',
  options: {
    help: { short: 'h', long: 'help', doc: 'show this text' },
    trace: {
      short: 'T',
      long: 'trace',
      arg: 'PATTERN',
      doc: 'accepted for compatibility; there are no trace events',
    },
    version: { short: 'V', long: 'version', doc: 'show the version' },
    blockdev: {
      long: 'blockdev',
      arg: 'NODE',
      repeat: true,
      doc:
        'open a node: [driver=]DRIVER,node-name=NAME,… with the options of the driver, dotted or ' +
        'as JSON, as blockdev-add takes them',
    },
    chardev: {
      long: 'chardev',
      arg: 'DEVICE',
      repeat: true,
      doc:
        'where monitors listen: socket,id=ID,path=PATH,server=on,wait=off (or with host=HOST, ' +
        'port=PORT, or fd=NUMBER in place of path); stdio,id=ID; null,id=ID. Unix sockets have ' +
        'mode 0600 unless mode=OCTAL says otherwise',
    },
    daemonize: {
      long: 'daemonize',
      doc: 'return when everything is ready, and go on in the background',
    },
    export: {
      long: 'export',
      arg: 'EXPORT',
      repeat: true,
      doc:
        'export a node over NBD: type=nbd,id=ID,node-name=NODE, and if need be name=NAME, ' +
        'writable=on, bitmaps.0=NAME; wants --nbd-server before it',
    },
    monitor: {
      long: 'monitor',
      arg: 'MONITOR',
      repeat: true,
      doc: 'serve QMP on a character device: chardev=ID, and if need be pretty=on',
    },
    nbdServer: {
      long: 'nbd-server',
      arg: 'SERVER',
      doc:
        'start an NBD server: addr.type=inet,addr.host=HOST,addr.port=PORT or addr.type=unix,' +
        'addr.path=PATH, and if need be tls-creds=ID, tls-authz=ID, max-connections=N',
    },
    object: {
      long: 'object',
      arg: 'OBJDEF',
      repeat: true,
      doc:
        'object that options refer to: secret, throttle-group, tls-creds-x509, tls-creds-psk, ' +
        'authz-list, iothread, …; help lists them, KIND,help their properties',
    },
    pidfile: {
      long: 'pidfile',
      arg: 'PATH',
      complete: 'file',
      doc: 'write the number of the process there when everything is ready',
    },
  },
});
