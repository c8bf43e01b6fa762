/** `vdisk explain`: what an image is, who uses it, why it does not open, what would repair it. */
import { accessSync, closeSync, constants, openSync, readSync, statSync } from 'node:fs';
import type { Stats } from 'node:fs';
import type { OpenFlags } from '../../block/driver.js';
import { errorCode, messageOf } from '../../block/errors.js';
import { BlockGraph } from '../../block/graph.js';
import { skipFilters } from '../../block/status.js';
import { drivers } from '../../catalog/drivers.js';
import { nodeHost } from '../../host/node/index.js';
import { toHostError } from '../../host/node/errors.js';
import { command } from '../../options/getopt.js';
import { jsonText } from '../img/json.js';
import type { ImgCommand } from '../img/options.js';
import { commandArguments, oneOperand, outputFormat, shared } from '../img/options.js';
import type { Program } from '../program.js';
import { explanationText } from './explain-text.js';
import { explainQcow2, isSmall } from './explain-qcow2.js';
import type { Explanation } from './findings.js';
import { emptyExplanation, operand } from './findings.js';
import { findHolders } from './holders.js';
import type { Kind } from './recognise.js';
import { contentOf, HEAD_BYTES, recognise, TAIL_BYTES } from './recognise.js';

const spec = command({
  name: 'explain',
  summary: 'tell what an image is, who uses it, and what is wrong with it',
  operands: 'FILENAME',
  completeOperand: 'file',
  doc:
    'Names the format (also of images that vdisk cannot open), feature bits, and the processes\n' +
    'that hold the file; tells why it cannot be opened, and the command that would repair it.\n' +
    'Never changes anything. Exit status: 0 nothing wrong, 1 FILENAME cannot be looked at,\n' +
    '2 something is wrong.',
  options: {
    help: shared.help,
    format: shared.format,
    output: shared.output,
  },
});

const usage = ['[-f FMT] [--output human|json] FILENAME'];

/** Status when a problem was found. */
const WRONG = 2;

async function run(program: Program, args: readonly string[]): Promise<number> {
  const operands: string[] = [];
  let json = false;
  let format: string | undefined;
  for (const { key, value = '' } of commandArguments(program, spec, usage, args)) {
    if (key === undefined) operands.push(value);
    else if (key === 'format') format = value;
    else if (key === 'output') json = outputFormat(value) === 'json';
  }
  const name = oneOperand(operands);
  const found = await explainFile(name, format);
  program.print(json ? jsonText(found) : explanationText(found));
  if (found['file-size'] === undefined) return 1;
  return found.findings.some(({ kind }) => kind === 'problem') ? WRONG : 0;
}

/** Looks at a file in every way that changes nothing. Never throws on account of the file. */
export async function explainFile(name: string, format?: string): Promise<Explanation> {
  const found = emptyExplanation(name);
  const problem = (text: string, line?: string): void => {
    found.findings.push({
      kind: 'problem',
      text,
      ...(line === undefined ? {} : { command: line }),
    });
  };
  const stat = statOf(name, problem);
  if (stat === undefined) return found;
  const { processes, unknownLocks, loops } = findHolders(name);
  found.holders = [...processes];
  found['unknown-locks'] = unknownLocks;
  found['loop-devices'] = [...loops];
  let ends: { head: Uint8Array; tail: Uint8Array; bytes: number };
  try {
    ends = readEnds(name);
  } catch (e) {
    problem(
      `It cannot be read: ${messageOf(toHostError(e))}`,
      `sudo vdisk explain ${operand(name)}`,
    );
    return found;
  }
  found['file-size'] = ends.bytes;
  if (stat.isBlockDevice()) found.device = true;
  if (stat.isFile()) found['disk-size'] = stat.blocks * 512;
  if (ends.bytes === 0) problem('It is empty: nothing was ever written to it');
  const kind = kindOf(format, ends.head, ends.tail);
  if (kind !== undefined) {
    Object.assign(found, { format: kind.format, title: kind.title, supported: kind.opens });
  }
  if (kind === undefined || kind.format === 'raw') {
    const content = contentOf(ends.head);
    Object.assign(found, { title: 'raw', 'virtual-size': ends.bytes });
    if (content !== undefined) found.content = `${content}, by the look of it`;
  }
  if (kind?.opens === false) explainForeign(found, kind);
  else await explainOpen(found, ends.head);
  return found;
}

