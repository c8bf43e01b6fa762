/** Standard output and error of a tool that runs in the test's process. */
import type { IoOutput } from '../../src/tool/io/output.js';

export class TextOutput implements IoOutput {
  stdout = '';
  stderr = '';

  out(text: string | Uint8Array): void {
    this.stdout += typeof text === 'string' ? text : new TextDecoder().decode(text);
  }

  err(text: string): void {
    this.stderr += text;
  }

  flush(): void {
    // Nothing is held back.
  }
}
