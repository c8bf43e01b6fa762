/*
 * vdisk's native I/O: one context per JavaScript environment (main thread or worker).
 *
 * Memory shared with JavaScript (one ArrayBuffer, see struct shared below):
 *   JavaScript fills a slot, appends its number to `sq` and counts it in
 *   `header[H_QUEUED]`. Nothing is called for it: a uv_prepare handle submits what one
 *   turn of the event loop queued, as one batch, before the loop would sleep.
 *   C puts (slot, result) pairs into `cq` and calls one JavaScript function for all.
 *
 * Invariants:
 *   I1  A slot is owned by C from the moment that submit_queued() takes it off `sq` until
 *       its pair is in `cq`; JavaScript keeps the memory that it names alive until then.
 *   I2  Each slot taken gets exactly one pair, whatever fails.
 *   I3  header[H_INFLIGHT] (kept by JavaScript) is the number of slots not yet delivered;
 *       the handles hold the event loop alive exactly while it is not 0.
 *   I4  Only the environment's own thread touches the context, but for the pool's queue
 *       (under its mutex) and its list of finished slots (atomic).
 *   I5  Tear-down ends only when the kernel and the pool hold no slot any more.
 */
#ifndef VDISK_H
#define VDISK_H

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

/* Requests that one context carries at once; more wait in JavaScript. 1024 is above what
 * any device queue here takes (virtio-blk: 256, NVMe: 1023). */
#define SLOTS 1024
/* Pieces of a vector kept beside the slot; longer ones live in memory of the request. */
#define PIECES 16

/* Sockets that are looked at before the loop sleeps; of more, none can be waited for alone. */
#define SOCKETS 8

/* The kernel moves at most this much in one call (INT_MAX rounded down to a page). */
#define TRANSFER_LIMIT 0x7ffff000

enum op {
  OP_READ,
  OP_WRITE,
  OP_FDATASYNC,
  OP_TRUNCATE,
  OP_FALLOCATE,   /* arg1: mode */
  OP_COPY,        /* arg1: source fd, arg2: source offset; result: bytes copied */
  OP_DISCARD,     /* block device */
  OP_ZERO_OUT,    /* block device */
  OP_DROP_CACHE,
  OP_RESIDENT,    /* result: bytes in the page cache */
  OP_EXTENT,      /* result: bytes of the run, negative for a hole, 0: none */
  OP_FIND_ZEROES, /* addr: a mark per block, arg1: bytes of a block, arg2: of the first one's that
                   lie before offset; -EAGAIN when not all is in the page cache */
  OP_WRITE_FROM,  /* addr: of a struct origin */
  OP_XTS,         /* offset: bytes of a sector, arg1: key's address, arg2: first sector; fd:
                   1 to encrypt */
  /* addr, bytes: input; arg1, arg2: address and size of the output; see codec.c for offset */
  OP_DEFLATE,
  OP_INFLATE,
  OP_ZSTD_COMPRESS,
  OP_ZSTD_DECOMPRESS,
  OP_COUNT,
};

enum engine { ENGINE_THREADS, ENGINE_AIO, ENGINE_URING };

/* Slot flags. */
#define F_CACHED 1    /* page cache in use: may finish inline */
#define F_AT_ONCE 2   /* a call of this process shall do it, not the file's own engine */

/* One request; 64 bytes, seen by JavaScript as Float64Array and Int32Array. */
struct slot {
  double offset;
  double addr;      /* memory, or of the (address, length) pairs when pieces > 1 */
  double bytes;
  double result;    /* of operations whose result does not fit 32 bits */
  int32_t op;
  int32_t fd;
  int32_t pieces;
  int32_t engine;
  double arg1;
  double arg2;
};

/* H_BATCH: submissions so far, wrapping. H_BLOCKED: writes that wait for a peer to read, which
 * only the loop's own wait tells of. */
enum header { H_QUEUED, H_INFLIGHT, H_ARMED, H_BATCH, H_BLOCKED, H_WORDS = 16 };

/* Layout of the shared ArrayBuffer. */
struct shared {
  int32_t header[H_WORDS];
  struct slot slots[SLOTS];
  int32_t flags[SLOTS];
  int32_t sq[SLOTS];
  int32_t cq[2 * SLOTS];
  uint64_t pieces[SLOTS][2 * PIECES]; /* doubles from JavaScript, iovecs after prepare */
};

