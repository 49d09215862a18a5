/* A stick that lies, for tests: preloaded into a process, it stands between it and the files below STICK_PATH.
   STICK_BYTES: what is written beyond that many bytes is lost, and zeros are kept in its stead, without an error.
   STICK_ROTTEN: reading a file whose path contains this text gives its first byte wrong.
   STICK_BROKEN: reading a file whose path contains this text fails with EIO. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static long long kept;

static int on_stick(int fd, const char *needle)
{
    char link[64], path[PATH_MAX];
    const char *stick = getenv("STICK_PATH");
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0 || stick == NULL)
        return 0;
    path[length] = 0;
    return strncmp(path, stick, strlen(stick)) == 0 && (needle == NULL || strstr(path, needle) != NULL);
}

ssize_t write(int fd, const void *data, size_t count)
{
    ssize_t (*real)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
    const char *bytes = getenv("STICK_BYTES");
    if (bytes == NULL || !on_stick(fd, NULL))
        return real(fd, data, count);
    kept += count;
    if (kept <= atoll(bytes))
        return real(fd, data, count);
    void *zeros = calloc(1, count);
    ssize_t done = real(fd, zeros, count);
    free(zeros);
    return done;
}

static ssize_t judged(int fd, const struct iovec *parts, ssize_t done, off_t offset)
{
    const char *rotten = getenv("STICK_ROTTEN"), *broken = getenv("STICK_BROKEN");
    if (done > 0 && broken != NULL && on_stick(fd, broken)) {
        errno = EIO;
        return -1;
    }
    if (done > 0 && offset == 0 && rotten != NULL && on_stick(fd, rotten))
        *(char *)parts[0].iov_base ^= 1;
    return done;
}

ssize_t preadv(int fd, const struct iovec *parts, int count, off_t offset)
{
    ssize_t (*real)(int, const struct iovec *, int, off_t) = dlsym(RTLD_NEXT, "preadv");
    return judged(fd, parts, real(fd, parts, count, offset), offset);
}

ssize_t preadv64(int fd, const struct iovec *parts, int count, off_t offset)
{
    ssize_t (*real)(int, const struct iovec *, int, off_t) = dlsym(RTLD_NEXT, "preadv64");
    return judged(fd, parts, real(fd, parts, count, offset), offset);
}

ssize_t preadv2(int fd, const struct iovec *parts, int count, off_t offset, int flags)
{
    ssize_t (*real)(int, const struct iovec *, int, off_t, int) = dlsym(RTLD_NEXT, "preadv2");
    return judged(fd, parts, real(fd, parts, count, offset, flags), offset);
}

ssize_t preadv64v2(int fd, const struct iovec *parts, int count, off_t offset, int flags)
{
    ssize_t (*real)(int, const struct iovec *, int, off_t, int) = dlsym(RTLD_NEXT, "preadv64v2");
    return judged(fd, parts, real(fd, parts, count, offset, flags), offset);
}
