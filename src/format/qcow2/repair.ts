/** `check` from inside the driver: on request, and at the open of an image that was not closed. */
import type { CheckOptions, CheckResult } from '../../block/driver.js';
import { BlockError, errorText } from '../../block/errors.js';
import { CheckError, checkImage } from './check.js';
import type { Qcow2Image } from './image.js';
import { Incompat } from './layout.js';
import { loadTables } from './open.js';
import { storeSnapshots } from './snapshot-store.js';

/** Checks the image and repairs what `options` say; see check.ts. */
export async function runCheck(image: Qcow2Image, options: CheckOptions): Promise<CheckResult> {
  return image.exclusive(async () => {
    const fixes = options.fixErrors || options.fixLeaks;
    const { result, snapshotFaults, ...found } = await checkImage(
      {
        file: image.file,
        header: image.header,
        g: image.g,
        hot: image.host.hot,
        writeFields: async () => {
          await image.writeFields();
          await image.file.flush();
        },
      },
      options,
    );
    if (fixes) {
      image.snapshots = found.snapshots;
      image.overlap.snapshotTableBytes = found.snapshotTableBytes;
      await reload(image);
    }
    if (!options.fixErrors) result.corruptions += snapshotFaults;
    else if (snapshotFaults > 0) await repairSnapshots(image, result, snapshotFaults, options);
    if (!fixes) return result;
    const clean = result.checkErrors === 0 && result.corruptions === 0;
    if (clean) await clearMarks(image, options.fixErrors);
    return result;
  });
}

/** Writes the table again, with what version 3 asks for and without what was too much. */
async function repairSnapshots(
  image: Qcow2Image,
  result: CheckResult,
  faults: number,
  options: CheckOptions,
): Promise<void> {
  try {
    await storeSnapshots(image, image.snapshots);
    await image.writeback.everything();
    result.corruptionsFixed += faults;
  } catch (e) {
    result.checkErrors++;
    result.corruptions += faults;
    options.report(`ERROR failed to update snapshot table: ${errorText(e)}`, true);
    throw new CheckError(e, result);
  }
}

/** Forgets everything that was cached, for the tables on disk were changed. */
export async function reload(image: Qcow2Image): Promise<void> {
  await loadTables(image);
  image.overlap.reset();
  image.alloc.reset();
  image.keeper.forget();
}

async function clearMarks(image: Qcow2Image, corruptToo: boolean): Promise<void> {
  const marks = Incompat.dirty | (corruptToo ? Incompat.corrupt : 0n);
  const { fields } = image.header;
  if ((fields.incompatible_features & marks) === 0n) return;
  await image.file.flush();
  fields.incompatible_features &= ~marks;
  await image.writeFields();
  await image.file.flush();
}

/** Makes the refcounts of an image right that was open with lazy refcounts when it was lost. */
export async function repairDirty(image: Qcow2Image): Promise<void> {
  const result = await runCheck(image, {
    fixLeaks: true,
    fixErrors: true,
    report: (line) => image.graph.warn(line),
  });
  if (result.checkErrors > 0) throw new BlockError('EIO');
}
