import { basename } from 'node:path';
import { umbrellaMain } from '../umbrella.js';

void umbrellaMain(basename(process.argv[1] ?? 'vdisk'), process.argv.slice(2)).then((status) => {
  process.exit(status);
});
