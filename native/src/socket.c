/* What Node's sockets lack: sending without a request object, and another descriptor. */
#include "vdisk.h"

#include "addon.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Pieces of one call. */
#define SEND_PIECES 64

/* sendPieces(fd, address, count): sends what the kernel takes at once of the (address, length)
 * pairs of doubles at `address`; bytes, or -errno. */
static napi_value send_pieces(napi_env env, napi_callback_info info) {
  struct args a;
  struct iovec iov[SEND_PIECES];
  if (!take_args(env, info, 3, &a)) return NULL;
  const double *pair = (const double *)(uintptr_t)number_arg(&a, 1);
  size_t count = (size_t)number_arg(&a, 2);
  if (count > SEND_PIECES) count = SEND_PIECES;
  for (size_t i = 0; i < count; i++) {
    iov[i].iov_base = (void *)(uintptr_t)pair[2 * i];
    iov[i].iov_len = (size_t)pair[2 * i + 1];
  }
  struct msghdr message = {.msg_iov = iov, .msg_iovlen = count};
  ssize_t n;
  do {
    n = sendmsg((int)number_arg(&a, 0), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (n < 0 && errno == EINTR);
  return number(env, n < 0 ? -errno : (double)n);
}

/* duplicate(fd, sendBuffer): a second descriptor of a socket, whose send buffer becomes so many
 * bytes where the system lets it; or -errno. */
static napi_value duplicate(napi_env env, napi_callback_info info) {
  struct args a;
  if (!take_args(env, info, 2, &a)) return NULL;
  int fd = (int)number_arg(&a, 0), bytes = (int)number_arg(&a, 1);
  if (bytes > 0) (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
  int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  return number(env, copy < 0 ? -errno : copy);
}

/* Linux 6.5; the number is the same on all architectures. */
#ifndef __NR_cachestat
#define __NR_cachestat 451
#endif
#define PAGE 4096u

/* Whether all of the range is in the page cache; false also where the kernel does not tell. */
bool is_cached(int fd, uint64_t offset, uint64_t bytes) {
  uint64_t range[2] = {offset, bytes};
  uint64_t pages[5] = {0}; /* cached, dirty, written back, evicted, evicted lately */
  uint64_t wanted = (offset + bytes + PAGE - 1) / PAGE - offset / PAGE;
  return syscall(__NR_cachestat, fd, range, pages, 0) == 0 && pages[0] >= wanted;
}

/* isCached(file, offset, bytes) */
static napi_value range_cached(napi_env env, napi_callback_info info) {
  struct args a;
  napi_value out = NULL;
  if (!take_args(env, info, 3, &a)) return NULL;
  uint64_t offset = (uint64_t)number_arg(&a, 1), bytes = (uint64_t)number_arg(&a, 2);
  napi_get_boolean(env, is_cached((int)number_arg(&a, 0), offset, bytes), &out);
  return out;
}

/* sendFile(socket, file, offset, bytes, head, headBytes): sends what the socket takes at once of
 * the memory at `head` and, without copying it, of a range that is in the page cache; how many
 * bytes of both together, 0 also when that cannot be. */
static napi_value send_file(napi_env env, napi_callback_info info) {
  struct args a;
  if (!take_args(env, info, 6, &a)) return NULL;
  int to = (int)number_arg(&a, 0), from = (int)number_arg(&a, 1);
  off_t offset = (off_t)number_arg(&a, 2);
  size_t bytes = (size_t)number_arg(&a, 3), left = bytes;
  if (!is_cached(from, (uint64_t)offset, bytes)) return number(env, 0);
  size_t head = (size_t)number_arg(&a, 5);
  const void *memory = (const void *)(uintptr_t)number_arg(&a, 4);
  if (head > 0) {
    ssize_t n = send(to, memory, head, MSG_DONTWAIT | MSG_NOSIGNAL | MSG_MORE);
    if (n < (ssize_t)head) return number(env, n < 0 ? 0 : (double)n);
  }
  while (left > 0) {
    ssize_t n = sendfile(to, from, &offset, left);
    if (n > 0)
      left -= (size_t)n;
    else if (n == 0 || errno != EINTR)
      break;
  }
  return number(env, (double)(head + bytes - left));
}

const struct export socket_exports[] = {
    {"sendPieces", send_pieces}, {"sendFile", send_file},
    {"isCached", range_cached},  {"duplicate", duplicate}};
const size_t socket_export_count = sizeof socket_exports / sizeof socket_exports[0];
