/** JSON of the tools: QEMU's layout and member order. */
import { formatJsonPretty } from '../../lib/json-text.js';
import { inQemuOrder } from '../../lib/qdict-order.js';

/** Several lines, indented by four, with a newline at the end. */
export function jsonText(value: unknown): string {
  return `${formatJsonPretty(inQemuOrder(value))}\n`;
}