/** The file; says why there is nothing to look at. */
function statOf(name: string, problem: (text: string) => void): Stats | undefined {
  let stat: Stats;
  try {
    stat = statSync(name);
  } catch (e) {
    const text = messageOf(toHostError(e));
    if (/^[a-z0-9+]+:/.test(name)) {
      problem(`It is no file: ${text}. 'explain' looks at files and devices`);
    } else problem(`There is nothing to look at: ${text}`);
    return undefined;
  }
  if (stat.isFile() || stat.isBlockDevice()) return stat;
  problem(`It is ${stat.isDirectory() ? 'a folder' : 'neither a file nor a disk device'}`);
  return undefined;
}

function readEnds(name: string): { head: Uint8Array; tail: Uint8Array; bytes: number } {
  const fd = openSync(name, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const head = new Uint8Array(HEAD_BYTES);
    const got = readSync(fd, head, 0, HEAD_BYTES, 0);
    const bytes = sizeOf(name, got);
    const tailAt = Math.max(0, bytes - TAIL_BYTES);
    const tail = new Uint8Array(Math.min(bytes, TAIL_BYTES));
    readSync(fd, tail, 0, tail.length, tailAt);
    return { head: head.subarray(0, got), tail, bytes };
  } finally {
    closeSync(fd);
  }
}

/** Length; that of a device is told by the opening of it, later. */
function sizeOf(name: string, atLeast: number): number {
  return Math.max(statSync(name).size, atLeast);
}

function kindOf(format: string | undefined, head: Uint8Array, tail: Uint8Array): Kind | undefined {
  if (format === undefined) return recognise(head, tail);
  const opens = drivers.some((driver) => driver.name === format && driver.kind === 'format');
  return { format, title: `${format} (as you say)`, opens };
}

function explainForeign(found: Explanation, kind: Kind): void {
  const from = operand(found.filename);
  const to = operand(`${found.filename.replace(/\.[^./]*$/, '')}.qcow2`);
  if (kind.unpacks === true) {
    found.findings.push({
      kind: 'problem',
      text: `It is packed (${kind.title}); 'convert --unpack' takes out what is inside`,
      command: `vdisk-img convert --unpack -p -O qcow2 ${from} ${to}`,
    });
    return;
  }
  found.findings.push({
    kind: 'problem',
    text: `vdisk has no driver for ${kind.title}${kind.qemu === undefined ? '' : '; QEMU has'}`,
    ...(kind.qemu === undefined
      ? {}
      : { command: `qemu-img convert -p -f ${kind.qemu} -O qcow2 ${from} ${to}` }),
  });
}

/** Opens the image in every way that takes no lock, and tells what comes of it. */
async function explainOpen(found: Explanation, head: Uint8Array): Promise<void> {
  const header =
    found.format === 'qcow2' && head.length >= 112 ? explainQcow2(found, head) : undefined;
  const own = await tryOpen(found, { noIo: true, noBacking: true });
  const error = own ?? (await tryOpen(found, { noIo: true }));
  found['opens-for-reading'] = error === undefined;
  if (error !== undefined) {
    found['read-error'] = error;
    await explainError(found, error, own === undefined);
  }
  explainWriting(found);
  if (found.encryption !== undefined) explainKey(found);
  const used = found.holders.some(({ opened }) => opened === 'for writing');
  if (header === undefined || own !== undefined) return;
  const command = `vdisk-img check -f qcow2 ${operand(found.filename)}`;
  if (used) {
    const text = 'It was not checked, for somebody is writing to it';
    found.findings.push({ kind: 'note', text });
  } else if (!isSmall(found.filename, header, found['file-size'] ?? 0)) {
    const text = 'It was not checked, for that would take its time';
    found.findings.push({ kind: 'note', text, command });
  } else {
    await checkIt(found);
  }
}

