/** The port through which the monitor makes and removes objects (secrets, throttle groups, …). */
import type { TlsCredentials } from '../host/socket.js';

export interface Objects {
  /** Creates what an `--object` argument describes. Throws OptionError or BlockError. */
  add(text: string): Promise<void>;
  /** Creates an object of checked options. Throws OptionError or BlockError. */
  create(options: Readonly<Record<string, unknown>>, from: 'qmp' | 'keyval'): Promise<void>;
  /** Throws BlockError when there is none of this id, or when it is in use. */
  remove(id: string): void;
  /** A property of an object. Throws BlockError when there is no such object or property. */
  property(id: string, name: string): unknown;
  /** Changes it. Throws BlockError or OptionError; then nothing has changed. */
  setProperty(id: string, name: string, value: unknown): void;
  /** The oldest first. */
  list(): readonly (readonly [id: string, kind: string])[];
  /** Throws BlockError with QEMU's text. */
  tlsCredentials(id: string, endpoint: 'client' | 'server'): Promise<TlsCredentials>;
  tryAuthorization(id: string): ((identity: string) => boolean) | undefined;
}
