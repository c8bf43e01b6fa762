/** Serial ports of the guest: where `-serial` connects them to. */
import { closeSync, openSync, writeSync } from 'node:fs';
import { toHostError } from '../../host/node/errors.js';
import type { ByteStream } from '../../host/socket.js';
import type { SerialPort } from '../../machine/v86/serial.js';
import { OptionError } from '../../options/option-error.js';

/** Most bytes of a guest that wait for a peer; more are lost, as on a wire. */
const MOST_WAITING = 256 * 1024;

/** Connects a port to a peer; `gone` is called when that has left. */
export function connectSerial(port: SerialPort, stream: ByteStream, gone: () => void): void {
  let bytes: number[] = [];
  let isBlocked = false;
  const flush = (): void => {
    if (isBlocked || bytes.length === 0) return;
    const piece = new Uint8Array(bytes);
    bytes = [];
    isBlocked = !stream.write([piece]);
  };
  port.onByte = (byte): void => {
    if (bytes.length >= MOST_WAITING) return;
    bytes.push(byte);
    // One piece for what the guest sends in one slice of its time.
    if (bytes.length === 1) queueMicrotask(flush);
  };
  stream.onDrain = (): void => {
    isBlocked = false;
    flush();
  };
  stream.onData = (piece): void => {
    if (!port.send(piece)) stream.pause();
  };
  port.onDrain = (): void => {
    stream.resume();
  };
  stream.onClose = (error): void => {
    // The end of standard input is none of standard output.
    if (stream.peerName === 'stdio' && error === undefined) return;
    port.onByte = (): void => undefined;
    void stream.end();
    gone();
  };
}

/** `file:PATH`: what the guest sends goes to a file; returns what closes it. Throws OptionError. */
export function serialToFile(port: SerialPort, path: string): () => void {
  let fd: number;
  try {
    fd = openSync(path, 'w', 0o600);
  } catch (e) {
    throw new OptionError(`Could not open '${path}': ${toHostError(e).message}`);
  }
  let bytes: number[] = [];
  const flush = (): void => {
    const piece = new Uint8Array(bytes);
    bytes = [];
    for (let at = 0; at < piece.length;) at += writeSync(fd, piece, at);
  };
  port.onByte = (byte): void => {
    bytes.push(byte);
    if (bytes.length === 1) queueMicrotask(flush);
  };
  return () => {
    port.onByte = (): void => undefined;
    flush();
    closeSync(fd);
  };
}
