/**
 * `--object` for connections: TLS credentials (`tls-creds-x509`, `tls-creds-psk`) and access
 * lists (`authz-simple`, `authz-list`, `authz-list-file`). Loaded when one is asked for.
 */
import { X509Certificate } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { BlockError, errorText } from '../block/errors.js';
import { toHostError } from '../host/node/errors.js';
import type { TlsCredentials } from '../host/socket.js';
import type { AccessList } from '../lib/access-list.js';
import { isAllowed } from '../lib/access-list.js';
import { parseJson } from '../lib/json-text.js';
import type { ObjectProperty } from '../monitor/objects.js';
import { OptionError } from '../options/option-error.js';
import type { Infer } from '../options/schema.js';
import { parseValue } from '../options/schema.js';
import {
  listFileOptions,
  listOptions,
  pskOptions,
  simpleOptions,
  x509Options,
} from '../block/object-options.js';
import { propertiesOf } from './object-properties.js';

/** Says whether a TLS identity may connect. */
export type Authorization = (identity: string) => boolean;

export interface NetworkObject {
  readonly tls?: TlsCredentials;
  readonly authz?: Authorization;
  readonly properties: readonly ObjectProperty[];
}

type FindSecret = (id: string) => Promise<Uint8Array>;

/** What is refused, and why. */
const refused: Readonly<Record<string, string>> = {
  'tls-creds-anon':
    'tls-creds-anon is not supported: its ciphers prove neither end to the other and are not ' +
    'built into this TLS library; use tls-creds-x509 or tls-creds-psk',
  'authz-pam': 'authz-pam is not supported: there is no access to PAM; use authz-list-file',
};

/** Access lists may be changed to all that their options allow. */
const allowAll = (): void => undefined;

/** Makes an object for connections. Throws OptionError or BlockError. */
export async function createNetworkObject(
  kind: string,
  id: string,
  given: Record<string, unknown>,
  from: 'qmp' | 'keyval',
  secret: FindSecret,
): Promise<NetworkObject> {
  switch (kind) {
    case 'tls-creds-x509': {
      const values = parseValue(x509Options, given, { from });
      return { tls: await x509(values, secret), properties: propertiesOf(x509Options, values) };
    }
    case 'tls-creds-psk': {
      const values = parseValue(pskOptions, given, { from });
      return { tls: psk(values), properties: propertiesOf(pskOptions, values) };
    }
    case 'authz-simple': {
      const values = parseValue(simpleOptions, given, { from });
      const properties = propertiesOf(simpleOptions, values, allowAll);
      return { authz: (name) => name === values.identity, properties };
    }
    case 'authz-list': {
      const list = parseValue(listOptions, given, { from });
      const properties = propertiesOf(listOptions, list, allowAll);
      return { authz: (name) => isAllowed(list, name), properties };
    }
    case 'authz-list-file': {
      const values = parseValue(listFileOptions, given, { from });
      return { authz: fromFile(values), properties: propertiesOf(listFileOptions, values) };
    }
    default:
      throw new OptionError(refused[kind] ?? `invalid object type: ${kind}`, id);
  }
}

function read(path: string): Uint8Array {
  try {
    return new Uint8Array(readFileSync(path));
  } catch (e) {
    const cause = toHostError(e);
    const text = `Unable to access credentials ${path}: ${errorText(cause)}`;
    throw new BlockError(cause.code, text, { cause });
  }
}

function tryRead(path: string): Uint8Array | undefined {
  try {
    return new Uint8Array(readFileSync(path));
  } catch (e) {
    if (toHostError(e).code === 'ENOENT') return undefined;
    return read(path);
  }
}

function folderOf(options: { dir?: string | undefined; priority?: string | undefined }): string {
  const { dir, priority } = options;
  if (priority !== undefined && priority !== 'NORMAL') {
    throw new OptionError(
      `Parameter 'priority' does not accept value '${priority}': ` +
        'priority strings are those of GnuTLS, which is not in use; only NORMAL is known',
      'priority',
    );
  }
  if (dir === undefined) throw new BlockError('EINVAL', "Missing 'dir' property value");
  return dir;
}

