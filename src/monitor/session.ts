/**
 * One client of the monitor: QMP over a byte stream (docs/interop/qmp-spec of QEMU).
 *
 * The greeting goes out first; until `qmp_capabilities` succeeded nothing else is taken. Requests
 * are carried out in order, one at a time over all clients (`SessionHost.execute` queues them);
 * replies carry the request's `id`. Errors of JSON are answered without one.
 *
 * Limits (each is named below): a request's size, token count and depth are those of JsonStream;
 * a client that sends ahead of the replies is not read any more after some requests, and one that
 * does not take what is sent is not served, at last cut off.
 */
import type { Clock } from '../host/host.js';
import type { ByteStream } from '../host/socket.js';
import { JsonDouble } from '../lib/json-text.js';
import type { JsonObject, JsonValue } from '../lib/json-text.js';
import { formatJson, formatJsonPretty, JsonStream } from '../lib/json-text.js';
import { inQemuOrder } from '../lib/qdict-order.js';
import { parseValue, t } from '../options/schema.js';
import type { Decl } from '../options/schema.js';
import type { Command } from './command.js';
import { defineCommand } from './command.js';
import type { VersionInfo } from './context.js';
import { errorReply, QmpError } from './qmp-error.js';

/** What a session needs of the monitor that it belongs to. */
export interface SessionHost {
  readonly version: VersionInfo;
  readonly clock: Clock;
  readonly commands: ReadonlyMap<string, Command>;
  readonly types: ReadonlyMap<string, Decl>;
  /** Carries out one command when all earlier ones, of all clients, are done. */
  execute(command: Command, args: unknown): Promise<unknown>;
}

/** Requests that wait; with more the client is not read until some are done (QEMU has 8, too). */
const MAX_QUEUED = 8;
/** A client that has had the program ended has so long to end the connection itself. */
const LEAVE_MS = 100;
/** Bytes that a client has not taken; with more (events go on coming) it is cut off. */
const MAX_UNSENT = 64 * 1024 * 1024;

/** Capabilities that the greeting offers. */
const offered = ['oob'] as const;

const capabilities = t.struct('q_obj_qmp_capabilities-arg', {
  enable: t.optional(t.arrayOf(t.enumOf(...offered, { name: 'QMPCapability' }))),
});

/** The command that ends negotiation; sessions carry it out themselves. */
export const qmpCapabilities = defineCommand({
  name: 'qmp_capabilities',
  doc: 'Ends the negotiation of capabilities; must be the first command of a connection.',
  args: capabilities,
  since: '0.13',
  givenOnly: true,
  run: () => {
    throw new QmpError(
      'Capabilities negotiation is already complete, command ignored',
      'CommandNotFound',
    );
  },
});

/** A request whose form is right. */
interface Request {
  readonly command: string;
  readonly oob: boolean;
  readonly args: JsonObject;
  readonly id: JsonValue | undefined;
}

type Incoming =
  { readonly request: Request } | { readonly error: unknown; readonly id?: JsonValue | undefined };

const encoder = new TextEncoder();

function isObject(value: JsonValue | undefined): value is JsonObject {
  if (typeof value !== 'object' || value === null) return false;
  return !Array.isArray(value) && !(value instanceof JsonDouble);
}

/** Takes a request apart. Throws QmpError in QEMU's words. */
function readRequest(value: JsonObject, allowOob: boolean): Request {
  let command: string | undefined;
  let key: string | undefined;
  let args: JsonObject = Object.create(null) as JsonObject;
  for (const [name, each] of Object.entries(value)) {
    if (name === 'execute' || (name === 'exec-oob' && allowOob)) {
      if (typeof each !== 'string')
        throw new QmpError(`QMP input member '${name}' must be a string`);
      if (key !== undefined)
        throw new QmpError("QMP input member 'execute' clashes with 'exec-oob'");
      key = name;
      command = each;
    } else if (name === 'arguments') {
      if (!isObject(each)) throw new QmpError("QMP input member 'arguments' must be an object");
      args = each;
    } else if (name !== 'id') {
      throw new QmpError(`QMP input member '${name}' is unexpected`);
    }
  }
  if (command === undefined) throw new QmpError("QMP input lacks member 'execute'");
  return { command, oob: key === 'exec-oob', args, id: value['id'] };
}

export class QmpSession {
  /** Called once when the client is gone. */
  onGone: (() => void) | undefined;
  readonly #host: SessionHost;
  readonly #stream: ByteStream;
  readonly #pretty: boolean;
  readonly #json = new JsonStream({ doubles: 'keep' });
  readonly #queue: Incoming[] = [];
  #negotiated = false;
  #oob = false;
  #running = false;
  #blocked = false;
  #paused = false;
  #stopped = false;
  #finished = false;
  #closed = false;
  #unsent = 0;
  #idle: (() => void)[] = [];
  /** The client asked for the program's end, and will go by itself. */
  #asksForEnd = false;
  #left: () => void = (): void => undefined;

  constructor(host: SessionHost, stream: ByteStream, pretty: boolean) {
    this.#host = host;
    this.#stream = stream;
    this.#pretty = pretty;
    stream.onData = (piece): void => {
      this.#take(this.#json.push(piece));
    };
    stream.onClose = (error): void => {
      // What came before the end is still carried out.
      this.#finished = true;
      this.#left();
      if (error !== undefined) this.#queue.length = 0;
      this.#next();
    };
    stream.onDrain = (): void => {
      this.#blocked = false;
      this.#next();
    };
    const { qemu, package: name } = host.version;
    this.#send({ QMP: { version: { qemu, package: name }, capabilities: offered } });
  }

