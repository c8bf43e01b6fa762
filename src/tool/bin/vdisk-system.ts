import { basename } from 'node:path';
import { systemMain } from '../system/main.js';

const name = basename(process.argv[1] ?? 'vdisk-system');
void systemMain(name, process.argv.slice(2)).then((status) => {
  process.exit(status);
});