async function x509(
  options: Infer<typeof x509Options>,
  secret: FindSecret,
): Promise<TlsCredentials> {
  const dir = folderOf(options);
  const { endpoint } = options;
  const ca = read(`${dir}/ca-cert.pem`);
  const crl = tryRead(`${dir}/ca-crl.pem`);
  const load = endpoint === 'server' ? read : tryRead;
  const certPath = `${dir}/${endpoint}-cert.pem`;
  const cert = load(certPath);
  const key = load(`${dir}/${endpoint}-key.pem`);
  if ((cert === undefined) !== (key === undefined)) {
    throw new BlockError('EINVAL', `Certificate and key of the ${endpoint} belong together`);
  }
  if (options['sanity-check']) {
    checkCertificate(`${dir}/ca-cert.pem`, ca, true);
    if (cert !== undefined) checkCertificate(certPath, cert, false);
  }
  const id = options.passwordid;
  const passphrase =
    id === undefined ? {} : { passphrase: new TextDecoder().decode(await secret(id)) };
  const own = cert === undefined || key === undefined ? {} : { cert, key, ...passphrase };
  return {
    endpoint,
    x509: { ca, ...(crl === undefined ? {} : { crl }), ...own },
    verifyPeer: options['verify-peer'],
  };
}

/** Tells at start what would make each handshake fail later. */
function checkCertificate(path: string, pem: Uint8Array, isCa: boolean): void {
  let certificate: X509Certificate;
  try {
    certificate = new X509Certificate(pem);
  } catch (e) {
    throw new BlockError('EINVAL', `Unable to import certificate ${path}`, { cause: e });
  }
  const now = Date.now();
  if (Date.parse(certificate.validTo) < now) {
    throw new BlockError('EINVAL', `The certificate ${path} has expired`);
  }
  if (Date.parse(certificate.validFrom) > now) {
    throw new BlockError('EINVAL', `The certificate ${path} is not yet active`);
  }
  if (certificate.ca !== isCa) {
    const shows = isCa ? 'do not show a CA' : 'show a CA, but we need one for a ';
    const rest = isCa ? '' : path.endsWith('server-cert.pem') ? 'server' : 'client';
    const text = `The certificate ${path} basic constraints ${shows}${rest}`;
    throw new BlockError('EINVAL', text);
  }
}

function psk(options: Infer<typeof pskOptions>): TlsCredentials {
  const path = `${folderOf(options)}/keys.psk`;
  const keys = new Map<string, Uint8Array>();
  for (const line of new TextDecoder().decode(read(path)).split('\n')) {
    const m = /^([^:#]+):([0-9a-fA-F]+)\s*$/.exec(line);
    if (m !== null) keys.set(m[1] ?? '', new Uint8Array(Buffer.from(m[2] ?? '', 'hex')));
  }
  const { endpoint, username } = options;
  if (endpoint === 'server') return { endpoint, psk: { keys }, verifyPeer: true };
  const key = keys.get(username);
  if (key === undefined) throw new BlockError('EINVAL', `Username ${username} not found`);
  return { endpoint, psk: { keys: new Map([[username, key]]) }, verifyPeer: true };
}

function fromFile(options: Infer<typeof listFileOptions>): Authorization {
  const { filename, refresh } = options;
  const load = (): AccessList => {
    let text: string;
    try {
      text = readFileSync(filename, 'utf8');
    } catch (e) {
      const cause = toHostError(e);
      const message = `Unable to read '${filename}': ${errorText(cause)}`;
      throw new BlockError(cause.code, message, { cause });
    }
    return parseValue(listOptions, parseJson(text), { from: 'qmp' });
  };
  const mark = (): string => {
    const stat = statSync(filename, { bigint: true, throwIfNoEntry: false });
    return stat === undefined ? '' : `${stat.ino} ${stat.size} ${stat.mtimeNs}`;
  };
  let seen = mark();
  let list = load();
  return (name) => {
    const now = refresh ? mark() : seen;
    if (now !== seen) {
      try {
        list = load();
        seen = now;
      } catch {
        // A list that cannot be read lets nobody in until it can be again.
        return false;
      }
    }
    return isAllowed(list, name);
  };
}
