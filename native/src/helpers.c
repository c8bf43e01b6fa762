/* Functions that need no context: memory, facts of an open file, hot helpers. */
#include "vdisk.h"

#include "addon.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096
#define HUGE_PAGE (2 << 20)

bool take_args(napi_env env, napi_callback_info info, size_t least, struct args *out) {
  out->env = env;
  out->count = ARGS_MAX;
  if (napi_get_cb_info(env, info, &out->count, out->v, NULL, &out->data) != napi_ok) return false;
  if (out->count >= least) return true;
  napi_throw_type_error(env, NULL, "too few arguments");
  return false;
}

double number_arg(const struct args *a, size_t i) {
  double v = 0;
  if (i < a->count) napi_get_value_double(a->env, a->v[i], &v);
  return v;
}

bool bool_arg(const struct args *a, size_t i) {
  bool v = false;
  if (i < a->count) napi_get_value_bool(a->env, a->v[i], &v);
  return v;
}

bool bytes_arg(const struct args *a, size_t i, uint8_t **p, size_t *n) {
  napi_typedarray_type type;
  void *data = NULL;
  if (napi_get_typedarray_info(a->env, a->v[i], &type, n, &data, NULL, NULL) != napi_ok ||
      (type != napi_uint8_array && type != napi_uint8_clamped_array)) {
    napi_throw_type_error(a->env, NULL, "expected a Uint8Array");
    return false;
  }
  *p = data;
  return true;
}

napi_value number(napi_env env, double v) {
  napi_value out;
  napi_create_double(env, v, &out);
  return out;
}

/* addressOf(view): the address of the first byte of the view's buffer. Any typed array. */
static napi_value address_of(napi_env env, napi_callback_info info) {
  struct args a;
  if (!take_args(env, info, 1, &a)) return NULL;
  void *data = NULL;
  size_t offset = 0;
  if (napi_get_typedarray_info(env, a.v[0], NULL, NULL, &data, NULL, &offset) != napi_ok) {
    napi_throw_type_error(env, NULL, "expected a typed array");
    return NULL;
  }
  return number(env, (double)((uintptr_t)data - offset));
}

static void unmap_memory(napi_env env, void *data, void *hint) {
  (void)env;
  munmap(data, (size_t)(uintptr_t)hint);
}

/* allocateAligned(bytes): an ArrayBuffer at a page of its own, zeroed. Large ones lie in huge
 * pages where the system has them: a device then takes a request of 1 MiB as one segment, not
 * as more than it has room for (virtio-blk: 254). No page is touched here: the kernel clears
 * each one on the thread that first fills it. */
