/*
 * zlib and zstd on the pool's threads, straight into the caller's memory, with state that
 * each thread keeps from one cluster to the next.
 *
 * Neither is linked: zlib is looked up in the running process (Node carries one), then as
 * libz.so.1, zstd as libzstd.so.1. Where one is missing JavaScript uses other ways.
 */
#include "vdisk.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The public ABI of zlib 1.x (zlib.h is not needed to build). */
struct z_stream {
  const uint8_t *next_in;
  unsigned avail_in;
  unsigned long total_in;
  uint8_t *next_out;
  unsigned avail_out;
  unsigned long total_out;
  const char *msg;
  void *state;
  void *(*zalloc)(void *, unsigned, unsigned);
  void (*zfree)(void *, void *);
  void *opaque;
  int data_type;
  unsigned long adler, reserved;
};
#define Z_VERSION "1"
#define Z_OK 0
#define Z_STREAM_END 1
#define Z_BUF_ERROR (-5)
#define Z_FINISH 4
#define Z_DEFLATED 8

/* The stable part of zstd's ABI. */
#define ZSTD_LEVEL 3

static struct {
  int (*deflate_init)(struct z_stream *, int, int, int, int, int, const char *, int);
  int (*deflate)(struct z_stream *, int);
  int (*deflate_reset)(struct z_stream *);
  int (*deflate_end)(struct z_stream *);
  int (*inflate_init)(struct z_stream *, int, const char *, int);
  int (*inflate)(struct z_stream *, int);
  int (*inflate_reset)(struct z_stream *, int);
  int (*inflate_end)(struct z_stream *);
  void *(*zstd_cctx)(void);
  size_t (*zstd_free_cctx)(void *);
  size_t (*zstd_compress)(void *, void *, size_t, const void *, size_t, int);
  void *(*zstd_dctx)(void);
  size_t (*zstd_free_dctx)(void *);
  size_t (*zstd_decompress)(void *, void *, size_t, const void *, size_t);
  unsigned (*zstd_is_error)(size_t);
  int found;
} lib;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* What a thread keeps. */
struct codec {
  struct z_stream deflate, inflate;
  int deflate_key; /* settings that `deflate` was made with; 0: none */
  bool inflate_made;
  void *cctx, *dctx;
};
static _Thread_local struct codec *mine;

struct symbol {
  void **to;
  const char *name;
};

static bool find(void *handle, const struct symbol *list, size_t n) {
  for (size_t i = 0; i < n; i++)
    if ((*list[i].to = dlsym(handle, list[i].name)) == NULL) return false;
  return true;
}

#define SYMBOL(field, text) {(void **)&lib.field, text}

static void look_up(void) {
  static const struct symbol zlib[] = {
      SYMBOL(deflate_init, "deflateInit2_"), SYMBOL(deflate, "deflate"),
      SYMBOL(deflate_reset, "deflateReset"), SYMBOL(deflate_end, "deflateEnd"),
      SYMBOL(inflate_init, "inflateInit2_"), SYMBOL(inflate, "inflate"),
      SYMBOL(inflate_reset, "inflateReset2"), SYMBOL(inflate_end, "inflateEnd"),
  };
  static const struct symbol zstd[] = {
      SYMBOL(zstd_cctx, "ZSTD_createCCtx"),          SYMBOL(zstd_free_cctx, "ZSTD_freeCCtx"),
      SYMBOL(zstd_compress, "ZSTD_compressCCtx"),    SYMBOL(zstd_dctx, "ZSTD_createDCtx"),
      SYMBOL(zstd_free_dctx, "ZSTD_freeDCtx"),       SYMBOL(zstd_is_error, "ZSTD_isError"),
      SYMBOL(zstd_decompress, "ZSTD_decompressDCtx"),
  };
  const size_t nz = sizeof zlib / sizeof zlib[0], ns = sizeof zstd / sizeof zstd[0];
  void *handle;
  if (find(RTLD_DEFAULT, zlib, nz) ||
      ((handle = dlopen("libz.so.1", RTLD_NOW | RTLD_LOCAL)) && find(handle, zlib, nz)))
    lib.found |= CODEC_ZLIB;
  if ((handle = dlopen("libzstd.so.1", RTLD_NOW | RTLD_LOCAL)) && find(handle, zstd, ns))
    lib.found |= CODEC_ZSTD;
}

