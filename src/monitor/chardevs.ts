/**
 * Character devices of the monitor: where its clients come from.
 *
 * `--chardev socket,id=ID,path=PATH,server=on,wait=off`, `…,host=HOST,port=PORT`, `…,fd=NUMBER`,
 * `--chardev stdio,id=ID`, `--chardev null,id=ID`. A listening socket serves one client at a time;
 * others wait until it has left. Unix sockets are made with mode 0600 unless `mode=OCTAL` says
 * otherwise (an option of our own).
 */
import type { ByteStream, HostSockets, Listener, SocketAddress } from '../host/socket.js';
import { optBool, optIdentifier } from '../options/opt-values.js';
import { OptionError } from '../options/option-error.js';
import { splitOpts } from '../options/qemu-opts.js';
import { QmpError } from './qmp-error.js';

/** Serves one peer; calls `gone` when it has left. */
export type Frontend = (stream: ByteStream, gone: () => void) => void;

type ChardevKind = 'null' | 'socket' | 'stdio';

/** What `query-chardev` tells of a device. */
export interface Chardev {
  readonly id: string;
  readonly kind: ChardevKind;
  /** What is at the other end, as QEMU words it (`unix:/run/qmp,server=on`). */
  readonly filename: string;
  /** Somebody serves its peers. */
  readonly isTaken: boolean;
  /** From now on `frontend` serves the peers. Throws QmpError when another one does. */
  attach(frontend: Frontend): void;
  close(): Promise<void>;
}

/** Most peers that wait for their turn; one more is closed at once. */
const MAX_WAITING = 16;
/** Mode of a Unix socket's file: its owner alone. */
const PRIVATE = 0o600;

/** Kinds of device that QEMU has, in the order of its list. */
export const chardevBackends = [
  'hub',
  'serial',
  'mux',
  'pipe',
  'parallel',
  'null',
  'ringbuf',
  'socket',
  'stdio',
  'memory',
  'udp',
  'file',
  'pty',
] as const;

/** Kinds that there are here. */
export const supportedBackends: readonly ChardevKind[] = ['null', 'socket', 'stdio'];

class Device implements Chardev {
  readonly id: string;
  readonly kind: ChardevKind;
  readonly #name: string;
  readonly #waiting: ByteStream[] = [];
  #current: ByteStream | undefined;
  #frontend: Frontend | undefined;
  #listener: Listener | undefined;
  #arrived: (() => void) | undefined;
  #closed = false;

  constructor(id: string, kind: ChardevKind, name: string = kind) {
    this.id = id;
    this.kind = kind;
    this.#name = name;
  }

  get filename(): string {
    const isOpen =
      this.kind !== 'socket' || this.#current !== undefined || this.#waiting.length > 0;
    return isOpen ? this.#name : `disconnected:${this.#name}`;
  }

  get isTaken(): boolean {
    return this.#frontend !== undefined;
  }

  attach(frontend: Frontend): void {
    if (this.#frontend !== undefined) {
      throw new QmpError(`chardev '${this.id}' is already in use`);
    }
    this.#frontend = frontend;
    this.#next();
  }

  /** A peer has come. */
  accept(stream: ByteStream): void {
    if (this.#closed || this.#waiting.length >= MAX_WAITING) {
      stream.destroy();
      return;
    }
    stream.pause();
    this.#waiting.push(stream);
    stream.onClose = (): void => {
      const at = this.#waiting.indexOf(stream);
      if (at >= 0) this.#waiting.splice(at, 1);
    };
    this.#arrived?.();
    this.#next();
  }

  listen(listener: Listener): void {
    this.#listener = listener;
  }

  /** Resolves when the first peer has come. */
  firstPeer(): Promise<void> {
    return new Promise((resolve) => {
      this.#arrived = resolve;
    });
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#listener?.close();
    for (const stream of this.#waiting.splice(0)) stream.destroy();
  }

  #next(): void {
    if (this.#current !== undefined || this.#frontend === undefined) return;
    const stream = this.#waiting.shift();
    if (stream === undefined) return;
    this.#current = stream;
    this.#frontend(stream, () => {
      this.#current = undefined;
      this.#next();
    });
    stream.resume();
  }
}