static napi_value allocate_aligned(napi_env env, napi_callback_info info) {
  struct args a;
  if (!take_args(env, info, 1, &a)) return NULL;
  size_t bytes = (size_t)number_arg(&a, 0);
  size_t whole = bytes ? (bytes + PAGE - 1) / PAGE * PAGE : PAGE;
  bool huge = whole >= HUGE_PAGE;
  size_t extra = huge ? HUGE_PAGE - PAGE : 0;
  char *map = mmap(NULL, whole + extra, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) {
    napi_throw_error(env, "ENOMEM", "out of memory");
    return NULL;
  }
  char *memory = map;
  if (huge) {
    memory += (HUGE_PAGE - (uintptr_t)map % HUGE_PAGE) % HUGE_PAGE;
    size_t before = (size_t)(memory - map);
    if (before > 0) munmap(map, before);
    if (before < extra) munmap(memory + whole, extra - before);
    madvise(memory, whole / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
  }
  napi_value out;
  void *hint = (void *)(uintptr_t)whole;
  if (napi_create_external_arraybuffer(env, memory, bytes, unmap_memory, hint, &out) != napi_ok) {
    munmap(memory, whole);
    napi_throw_error(env, "ENOTSUP", "external memory is not allowed here");
    return NULL;
  }
  return out;
}

/* The Float64Array argument that results are put into. */
static bool out_arg(const struct args *a, size_t i, double **out, size_t least) {
  napi_typedarray_type type;
  size_t n = 0;
  void *data = NULL;
  if (napi_get_typedarray_info(a->env, a->v[i], &type, &n, &data, NULL, NULL) != napi_ok ||
      type != napi_float64_array || n < least) {
    napi_throw_type_error(a->env, NULL, "expected a Float64Array");
    return false;
  }
  *out = data;
  return true;
}

/* fileLimits(fd, direct, out): 0 or -errno; out: see struct limits. */
static napi_value limits_of(napi_env env, napi_callback_info info) {
  struct args a;
  double *out;
  struct limits l;
  if (!take_args(env, info, 3, &a) || !out_arg(&a, 2, &out, 5)) return NULL;
  int r = file_limits((int)number_arg(&a, 0), bool_arg(&a, 1), &l);
  if (r == 0) {
    out[0] = l.offset_align;
    out[1] = l.memory_align;
    out[2] = l.max_transfer;
    out[3] = l.optimal;
    out[4] = l.discard;
  }
  return number(env, r);
}

/* fileSize(fd, out): 0 or -errno; out: size, allocated bytes. */
static napi_value size_of(napi_env env, napi_callback_info info) {
  struct args a;
  double *out;
  if (!take_args(env, info, 2, &a) || !out_arg(&a, 1, &out, 2)) return NULL;
  return number(env, file_size((int)number_arg(&a, 0), &out[0], &out[1]));
}

/* setDirect(fd, on): 0 or -errno */
static napi_value direct_flag(napi_env env, napi_callback_info info) {
  struct args a;
  if (!take_args(env, info, 2, &a)) return NULL;
  return number(env, set_direct((int)number_arg(&a, 0), bool_arg(&a, 1)));
}

/* lock(fd, type, offset, bytes, test): see ofd_lock() */
static napi_value lock(napi_env env, napi_callback_info info) {
  struct args a;
  if (!take_args(env, info, 5, &a)) return NULL;
  int r = ofd_lock((int)number_arg(&a, 0), (int)number_arg(&a, 1), (off_t)number_arg(&a, 2),
                   (off_t)number_arg(&a, 3), bool_arg(&a, 4));
  return number(env, r);
}

/* extentAt(fd, offset): bytes of the run, negative for a hole, 0: none */
static napi_value extent(napi_env env, napi_callback_info info) {
  struct args a;
  if (!take_args(env, info, 2, &a)) return NULL;
  return number(env, (double)extent_at((int)number_arg(&a, 0), (off_t)number_arg(&a, 1)));
}

static napi_value zero(napi_env env, napi_callback_info info) {
  struct args a;
  uint8_t *p;
  size_t n;
  napi_value out;
  if (!take_args(env, info, 1, &a) || !bytes_arg(&a, 0, &p, &n)) return NULL;
  napi_get_boolean(env, is_zero(p, n), &out);
  return out;
}

static napi_value crc(napi_env env, napi_callback_info info) {
  struct args a;
  uint8_t *p;
  size_t n;
  if (!take_args(env, info, 2, &a) || !bytes_arg(&a, 0, &p, &n)) return NULL;
  return number(env, crc32c((uint32_t)number_arg(&a, 1), p, n));
}

/* The key schedule does not stay in freed memory. */
static void free_key(napi_env env, void *data, void *hint) {
  (void)env;
  (void)hint;
  explicit_bzero(data, sizeof(struct sector_key));
  free(data);
}

static napi_value key_result(napi_env env, struct sector_key *key) {
  napi_value out;
  if (napi_create_external(env, key, free_key, NULL, &out) != napi_ok) {
    free_key(env, key, NULL);
    return NULL;
  }
  return out;
}

static struct sector_key *new_key(napi_env env, enum sector_mode mode) {
  struct sector_key *key = aligned_alloc(16, (sizeof *key + 15) / 16 * 16);
  if (!key)
    napi_throw_error(env, "ENOMEM", "out of memory");
  else
    key->mode = mode;
  return key;
}

/* xtsKey(key, tables): key is 32 or 64 bytes, data key first; `tables` forbids the CPU's
 * AES instructions. */
static napi_value xts_key(napi_env env, napi_callback_info info) {
  struct args a;
  uint8_t *p;
  size_t n;
  if (!take_args(env, info, 2, &a) || !bytes_arg(&a, 0, &p, &n)) return NULL;
  if (n != 32 && n != 64) {
    napi_throw_range_error(env, NULL, "XTS: a key has 32 or 64 bytes");
    return NULL;
  }
  struct sector_key *key = new_key(env, SECTOR_XTS);
  if (!key) return NULL;
  aes_init(&key->data, p, n / 2);
  aes_init(&key->tweak, p + n / 2, n / 2);
  if (bool_arg(&a, 1)) key->data.hardware = false;
  return key_result(env, key);
}

static bool is_aes_key(size_t bytes) { return bytes == 16 || bytes == 24 || bytes == 32; }

/* cbcKey(key, wide, ivKey, tables): an IV is the sector's number in 64 (`wide`) or 32 bits,
 * encrypted with ivKey (ESSIV) unless that is empty. */
static napi_value cbc_key(napi_env env, napi_callback_info info) {
  struct args a;
  uint8_t *p, *iv;
  size_t n, iv_bytes;
  if (!take_args(env, info, 4, &a)) return NULL;
  if (!bytes_arg(&a, 0, &p, &n) || !bytes_arg(&a, 2, &iv, &iv_bytes)) return NULL;
  if (!is_aes_key(n) || (iv_bytes != 0 && !is_aes_key(iv_bytes))) {
    napi_throw_range_error(env, NULL, "AES: a key has 16, 24 or 32 bytes");
    return NULL;
  }
  enum sector_mode plain = bool_arg(&a, 1) ? SECTOR_CBC_PLAIN64 : SECTOR_CBC_PLAIN;
  struct sector_key *key = new_key(env, iv_bytes != 0 ? SECTOR_CBC_ESSIV : plain);
  if (!key) return NULL;
  aes_init(&key->data, p, n);
  if (iv_bytes != 0) aes_init(&key->tweak, iv, iv_bytes);
  if (bool_arg(&a, 3)) key->data.hardware = false;
  return key_result(env, key);
}

static struct sector_key *key_arg(const struct args *a, size_t i) {
  void *key = NULL;
  if (napi_get_value_external(a->env, a->v[i], &key) != napi_ok || !key)
    napi_throw_type_error(a->env, NULL, "expected the key of a cipher");
  return key;
}

/* keyAddress(key): for OP_XTS slots; JavaScript keeps the key alive meanwhile. */
static napi_value key_address(napi_env env, napi_callback_info info) {
  struct args a;
  if (!take_args(env, info, 1, &a)) return NULL;
  struct sector_key *key = key_arg(&a, 0);
  return key ? number(env, (double)(uintptr_t)key) : NULL;
}

/* sectorCrypt(key, bytes, sectorBytes, firstSector, encrypt): in place */
static napi_value crypt_sectors(napi_env env, napi_callback_info info) {
  struct args a;
  uint8_t *p;
  size_t n;
  if (!take_args(env, info, 5, &a)) return NULL;
  struct sector_key *key = key_arg(&a, 0);
  if (!key || !bytes_arg(&a, 1, &p, &n)) return NULL;
  size_t sector_bytes = (size_t)number_arg(&a, 2);
  if (sector_bytes == 0 || sector_bytes % 16 != 0 || n % sector_bytes != 0) {
    napi_throw_range_error(env, NULL, "AES: whole sectors of whole blocks only");
    return NULL;
  }
  sector_crypt(key, p, n, sector_bytes, (uint64_t)number_arg(&a, 3), bool_arg(&a, 4));
  return NULL;
}

/* countPlain(table, from, counts, scan): index of the entry that ended the scan */
static napi_value plain(napi_env env, napi_callback_info info) {
  struct args a;
  uint8_t *table, *counts;
  size_t bytes, n;
  double *scan;
  if (!take_args(env, info, 4, &a)) return NULL;
  if (!bytes_arg(&a, 0, &table, &bytes) || !bytes_arg(&a, 2, &counts, &n)) return NULL;
  if (!out_arg(&a, 3, &scan, SCAN_SIZE)) return NULL;
  double bits = scan[SCAN_CLUSTER_BITS];
  if (!(bits >= 1 && bits <= 62)) {
    napi_throw_range_error(env, NULL, "expected the bits of a cluster");
    return NULL;
  }
  return number(env, (double)count_plain(table, (size_t)number_arg(&a, 1), bytes / 8, counts, n,
                                         scan));
}

/* equalCounts(block, counts): how many agree */
static napi_value equal(napi_env env, napi_callback_info info) {
  struct args a;
  uint8_t *block, *counts;
  size_t bytes, n;
  if (!take_args(env, info, 2, &a)) return NULL;
  if (!bytes_arg(&a, 0, &block, &bytes) || !bytes_arg(&a, 1, &counts, &n)) return NULL;
  return number(env, (double)equal_counts(block, counts, n < bytes / 2 ? n : bytes / 2));
}

/* codecs(): bits of CODEC_ZLIB and CODEC_ZSTD */
static napi_value which_codecs(napi_env env, napi_callback_info info) {
  (void)info;
  return number(env, codecs());
}

const struct export helper_exports[] = {
    {"addressOf", address_of},   {"allocateAligned", allocate_aligned},
    {"fileLimits", limits_of},   {"fileSize", size_of},
    {"setDirect", direct_flag},  {"lock", lock},
    {"extentAt", extent},        {"isZero", zero},
    {"crc32c", crc},             {"xtsKey", xts_key},
    {"cbcKey", cbc_key},         {"keyAddress", key_address},
    {"sectorCrypt", crypt_sectors},
    {"codecs", which_codecs},    {"countPlain", plain},
    {"equalCounts", equal},
};
const size_t helper_export_count = sizeof helper_exports / sizeof helper_exports[0];
