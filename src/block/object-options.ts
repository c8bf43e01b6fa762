/**
 * Objects that options refer to by id (`--object`, `object-add`): QMP's ObjectOptions, the
 * declaration of each kind. Whoever runs on a host with files makes them (tool/objects.ts).
 */
import type { Decl } from '../options/schema.js';
import { fieldsOf, t } from '../options/schema.js';
import { throttleLimits } from './throttle-group.js';

export const secretOptions = t.struct('SecretProperties', {
  data: t.optional(t.str({ doc: 'the secret itself', secret: true })),
  file: t.optional(t.str({ doc: 'file that holds the secret' })),
  format: t.enumOf('raw', 'base64', {
    name: 'QCryptoSecretFormat',
    default: 'raw',
    doc: 'how data or file are written',
  }),
  keyid: t.optional(t.str({ doc: 'secret with the AES-256 key that decrypts this one' })),
  iv: t.optional(t.str({ doc: 'initialization vector of that encryption, in base64' })),
});

const credentialFields = {
  dir: t.optional(t.str({ doc: 'folder with the keys and certificates' })),
  endpoint: t.enumOf('client', 'server', {
    name: 'QCryptoTLSCredsEndpoint',
    default: 'client',
    doc: 'which end of the connection they are for',
  }),
  'verify-peer': t.bool({ default: true, doc: 'demand and check the certificate of the peer' }),
  priority: t.optional(t.str({ doc: 'GnuTLS priority string; only NORMAL means anything here' })),
};

export const x509Options = t.struct('TlsCredsX509Properties', {
  ...credentialFields,
  'sanity-check': t.bool({ default: true, doc: 'check the certificates when they are loaded' }),
  passwordid: t.optional(t.str({ doc: 'secret that decrypts the private key' })),
});

export const pskOptions = t.struct('TlsCredsPskProperties', {
  ...credentialFields,
  username: t.str({ default: 'qemu', doc: 'whose key a client uses' }),
});

export const ruleOptions = t.struct('QAuthZListRule', {
  match: t.str({ doc: 'name or pattern' }),
  policy: t.enumOf('deny', 'allow', {
    name: 'QAuthZListPolicy',
    doc: 'what happens to those that fit',
  }),
  format: t.enumOf('exact', 'glob', {
    name: 'QAuthZListFormat',
    default: 'exact',
    doc: 'how the name is compared',
  }),
});

export const listOptions = t.struct('AuthZListProperties', {
  policy: t.enumOf('deny', 'allow', {
    name: 'QAuthZListPolicy',
    default: 'deny',
    doc: 'what happens to those that fit no rule',
  }),
  rules: t.arrayOf(ruleOptions, { default: [], doc: 'rules; the first that fits decides' }),
});

export const listFileOptions = t.struct('AuthZListFileProperties', {
  filename: t.str({ doc: 'JSON file with policy and rules' }),
  refresh: t.bool({ default: true, doc: 'read the file again when it changed' }),
});

export const simpleOptions = t.struct('AuthZSimpleProperties', {
  identity: t.str({ doc: 'the one name that may connect' }),
});

/** The names of the limits with `x-` before them are the form without nesting. */
const flatLimits: Record<string, Decl> = {};
for (const [name, field] of Object.entries(fieldsOf(throttleLimits))) {
  flatLimits[`x-${name}`] = { ...field, meta: { ...field.meta, features: ['unstable'] } };
}

export const throttleGroupOptions = t.struct('ThrottleGroupProperties', {
  limits: t.optional(throttleLimits),
});

const loopFields = {
  'aio-max-batch': t.int({}, { default: 0, doc: 'accepted; one loop serves all here' }),
  'thread-pool-min': t.int({}, { default: 0, doc: 'accepted and of no effect' }),
  'thread-pool-max': t.int({}, { default: 64, doc: 'accepted and of no effect' }),
};

export const iothreadOptions = t.struct('IothreadProperties', {
  ...loopFields,
  'poll-max-ns': t.int({}, { default: 32768, doc: 'accepted and of no effect' }),
  'poll-grow': t.int({}, { default: 0, doc: 'accepted and of no effect' }),
  'poll-shrink': t.int({}, { default: 0, doc: 'accepted and of no effect' }),
});

/** Every kind of object with its properties. */
export const objectKinds = {
  'authz-list': listOptions,
  'authz-list-file': listFileOptions,
  'authz-simple': simpleOptions,
  iothread: iothreadOptions,
  'main-loop': t.struct('MainLoopProperties', loopFields),
  secret: secretOptions,
  'throttle-group': t.struct('ThrottleGroupProperties', {
    ...fieldsOf(throttleGroupOptions),
    ...flatLimits,
  }),
  'tls-creds-anon': t.struct('TlsCredsAnonProperties', credentialFields),
  'tls-creds-psk': pskOptions,
  'tls-creds-x509': x509Options,
} as const;

export type ObjectKind = keyof typeof objectKinds;

/** QMP's ObjectOptions. */
export const objectOptions = t.union('ObjectOptions', 'qom-type', objectKinds, {
  base: {
    'qom-type': t.enumOf(
      'authz-list',
      'authz-list-file',
      'authz-simple',
      'iothread',
      'main-loop',
      'secret',
      'throttle-group',
      'tls-creds-anon',
      'tls-creds-psk',
      'tls-creds-x509',
      { name: 'ObjectType' },
    ),
    id: t.str({ doc: 'name by which options refer to the object' }),
  },
});
