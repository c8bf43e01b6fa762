// What tests share. A test file imports everything from here.
export {
  FakeClock,
  FakeDisk,
  FakeFiles,
  fakeHost,
  settle,
  slowWrites,
  type CutStyle,
  type FakeHost,
  type FakeOp,
  type Fault,
} from './fake-host.js';
export { FakeSockets, streamPair } from './fake-sockets.js';
export { detachAll, failure, failureCode, filled, readBytes, same, testGraph } from './graphs.js';
export { binPath, rootPath } from './paths.js';
export { Random, seededRandom, testSeed } from './random.js';
export {
  requires,
  requiresQemu10,
  isQemu10,
  missingCommands,
  findCommand,
  debianPython,
} from './requires.js';
export { run, runOk, type RunOptions, type RunResult } from './run.js';
export { tempDir } from './temp-dir.js';
