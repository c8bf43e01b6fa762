import { basename } from 'node:path';
import { main } from '../io/main.js';

void main(process.argv.slice(2), basename(process.argv[1] ?? 'vdisk-io')).then((status) => {
  process.exit(status);
});