int codecs(void) {
  pthread_once(&once, look_up);
  return lib.found;
}

static struct codec *state(void) {
  if (!mine) mine = calloc(1, sizeof *mine);
  return mine;
}

void codec_free(void) {
  struct codec *c = mine;
  if (!c) return;
  if (c->deflate_key) lib.deflate_end(&c->deflate);
  if (c->inflate_made) lib.inflate_end(&c->inflate);
  if (c->cctx) lib.zstd_free_cctx(c->cctx);
  if (c->dctx) lib.zstd_free_dctx(c->dctx);
  free(c);
  mine = NULL;
}

static void point(struct z_stream *z, const struct slot *s) {
  z->next_in = (const uint8_t *)(uintptr_t)s->addr;
  z->avail_in = (unsigned)s->bytes;
  z->next_out = (uint8_t *)(uintptr_t)s->arg1;
  z->avail_out = (unsigned)s->arg2;
}

/* s->offset: level + 1, memLevel, windowBits, a byte each. -EFBIG: the output is too short. */
static int32_t run_deflate(struct slot *s, struct codec *c) {
  int key = (int)s->offset;
  struct z_stream *z = &c->deflate;
  if (c->deflate_key != key) {
    if (c->deflate_key) lib.deflate_end(z);
    c->deflate_key = 0;
    memset(z, 0, sizeof *z);
    int level = (key >> 16 & 255) - 1, memory = key >> 8 & 255, window = key & 255;
    int r = lib.deflate_init(z, level, Z_DEFLATED, -window, memory, 0, Z_VERSION, sizeof *z);
    if (r != Z_OK) return -EINVAL;
    c->deflate_key = key;
  } else if (lib.deflate_reset(z) != Z_OK) {
    return -EIO;
  }
  point(z, s);
  int r = lib.deflate(z, Z_FINISH);
  if (r == Z_OK || r == Z_BUF_ERROR) return -EFBIG;
  if (r != Z_STREAM_END) return -EIO;
  s->result = s->arg2 - (double)z->avail_out;
  return 0;
}

/*
 * s->offset: windowBits, negative for a raw stream. -EBADMSG: damaged or too short; of a zlib
 * stream also too long, for it has an end and a checksum.
 */
static int32_t run_inflate(struct slot *s, struct codec *c) {
  struct z_stream *z = &c->inflate;
  int window = (int)s->offset;
  int r = c->inflate_made ? lib.inflate_reset(z, window)
                          : lib.inflate_init(z, window, Z_VERSION, sizeof *z);
  if (r != Z_OK) return -EINVAL;
  c->inflate_made = true;
  point(z, s);
  r = lib.inflate(z, Z_FINISH);
  bool begun = window < 0 && (r == Z_OK || r == Z_BUF_ERROR);
  if (r != Z_STREAM_END && !begun) return -EBADMSG;
  return z->avail_out == 0 ? 0 : -EBADMSG;
}

static int32_t run_zstd(struct slot *s, struct codec *c, bool compress) {
  void *out = (void *)(uintptr_t)s->arg1;
  const void *in = (const void *)(uintptr_t)s->addr;
  size_t n;
  if (compress) {
    if (!c->cctx && !(c->cctx = lib.zstd_cctx())) return -ENOMEM;
    n = lib.zstd_compress(c->cctx, out, (size_t)s->arg2, in, (size_t)s->bytes, ZSTD_LEVEL);
    if (lib.zstd_is_error(n)) return -EFBIG;
  } else {
    if (!c->dctx && !(c->dctx = lib.zstd_dctx())) return -ENOMEM;
    n = lib.zstd_decompress(c->dctx, out, (size_t)s->arg2, in, (size_t)s->bytes);
    if (lib.zstd_is_error(n)) return -EBADMSG;
  }
  s->result = (double)n;
  return 0;
}

int32_t run_codec(struct slot *s) {
  int wanted = s->op == OP_DEFLATE || s->op == OP_INFLATE ? CODEC_ZLIB : CODEC_ZSTD;
  if (!(codecs() & wanted)) return -ENOSYS;
  struct codec *c = state();
  if (!c) return -ENOMEM;
  if (s->op == OP_DEFLATE) return run_deflate(s, c);
  if (s->op == OP_INFLATE) return run_inflate(s, c);
  return run_zstd(s, c, s->op == OP_ZSTD_COMPRESS);
}
