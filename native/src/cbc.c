/*
 * AES in CBC mode by sectors (as dm-crypt and LUKS1 have it): each sector is a chain of its own,
 * which begins with an IV made of the sector's number.
 *
 * A chain encrypts one block after the other, so sectors are encrypted beside each other to keep
 * the AES unit busy; decryption of a chain goes in parallel by itself.
 */
#include "vdisk.h"

#include <string.h>

static void sector_iv(const struct sector_key *k, uint64_t sector, uint8_t iv[16]) {
  memset(iv, 0, 16);
  int bytes = k->mode == SECTOR_CBC_PLAIN ? 4 : 8;
  for (int i = 0; i < bytes; i++) iv[i] = (uint8_t)(sector >> (8 * i));
  if (k->mode == SECTOR_CBC_ESSIV) aes_encrypt(&k->tweak, iv);
}

static void encrypt_tables(const struct sector_key *k, uint8_t *p, size_t bytes, uint8_t iv[16]) {
  const uint8_t *last = iv;
  for (size_t at = 0; at < bytes; at += 16) {
    for (int i = 0; i < 16; i++) p[at + (size_t)i] ^= last[i];
    aes_encrypt(&k->data, p + at);
    last = p + at;
  }
}

static void decrypt_tables(const struct sector_key *k, uint8_t *p, size_t bytes, uint8_t iv[16]) {
  for (size_t at = 0; at < bytes; at += 16) {
    uint8_t next[16];
    memcpy(next, p + at, 16);
    aes_decrypt(&k->data, p + at);
    for (int i = 0; i < 16; i++) p[at + (size_t)i] ^= iv[i];
    memcpy(iv, next, 16);
  }
}

#if defined(__x86_64__)
#include <smmintrin.h>
#include <wmmintrin.h>
#define AESNI __attribute__((target("aes,sse4.1")))
/* Blocks in flight at once: hides the latency of the AES instructions. */
#define WIDE 8

AESNI static __m128i encrypt_block(const struct aes_key *k, __m128i b) {
  const __m128i *rk = (const __m128i *)k->enc;
  b = _mm_xor_si128(b, rk[0]);
  for (int r = 1; r < k->rounds; r++) b = _mm_aesenc_si128(b, rk[r]);
  return _mm_aesenclast_si128(b, rk[k->rounds]);
}

AESNI static void encrypt_one(const struct sector_key *k, uint8_t *p, size_t bytes,
                              uint64_t sector) {
  uint8_t iv[16];
  sector_iv(k, sector, iv);
  __m128i chain = _mm_loadu_si128((const __m128i *)iv);
  for (size_t at = 0; at < bytes; at += 16) {
    __m128i *m = (__m128i *)(p + at);
    chain = encrypt_block(&k->data, _mm_xor_si128(_mm_loadu_si128(m), chain));
    _mm_storeu_si128(m, chain);
  }
}

/* WIDE sectors, a block of each at a time. */
AESNI static void encrypt_wide(const struct sector_key *k, uint8_t *p, size_t bytes,
                               uint64_t sector) {
  const __m128i *rk = (const __m128i *)k->data.enc;
  int rounds = k->data.rounds;
  __m128i chain[WIDE];
  for (int i = 0; i < WIDE; i++) {
    uint8_t iv[16];
    sector_iv(k, sector + (uint64_t)i, iv);
    chain[i] = _mm_loadu_si128((const __m128i *)iv);
  }
  for (size_t at = 0; at < bytes; at += 16) {
    for (int i = 0; i < WIDE; i++) {
      __m128i b = _mm_loadu_si128((const __m128i *)(p + (size_t)i * bytes + at));
      chain[i] = _mm_xor_si128(_mm_xor_si128(b, chain[i]), rk[0]);
    }
    for (int r = 1; r < rounds; r++)
      for (int i = 0; i < WIDE; i++) chain[i] = _mm_aesenc_si128(chain[i], rk[r]);
    for (int i = 0; i < WIDE; i++) {
      chain[i] = _mm_aesenclast_si128(chain[i], rk[rounds]);
      _mm_storeu_si128((__m128i *)(p + (size_t)i * bytes + at), chain[i]);
    }
  }
}

AESNI static void decrypt_one(const struct sector_key *k, uint8_t *p, size_t bytes,
                              uint64_t sector) {
  const __m128i *rk = (const __m128i *)k->data.dec;
  int rounds = k->data.rounds;
  uint8_t iv[16];
  sector_iv(k, sector, iv);
  __m128i chain = _mm_loadu_si128((const __m128i *)iv);
  for (size_t at = 0; at < bytes;) {
    size_t left = (bytes - at) / 16;
    int n = left < WIDE ? (int)left : WIDE;
    __m128i c[WIDE], b[WIDE];
    for (int i = 0; i < n; i++) {
      c[i] = _mm_loadu_si128((const __m128i *)(p + at) + i);
      b[i] = _mm_xor_si128(c[i], rk[0]);
    }
    for (int r = 1; r < rounds; r++)
      for (int i = 0; i < n; i++) b[i] = _mm_aesdec_si128(b[i], rk[r]);
    for (int i = 0; i < n; i++) {
      b[i] = _mm_xor_si128(_mm_aesdeclast_si128(b[i], rk[rounds]), chain);
      _mm_storeu_si128((__m128i *)(p + at) + i, b[i]);
      chain = c[i];
    }
    at += (size_t)n * 16;
  }
}

AESNI static void cbc_aesni(const struct sector_key *k, uint8_t *p, size_t bytes,
                            size_t sector_bytes, uint64_t sector, bool encrypt) {
  size_t at = 0;
  if (encrypt)
    for (; at + WIDE * sector_bytes <= bytes; at += WIDE * sector_bytes, sector += WIDE)
      encrypt_wide(k, p + at, sector_bytes, sector);
  for (; at < bytes; at += sector_bytes, sector++) {
    if (encrypt)
      encrypt_one(k, p + at, sector_bytes, sector);
    else
      decrypt_one(k, p + at, sector_bytes, sector);
  }
}
#endif

void aes_cbc_crypt(const struct sector_key *k, uint8_t *p, size_t bytes, size_t sector_bytes,
                   uint64_t sector, bool encrypt) {
#if defined(__x86_64__)
  if (k->data.hardware) {
    cbc_aesni(k, p, bytes, sector_bytes, sector, encrypt);
    return;
  }
#endif
  for (size_t at = 0; at < bytes; at += sector_bytes, sector++) {
    uint8_t iv[16];
    sector_iv(k, sector, iv);
    if (encrypt)
      encrypt_tables(k, p + at, sector_bytes, iv);
    else
      decrypt_tables(k, p + at, sector_bytes, iv);
  }
}

void sector_crypt(const struct sector_key *k, uint8_t *p, size_t bytes, size_t sector_bytes,
                  uint64_t sector, bool encrypt) {
  if (k->mode == SECTOR_XTS)
    aes_xts_crypt(k, p, bytes, sector_bytes, sector, encrypt);
  else
    aes_cbc_crypt(k, p, bytes, sector_bytes, sector, encrypt);
}
