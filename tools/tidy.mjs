#!/usr/bin/env node
// Checks what no other tool here does: which folder may import which (the table of
// docs/architecture.md, type-only imports too), file and line lengths, leftover marks, and
// Node-only names in the core. Usage: node tools/tidy.mjs [ROOT]. Prints each breach as
// FILE:LINE: RULE: text, and exits with 1 when there is one.
//
// Exceptions stand in tools/tidy-exceptions.json, each with its reason; one that is no longer
// needed is a breach itself.
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, posix, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const MAX_LINES = 600;
const MAX_COLUMNS = 100;
const FOLDERS = ['src', 'test', 'bench', 'examples', 'tools', 'native', 'bin'];
const CODE = /\.(ts|mts|js|mjs|cjs|c|cc|cpp|h|hpp)$/;
const SCRIPT = /\.(ts|mts|js|mjs|cjs)$/;
const SKIP = new Set(['node_modules', 'build', 'prebuilds', 'dist', 'golden']);

const BASE = ['lib', 'host', 'options', 'wire', 'block'];
const DRIVERS = ['format', 'filter', 'protocol'];
const UPPER = ['job', 'virtio', 'export', 'device'];
const ALL = [...BASE, ...DRIVERS, ...UPPER, 'catalog', 'machine', 'monitor'];

/** Area of src/ → the areas that it may import (itself always, but for SIBLINGS). */
const MAY_IMPORT = {
  lib: [],
  host: ['lib'],
  options: ['lib'],
  wire: ['lib'],
  block: ['lib', 'host', 'options'],
  format: BASE,
  filter: BASE,
  protocol: BASE,
  job: [...BASE, 'filter'],
  virtio: BASE,
  export: [...BASE, 'virtio'],
  device: [...BASE, 'virtio'],
  catalog: [...BASE, ...DRIVERS, ...UPPER],
  machine: [...BASE, ...DRIVERS, ...UPPER, 'catalog'],
  monitor: [...BASE, ...DRIVERS, ...UPPER, 'catalog', 'machine'],
  'host/node': ['lib', 'host'],
  'host/web': ['lib', 'host'],
  tool: [...ALL, 'host/node', 'index'],
  // A composition root: objects (secrets, credentials) are the tools' own, loaded when asked for.
  index: [...ALL, 'host/node', 'tool'],
  web: [...ALL, 'host/web'],
};

/** Areas whose members (the next part of the path) never import each other, and what all may. */
const SIBLINGS = { format: [], filter: [], protocol: [], export: [], device: ['bus'] };

/** Areas that may import `node:` modules and use Buffer and process. */
const NODE_AREAS = new Set(['host/node', 'tool']);
/** Areas that may import packages from the registry. */
const PACKAGE_AREAS = new Set(['host/node', 'host/web']);

const isTest = (file) => /(^test\/|\.test\.ts$|^vitest\.config)/.test(file);

/** 'src/format/qcow2/check.ts' → { area: 'format', member: 'qcow2' }; undefined outside src/. */
function placeOf(file) {
  const parts = file.split('/');
  if (parts[0] !== 'src') return undefined;
  const bare = (name) => name.replace(/\.ts$/, '');
  if (parts.length === 2) return { area: bare(parts[1]), member: '' };
  const nested = parts[1] === 'host' && parts.length > 3;
  const area = nested ? `host/${parts[2]}` : parts[1];
  return { area, member: bare(parts[2]) };
}

