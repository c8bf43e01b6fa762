/** QMP clients for tests: of a monitor in this process, and of a daemon that runs. */
import type { ChildProcessWithoutNullStreams } from 'node:child_process';
import { spawn } from 'node:child_process';
import { drivers } from '../../src/catalog/drivers.js';
import { nodeHost } from '../../src/host/node/index.js';
import type { ByteStream } from '../../src/host/socket.js';
import { BlockGraph } from '../../src/block/graph.js';
import { BlockLayer } from '../../src/monitor/block-layer.js';
import type { JobList } from '../../src/job/job-list.js';
import type { BlockExports } from '../../src/monitor/exports.js';
import type { Monitor } from '../../src/monitor/monitor.js';
import { ToolObjects } from '../../src/tool/objects.js';
import type { FakeClock } from '../support/index.js';
import { FakeSockets } from '../support/index.js';

export type Message = Record<string, unknown>;

const utf8 = new TextDecoder();
const encoder = new TextEncoder();

/** Replies and events in order, cut at lines. */
export class Lines {
  readonly seen: Message[] = [];
  /** What came between messages. */
  printed = '';
  #text = '';
  #waiting: (() => void) | undefined;

  push(piece: Uint8Array): void {
    this.#text += utf8.decode(piece, { stream: true });
    const lines = this.#text.split('\r\n');
    this.#text = lines.pop() ?? '';
    for (const line of lines) {
      // Programs may print between the messages; lines of theirs end in a mere newline.
      const at = line.lastIndexOf('\n{') + 1;
      if (at > 0) this.printed += line.slice(0, at);
      this.seen.push(JSON.parse(line.slice(at)) as Message);
    }
    this.#waiting?.();
  }

  /** The messages so far when there are `count` of them. */
  async until(enough: (seen: readonly Message[]) => boolean): Promise<readonly Message[]> {
    while (!enough(this.seen)) {
      await new Promise<void>((resolve) => {
        this.#waiting = resolve;
      });
    }
    return this.seen;
  }

  until1(match: (message: Message) => boolean): Promise<readonly Message[]> {
    return this.until((seen) => seen.some(match));
  }
}

/** Errors, results: what answers a request. */
export const isReply = (message: Message): boolean => 'return' in message || 'error' in message;

/** A client of an in-process monitor. */
export class Client {
  readonly lines = new Lines();
  readonly stream: ByteStream;
  closed = false;
  #next = 0;

  constructor(stream: ByteStream) {
    this.stream = stream;
    stream.onData = (piece): void => {
      this.lines.push(piece);
    };
    stream.onClose = (): void => {
      this.closed = true;
    };
  }

  send(text: string | Uint8Array): void {
    this.stream.write([typeof text === 'string' ? encoder.encode(text) : text]);
  }

  /** Sends a command and resolves to its reply without the id. */
  async execute(name: string, args?: Message): Promise<Message> {
    const id = `test-${String(this.#next++)}`;
    const request = { execute: name, ...(args === undefined ? {} : { arguments: args }), id };
    this.send(`${JSON.stringify(request)}\n`);
    const seen = await this.lines.until1((message) => message['id'] === id);
    const { id: _, ...reply } = seen.find((message) => message['id'] === id) ?? {};
    return reply;
  }

  /** As execute, but throws for an error; resolves to what was returned. */
  async ok(name: string, args?: Message): Promise<unknown> {
    const reply = await this.execute(name, args);
    if ('return' in reply) return reply['return'];
    throw new Error(`${name}: ${JSON.stringify(reply)}`);
  }

  /** Names and data of the events so far. */
  events(): Message[] {
    return this.lines.seen.filter((message) => 'event' in message);
  }
}

/** A monitor with a graph of its own in this process. */
export class TestMonitor {
  readonly layer: BlockLayer;
  readonly objects = new ToolObjects({ iothreads: true });
  readonly printed: string[] = [];
  readonly #sockets = new FakeSockets();
  #quit = 0;

