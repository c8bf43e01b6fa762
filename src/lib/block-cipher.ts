/** A block cipher with its key; blocks are transformed in place. */
export interface BlockCipher {
  readonly blockBytes: number;
  /** The block that begins at `at`. */
  encryptBlock(data: Uint8Array, at: number): void;
  decryptBlock(data: Uint8Array, at: number): void;
}
