/** TLS over a connected socket, with certificates or pre-shared keys. */
import type { Socket } from 'node:net';
import { isIP } from 'node:net';
import type { TLSSocket } from 'node:tls';
import { connect as tlsConnect, createSecureContext, TLSSocket as TlsSocket } from 'node:tls';
import { HostError } from '../file.js';
import type { TlsCredentials, TlsOptions } from '../socket.js';

/**
 * Cipher suites that OpenSSL offers for pre-shared keys: those with forward secrecy first, and of
 * them the one that processors have instructions for (GnuTLS' ChaCha20 is ten times slower).
 */
const PSK_CIPHERS = 'DHE-PSK-AES256-GCM-SHA384:ECDHE-PSK-CHACHA20-POLY1305:PSK';

function buffer(bytes: Uint8Array | undefined): Buffer | undefined {
  return bytes === undefined ? undefined : Buffer.from(bytes);
}

const pskSettings = { ciphers: PSK_CIPHERS, dhparam: 'auto', maxVersion: 'TLSv1.2' } as const;

function contextOf(c: TlsCredentials): ReturnType<typeof createSecureContext> {
  const { x509 } = c;
  return createSecureContext({
    ...(x509?.ca === undefined ? {} : { ca: buffer(x509.ca) }),
    ...(x509?.crl === undefined ? {} : { crl: buffer(x509.crl) }),
    ...(x509?.cert === undefined ? {} : { cert: buffer(x509.cert) }),
    ...(x509?.key === undefined ? {} : { key: buffer(x509.key) }),
    ...(x509?.passphrase === undefined ? {} : { passphrase: x509.passphrase }),
    // Node's callbacks for pre-shared keys are those of TLS 1.2.
    ...(c.psk === undefined ? {} : pskSettings),
    minVersion: 'TLSv1.2',
    honorCipherOrder: true,
  });
}

function identityOf(socket: TLSSocket, psk: string | undefined): string | undefined {
  if (psk !== undefined) return psk;
  const subject = socket.getPeerX509Certificate()?.subject;
  // RFC 4514 order: the most specific name first, joined by commas, as access lists write it.
  return subject?.split('\n').reverse().join(',');
}

interface Secured {
  readonly secure: Socket;
  readonly identity: string | undefined;
}

/** Runs the handshake; rejects with HostError when it fails. */
export async function wrapTls(socket: Socket, options: TlsOptions): Promise<Secured> {
  const { credentials, hostname } = options;
  const { psk, endpoint } = credentials;
  if (endpoint === 'client' && psk === undefined && hostname === undefined) {
    throw new HostError('EINVAL', 'No hostname for certificate validation');
  }
  let user: string | undefined;
  const secure =
    endpoint === 'server'
      ? serverSocket(socket, credentials, (name) => {
          user = name;
        })
      : tlsConnect({ ...clientOptions(options), socket, secureContext: contextOf(credentials) });
  return new Promise((resolve, reject) => {
    const fail = (error: Error): void => {
      secure.destroy();
      reject(handshakeError(error, hostname));
    };
    const closed = (): void => {
      fail(new Error('the peer closed the connection'));
    };
    secure.once('error', fail);
    secure.once('close', closed);
    secure.once(endpoint === 'server' ? 'secure' : 'secureConnect', () => {
      const failure = endpoint === 'server' ? refusal(secure, credentials) : undefined;
      if (failure !== undefined) {
        fail(failure);
        return;
      }
      secure.off('error', fail);
      secure.off('close', closed);
      resolve({ secure, identity: identityOf(secure, user) });
    });
  });
}

function handshakeError(error: Error, hostname: string | undefined): HostError {
  if ('code' in error && error.code === 'ERR_TLS_CERT_ALTNAME_INVALID') {
    return new HostError('EACCES', `Certificate does not match the hostname ${hostname ?? ''}`);
  }
  // OpenSSL's "0A…:error:0A00…:SSL routines:function:reason:file:line:" for people: the reason.
  const reason = /:SSL routines:[^:]*:([^:]+):/.exec(error.message)?.[1] ?? error.message;
  return new HostError('EPROTO', `TLS handshake failed: ${reason}`, { cause: error });
}

function serverSocket(
  socket: Socket,
  credentials: TlsCredentials,
  onUser: (name: string) => void,
): TLSSocket {
  const { psk, verifyPeer } = credentials;
  const common = { isServer: true, secureContext: contextOf(credentials) };
  if (psk !== undefined) {
    // Node takes the callback here too; its types know it for servers only.
    const withPsk = {
      ...common,
      pskCallback: (_socket: TLSSocket, name: string): Uint8Array | null => {
        onUser(name);
        return psk.keys.get(name) ?? null;
      },
    };
    return new TlsSocket(socket, withPsk);
  }
  // Who has no certificate, or one that does not do, is refused when the handshake is over.
  return new TlsSocket(socket, { ...common, requestCert: verifyPeer, rejectUnauthorized: false });
}

/** A server that demands certificates checks the outcome itself when it wraps a socket. */
function refusal(secure: TLSSocket, credentials: TlsCredentials): Error | undefined {
  if (credentials.psk !== undefined || !credentials.verifyPeer) return undefined;
  if (secure.getPeerX509Certificate() === undefined) {
    return new Error('the client sent no certificate');
  }
  // The only place where Node keeps the result of OpenSSL's check of a client.
  const { ssl } = secure as TLSSocket & { ssl?: { verifyError(): Error | null } };
  if (ssl === undefined) return new Error('the connection broke');
  const problem = ssl.verifyError();
  return problem === null ? undefined : new Error(problem.message);
}

function clientOptions(options: TlsOptions): Record<string, unknown> {
  const { psk, verifyPeer } = options.credentials;
  if (psk !== undefined) {
    const [entry] = psk.keys;
    return {
      pskCallback: () => (entry === undefined ? null : { identity: entry[0], psk: entry[1] }),
      // Who knows the key is the server.
      checkServerIdentity: () => undefined,
    };
  }
  const name = options.hostname ?? '';
  return {
    rejectUnauthorized: verifyPeer,
    host: name,
    ...(isIP(name) === 0 ? { servername: name } : {}),
  };
}
