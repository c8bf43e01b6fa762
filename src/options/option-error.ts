/**
 * An option or argument that the user gave wrongly. `message` is QEMU's text where it has one;
 * `path` names the option with dots (`file.filename`, `children.0`), empty for the whole value.
 * `class` is QMP's error class. `hint` is what QEMU prints on lines of their own after the error
 * (error_append_hint); tools print it, QMP leaves it out.
 */
export class OptionError extends Error {
  override readonly name = 'OptionError';
  readonly path: string;
  readonly class = 'GenericError';
  readonly hint: string | undefined;

  constructor(message: string, path = '', hint?: string) {
    super(message);
    this.path = path;
    this.hint = hint;
  }
}