function driverOf({ device }: Explanation): string {
  return device === true ? 'host_device' : 'file';
}

/** A graph whose warnings nobody hears. */
function quietGraph(): BlockGraph {
  return new BlockGraph({ host: nodeHost(), drivers, onWarning: () => undefined });
}

/** Opens for reading without locks and adds what is learnt; the error, if it does not open. */
async function tryOpen(found: Explanation, flags: Partial<OpenFlags>): Promise<string | undefined> {
  const graph = quietGraph();
  try {
    const backend = await graph.openBackend({
      options: {
        driver: found.format,
        file: { filename: found.filename, driver: driverOf(found) },
        'force-share': true,
      },
      flags: { ...flags, keepsContent: true },
    });
    try {
      await learn(found, backend.node);
    } finally {
      await backend.close();
    }
    return undefined;
  } catch (e) {
    return messageOf(e);
  } finally {
    await graph.close();
  }
}

async function learn(found: Explanation, top: Parameters<typeof skipFilters>[0]): Promise<void> {
  const node = skipFilters(top);
  if (found.format !== 'raw' || found.device === true) found['virtual-size'] = node.size;
  if (found.device === true) found['file-size'] = node.file?.size ?? node.size;
  if (node.backingFile !== '') found['backing-file'] = node.backingFile;
  if (node.backingFormat !== '') found['backing-format'] = node.backingFormat;
  if (found.format === 'luks') found.encryption = 'LUKS';
  let facts: Record<string, unknown> = {};
  try {
    facts = (await node.instance.info?.())?.formatSpecific?.data ?? {};
  } catch (e) {
    found.findings.push({ kind: 'problem', text: `Its facts cannot be read: ${messageOf(e)}` });
  }
  const { 'data-file': dataFile, bitmaps } = facts;
  if (typeof dataFile === 'string') found['data-file'] = dataFile;
  if (!Array.isArray(bitmaps) || found.bitmaps !== undefined) return;
  found.bitmaps = bitmaps.length;
  for (const bitmap of bitmaps as readonly { name: string; flags: readonly string[] }[]) {
    if (!bitmap.flags.includes('in-use')) continue;
    found.findings.push({
      kind: 'note',
      text: `Its bitmap '${bitmap.name}' is in use, or was when its user was lost: then remove it`,
      command:
        `vdisk-img bitmap --remove -f qcow2 ${operand(found.filename)} ` + operand(bitmap.name),
    });
  }
}

/** Why it does not open; `isSound`: the image itself does, so its backing chain is to blame. */
async function explainError(found: Explanation, error: string, isSound: boolean): Promise<void> {
  const name = operand(found.filename);
  const told = found.findings.some(({ kind }) => kind === 'problem');
  const backing = found['backing-file'];
  if (isSound && backing !== undefined) {
    const format = found['backing-format'] ?? 'qcow2';
    const why = error.replace(/^Could not open backing file: /, '');
    found.findings.push({
      kind: 'problem',
      text: `Its backing file '${backing}' does not open: ${why}. If it was moved, say where to`,
      command: `vdisk-img rebase -u -f ${found.format} -F ${format} -b NEW_PLACE ${name}`,
    });
    return;
  }
  if (found.format === 'qcow2' && (await tryOpen(found, CHECK_FLAGS)) === undefined) {
    const line = `vdisk-img check -r all -f qcow2 ${name}`;
    found.findings.push({ kind: 'problem', text: `It cannot be opened: ${error}`, command: line });
    return;
  }
  if (!told || found.format !== 'qcow2') {
    found.findings.push({ kind: 'problem', text: `It cannot be opened: ${error}` });
  }
}