/* What C keeps for a slot. */
struct work {
  struct iovec one;
  struct iovec *iov; /* &one, or the pairs turned into iovecs in place */
  int32_t res;
  int32_t next;      /* links of the pool's lists; -1 ends one */
  int32_t behind;    /* the write to the same file that comes next; -1: none */
};

struct uring;
struct aio;
struct pool;

/* Adaptive polling, see look_for(). */
struct polling {
  uint64_t limit_ns;  /* 0: off */
  uint64_t ns;        /* how long to look this time */
  uint32_t rest;      /* waits to let pass before trying again */
  uint32_t penalty;   /* how often the CPU was taken away while polling, lately */
  uint32_t hits;
};

/* Counters that tests and the bench read. */
enum counter { S_BATCHES, S_INLINE, S_RING, S_AIO, S_POOL, S_ROUNDS, S_WAKES, S_POLLS, S_COUNT };

struct engines {
  struct shared *sh;
  struct work work[SLOTS];
  int cq_count;        /* pairs in sh->cq not yet passed to JavaScript */
  struct uring *uring; /* NULL: the kernel refuses it */
  struct aio *aio;
  struct pool *pool;
  struct polling polling;
  struct pollfd sockets[SOCKETS]; /* read by others; only looked at here */
  int socket_count;
  struct polling listening; /* for requests of peers, on these sockets */
  uint64_t write_slow_until; /* ns; inline writes pause until then */
  uint64_t write_suspect_until;
  uint64_t direct_slow_until; /* the same for writes past the page cache */
  uint64_t direct_pause_ns;   /* how long they paused last */
  uint64_t stats[S_COUNT];
};

/* poll.c */
uint64_t now_ns(void);
void polling_init(struct polling *p, uint64_t limit_ns);
bool look_for(struct polling *p, bool (*ready)(const void *), const void *arg);
/* Looks for at most `ns`, without adapting. */
bool glance(uint64_t ns, bool (*ready)(const void *), const void *arg);

/* context.c */
void complete(struct engines *e, int slot, int32_t res);
void submit_queued(struct engines *e);
void reap_all(struct engines *e);
/* Looks for completions for a short while; whether there are any. */
bool poll_done(struct engines *e);
/* Looks for data on the sockets for a short while; whether there is any. */
bool poll_sockets(struct engines *e);
/* Adds or takes away a socket; one too many is not looked at. */
void watch_socket(struct engines *e, int fd, bool on);
/* Whether requests wait inside C for another submission. */
bool submit_pending(const struct engines *e);
void engines_open(struct engines *e, struct shared *sh, uint64_t poll_ns);
/* Waits for everything in flight (I5), then frees. */
void engines_close(struct engines *e);

/* uring.c: -1 and errno when refused */
struct uring *uring_open(struct engines *e);
int uring_fd(const struct uring *u);
void uring_push(struct uring *u, int slot);
void uring_submit(struct uring *u);
/* How many were done. */
int uring_reap(struct uring *u);
unsigned uring_inflight(const struct uring *u);
void uring_woken(struct uring *u);
bool uring_ready(const struct uring *u);
bool uring_pending(const struct uring *u);
void uring_close(struct uring *u);

/* aio.c */
struct aio *aio_open(struct engines *e);
int aio_fd(const struct aio *a);
void aio_push(struct aio *a, int slot);
void aio_submit(struct aio *a);
int aio_reap(struct aio *a);
unsigned aio_inflight(const struct aio *a);
void aio_woken(struct aio *a);
bool aio_ready(const struct aio *a);
bool aio_pending(const struct aio *a);
void aio_close(struct aio *a);

/* pool.c */
struct pool *pool_open(struct engines *e, uint64_t poll_ns);
int pool_fd(const struct pool *p);
/* Kinds of work, first taken first: copies from and to the page cache, what may sleep in the
 * kernel, and long computations. */
enum lane { LANE_BURNS, LANE_SLEEPS, LANE_COMPUTES, LANES };
void pool_push(struct pool *p, int slot, enum lane lane);
/* Ends a batch of pool_push(), and starts it. */
void pool_submit(struct pool *p);
/* More than one request. */
bool pool_busy(const struct pool *p);
void pool_reap(struct pool *p);
void pool_woken(struct pool *p);
bool pool_ready(const struct pool *p);
void pool_close(struct pool *p);

