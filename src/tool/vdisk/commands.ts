/** What `vdisk` can do besides calling the other tools; loaded when it is called. */
import type { ImgCommand } from '../img/options.js';

interface Entry {
  readonly name: string;
  readonly summary: string;
  load(): Promise<ImgCommand>;
}

export const vdiskCommands: readonly Entry[] = [
  {
    name: 'compact',
    summary: 'give back what an image stores in vain, and shorten its file',
    load: async () => (await import('./compact.js')).compact,
  },
];
