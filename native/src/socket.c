/* What Node's sockets lack: sending without a request object, and another descriptor. */
#include "vdisk.h"

#include "addon.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>

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

const struct export socket_exports[] = {{"sendPieces", send_pieces}, {"duplicate", duplicate}};
const size_t socket_export_count = sizeof socket_exports / sizeof socket_exports[0];