/* codec.c */
enum { CODEC_ZLIB = 1, CODEC_ZSTD = 2 };
/* Which are there. */
int codecs(void);
int32_t run_codec(struct slot *s);
/* Frees what the calling thread keeps. */
void codec_free(void);

/* through.c */
/* Marks the blocks of a cached range that hold only zeroes with 1, others with 0. */
int32_t find_zeroes(struct slot *s);
/* Where bytes to write come from. */
struct origin {
  double fd;
  double offset;
  double block; /* blocks of zeroes of that many bytes need not be written; 0: all is */
};
/* Copies a range of another file here; what lies behind its end is zeroes. */
int32_t write_from(struct slot *s);
/* Frees what the calling thread keeps. */
void through_free(void);

/* socket.c: whether a range is in the page cache; false also when that cannot be told. */
bool is_cached(int fd, uint64_t offset, uint64_t bytes);

/* fileops.c: runs a slot on the calling thread; bytes or 0, else -errno */
int32_t run_slot(struct slot *s, struct iovec *iov);
int64_t extent_at(int fd, off_t offset);

/* sync.c: what is answered at once */
struct limits {
  uint32_t offset_align;
  uint32_t memory_align;
  uint32_t max_transfer;
  uint32_t optimal;
  uint32_t discard;
};
int file_limits(int fd, bool direct, struct limits *out);
int file_size(int fd, double *size, double *allocated);
int set_direct(int fd, bool direct);
int ofd_lock(int fd, int type, off_t offset, off_t bytes, bool test);

/* scan.c: see src/lib/table-scan.ts, whose Scan this is. */
enum scan {
  SCAN_FIRST,
  SCAN_CLUSTER_BITS,
  SCAN_MAX,
  SCAN_NEXT,
  SCAN_ALLOCATED,
  SCAN_FRAGMENTED,
  SCAN_HIGHEST,
  SCAN_SHARED,
  SCAN_SIZE
};
size_t count_plain(const uint8_t *table, size_t from, size_t entries, uint8_t *counts, size_t n,
                   double scan[SCAN_SIZE]);
size_t equal_counts(const uint8_t *block, const uint8_t *counts, size_t n);

/* zero.c, crc32c.c, aes.c, xts.c, cbc.c */
bool is_zero(const uint8_t *p, size_t n);
uint32_t crc32c(uint32_t seed, const uint8_t *p, size_t n);

#define AES_ROUNDS_MAX 14
struct aes_key {
  _Alignas(16) uint32_t enc[4 * (AES_ROUNDS_MAX + 1)];
  _Alignas(16) uint32_t dec[4 * (AES_ROUNDS_MAX + 1)];
  int rounds;
  bool hardware;
};
enum sector_mode { SECTOR_XTS, SECTOR_CBC_PLAIN, SECTOR_CBC_PLAIN64, SECTOR_CBC_ESSIV };
struct sector_key {
  struct aes_key data;
  /* XTS: of the tweak; ESSIV: of the IV. */
  struct aes_key tweak;
  enum sector_mode mode;
};
/* key_bytes: 16, 24 or 32. */
void aes_init(struct aes_key *k, const uint8_t *key, size_t key_bytes);
void aes_encrypt(const struct aes_key *k, uint8_t block[16]);
void aes_decrypt(const struct aes_key *k, uint8_t block[16]);
/* In place; `bytes` is a multiple of `sector_bytes`, that one of 16. */
void sector_crypt(const struct sector_key *k, uint8_t *p, size_t bytes, size_t sector_bytes,
                  uint64_t sector, bool encrypt);
void aes_xts_crypt(const struct sector_key *k, uint8_t *p, size_t bytes, size_t sector_bytes,
                   uint64_t sector, bool encrypt);
void aes_cbc_crypt(const struct sector_key *k, uint8_t *p, size_t bytes, size_t sector_bytes,
                   uint64_t sector, bool encrypt);
#if defined(__x86_64__)
void xts_sector_aesni(const struct sector_key *k, uint8_t *p, size_t bytes, uint8_t t[16],
                      bool encrypt);
#endif

#endif
