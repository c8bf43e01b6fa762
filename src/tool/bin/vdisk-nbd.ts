import { basename } from 'node:path';
import { nbdMain } from '../nbd/main.js';

void nbdMain(basename(process.argv[1] ?? 'vdisk-nbd'), process.argv.slice(2)).then((status) => {
  process.exit(status);
});
