/**
 * SMART (ATA8-ACS 7.53): attributes, thresholds, self-tests and the log that tells of them. The
 * disk is always well; a self-test ends at once and well.
 */

/** Attributes: id, flags, normalized value, worst, raw, threshold. */
const attributes: readonly (readonly [number, number, number, number, number, number])[] = [
  [0x01, 0x0003, 0x64, 0x64, 0, 0x06],
  [0x03, 0x0003, 0x64, 0x64, 0x10, 0],
  [0x04, 0x0002, 0x64, 0x64, 0x64, 0x14],
  [0x05, 0x0003, 0x64, 0x64, 0, 0x24],
  [0x09, 0x0003, 0x64, 0x64, 1, 0],
  [0x0c, 0x0003, 0x64, 0x64, 0, 0],
  [0xbe, 0x0003, 0x1f, 0x1f, 0x1f, 0x32],
];

/** Entries of the log of self-tests. */
const MAX_TESTS = 21;

interface SelfTest {
  readonly kind: number;
}

function withChecksum(bytes: Uint8Array): Uint8Array {
  let sum = 0;
  for (let i = 0; i < 511; i++) sum += bytes[i]!;
  bytes[511] = -sum & 0xff;
  return bytes;
}

export class Smart {
  enabled = true;
  autosave = true;
  readonly #tests: SelfTest[] = [];

  /** SMART READ DATA. */
  data(): Uint8Array {
    const out = new Uint8Array(512);
    const view = new DataView(out.buffer);
    view.setUint16(0, 0x0010, true);
    attributes.forEach(([id, flags, value, worst, raw], i) => {
      const at = 2 + 12 * i;
      out[at] = id;
      view.setUint16(at + 1, flags, true);
      out[at + 3] = value;
      out[at + 4] = worst;
      view.setUint32(at + 5, raw, true);
    });
    // Collection of data off line was never begun, or ended well.
    out[362] = this.#tests.length === 0 ? 0 : 0x82;
    view.setUint16(364, 0x0120, true);
    out[367] = 0x19;
    view.setUint16(368, 0x0003, true);
    out[370] = 0x01;
    out[372] = 2;
    out[373] = 54;
    return withChecksum(out);
  }

  /** SMART READ THRESHOLDS. */
  thresholds(): Uint8Array {
    const out = new Uint8Array(512);
    out[0] = 0x10;
    attributes.forEach(([id, , , , , threshold], i) => {
      out[2 + 12 * i] = id;
      out[3 + 12 * i] = threshold;
    });
    return withChecksum(out);
  }

  /** SMART EXECUTE OFF-LINE IMMEDIATE; false: no such test. */
  runTest(kind: number): boolean {
    if (![0, 1, 2, 0x7f, 0x81, 0x82].includes(kind)) return false;
    if (kind === 0 || kind === 0x7f) return true;
    this.#tests.push({ kind });
    if (this.#tests.length > MAX_TESTS) this.#tests.shift();
    return true;
  }

  /** SMART READ LOG; undefined: no such log. */
  log(address: number): Uint8Array | undefined {
    const out = new Uint8Array(512);
    switch (address) {
      case 0: // directory: version, then the sectors of each log
        out[0] = 1;
        out[2] = 1;
        out[12] = 1;
        return out;
      case 1: // summary of errors: none
        out[0] = 1;
        return withChecksum(out);
      case 6: {
        out[0] = 1;
        this.#tests.forEach(({ kind }, i) => {
          out[2 + 24 * i] = kind;
        });
        out[508] = this.#tests.length;
        return withChecksum(out);
      }
      default:
        return undefined;
    }
  }
}