  /** Whether the client negotiated and so gets events. */
  get isReady(): boolean {
    return this.#negotiated && !this.#closed;
  }

  /** Sends an event. */
  emit(event: Readonly<Record<string, unknown>>): void {
    if (this.isReady) this.#send(event);
  }

  /** No request is taken any more; events still go out. */
  stop(): void {
    this.#queue.length = 0;
    this.#stopped = true;
  }

  /** No request is taken any more; resolves when the one in work is answered and all is sent. */
  async close(): Promise<void> {
    this.#queue.length = 0;
    if (this.#closed) return;
    this.#closed = true;
    if (this.#running) {
      await new Promise<void>((resolve) => {
        this.#idle.push(resolve);
      });
    }
    if (this.#asksForEnd && !this.#finished) await this.#leaving();
    await this.#stream.end();
  }

  /** Some clients take it for an error when the connection ends before they have ended it. */
  async #leaving(): Promise<void> {
    await new Promise<void>((resolve) => {
      const stop = this.#host.clock.after(LEAVE_MS, resolve);
      this.#left = (): void => {
        stop();
        resolve();
      };
    });
  }

  #ended(): void {
    if (this.#closed) return;
    this.#closed = true;
    // Whoever shut down only the sending half gets what is on its way.
    void this.#stream.end();
    this.onGone?.();
  }

  #take(results: ReturnType<JsonStream['push']>): void {
    if (this.#closed || this.#stopped) return;
    for (const result of results) {
      if ('error' in result) {
        this.#queue.push({ error: new QmpError(result.error.message) });
      } else if (!isObject(result.value)) {
        this.#queue.push({ error: new QmpError('QMP input must be a JSON object') });
      } else {
        const incoming = this.#parse(result.value);
        // Out of band: before everything that waits. No command of ours can be carried out so.
        if ('request' in incoming && incoming.request.oob) this.#refuseOob(incoming.request);
        else this.#queue.push(incoming);
      }
    }
    this.#next();
  }

  #parse(value: JsonObject): Incoming {
    try {
      return { request: readRequest(value, this.#oob) };
    } catch (error) {
      return { error, id: value['id'] };
    }
  }

  /** Begins with the next request, or stops reading while too many wait. */
  #next(): void {
    // One piece of input may hold any number of requests; those that are wrong end at once.
    while (!this.#running && (!this.#blocked || this.#finished)) {
      const incoming = this.#queue.shift();
      if (incoming === undefined) break;
      if ('request' in incoming) {
        this.#running = true;
        void this.#serve(incoming.request);
      } else {
        this.#reply({ error: errorReply(incoming.error) }, incoming.id);
      }
    }
    if (this.#finished) {
      if (this.#queue.length === 0 && !this.#running) this.#ended();
      return;
    }
    const full = this.#queue.length >= MAX_QUEUED;
    if (full === this.#paused) return;
    this.#paused = full;
    if (full) this.#stream.pause();
    else this.#stream.resume();
  }

  async #serve(request: Request): Promise<void> {
    let reply: Record<string, unknown>;
    try {
      reply = { return: (await this.#execute(request)) ?? {} };
    } catch (e) {
      reply = { error: errorReply(e) };
    }
    this.#running = false;
    this.#asksForEnd = request.command === 'quit' && 'return' in reply;
    this.#reply(reply, request.id);
    for (const resolve of this.#idle.splice(0)) resolve();
    this.#next();
  }

  #execute(request: Request): Promise<unknown> | undefined {
    const command = this.#find(request);
    const isNegotiation = command === qmpCapabilities;
    if (isNegotiation && !this.#negotiated) {
      this.#negotiate(request.args);
      return undefined;
    }
    return this.#host.execute(command, request.args);
  }

  /** The command of a request. Throws QmpError of class CommandNotFound. */
  #find(request: Request): Command {
    const command = this.#host.commands.get(request.command);
    if (!this.#negotiated && command !== qmpCapabilities) {
      throw new QmpError(
        "Expecting capabilities negotiation with 'qmp_capabilities'",
        'CommandNotFound',
      );
    }
    if (command !== undefined) return command;
    throw new QmpError(`The command ${request.command} has not been found`, 'CommandNotFound');
  }

  #refuseOob(request: Request): void {
    let error: unknown;
    try {
      error = new QmpError(`The command ${this.#find(request).name} does not support OOB`);
    } catch (e) {
      error = e;
    }
    this.#reply({ error: errorReply(error) }, request.id);
  }

  #negotiate(args: JsonObject): void {
    const { enable } = parseValue(capabilities, args, { from: 'qmp' });
    this.#oob = enable?.includes('oob') === true;
    this.#negotiated = true;
  }

  #reply(reply: Record<string, unknown>, id: JsonValue | undefined): void {
    this.#send(id === undefined ? reply : { ...reply, id });
  }

  #send(value: Readonly<Record<string, unknown>>): void {
    const ordered = inQemuOrder(value);
    const text = this.#pretty ? formatJsonPretty(ordered) : formatJson(ordered);
    // As QEMU's monitor ends lines, within pretty ones too.
    const bytes = encoder.encode(`${text.replaceAll('\n', '\r\n')}\r\n`);
    this.#unsent += bytes.byteLength;
    const ready = this.#stream.write([bytes], () => {
      this.#unsent -= bytes.byteLength;
    });
    if (!ready) this.#blocked = true;
    if (this.#unsent > MAX_UNSENT) this.#stream.destroy();
  }
}
