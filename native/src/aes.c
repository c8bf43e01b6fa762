/*
 * AES (FIPS 197) by tables, and the key schedules that the hardware path uses too.
 *
 * Round keys are words whose memory order is the cipher's byte order. The table path's
 * timing depends on data; where the CPU has AES instructions it is not used.
 */
#include "vdisk.h"

#include <string.h>

static uint8_t sbox[256], inverse[256];
/* te[x]: column (2s, s, s, 3s) of MixColumns for s = sbox[x]; td: the inverse's. */
static uint32_t te[256], td[256];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static uint8_t twice(uint8_t x) { return (uint8_t)(x << 1 ^ ((x >> 7) * 0x1b)); }

static uint8_t times(uint8_t a, uint8_t b) {
  uint8_t r = 0;
  for (; b; b >>= 1, a = twice(a))
    if (b & 1) r ^= a;
  return r;
}

static uint32_t column(uint8_t a, uint8_t b, uint8_t c, uint8_t d) {
  return (uint32_t)a | (uint32_t)b << 8 | (uint32_t)c << 16 | (uint32_t)d << 24;
}

static uint32_t rotl(uint32_t x, int n) { return n ? x << n | x >> (32 - n) : x; }

static void make_tables(void) {
  /* Powers of the generator 3 give inverses: 3^i * 3^(255-i) = 1. */
  uint8_t power[256], x = 1;
  for (int i = 0; i < 256; i++) {
    power[i] = x;
    x ^= twice(x);
  }
  uint8_t inv[256] = {0};
  for (int i = 0; i < 255; i++) inv[power[i]] = power[(255 - i) % 255];
  for (int i = 0; i < 256; i++) {
    uint8_t s = inv[i], v = s;
    for (int k = 1; k < 5; k++) v ^= (uint8_t)(s << k | s >> (8 - k));
    v ^= 0x63;
    sbox[i] = v;
    inverse[v] = (uint8_t)i;
  }
  for (int i = 0; i < 256; i++) {
    uint8_t s = sbox[i], v = inverse[i];
    te[i] = column(twice(s), s, s, (uint8_t)(twice(s) ^ s));
    td[i] = column(times(v, 14), times(v, 9), times(v, 13), times(v, 11));
  }
}

static uint32_t sub_word(uint32_t w) {
  return column(sbox[w & 0xff], sbox[w >> 8 & 0xff], sbox[w >> 16 & 0xff], sbox[w >> 24]);
}

static uint32_t inverse_mix(uint32_t w) {
  return td[sbox[w & 0xff]] ^ rotl(td[sbox[w >> 8 & 0xff]], 8) ^
         rotl(td[sbox[w >> 16 & 0xff]], 16) ^ rotl(td[sbox[w >> 24]], 24);
}

static uint32_t load32(const uint8_t *p) { return column(p[0], p[1], p[2], p[3]); }

static void store32(uint8_t *p, uint32_t w) {
  for (int i = 0; i < 4; i++) p[i] = (uint8_t)(w >> (8 * i));
}

void aes_init(struct aes_key *k, const uint8_t *key, size_t key_bytes) {
  pthread_once(&once, make_tables);
  int words = (int)key_bytes / 4;
  k->rounds = words + 6;
#if defined(__x86_64__)
  k->hardware = __builtin_cpu_supports("aes") && __builtin_cpu_supports("sse4.1");
#else
  k->hardware = false;
#endif
  int total = 4 * (k->rounds + 1);
  uint8_t rcon = 1;
  for (int i = 0; i < words; i++) k->enc[i] = load32(key + 4 * i);
  for (int i = words; i < total; i++) {
    uint32_t w = k->enc[i - 1];
    if (i % words == 0) {
      w = sub_word(rotl(w, 24)) ^ rcon;
      rcon = twice(rcon);
    } else if (words > 6 && i % words == 4) {
      w = sub_word(w);
    }
    k->enc[i] = k->enc[i - words] ^ w;
  }
  /* Equivalent inverse cipher (FIPS 197, 5.3.5). */
  for (int r = 0; r <= k->rounds; r++)
    for (int c = 0; c < 4; c++) {
      uint32_t w = k->enc[4 * (k->rounds - r) + c];
      k->dec[4 * r + c] = r == 0 || r == k->rounds ? w : inverse_mix(w);
    }
}

/* One direction: `step` is the column distance of ShiftRows, 1 or (inverse) 3. */
static inline void cipher(const uint32_t *rk, int rounds, const uint32_t *t, const uint8_t *last,
                          unsigned step, uint8_t block[16]) {
  uint32_t s[4], n[4];
  for (int c = 0; c < 4; c++) s[c] = load32(block + 4 * c) ^ rk[c];
  for (int r = 1; r < rounds; r++) {
    for (unsigned c = 0; c < 4; c++)
      n[c] = t[s[c] & 0xff] ^ rotl(t[s[(c + step) & 3] >> 8 & 0xff], 8) ^
             rotl(t[s[(c + 2) & 3] >> 16 & 0xff], 16) ^ rotl(t[s[(c + 3 * step) & 3] >> 24], 24) ^
             rk[4 * r + (int)c];
    memcpy(s, n, sizeof s);
  }
  for (unsigned c = 0; c < 4; c++)
    n[c] = column(last[s[c] & 0xff], last[s[(c + step) & 3] >> 8 & 0xff],
                  last[s[(c + 2) & 3] >> 16 & 0xff], last[s[(c + 3 * step) & 3] >> 24]) ^
           rk[4 * rounds + (int)c];
  for (int c = 0; c < 4; c++) store32(block + 4 * c, n[c]);
}

void aes_encrypt(const struct aes_key *k, uint8_t block[16]) {
  cipher(k->enc, k->rounds, te, sbox, 1, block);
}

void aes_decrypt(const struct aes_key *k, uint8_t block[16]) {
  cipher(k->dec, k->rounds, td, inverse, 3, block);
}
