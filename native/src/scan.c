/* The inner loops of checking an image; twins of src/lib/table-scan.ts. */
#include "vdisk.h"

#include <string.h>

static inline uint64_t big64(const uint8_t *p) {
  uint64_t v;
  memcpy(&v, p, sizeof v);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  v = __builtin_bswap64(v);
#endif
  return v;
}

size_t count_plain(const uint8_t *table, size_t from, size_t entries, uint8_t *counts, size_t n,
                   double scan[SCAN_SIZE]) {
  unsigned bits = (unsigned)scan[SCAN_CLUSTER_BITS];
  uint64_t first = (uint64_t)scan[SCAN_FIRST], next = (uint64_t)scan[SCAN_NEXT];
  unsigned max = (unsigned)scan[SCAN_MAX];
  int64_t highest = (int64_t)scan[SCAN_HIGHEST];
  const uint64_t flag = 1ull << 63, in_cluster = (1ull << bits) - 1;
  size_t i = from, allocated = 0, fragmented = 0;
  for (; i < entries; i++) {
    uint64_t e = big64(table + 8 * i);
    if (e == 0) continue;
    if (!(e & flag) || (e & in_cluster)) break;
    uint64_t cluster = (e & ~flag) >> bits;
    if (cluster == 0 || cluster < first || cluster - first >= n) break;
    uint8_t *count = counts + (cluster - first);
    if (*count >= max) break;
    if (*count != 0) scan[SCAN_SHARED] = 1;
    (*count)++;
    if ((int64_t)cluster > highest) highest = (int64_t)cluster;
    allocated++;
    if (next != 0 && cluster != next) fragmented++;
    next = cluster + 1;
  }
  scan[SCAN_NEXT] = (double)next;
  scan[SCAN_ALLOCATED] += (double)allocated;
  scan[SCAN_FRAGMENTED] += (double)fragmented;
  scan[SCAN_HIGHEST] = (double)highest;
  return i;
}

size_t equal_counts(const uint8_t *block, const uint8_t *counts, size_t n) {
  size_t i = 0;
  while (i < n && block[2 * i + 1] == counts[i] && block[2 * i] == 0) i++;
  return i;
}
