import { basename } from 'node:path';
import { imgMain } from '../img/main.js';

void imgMain(basename(process.argv[1] ?? 'vdisk-img'), process.argv.slice(2)).then((status) => {
  process.exit(status);
});
