/** The files that a creation makes: closed when all is well, removed when not. */
import type { Backend } from './backend.js';
import type { CreateContext } from './driver.js';

/** The files of one creation. */
export class MadeFiles {
  readonly #context: CreateContext;
  readonly #open: Backend[] = [];
  readonly #paths: string[] = [];

  constructor(context: CreateContext) {
    this.#context = context;
  }

  async create(filename?: string): Promise<Backend> {
    const file = await this.#context.createFile(0, filename);
    this.#open.push(file);
    const path = file.node.instance.exactFilename?.();
    const isOurs = this.#context.keepsFiles !== true && file.node.driver.name === 'file';
    if (isOurs && path !== undefined) this.#paths.push(path);
    return file;
  }

  /** Nobody has to flush an image that was made, to find it after a power cut. */
  async flush(): Promise<void> {
    for (const file of this.#open) await file.flush();
  }

  async close(): Promise<void> {
    for (const file of this.#open.splice(0).reverse()) await file.close();
  }

  /** After a failure: nothing is left behind, as far as that can be done. */
  async remove(): Promise<void> {
    await this.close().catch(() => undefined);
    const { files } = this.#context.host;
    for (const path of this.#paths) await files?.unlink(path).catch(() => undefined);
  }
}