/** The devices of one program. */
export class Chardevs {
  readonly #devices = new Map<string, Device>();
  readonly #loadSockets: () => Promise<HostSockets>;
  readonly #say: (message: string) => void;

  /** `say` receives a line for people ("waiting for connection on …"). */
  constructor(loadSockets: () => Promise<HostSockets>, say: (message: string) => void) {
    this.#loadSockets = loadSockets;
    this.#say = say;
  }

  /** The answer to `--chardev help`. */
  static help(): string {
    const names = [...supportedBackends].reverse().map((name) => `  ${name}`);
    return ['Available chardev backend types: ', ...names, ''].join('\n');
  }

  /** The newest first, as QEMU lists them. */
  list(): Chardev[] {
    return [...this.#devices.values()].reverse();
  }

  find(id: string): Chardev | undefined {
    return this.#devices.get(id);
  }

  /**
   * Makes the device that a `--chardev` argument describes; one that listens and waits is ready
   * when its first peer has come. Throws OptionError, QmpError or HostError.
   */
  async add(text: string): Promise<void> {
    const options = readOptions(text);
    const id = options.take('id');
    if (id === undefined) throw new OptionError('chardev: no id specified');
    optIdentifier('id', id);
    const backend = options.take('backend');
    if (backend === undefined) throw new OptionError(`chardev: "${id}" missing backend`);
    if (!chardevBackends.some((each) => each === backend)) {
      throw new OptionError(`'${backend}' is not a valid char driver name`);
    }
    if (this.#devices.has(id)) {
      throw new QmpError(`attempt to add duplicate property '${id}' to object (type 'container')`);
    }
    this.#devices.set(id, await this.#make(id, backend, options));
  }

  /** Deletes a device; its socket listens no more. */
  async remove(id: string): Promise<void> {
    await this.#devices.get(id)?.close();
    this.#devices.delete(id);
  }

  /** Makes a device in the place of another of this id; when that fails the old one is back. */
  async replace(id: string, text: string): Promise<void> {
    const old = this.#devices.get(id);
    this.#devices.delete(id);
    try {
      await this.add(text);
    } catch (e) {
      if (old !== undefined) this.#devices.set(id, old);
      throw e;
    }
    await old?.close();
  }

  async close(): Promise<void> {
    for (const device of this.#devices.values()) await device.close();
    this.#devices.clear();
  }

  async #make(id: string, backend: string, options: Options): Promise<Device> {
    switch (backend) {
      case 'null':
        options.end();
        return new Device(id, 'null');
      case 'stdio': {
        if (options.bool('signal') === false) {
          throw new OptionError("Option 'signal=off' is not supported", 'signal');
        }
        options.end();
        if ([...this.#devices.values()].some((each) => each.filename === 'stdio')) {
          throw new QmpError('cannot use stdio by multiple character devices');
        }
        const { stdio } = await this.#loadSockets();
        if (stdio === undefined) throw new QmpError('There is no standard input here');
        const device = new Device(id, 'stdio');
        device.accept(stdio());
        return device;
      }
      case 'socket':
        return this.#makeSocket(id, options);
      default:
        throw new QmpError(`Character device '${backend}' is not supported`);
    }
  }

  async #makeSocket(id: string, options: Options): Promise<Device> {
    const address = readAddress(options);
    const isServer = options.bool('server') ?? false;
    const waits = options.bool('wait');
    const mode = readMode(options.take('mode'));
    options.end();
    if (!isServer && waits !== undefined) {
      throw new QmpError("'wait' option is incompatible with socket in client connect mode");
    }
    const sockets = await this.#loadSockets();
    if (!isServer) {
      const stream = await sockets.connect(address);
      const device = new Device(id, 'socket', nameOf(address, false));
      device.accept(stream);
      return device;
    }
    const streams: ByteStream[] = [];
    let take = (stream: ByteStream): void => {
      stream.pause();
      streams.push(stream);
    };
    const listener = await sockets.listen(
      address,
      (stream) => {
        take(stream);
      },
      { mode, backlog: 1 },
    );
    const device = new Device(id, 'socket', nameOf(listener.address, true));
    device.listen(listener);
    const first = device.firstPeer();
    for (const stream of streams) device.accept(stream);
    take = (stream): void => {
      device.accept(stream);
    };
    if (waits !== false) {
      this.#say(`QEMU waiting for connection on: ${device.filename}`);
      await first;
    }
    return device;
  }
}

/** The options of one argument; those that nobody takes are refused. */
class Options {
  readonly #values: Map<string, string>;

