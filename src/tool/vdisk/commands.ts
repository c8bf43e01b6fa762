/** What `vdisk` can do besides calling the other tools; loaded when it is called. */
import type { ImgCommand } from '../img/options.js';

interface Entry {
  readonly name: string;
  readonly summary: string;
  load(): Promise<ImgCommand>;
}

export const vdiskCommands: readonly Entry[] = [
  {
    name: 'explain',
    summary: 'tell what an image is, who uses it, and what is wrong with it',
    load: async () => (await import('./explain.js')).explain,
  },
  {
    name: 'compact',
    summary: 'give back what an image stores in vain, and shorten its file',
    load: async () => (await import('./compact.js')).compact,
  },
];
