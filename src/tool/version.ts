/** The version of the package, taken into the bundle when it is built. */
import manifest from '../../package.json' with { type: 'json' };

export const version: string = manifest.version;

/** The release whose tools ours stand in for. */
export const PEER_RELEASE = { major: 10, minor: 0, micro: 2 };
const PEER_VERSION = Object.values(PEER_RELEASE).join('.');

/**
 * What `--version` prints. Scripts that call the tool by QEMU's name decide by the number what
 * they can ask of it, so there the number is that of the release it behaves like.
 */
export function versionText(name: string): string {
  if (name.startsWith('qemu-')) return `${name} version ${PEER_VERSION} (vdisk ${version})\n`;
  return `${name} version ${version}\n`;
}
