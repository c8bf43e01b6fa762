/**
 * Pictures of the block graph: in the language of Graphviz, and as SVG of our own.
 *
 * The input is what `x-debug-query-block-graph` tells, and for each node's name a few lines about
 * it. Users (backends, jobs) stand on top; a node stands below all that use it.
 */

/** QMP's XDbgBlockGraph, as far as pictures show it. */
export interface GraphFacts {
  readonly nodes: readonly {
    readonly id: number;
    readonly type: string;
    readonly name: string;
  }[];
  readonly edges: readonly {
    readonly parent: number;
    readonly child: number;
    readonly name: string;
    readonly perm: readonly string[];
    readonly 'shared-perm': readonly string[];
  }[];
}

/** Lines below a node's name: driver, file, size. */
export type NodeLines = ReadonlyMap<string, readonly string[]>;

/** Letters of permissions on an edge: r read, w write, u write what is there, s resize. */
const letters: Readonly<Record<string, string>> = {
  'consistent-read': 'r',
  write: 'w',
  'write-unchanged': 'u',
  resize: 's',
};

function permText(perm: readonly string[]): string {
  const order = Object.keys(letters);
  return order.map((word) => (perm.includes(word) ? (letters[word] ?? '') : '')).join('');
}

function linesOf(node: GraphFacts['nodes'][number], about: NodeLines): readonly string[] {
  const name = node.name === '' ? `(${node.type.replace('block-', '')})` : node.name;
  return [name, ...(node.type === 'block-driver' ? (about.get(node.name) ?? []) : [node.type])];
}

const quoteDot = (text: string): string => text.replaceAll('\\', '\\\\').replaceAll('"', '\\"');

/** The graph for `dot`. */
export function dotPicture(facts: GraphFacts, about: NodeLines): string {
  const out = ['digraph blocks {', '  node [shape=box, fontname="sans-serif"];'];
  for (const node of facts.nodes) {
    const label = linesOf(node, about).map(quoteDot).join('\\n');
    const style = node.type === 'block-driver' ? '' : ', style=rounded';
    out.push(`  n${String(node.id)} [label="${label}"${style}];`);
  }
  for (const { parent, child, name, perm } of facts.edges) {
    const label = quoteDot(`${name} ${permText(perm)}`.trim());
    out.push(`  n${String(parent)} -> n${String(child)} [label="${label}"];`);
  }
  return `${[...out, '}'].join('\n')}\n`;
}

const CHAR = 7;
const LINE = 16;
const PAD = 8;
const GAP = 28;
const RANK_GAP = 56;

interface Box {
  readonly lines: readonly string[];
  readonly isUser: boolean;
  readonly width: number;
  readonly height: number;
  rank: number;
  x: number;
  y: number;
}

/** The graph as SVG, which stands alone. */
export function svgPicture(facts: GraphFacts, about: NodeLines): string {
  const boxes = placeBoxes(facts, about);
  const all = [...boxes.values()];
  const width = Math.max(1, ...all.map((box) => box.x + box.width)) + GAP;
  const height = Math.max(1, ...all.map((box) => box.y + box.height)) + GAP;
  const size = `width="${String(width)}" height="${String(height)}"`;
  const out = [
    `<svg xmlns="http://www.w3.org/2000/svg" ${size} font-family="sans-serif" font-size="12">`,
    '<defs><marker id="a" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" ' +
      'orient="auto"><path d="M0 0L8 4L0 8z"/></marker></defs>',
  ];
  for (const { parent, child, name, perm } of facts.edges) {
    const from = boxes.get(parent);
    const to = boxes.get(child);
    if (from === undefined || to === undefined) continue;
    out.push(...edgeLines(from, to, `${name} ${permText(perm)}`.trim()));
  }
  for (const box of all) out.push(...boxLines(box));
  return `${[...out, '</svg>'].join('\n')}\n`;
}

function placeBoxes(facts: GraphFacts, about: NodeLines): Map<number, Box> {
  const boxes = new Map<number, Box>();
  // The list begins with the newest; pictures begin with the oldest.
  for (const node of [...facts.nodes].reverse()) {
    const lines = linesOf(node, about);
    const longest = Math.max(...lines.map((line) => line.length));
    boxes.set(node.id, {
      lines,
      isUser: node.type !== 'block-driver',
      width: longest * CHAR + 2 * PAD,
      height: lines.length * LINE + 2 * PAD,
      rank: 0,
      x: 0,
      y: 0,
    });
  }
  // There is no cycle, so that this ends after as many rounds as there are nodes at most.
  for (let changed = true, round = 0; changed && round <= boxes.size; round++) {
    changed = false;
    for (const { parent, child } of facts.edges) {
      const wanted = (boxes.get(parent)?.rank ?? 0) + 1;
      const box = boxes.get(child);
      if (box === undefined || box.rank >= wanted) continue;
      box.rank = wanted;
      changed = true;
    }
  }
  let y = GAP;
  const ranks = Math.max(0, ...[...boxes.values()].map((box) => box.rank));
  for (let rank = 0; rank <= ranks; rank++) {
    const row = [...boxes.values()].filter((box) => box.rank === rank);
    let x = GAP;
    for (const box of row) {
      box.x = x;
      box.y = y;
      x += box.width + GAP;
    }
    y += Math.max(0, ...row.map((box) => box.height)) + RANK_GAP;
  }
  return boxes;
}

function edgeLines(from: Box, to: Box, label: string): string[] {
  const [x1, y1] = [from.x + from.width / 2, from.y + from.height];
  const [x2, y2] = [to.x + to.width / 2, to.y];
  const line = `x1="${String(x1)}" y1="${String(y1)}" x2="${String(x2)}" y2="${String(y2)}"`;
  const [x, y] = [(x1 + x2) / 2 + 4, (y1 + y2) / 2];
  return [
    `<line ${line} stroke="black" marker-end="url(#a)"/>`,
    `<text x="${String(x)}" y="${String(y)}" fill="#555">${escape(label)}</text>`,
  ];
}

function boxLines(box: Box): string[] {
  const place = `x="${String(box.x)}" y="${String(box.y)}"`;
  const size = `width="${String(box.width)}" height="${String(box.height)}"`;
  const round = box.isUser ? ' rx="10"' : '';
  const texts = box.lines.map((line, index) => {
    const y = box.y + PAD + LINE * (index + 1) - 4;
    const weight = index === 0 ? ' font-weight="bold"' : '';
    return `<text x="${String(box.x + PAD)}" y="${String(y)}"${weight}>${escape(line)}</text>`;
  });
  return [`<rect ${place} ${size}${round} fill="white" stroke="black"/>`, ...texts];
}

function escape(text: string): string {
  const names: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;' };
  return text.replace(/[&<>]/g, (letter) => names[letter] ?? letter);
}
