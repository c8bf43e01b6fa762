import { basename } from 'node:path';
import { daemonMain } from '../daemon/main.js';

const name = basename(process.argv[1] ?? 'vdisk-storage-daemon');
void daemonMain(name, process.argv.slice(2)).then((status) => {
  process.exit(status);
});
