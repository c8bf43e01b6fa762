/** qcow2, versions 2 and 3. */
import { reopenNames } from '../../block/node-options.js';
import type { Driver, DriverInstance, OpenContext } from '../../block/driver.js';
import { qcow2AmendOptions, qcow2CreateOptions } from './create-options.js';
import { MAGIC } from './layout.js';
import { qcow2OptionNames, qcow2Options } from './options.js';

async function open(context: OpenContext): Promise<DriverInstance> {
  const [{ openImage }, { Qcow2Instance }] = await Promise.all([
    import('./open.js'),
    import('./instance.js'),
  ]);
  return new Qcow2Instance(await openImage(context));
}

/** Full score for the magic and a version that is at least 2. */
function probe(head: Uint8Array): number {
  if (head.byteLength < 8) return 0;
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  return view.getUint32(0) === MAGIC && view.getUint32(4) >= 2 ? 100 : 0;
}

export const qcow2Driver: Driver = {
  name: 'qcow2',
  kind: 'format',
  needsFile: true,
  supportsBacking: true,
  compresses: true,
  storesBitmaps: true,
  optionNames: qcow2OptionNames,
  reopenOptions: reopenNames(qcow2Options),
  probe,
  open,
  createOptions: qcow2CreateOptions,
  amendOptions: qcow2AmendOptions,
  create: async (context) => {
    const { createQcow2 } = await import('./create.js');
    await createQcow2(context);
  },
  measure: async (values, source) => {
    const { measureQcow2 } = await import('./measure.js');
    return measureQcow2(values, source);
  },
};
