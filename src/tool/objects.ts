/**
 * `--object`: things that options refer to by id. A tool that opens images needs secrets
 * (passphrases, keys); loop threads are accepted and mean nothing here.
 */
import { readFileSync } from 'node:fs';
import { BlockError, errorText } from '../block/errors.js';
import { isObject } from '../block/node-options.js';
import { toHostError } from '../host/node/errors.js';
import { parseJson } from '../lib/json-text.js';
import { isJsonArgument, parseKeyval } from '../options/keyval.js';
import { optIdentifier } from '../options/opt-values.js';
import { OptionError } from '../options/option-error.js';
import type { Infer } from '../options/schema.js';
import { parseValue, t } from '../options/schema.js';
import type { TlsCredentials } from '../host/socket.js';
import type { Authorization, NetworkObject } from './network-objects.js';

const secretOptions = t.struct('SecretProperties', {
  data: t.optional(t.str({ doc: 'the secret itself', secret: true })),
  file: t.optional(t.str({ doc: 'file that holds the secret' })),
  format: t.enumOf('raw', 'base64', { default: 'raw', doc: 'how data or file are written' }),
  keyid: t.optional(t.str({ doc: 'secret with the AES-256 key that decrypts this one' })),
  iv: t.optional(t.str({ doc: 'initialization vector of that encryption, in base64' })),
});

type SecretOptions = Infer<typeof secretOptions>;

/** Kinds of object that are accepted and do nothing: one loop serves a tool. */
const ignoredKinds = new Set(['iothread', 'main-loop']);

/** Kinds for connections; network-objects.ts makes them, or says why it cannot. */
const networkKinds = new Set([
  'tls-creds-x509',
  'tls-creds-psk',
  'tls-creds-anon',
  'authz-simple',
  'authz-list',
  'authz-list-file',
  'authz-pam',
]);

/** The objects of one run of a tool. */
export class ToolObjects {
  readonly #secrets = new Map<string, Uint8Array>();
  readonly #ids = new Set<string>();
  readonly #network = new Map<string, NetworkObject>();

  /** Creates what one `--object` argument describes. Throws OptionError or BlockError. */
  async add(text: string): Promise<void> {
    const given = isJsonArgument(text) ? parseJson(text) : keyval(text);
    if (!isObject(given)) throw new OptionError('Invalid parameter type, expected: object');
    const { 'qom-type': kind, id, ...rest } = { ...given };
    if (typeof kind !== 'string') throw new OptionError("Parameter 'qom-type' is missing");
    if (kind !== 'secret' && !ignoredKinds.has(kind) && !networkKinds.has(kind)) {
      throw new OptionError(`Parameter 'qom-type' does not accept value '${kind}'`);
    }
    if (typeof id !== 'string') throw new OptionError("Parameter 'id' is missing");
    optIdentifier('id', id);
    if (this.#ids.has(id)) {
      throw new OptionError(
        `attempt to add duplicate property '${id}' to object (type 'container')`,
      );
    }
    const from = isJsonArgument(text) ? 'qmp' : 'keyval';
    if (networkKinds.has(kind)) {
      const { createNetworkObject } = await import('./network-objects.js');
      const find = (name: string): Promise<Uint8Array> => this.secret(name);
      this.#network.set(id, await createNetworkObject(kind, id, rest, from, find));
    }
    if (kind === 'secret') {
      this.#secrets.set(id, await this.#load(parseValue(secretOptions, rest, { from })));
    }
    this.#ids.add(id);
  }

  /** The bytes of a secret. Throws BlockError with QEMU's text. */
  async secret(id: string): Promise<Uint8Array> {
    const found = this.#secrets.get(id);
    if (found === undefined) throw new BlockError('ENOENT', `No secret with id '${id}'`);
    return found;
  }

  /** TLS credentials for one end of a connection. Throws BlockError with QEMU's text. */
  async tlsCredentials(id: string, endpoint: 'client' | 'server'): Promise<TlsCredentials> {
    const found = this.#network.get(id)?.tls;
    if (found === undefined) {
      const other = this.#ids.has(id);
      const text = other
        ? `Object with id '${id}' is not TLS credentials`
        : `No TLS credentials with id '${id}'`;
      throw new BlockError('EINVAL', text);
    }
    if (found.endpoint !== endpoint) {
      throw new BlockError('EINVAL', `Expected TLS credentials for a ${endpoint} endpoint`);
    }
    return found;
  }

  /** An access list; undefined when no object of this id is one. */
  tryAuthorization(id: string): Authorization | undefined {
    return this.#network.get(id)?.authz;
  }

  async #load(options: SecretOptions): Promise<Uint8Array> {
    const stored = readStored(options);
    if (options.keyid === undefined) return decode(stored, options.format);
    const { createDecipheriv } = await import('node:crypto');
    const key = await this.secret(options.keyid);
    if (key.byteLength !== 32) {
      throw new BlockError('EINVAL', 'Key should be 32 bytes in length');
    }
    if (options.iv === undefined)
      throw new BlockError('EINVAL', 'IV is required to decrypt secret');
    const iv = Buffer.from(options.iv, 'base64');
    if (iv.byteLength !== 16) throw new BlockError('EINVAL', 'IV should be 16 bytes in length');
    const decipher = createDecipheriv('aes-256-cbc', key, iv);
    const encrypted = options.format === 'base64' ? decode(stored, 'base64') : stored;
    try {
      return new Uint8Array(Buffer.concat([decipher.update(encrypted), decipher.final()]));
    } catch (e) {
      throw new BlockError('EINVAL', 'Incorrect number of padding bytes found on decrypted data', {
        cause: e,
      });
    }
  }
}

function keyval(text: string): Record<string, unknown> {
  return parseKeyval(text, 'qom-type').value;
}

function readStored(options: SecretOptions): Uint8Array {
  const { data, file } = options;
  if (data !== undefined && file !== undefined) {
    throw new BlockError('EINVAL', "'file' and 'data' are mutually exclusive");
  }
  if (file !== undefined) {
    try {
      return new Uint8Array(readFileSync(file));
    } catch (e) {
      const cause = toHostError(e);
      throw new BlockError(
        cause.code,
        `Unable to read ${file}: Failed to open file “${file}”: ${errorText(cause)}`,
        { cause },
      );
    }
  }
  if (data === undefined)
    throw new BlockError('EINVAL', "Either 'file' or 'data' must be provided");
  return new TextEncoder().encode(data);
}

function decode(stored: Uint8Array, format: 'raw' | 'base64'): Uint8Array {
  if (format === 'raw') return stored;
  const text = new TextDecoder('latin1').decode(stored).replace(/\s+/g, '');
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(text) || text.length % 4 !== 0) {
    throw new BlockError('EINVAL', 'Base64 data contains invalid characters');
  }
  return new Uint8Array(Buffer.from(text, 'base64'));
}