/** Formats that nobody writes. */
const READ_ONLY: ReadonlySet<string> = new Set(['bochs', 'cloop', 'dmg']);

/** As `check` opens an image. */
const CHECK_FLAGS: Partial<OpenFlags> = { check: true, noIo: true, noBacking: true };

/** What stands against writing, without trying it. */
function explainWriting(found: Explanation): void {
  let error: string | undefined;
  const guards = found.holders.filter(({ locks }) => locks.includes('lets nobody else write'));
  if (found['opens-for-reading'] !== true) error = found['read-error'];
  else if (READ_ONLY.has(found.format)) error = 'the format can only be read';
  else if (guards.length > 0) {
    const pids = guards.map(({ pid }) => String(pid)).join(', ');
    error = `locked by process ${pids}`;
    found.findings.push({
      kind: 'note',
      text: `Only process ${pids} may write until it ends; others may read what is half written`,
      command: `vdisk-img info -U ${operand(found.filename)}`,
    });
  } else if (found.features.some((f) => f.kind === 'incompatible' && f.bit === 1)) {
    error = 'marked corrupt';
  } else {
    try {
      accessSync(found.filename, constants.W_OK);
    } catch (e) {
      error = messageOf(toHostError(e));
    }
  }
  found['opens-for-writing'] = error === undefined;
  if (error !== undefined) found['write-error'] = error;
}

function explainKey(found: Explanation): void {
  const key = found.format === 'luks' ? 'key-secret' : 'encrypt.key-secret';
  const name = found.filename.replaceAll(',', ',,');
  const opts = `driver=${found.format},${key}=k,file.filename=${name}`;
  found.findings.push({
    kind: 'note',
    text: 'Its content needs the key, given like this',
    command: `vdisk-img map --object secret,id=k,file=KEYFILE --image-opts ${operand(opts)}`,
  });
}

/** Seconds after which a check is given up. */
const MAX_SECONDS = 20;

async function checkIt(found: Explanation): Promise<void> {
  const graph = quietGraph();
  const name = operand(found.filename);
  const until = performance.now() + MAX_SECONDS * 1000;
  try {
    const file = { filename: found.filename, driver: driverOf(found) };
    const backend = await graph.openBackend({
      options: { driver: found.format, file, 'force-share': true },
      flags: { ...CHECK_FLAGS, keepsContent: true },
    });
    try {
      const result = await skipFilters(backend.node).instance.check?.({
        fixLeaks: false,
        fixErrors: false,
        report: () => {
          if (performance.now() > until) throw new Error('it takes too long');
        },
        onProgress: () => {
          if (performance.now() > until) throw new Error('it takes too long');
        },
      });
      if (result === undefined) return;
      const { corruptions, leaks, checkErrors: errors } = result;
      found.check = { corruptions, leaks, errors };
    } finally {
      await backend.close();
    }
  } catch (e) {
    const text = `A check could not be carried out: ${messageOf(e)} (${errorCode(e)})`;
    const line = `vdisk-img check -r all -f qcow2 ${name}`;
    found.findings.push({ kind: 'problem', text, command: line });
  } finally {
    await graph.close();
  }
  const { corruptions = 0, leaks = 0 } = found.check ?? {};
  if (corruptions > 0) {
    found.findings.push({
      kind: 'problem',
      text: `A check found ${String(corruptions)} errors; copy the file first, then repair it`,
      command: `vdisk-img check -r all -f qcow2 ${name}`,
    });
  } else if (leaks > 0) {
    found.findings.push({
      kind: 'note',
      text: `${String(leaks)} clusters are leaked: space is wasted, nothing is lost`,
      command: `vdisk-img check -r leaks -f qcow2 ${name}`,
    });
  }
}

export const explain: ImgCommand = { spec, usage, run };
