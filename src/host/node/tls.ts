/** TLS over a connected socket, with certificates or pre-shared keys. */
import type { Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import { connect as tlsConnect, createSecureContext, TLSSocket as TlsSocket } from 'node:tls';
import type { TlsCredentials, TlsOptions } from '../socket.js';
import { toHostError } from './errors.js';

/** Cipher suites that OpenSSL offers for pre-shared keys with forward secrecy first. */
const PSK_CIPHERS = 'ECDHE-PSK-CHACHA20-POLY1305:DHE-PSK-AES256-GCM-SHA384:PSK';

function buffer(bytes: Uint8Array | undefined): Buffer | undefined {
  return bytes === undefined ? undefined : Buffer.from(bytes);
}

function contextOf(c: TlsCredentials): ReturnType<typeof createSecureContext> {
  const { x509 } = c;
  return createSecureContext({
    ...(x509?.ca === undefined ? {} : { ca: buffer(x509.ca) }),
    ...(x509?.crl === undefined ? {} : { crl: buffer(x509.crl) }),
    ...(x509?.cert === undefined ? {} : { cert: buffer(x509.cert) }),
    ...(x509?.key === undefined ? {} : { key: buffer(x509.key) }),
    ...(x509?.passphrase === undefined ? {} : { passphrase: x509.passphrase }),
    ...(c.psk === undefined ? {} : { ciphers: PSK_CIPHERS, maxVersion: 'TLSv1.2' as const }),
    minVersion: 'TLSv1.2',
  });
}

function identityOf(socket: TLSSocket, psk: string | undefined): string | undefined {
  if (psk !== undefined) return psk;
  const subject = socket.getPeerX509Certificate()?.subject;
  // RFC 4514 order: the most specific name first, joined by commas, as access lists write it.
  return subject?.split('\n').reverse().join(',');
}

/** Runs the handshake; rejects with HostError when it fails. */
export function wrapTls(
  socket: Socket,
  options: TlsOptions,
): Promise<{ secure: Socket; identity: string | undefined }> {
  const { credentials } = options;
  return new Promise((resolve, reject) => {
    let user: string | undefined;
    const secureContext = contextOf(credentials);
    const { psk } = credentials;
    const secure =
      credentials.endpoint === 'server'
        ? new TlsSocket(socket, {
            isServer: true,
            secureContext,
            requestCert: psk === undefined && credentials.verifyPeer,
            rejectUnauthorized: psk === undefined && credentials.verifyPeer,
            ...(psk === undefined
              ? {}
              : {
                  pskCallback: (_socket: TLSSocket, name: string): Uint8Array | null => {
                    user = name;
                    return psk.keys.get(name) ?? null;
                  },
                }),
          })
        : tlsConnect({ socket, secureContext, ...clientOptions(options) });
    const fail = (error: Error): void => {
      reject(toHostError(error));
    };
    secure.once('error', fail);
    secure.once('close', () => {
      fail(new Error('The peer closed the connection during the TLS handshake'));
    });
    const event = credentials.endpoint === 'server' ? 'secure' : 'secureConnect';
    secure.once(event, () => {
      const failure = credentials.endpoint === 'server' ? refusal(secure, credentials) : undefined;
      if (failure !== undefined) {
        secure.destroy();
        fail(failure);
        return;
      }
      secure.off('error', fail);
      resolve({ secure, identity: identityOf(secure, user) });
    });
  });
}

/** A server that demands certificates checks the outcome itself when it wraps a socket. */
function refusal(secure: TLSSocket, credentials: TlsCredentials): Error | undefined {
  if (credentials.psk !== undefined || !credentials.verifyPeer) return undefined;
  if (Object.keys(secure.getPeerCertificate()).length === 0) {
    return new Error('The client sent no certificate');
  }
  const { ssl } = secure as TLSSocket & { ssl?: { verifyError(): Error | null } };
  return ssl?.verifyError() ?? undefined;
}

function clientOptions(options: TlsOptions): Record<string, unknown> {
  const { psk, verifyPeer } = options.credentials;
  if (psk !== undefined) {
    const [entry] = psk.keys;
    return {
      pskCallback: () => (entry === undefined ? null : { identity: entry[0], psk: entry[1] }),
      checkServerIdentity: () => undefined,
    };
  }
  const name = options.hostname;
  return {
    rejectUnauthorized: verifyPeer,
    ...(name === undefined || /^[\d.:]+$/.test(name) ? {} : { servername: name }),
    ...(name === undefined ? { checkServerIdentity: () => undefined } : { host: name }),
  };
}
