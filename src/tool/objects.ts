/**
 * `--object`: things that options refer to by id: secrets (passphrases, keys), throttle
 * groups, credentials and access lists; loop threads are accepted and mean nothing here.
 */
import { readFileSync } from 'node:fs';
import { BlockError, errorText } from '../block/errors.js';
import { isObject } from '../block/node-options.js';
import { toHostError } from '../host/node/errors.js';
import { parseJson } from '../lib/json-text.js';
import { isJsonArgument, parseKeyval } from '../options/keyval.js';
import { optIdentifier } from '../options/opt-values.js';
import { OptionError } from '../options/option-error.js';
import type { Decl, Infer } from '../options/schema.js';
import { parseValue } from '../options/schema.js';
import { objectKinds, secretOptions } from '../block/object-options.js';
import { ThrottleGroup, throttleConfig, throttleLimits } from '../block/throttle-group.js';
import { nodeHost } from '../host/node/index.js';
import type { TlsCredentials } from '../host/socket.js';
import type { ObjectProperty } from '../monitor/objects.js';
import { tryObjectHelp } from './daemon/object-help.js';
import type { Authorization, NetworkObject } from './network-objects.js';
import { checkLoop, propertiesOf, throttleGroupProperties } from './object-properties.js';
import { Answer } from './program.js';

type SecretOptions = Infer<typeof secretOptions>;

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

/** Kinds that are accepted by their options alone: one loop serves a program. */
const loopKinds: Readonly<Record<string, Decl>> = {
  iothread: objectKinds.iothread,
  'main-loop': objectKinds['main-loop'],
};

/** What a program can make. */
export interface ObjectsOptions {
  /** Whether `iothread` is a kind: the programs for one image have none, as QEMU's. */
  readonly iothreads?: boolean;
}

/** Throws the Answer when `text` asks which objects or which of their options there are. */
export function answerObjectHelp(text: string, { iothreads = false }: ObjectsOptions = {}): void {
  const answer = isJsonArgument(text) ? undefined : tryObjectHelp(text, iothreads);
  if (answer !== undefined) throw new Answer(answer);
}

/** The objects of one run of a program. */
export class ToolObjects {
  readonly throttleGroups = new Map<string, ThrottleGroup>();
  readonly #secrets = new Map<string, Uint8Array>();
  /** Kind by id, in the order in which they were made. */
  readonly #kinds = new Map<string, string>();
  readonly #properties = new Map<string, readonly ObjectProperty[]>();
  readonly #network = new Map<string, NetworkObject>();
  readonly #options: ObjectsOptions;

  constructor(options: ObjectsOptions = {}) {
    this.#options = options;
  }

  /** Creates what one `--object` argument describes. Throws OptionError, BlockError, Answer. */
  async add(text: string): Promise<void> {
    answerObjectHelp(text, this.#options);
    const isJson = isJsonArgument(text);
    const given = isJson ? parseJson(text) : keyval(text);
    if (!isObject(given)) throw new OptionError('Invalid parameter type, expected: object');
    await this.create(given, isJson ? 'qmp' : 'keyval');
  }

  /** Creates an object of options. Throws OptionError or BlockError; then there is none. */
  async create(given: Readonly<Record<string, unknown>>, from: 'qmp' | 'keyval'): Promise<void> {
    const { 'qom-type': kind, id, ...rest } = given;
    if (typeof kind !== 'string') throw new OptionError("Parameter 'qom-type' is missing");
    const isKnown = Object.hasOwn(objectKinds, kind) || networkKinds.has(kind);
    if (!isKnown) {
      throw new OptionError(`Parameter 'qom-type' does not accept value '${kind}'`);
    }
    if (typeof id !== 'string') throw new OptionError("Parameter 'id' is missing");
    if (kind === 'iothread' && this.#options.iothreads !== true) {
      throw new OptionError(`invalid object type: ${kind}`);
    }
    optIdentifier('id', id);
    if (this.#kinds.has(id)) {
      throw new OptionError(
        `attempt to add duplicate property '${id}' to object (type 'container')`,
      );
    }
    this.#properties.set(id, await this.#make(kind, id, rest, from));
    this.#kinds.set(id, kind);
  }

  async #make(
    kind: string,
    id: string,
    rest: Record<string, unknown>,
    from: 'qmp' | 'keyval',
  ): Promise<readonly ObjectProperty[]> {
    const loop = loopKinds[kind];
    if (loop !== undefined) {
      const values = parseValue(loop, rest, { from }) as Record<string, unknown>;
      checkLoop(values);
      if (kind === 'main-loop' && [...this.#kinds.values()].includes(kind)) {
        throw new BlockError('EINVAL', 'only one main-loop instance allowed');
      }
      return propertiesOf(loop, values, checkLoop);
    }
    if (kind === 'secret') {
      const values = parseValue(secretOptions, rest, { from });
      this.#secrets.set(id, await this.#load(values));
      return propertiesOf(secretOptions, values);
    }
    if (kind === 'throttle-group') {
      const group = makeThrottleGroup(id, rest, from);
      this.throttleGroups.set(id, group);
      return throttleGroupProperties(group);
    }
    const { createNetworkObject } = await import('./network-objects.js');
    const find = (name: string): Promise<Uint8Array> => this.secret(name);
    const made = await createNetworkObject(kind, id, rest, from, find);
    this.#network.set(id, made);
    return made.properties;
  }

  /** Deletes an object. Throws BlockError when there is none, or when nodes use it. */
  remove(id: string): void {
    const kind = this.#kinds.get(id);
    if (kind === undefined) throw new BlockError('ENOENT', `object '${id}' not found`);
    if ((this.throttleGroups.get(id)?.memberCount ?? 0) > 0) {
      throw new BlockError('EBUSY', `object '${id}' is in use, can not be deleted`);
    }
    for (const each of [
      this.#kinds,
      this.#properties,
      this.#secrets,
      this.#network,
      this.throttleGroups,
    ]) {
      each.delete(id);
    }
  }

  properties(id: string): readonly ObjectProperty[] {
    return this.#properties.get(id) ?? [];
  }

  /** Ids and kinds of all objects, the oldest first. */
  list(): readonly (readonly [id: string, kind: string])[] {
    return [...this.#kinds];
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
      const other = this.#kinds.has(id);
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

/** A group with the limits that are given nested (`limits`) or flat (`x-iops-total`). */
function makeThrottleGroup(
  id: string,
  rest: Record<string, unknown>,
  from: 'qmp' | 'keyval',
): ThrottleGroup {
  const given = parseValue(objectKinds['throttle-group'], rest, { from });
  const { limits: nested, ...flat } = given;
  const limits: Record<string, unknown> = isObject(nested) ? { ...nested } : {};
  for (const [name, value] of Object.entries(flat)) {
    if (typeof value === 'number' && value < 0) {
      throw new BlockError('EINVAL', 'Property values cannot be negative');
    }
    limits[name.slice('x-'.length)] = value;
  }
  const config = throttleConfig(parseValue(throttleLimits, limits, { from: 'qmp' }));
  return new ThrottleGroup(id, nodeHost().clock, config);
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
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(text)) {
    throw new BlockError('EINVAL', 'Base64 data contains invalid characters');
  }
  // As QEMU's: a group of less than four at the end gives nothing.
  const whole = text.slice(0, text.length - (text.length % 4));
  return new Uint8Array(Buffer.from(whole, 'base64'));
}
