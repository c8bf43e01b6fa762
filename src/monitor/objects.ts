/** The port through which the monitor makes and removes objects (secrets, throttle groups, …). */
import type { TlsCredentials } from '../host/socket.js';

/** A property of an object or device, as `qom-list`, `qom-get` and `qom-set` have it. */
export interface ObjectProperty {
  readonly name: string;
  /** As QEMU calls it: `int`, `string`, the name of an enumeration or structure. */
  readonly type: string;
  /** Left out: it is not told. */
  readonly get?: () => unknown;
  /** Left out: it stays. Throws BlockError or OptionError; then nothing has changed. */
  readonly set?: (value: unknown) => void;
}

export interface Objects {
  /** Creates what an `--object` argument describes. Throws OptionError or BlockError. */
  add(text: string): Promise<void>;
  /** Creates an object of checked options. Throws OptionError or BlockError. */
  create(options: Readonly<Record<string, unknown>>, from: 'qmp' | 'keyval'): Promise<void>;
  /** Throws BlockError when there is none of this id, or when it is in use. */
  remove(id: string): void;
  /** None for an id that no object has. */
  properties(id: string): readonly ObjectProperty[];
  /** The oldest first. */
  list(): readonly (readonly [id: string, kind: string])[];
  /** Throws BlockError with QEMU's text. */
  tlsCredentials(id: string, endpoint: 'client' | 'server'): Promise<TlsCredentials>;
  tryAuthorization(id: string): ((identity: string) => boolean) | undefined;
}