  constructor(values: Map<string, string>) {
    this.#values = values;
  }

  take(name: string): string | undefined {
    const value = this.#values.get(name);
    this.#values.delete(name);
    return value;
  }

  bool(name: string): boolean | undefined {
    const value = this.take(name);
    return value === undefined ? undefined : optBool(name, value);
  }

  /** Throws OptionError for what is left. */
  end(): void {
    for (const name of this.#values.keys()) {
      throw new OptionError(
        known.has(name) ? `Option '${name}' is not supported` : `Invalid parameter '${name}'`,
        name,
      );
    }
  }
}

/** Options of QEMU's devices that are refused by name. */
const known = new Set([
  'to',
  'ipv4',
  'ipv6',
  'nodelay',
  'reconnect',
  'reconnect-ms',
  'telnet',
  'tn3270',
  'websocket',
  'tls-creds',
  'tls-authz',
  'mux',
  'logfile',
  'logappend',
  'abstract',
  'tight',
]);

function readOptions(text: string): Options {
  const values = new Map<string, string>();
  for (const { name, value } of splitOpts(text, 'backend')) values.set(name, value);
  return new Options(values);
}

function readMode(text: string | undefined): number {
  if (text === undefined) return PRIVATE;
  if (/^0?[0-7]{3}$/.test(text)) return Number.parseInt(text, 8);
  throw new OptionError("Parameter 'mode' expects an octal number such as 0660", 'mode');
}

function readAddress(options: Options): SocketAddress {
  const path = options.take('path');
  const host = options.take('host');
  const fd = options.take('fd');
  if ([path, host, fd].filter((each) => each !== undefined).length > 1) {
    throw new QmpError("None or one of 'path', 'fd' or 'host' option required.");
  }
  if (path !== undefined) {
    return { type: 'unix', path, abstract: options.bool('abstract') ?? false };
  }
  if (host !== undefined) {
    const port = options.take('port');
    if (port === undefined) throw new QmpError('chardev: socket: no port given');
    const ipv4 = options.bool('ipv4');
    const ipv6 = options.bool('ipv6');
    const to = options.take('to');
    if (to !== undefined && !(/^\d{1,5}$/.test(to) && Number(to) <= 65535)) {
      throw new OptionError("Parameter 'to' expects a port number", 'to');
    }
    // Replies are never held back to be joined, whatever it says.
    options.bool('nodelay');
    return {
      type: 'inet',
      host,
      port,
      ...(ipv4 === undefined ? {} : { ipv4 }),
      ...(ipv6 === undefined ? {} : { ipv6 }),
      ...(to === undefined ? {} : { to: Number(to) }),
    };
  }
  if (fd === undefined || !/^\d+$/.test(fd)) {
    throw new QmpError(`Unable to parse FD number ${fd ?? ''}`);
  }
  return { type: 'fd', fd: Number(fd) };
}

function nameOf(address: SocketAddress, isServer: boolean): string {
  const server = isServer ? ',server=on' : '';
  switch (address.type) {
    case 'unix':
      return `unix:${address.path}${server}`;
    case 'inet':
      return `tcp:${address.host}:${address.port}${server}`;
    case 'fd':
      return `fd:${String(address.fd)}${server}`;
  }
}
