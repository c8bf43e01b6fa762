/*
 * XTS-AES (IEEE 1619): each sector is one data unit, its number (64 bits, little-endian)
 * the tweak. Whole blocks only; disk sectors need no ciphertext stealing.
 */
#include "vdisk.h"

#include <string.h>

/* Multiplies the tweak by x in GF(2^128), little-endian (IEEE 1619, 5.2). */
static void next_tweak(uint8_t t[16]) {
  uint64_t lo, hi;
  memcpy(&lo, t, 8);
  memcpy(&hi, t + 8, 8);
  uint64_t carry = (hi >> 63) * 0x87;
  hi = hi << 1 | lo >> 63;
  lo = lo << 1 ^ carry;
  memcpy(t, &lo, 8);
  memcpy(t + 8, &hi, 8);
}

static void sector_tables(const struct sector_key *k, uint8_t *p, size_t bytes, uint8_t t[16],
                          bool encrypt) {
  for (size_t at = 0; at < bytes; at += 16, next_tweak(t)) {
    uint8_t *b = p + at;
    for (int i = 0; i < 16; i++) b[i] ^= t[i];
    if (encrypt)
      aes_encrypt(&k->data, b);
    else
      aes_decrypt(&k->data, b);
    for (int i = 0; i < 16; i++) b[i] ^= t[i];
  }
}

#if defined(__x86_64__)
#include <wmmintrin.h>
#include <smmintrin.h>
#define AESNI __attribute__((target("aes,sse4.1")))
/* Blocks in flight at once: hides the latency of the AES instructions. */
#define WIDE 8

AESNI static __m128i one_block(const struct aes_key *k, __m128i b, bool encrypt) {
  const __m128i *rk = (const __m128i *)(encrypt ? k->enc : k->dec);
  b = _mm_xor_si128(b, rk[0]);
  for (int r = 1; r < k->rounds; r++)
    b = encrypt ? _mm_aesenc_si128(b, rk[r]) : _mm_aesdec_si128(b, rk[r]);
  return encrypt ? _mm_aesenclast_si128(b, rk[k->rounds])
                 : _mm_aesdeclast_si128(b, rk[k->rounds]);
}

AESNI static __m128i double_tweak(__m128i t) {
  /* Bit 127 folds back as 0x87; bit 63 moves into the upper half. */
  __m128i sign = _mm_srai_epi32(_mm_shuffle_epi32(t, 0x13), 31);
  __m128i carry = _mm_and_si128(sign, _mm_set_epi32(0, 1, 0, 0x87));
  return _mm_xor_si128(_mm_add_epi64(t, t), carry);
}

AESNI static void wide_encrypt(const __m128i *rk, int rounds, __m128i b[WIDE]) {
  for (int r = 1; r < rounds; r++)
    for (int i = 0; i < WIDE; i++) b[i] = _mm_aesenc_si128(b[i], rk[r]);
  for (int i = 0; i < WIDE; i++) b[i] = _mm_aesenclast_si128(b[i], rk[rounds]);
}

AESNI static void wide_decrypt(const __m128i *rk, int rounds, __m128i b[WIDE]) {
  for (int r = 1; r < rounds; r++)
    for (int i = 0; i < WIDE; i++) b[i] = _mm_aesdec_si128(b[i], rk[r]);
  for (int i = 0; i < WIDE; i++) b[i] = _mm_aesdeclast_si128(b[i], rk[rounds]);
}

AESNI void xts_sector_aesni(const struct sector_key *k, uint8_t *p, size_t bytes, uint8_t t8[16],
                            bool encrypt) {
  const __m128i *rk = (const __m128i *)(encrypt ? k->data.enc : k->data.dec);
  __m128i t = _mm_loadu_si128((const __m128i *)t8);
  size_t at = 0;
  for (; at + 16 * WIDE <= bytes; at += 16 * WIDE) {
    __m128i *m = (__m128i *)(p + at);
    __m128i b[WIDE], tw[WIDE];
    for (int i = 0; i < WIDE; i++) {
      tw[i] = t;
      b[i] = _mm_xor_si128(_mm_xor_si128(_mm_loadu_si128(m + i), t), rk[0]);
      t = double_tweak(t);
    }
    if (encrypt)
      wide_encrypt(rk, k->data.rounds, b);
    else
      wide_decrypt(rk, k->data.rounds, b);
    for (int i = 0; i < WIDE; i++) _mm_storeu_si128(m + i, _mm_xor_si128(b[i], tw[i]));
  }
  for (; at < bytes; at += 16, t = double_tweak(t)) {
    __m128i *m = (__m128i *)(p + at);
    __m128i b = _mm_xor_si128(_mm_loadu_si128(m), t);
    _mm_storeu_si128(m, _mm_xor_si128(one_block(&k->data, b, encrypt), t));
  }
}
#endif

void aes_xts_crypt(const struct sector_key *k, uint8_t *p, size_t bytes, size_t sector_bytes,
                   uint64_t sector, bool encrypt) {
  for (size_t at = 0; at < bytes; at += sector_bytes, sector++) {
    uint8_t t[16] = {0};
    for (int i = 0; i < 8; i++) t[i] = (uint8_t)(sector >> (8 * i));
#if defined(__x86_64__)
    if (k->data.hardware) {
      __attribute__((aligned(16))) uint8_t tweak[16];
      memcpy(tweak, t, 16);
      aes_encrypt(&k->tweak, tweak);
      xts_sector_aesni(k, p + at, sector_bytes, tweak, encrypt);
      continue;
    }
#endif
    aes_encrypt(&k->tweak, t);
    sector_tables(k, p + at, sector_bytes, t, encrypt);
  }
}