  constructor(clock?: FakeClock) {
    const host = clock === undefined ? nodeHost() : { ...nodeHost(), clock };
    this.layer = new BlockLayer({
      graph: (onEvent) =>
        new BlockGraph({
          host,
          drivers,
          throttleGroups: this.objects.throttleGroups,
          onEvent,
          secret: (id) => this.objects.secret(id),
        }),
      drivers,
      objects: this.objects,
      clock: host.clock,
      sockets: () => Promise.resolve(this.#sockets),
      version: { qemu: { major: 10, minor: 0, micro: 2 }, package: 'test' },
      print: (line) => {
        this.printed.push(line);
      },
      quit: async () => {
        this.#quit++;
      },
    });
  }

  get graph(): BlockGraph {
    return this.layer.graph;
  }

  get monitor(): Monitor {
    return this.layer.monitor;
  }

  get exports(): BlockExports {
    return this.layer.exports;
  }

  get jobs(): JobList {
    return this.layer.jobs;
  }

  get quits(): number {
    return this.#quit;
  }

  /** A new client; with `negotiated` it has sent qmp_capabilities. */
  async connect(negotiated = true, pretty = false): Promise<Client> {
    const address = { type: 'unix', path: `c${String(Math.random())}` } as const;
    await this.#sockets.listen(address, (stream) => {
      this.monitor.attach(stream, pretty);
    });
    const client = new Client(await this.#sockets.connect(address));
    if (negotiated) await client.ok('qmp_capabilities');
    return client;
  }

  close(): Promise<void> {
    return this.layer.close();
  }
}

/** A storage daemon whose monitor is on its standard input and output. */
export class DaemonProcess {
  readonly child: ChildProcessWithoutNullStreams;
  readonly lines = new Lines();
  stderr = '';
  readonly ended: Promise<number>;
  #next = 0;

  constructor(
    program: string,
    args: readonly string[] = [],
    cwd?: string,
    monitor = ['--chardev', 'stdio,id=stdio', '--monitor', 'stdio'],
  ) {
    this.child = spawn(program, [...args, ...monitor], { cwd });
    this.child.stdout.on('data', (piece: Buffer) => {
      this.lines.push(piece);
    });
    this.child.stderr.on('data', (piece: Buffer) => {
      this.stderr += piece.toString();
    });
    this.child.stdin.on('error', () => undefined);
    this.ended = new Promise((resolve) => {
      this.child.on('close', (code) => {
        resolve(code ?? -1);
      });
    });
  }

  /** Waits for the greeting and negotiates. */
  async ready(): Promise<this> {
    await this.ok('qmp_capabilities');
    return this;
  }

  /** Sends a request and resolves to all messages up to its reply, ids taken away. */
  async talk(request: Message | string): Promise<Message[]> {
    const from = this.lines.seen.length;
    const text = typeof request === 'string' ? request : JSON.stringify(request);
    this.child.stdin.write(`${text}\n`);
    await this.lines.until((seen) => seen.slice(from).some(isReply));
    return this.lines.seen.slice(from);
  }

  async execute(name: string, args?: Message): Promise<Message> {
    const id = `t${String(this.#next++)}`;
    const request = { execute: name, ...(args === undefined ? {} : { arguments: args }), id };
    this.child.stdin.write(`${JSON.stringify(request)}\n`);
    const seen = await this.lines.until1((message) => message['id'] === id);
    const { id: _, ...reply } = seen.find((message) => message['id'] === id) ?? {};
    return reply;
  }

  async ok(name: string, args?: Message): Promise<unknown> {
    const reply = await this.execute(name, args);
    if ('return' in reply) return reply['return'];
    throw new Error(`${name}: ${JSON.stringify(reply)}`);
  }

  /** Ends it by `quit`; resolves to the exit status. */
  async quit(): Promise<number> {
    await this.ok('quit');
    return this.ended;
  }
}