/** Comments and strings. Regular expressions are left alone. */
const TOKENS =
  /\/\/[^\n]*|\/\*[^]*?\*\/|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|`(?:\\.|[^`\\])*`/g;

/** Blanks out comments, keeps strings and line numbers. */
function withoutComments(text) {
  return text.replace(TOKENS, (token) =>
    token.startsWith('//') || token.startsWith('/*') ? token.replace(/[^\n]/g, ' ') : token,
  );
}

/** Every import of a script, type-only ones and `import('…')` included: { specifier, line }. */
function importsOf(code) {
  const found = [];
  // What stands inside a string is no import: the specifier is a string of its own.
  const strings = new Set(Array.from(code.matchAll(TOKENS), (token) => token.index));
  const pattern = /(?:\bfrom\s*|\bimport\s*\(\s*|\bimport\s+|\brequire\s*\(\s*)(['"])([^'"\n]+)\1/g;
  for (const match of code.matchAll(pattern)) {
    const start = match.index + match[0].length - match[2].length - 2;
    if (!strings.has(start)) continue;
    found.push({ specifier: match[2], line: lineAt(code, match.index) });
  }
  return found;
}

function lineAt(text, index) {
  let line = 1;
  for (let i = text.indexOf('\n'); i !== -1 && i < index; i = text.indexOf('\n', i + 1)) line++;
  return line;
}

/** What is wrong with one import of a file in src/; undefined when it is allowed. */
function importBreach(file, specifier) {
  const from = placeOf(file);
  if (specifier.startsWith('node:')) {
    if (NODE_AREAS.has(from.area)) return undefined;
    return `'${specifier}' in src/${from.area}: only src/host/node and src/tool import node:`;
  }
  if (!specifier.startsWith('.')) {
    if (PACKAGE_AREAS.has(from.area)) return undefined;
    return `package '${specifier}' in src/${from.area}: only src/host/* import packages`;
  }
  if (!/\.(js|json)$/.test(specifier)) return `'${specifier}' does not end in .js`;
  const target = posix.join(posix.dirname(file), specifier).replace(/\.js$/, '.ts');
  const to = placeOf(target);
  if (target === 'package.json' && from.area === 'tool') return undefined;
  if (to === undefined) return `'${specifier}' leaves src/`;
  if (to.area !== from.area) {
    if (MAY_IMPORT[from.area].includes(to.area)) return undefined;
    return `src/${from.area} may not import src/${to.area}`;
  }
  const shared = SIBLINGS[from.area];
  if (shared === undefined || from.member === to.member || shared.includes(to.member)) {
    return undefined;
  }
  return `siblings: src/${from.area}/${from.member} may not import src/${to.area}/${to.member}`;
}

function checkImports(file, code, report) {
  const place = placeOf(file);
  if (place === undefined || isTest(file)) return;
  if (!Object.hasOwn(MAY_IMPORT, place.area)) {
    report(1, 'import', `src/${place.area} is not in the table of tools/tidy.mjs`);
    return;
  }
  for (const { specifier, line } of importsOf(code)) {
    const breach = importBreach(file, specifier);
    if (breach !== undefined) report(line, 'import', breach);
  }
  if (NODE_AREAS.has(place.area)) return;
  const nodeName = /(?<![.\w$'"])(Buffer(?=[.<])|process(?=\.)|setImmediate(?=\()|__dirname)/g;
  for (const match of code.matchAll(nodeName)) {
    report(lineAt(code, match.index), 'node-name', `${match[1]} outside src/host/node, src/tool`);
  }
}

function checkText(file, text, report) {
  const lines = text.split('\n');
  if (lines.at(-1) === '') lines.pop();
  if (lines.length >= MAX_LINES) {
    report(lines.length, 'file-length', `${lines.length} lines, fewer than ${MAX_LINES} expected`);
  }
  lines.forEach((line, i) => {
    const columns = [...line].length;
    if (columns > MAX_COLUMNS) report(i + 1, 'line-length', `${columns} columns`);
    // Spelled in two halves so that this line does not match itself.
    const mark = line.match(new RegExp('\\b(' + 'TO' + 'DO|FIX' + 'ME|XX' + 'X)\\b'));
    if (mark) report(i + 1, 'mark', `${mark[1]}: do it, or open an issue and say what is missing`);
  });
}

function* walk(root, folder) {
  const path = join(root, folder);
  if (!existsSync(path)) return;
  for (const name of readdirSync(path).sort()) {
    if (SKIP.has(name)) continue;
    const file = posix.join(folder, name);
    if (statSync(join(root, file)).isDirectory()) yield* walk(root, file);
    else if (CODE.test(name) || folder === 'bin') yield file;
  }
}

/** All breaches under a root, exceptions taken off: [{ file, line, rule, text }]. */
export function tidy(root, exceptions = []) {
  const breaches = [];
  const used = new Set();
  for (const file of FOLDERS.flatMap((folder) => [...walk(root, folder)])) {
    const text = readFileSync(join(root, file), 'utf8');
    const report = (line, rule, what) => {
      const exception = exceptions.find((e) => e.file === file && e.rule === rule);
      if (exception === undefined) breaches.push({ file, line, rule, text: what });
      else used.add(exception);
    };
    checkText(file, text, report);
    if (SCRIPT.test(file)) checkImports(file, withoutComments(text), report);
  }
  for (const exception of exceptions) {
    const { file, rule, reason } = exception;
    const report = (text) => breaches.push({ file, line: 1, rule: 'exception', text });
    if (typeof reason !== 'string' || reason.length < 10) report(`'${rule}' has no reason`);
    // function-length belongs to eslint.config.js, which reads the same list.
    if (rule === 'function-length' ? !existsSync(join(root, file)) : !used.has(exception)) {
      report(`'${rule}' is excused in tools/tidy-exceptions.json but is not broken: remove it`);
    }
  }
  return breaches;
}

function main() {
  const here = dirname(dirname(fileURLToPath(import.meta.url)));
  const root = resolve(process.argv[2] ?? here);
  const list = join(root, 'tools/tidy-exceptions.json');
  const exceptions = existsSync(list) ? JSON.parse(readFileSync(list, 'utf8')) : [];
  const breaches = tidy(root, exceptions);
  for (const { file, line, rule, text } of breaches) {
    console.log(`${relative('', join(root, file))}:${line}: ${rule}: ${text}`);
  }
  if (breaches.length > 0) process.exitCode = 1;
}

if (process.argv[1] !== undefined && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  main();
}
