/* Watches, and disturbs, the file system calls of one process: preloaded before the C library (ld.so(8)).

   Only calls on paths below the directories given to `watch` count. Each is known by its name, its path with every run
   of eight or more hex digits as `*`, and how many of the kind came before: this does not depend on how threads take
   turns. `disturb` picks one of them and what happens to it; `record` writes down all of them, with inodes and data. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define PATH 4096
#define KINDS 8192
enum effect { NOTHING, KILL, SHORT };

static char scope[2][PATH];
static int scopes, log_fd = -1, with_data;
static char target_name[32], target_path[PATH];
static long target_ordinal;
static int target_effect, target_errno;
static struct { uint64_t key; long seen; } counts[KINDS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread int inside;

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static void put(const char *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    while (size) {
        ssize_t n = real(log_fd, data, size);
        if (n <= 0) abort();
        data += n, size -= n;
    }
}

static int in_scope(const char *path) {
    for (int i = 0; i < scopes; i++) {
        size_t n = strlen(scope[i]);
        if (!strncmp(path, scope[i], n) && (path[n] == '/' || !path[n])) return 1;
    }
    return 0;
}

static int is_hex(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); }

static void normalise(const char *path, char *out) {
    while (*path) {
        size_t n = 0;
        while (is_hex(path[n])) n++;
        if (n >= 8) *out++ = '*';
        else for (size_t i = 0; i < n; i++) *out++ = path[i];
        path += n;
        if (*path) *out++ = *path++;
    }
    *out = 0;
}

static void absolute(int dir, const char *name, char *out) {
    if (name && name[0] == '/') { snprintf(out, PATH, "%s", name); return; }
    char link[64], base[PATH / 2];
    ssize_t n;
    if (dir == AT_FDCWD) n = getcwd(base, sizeof base) ? (ssize_t)strlen(base) : -1;
    else snprintf(link, sizeof link, "/proc/self/fd/%d", dir), n = syscall(SYS_readlink, link, base, sizeof base - 1);
    if (n < 0) { out[0] = 0; return; }
    base[n] = 0;
    if (name && *name) snprintf(out, PATH, "%s/%s", base, name);
    else snprintf(out, PATH, "%s", base);
}

/* Counts the call. Returns 1 when it must fail (errno is set), 0 when it goes on; `*cut` when it must be cut short. */
static int before(const char *name, const char *path, int *watched, int *cut) {
    int saved = errno;
    *watched = *cut = 0;
    if (!scopes || inside || !in_scope(path)) return 0;
    *watched = 1;
    char kind[PATH + 64];
    int n = snprintf(kind, 64, "%s ", name);
    normalise(path, kind + n);
    uint64_t key = 1469598103934665603u;
    for (char *c = kind; *c; c++) key = (key ^ (unsigned char)*c) * 1099511628211u;
    pthread_mutex_lock(&lock);
    size_t at = key % KINDS;
    while (counts[at].key && counts[at].key != key) at = (at + 1) % KINDS;
    counts[at].key = key;
    long ordinal = counts[at].seen++;
    pthread_mutex_unlock(&lock);
    errno = saved;
    if (!target_name[0] || ordinal != target_ordinal || strcmp(name, target_name)) return 0;
    if (strcmp(kind + n, target_path)) return 0;
    if (target_effect == KILL) kill(getpid(), SIGKILL), pause();
    if (target_effect == SHORT) { *cut = 1; return 0; }
    errno = target_errno;
    return 1;
}

static void hex(char *out, const unsigned char *data, size_t size) {
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < size; i++) *out++ = digits[data[i] >> 4], *out++ = digits[data[i] & 15];
    *out = 0;
}

/* One line: name, path, other path, inode, offset, length, result, data. */
static void after(const char *name, const char *path, const char *other, ino_t inode, long long offset, long long length,
                  long long result, const void *data, size_t size) {
    if (log_fd < 0) return;
    int saved = errno;
    char *line = malloc(2 * PATH + 256 + 2 * (with_data ? size : 0));
    int n = sprintf(line, "%s\t%s\t%s\t%llu\t%lld\t%lld\t%lld\t", name, path, other ? other : "", (unsigned long long)inode,
                    offset, length, result);
    if (with_data && size) hex(line + n, data, size), n += 2 * size;
    line[n++] = '\n';
    pthread_mutex_lock(&lock);
    put(line, n);
    pthread_mutex_unlock(&lock);
    free(line);
    errno = saved;
}

static ino_t inode_of(int descriptor) {
    struct stat known;
    inside++;
    int failed = fstat(descriptor, &known);
    inside--;
    return failed ? 0 : known.st_ino;
}

static ino_t inode_at(const char *path) {
    struct stat known;
    int saved = errno;
    inside++;
    int failed = lstat(path, &known);
    inside--;
    errno = saved;
    return failed ? 0 : known.st_ino;
}

void watch(const char *first, const char *second) {
    scopes = 0;
    if (first) snprintf(scope[scopes++], PATH, "%s", first);
    if (second) snprintf(scope[scopes++], PATH, "%s", second);
}

void record(int descriptor, int data) { log_fd = descriptor, with_data = data; }

/* effect: 1 kill, 2 cut short, else fail with `number`. */
void disturb(const char *name, const char *path, long ordinal, int effect, int number) {
    snprintf(target_name, sizeof target_name, "%s", name);
    snprintf(target_path, sizeof target_path, "%s", path);
    target_ordinal = ordinal, target_effect = effect, target_errno = number;
}

#define BEFORE(name, failure) \
    int watched, cut; \
    if (before(name, path, &watched, &cut)) { after(name, path, 0, 0, 0, 0, -errno, 0, 0); return failure; }

static int opened(int dir, const char *given, int flags, mode_t mode) {
    REAL(int, "openat64", int, const char *, int, ...);
    char path[PATH];
    absolute(dir, given, path);
    const char *name = flags & O_CREAT ? "create" : "open";
    BEFORE(name, -1)
    ino_t there = watched ? inode_at(path) : 0;
    int result = real(dir, given, flags, mode);
    if (watched) {
        if (result >= 0 && (flags & O_TRUNC) && there) after("truncate", path, 0, there, 0, 0, 0, 0, 0);
        after(name, path, there ? "" : "new", result < 0 ? 0 : inode_of(result), 0, mode, result < 0 ? -errno : 0, 0, 0);
    }
    return result;
}

#define MODE \
    mode_t mode = 0; \
    if (flags & (O_CREAT | __O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }

int open(const char *p, int flags, ...) { MODE return opened(AT_FDCWD, p, flags, mode); }
int open64(const char *p, int flags, ...) { MODE return opened(AT_FDCWD, p, flags, mode); }
int openat(int dir, const char *p, int flags, ...) { MODE return opened(dir, p, flags, mode); }
int openat64(int dir, const char *p, int flags, ...) { MODE return opened(dir, p, flags, mode); }

#define READ(function, symbol, declared, passed, size) \
    ssize_t function declared { \
        REAL(ssize_t, symbol, READ_TYPES); \
        char path[PATH]; \
        absolute(fd, 0, path); \
        BEFORE("read", -1) \
        ssize_t result = real passed; \
        if (cut && result > 1) result /= 2; \
        if (watched) after("read", path, 0, 0, 0, size, result < 0 ? -errno : result, 0, 0); \
        return result; \
    }

ssize_t read(int fd, void *buffer, size_t size) {
    REAL(ssize_t, "read", int, void *, size_t);
    char path[PATH];
    absolute(fd, 0, path);
    BEFORE("read", -1)
    ssize_t result = real(fd, buffer, cut && size > 1 ? size / 2 : size);
    if (watched) after("read", path, 0, 0, 0, size, result < 0 ? -errno : result, 0, 0);
    return result;
}
#define READ_TYPES int, void *, size_t, off_t
READ(pread, "pread64", (int fd, void *buffer, size_t size, off_t at), (fd, buffer, size, at), size)
READ(pread64, "pread64", (int fd, void *buffer, size_t size, off_t at), (fd, buffer, size, at), size)
#undef READ_TYPES
#define READ_TYPES int, const struct iovec *, int, off_t
READ(preadv, "preadv64", (int fd, const struct iovec *v, int n, off_t at), (fd, v, n, at), v[0].iov_len)
READ(preadv64, "preadv64", (int fd, const struct iovec *v, int n, off_t at), (fd, v, n, at), v[0].iov_len)
#undef READ_TYPES
#define READ_TYPES int, const struct iovec *, int, off_t, int
READ(preadv2, "preadv64v2", (int fd, const struct iovec *v, int n, off_t at, int f), (fd, v, n, at, f), v[0].iov_len)
READ(preadv64v2, "preadv64v2", (int fd, const struct iovec *v, int n, off_t at, int f), (fd, v, n, at, f), v[0].iov_len)

ssize_t write(int fd, const void *buffer, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    char path[PATH];
    absolute(fd, 0, path);
    BEFORE("write", -1)
    ssize_t result = real(fd, buffer, cut && size > 1 ? size / 2 : size);
    long long at = watched && result > 0 ? lseek(fd, 0, SEEK_CUR) - result : 0;
    if (watched) after("write", path, 0, inode_of(fd), at, size, result < 0 ? -errno : result, buffer, result < 0 ? 0 : result);
    return result;
}

ssize_t pwrite64(int fd, const void *buffer, size_t size, off_t at) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off_t);
    char path[PATH];
    absolute(fd, 0, path);
    BEFORE("write", -1)
    ssize_t result = real(fd, buffer, cut && size > 1 ? size / 2 : size, at);
    if (watched) after("write", path, 0, inode_of(fd), at, size, result < 0 ? -errno : result, buffer, result < 0 ? 0 : result);
    return result;
}
ssize_t pwrite(int fd, const void *buffer, size_t size, off_t at) { return pwrite64(fd, buffer, size, at); }

/* A call on a descriptor: fsync and its like. */
#define ON_DESCRIPTOR(function, symbol, name, declared, types, passed, value) \
    int function declared { \
        REAL(int, symbol, types); \
        char path[PATH]; \
        absolute(fd, 0, path); \
        BEFORE(name, -1) \
        int result = real passed; \
        if (watched) after(name, path, 0, inode_of(fd), 0, value, result < 0 ? -errno : result, 0, 0); \
        return result; \
    }
#define T(...) __VA_ARGS__
ON_DESCRIPTOR(fsync, "fsync", "fsync", (int fd), T(int), (fd), 0)
ON_DESCRIPTOR(fdatasync, "fdatasync", "fsync", (int fd), T(int), (fd), 0)
ON_DESCRIPTOR(syncfs, "syncfs", "syncfs", (int fd), T(int), (fd), 0)
ON_DESCRIPTOR(ftruncate64, "ftruncate64", "truncate", (int fd, off_t n), T(int, off_t), (fd, n), n)
ON_DESCRIPTOR(ftruncate, "ftruncate64", "truncate", (int fd, off_t n), T(int, off_t), (fd, n), n)
ON_DESCRIPTOR(fallocate, "fallocate64", "reserve", (int fd, int m, off_t at, off_t n), T(int, int, off_t, off_t),
              (fd, m, at, n), n)
ON_DESCRIPTOR(fallocate64, "fallocate64", "reserve", (int fd, int m, off_t at, off_t n), T(int, int, off_t, off_t),
              (fd, m, at, n), n)
ON_DESCRIPTOR(fchmod, "fchmod", "chmod", (int fd, mode_t m), T(int, mode_t), (fd, m), m)
ON_DESCRIPTOR(fstat, "fstat64", "stat", (int fd, struct stat *s), T(int, struct stat *), (fd, s), 0)
ON_DESCRIPTOR(fstat64, "fstat64", "stat", (int fd, struct stat64 *s), T(int, struct stat64 *), (fd, s), 0)

/* A call on one path. */
#define ON_PATH(function, symbol, name, dir, declared, types, passed, value) \
    int function declared { \
        REAL(int, symbol, types); \
        char path[PATH]; \
        absolute(dir, given, path); \
        BEFORE(name, -1) \
        ino_t there = watched ? inode_at(path) : 0; \
        int result = real passed; \
        if (watched) after(name, path, 0, there ? there : inode_at(path), 0, value, result < 0 ? -errno : result, 0, 0); \
        return result; \
    }
ON_PATH(unlink, "unlink", "unlink", AT_FDCWD, (const char *given), T(const char *), (given), 0)
ON_PATH(unlinkat, "unlinkat", flags & AT_REMOVEDIR ? "rmdir" : "unlink", dir, (int dir, const char *given, int flags),
        T(int, const char *, int), (dir, given, flags), 0)
ON_PATH(rmdir, "rmdir", "rmdir", AT_FDCWD, (const char *given), T(const char *), (given), 0)
ON_PATH(mkdir, "mkdir", "mkdir", AT_FDCWD, (const char *given, mode_t m), T(const char *, mode_t), (given, m), m)
ON_PATH(mkdirat, "mkdirat", "mkdir", dir, (int dir, const char *given, mode_t m), T(int, const char *, mode_t),
        (dir, given, m), m)
ON_PATH(chmod, "chmod", "chmod", AT_FDCWD, (const char *given, mode_t m), T(const char *, mode_t), (given, m), m)
ON_PATH(fchmodat, "fchmodat", "chmod", dir, (int dir, const char *given, mode_t m, int f),
        T(int, const char *, mode_t, int), (dir, given, m, f), m)
ON_PATH(lstat, "lstat64", "stat", AT_FDCWD, (const char *given, struct stat *s), T(const char *, struct stat *), (given, s), 0)
ON_PATH(lstat64, "lstat64", "stat", AT_FDCWD, (const char *given, struct stat64 *s), T(const char *, struct stat64 *),
        (given, s), 0)
ON_PATH(stat, "stat64", "stat", AT_FDCWD, (const char *given, struct stat *s), T(const char *, struct stat *), (given, s), 0)
ON_PATH(stat64, "stat64", "stat", AT_FDCWD, (const char *given, struct stat64 *s), T(const char *, struct stat64 *),
        (given, s), 0)
ON_PATH(fstatat, "fstatat64", "stat", dir, (int dir, const char *given, struct stat *s, int f),
        T(int, const char *, struct stat *, int), (dir, given, s, f), 0)
ON_PATH(fstatat64, "fstatat64", "stat", dir, (int dir, const char *given, struct stat64 *s, int f),
        T(int, const char *, struct stat64 *, int), (dir, given, s, f), 0)

/* A call on two paths; known by the second, the new name. */
static int two(const char *name, const char *from, const char *to, int result_of(const char *, const char *, int, int), int a,
               int b, const char *given, const char *becomes) {
    const char *path = to;
    BEFORE(name, -1)
    ino_t there = watched ? inode_at(from) : 0;
    int result = result_of(given, becomes, a, b);
    if (watched) after(name, to, from, there, 0, 0, result < 0 ? -errno : result, 0, 0);
    return result;
}

static int do_rename(const char *from, const char *to, int a, int b) {
    REAL(int, "renameat", int, const char *, int, const char *);
    return real(a, from, b, to);
}
static int do_link(const char *from, const char *to, int a, int b) {
    REAL(int, "linkat", int, const char *, int, const char *, int);
    return real(a, from, b, to, 0);
}
static int do_symlink(const char *from, const char *to, int a, int b) {
    REAL(int, "symlinkat", const char *, int, const char *);
    (void)a;
    return real(from, b, to);
}

int renameat(int a, const char *from, int b, const char *to) {
    char one[PATH], other[PATH];
    absolute(a, from, one), absolute(b, to, other);
    return two("rename", one, other, do_rename, a, b, from, to);
}
int rename(const char *from, const char *to) { return renameat(AT_FDCWD, from, AT_FDCWD, to); }
int linkat(int a, const char *from, int b, const char *to, int flags) {
    char one[PATH], other[PATH];
    (void)flags;
    absolute(a, from, one), absolute(b, to, other);
    return two("link", one, other, do_link, a, b, from, to);
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }
int symlinkat(const char *from, int b, const char *to) {
    char other[PATH];
    absolute(b, to, other);
    return two("symlink", from, other, do_symlink, AT_FDCWD, b, from, to);
}
int symlink(const char *from, const char *to) { return symlinkat(from, AT_FDCWD, to); }

ssize_t readlinkat(int dir, const char *given, char *buffer, size_t size) {
    REAL(ssize_t, "readlinkat", int, const char *, char *, size_t);
    char path[PATH];
    absolute(dir, given, path);
    BEFORE("readlink", -1)
    ssize_t result = real(dir, given, buffer, size);
    if (watched) after("readlink", path, 0, 0, 0, 0, result < 0 ? -errno : result, 0, 0);
    return result;
}
ssize_t readlink(const char *given, char *buffer, size_t size) { return readlinkat(AT_FDCWD, given, buffer, size); }

DIR *opendir(const char *given) {
    REAL(DIR *, "opendir", const char *);
    char path[PATH];
    absolute(AT_FDCWD, given, path);
    BEFORE("list", NULL)
    DIR *result = real(given);
    if (watched) after("list", path, 0, 0, 0, 0, result ? 0 : -errno, 0, 0);
    return result;
}

DIR *fdopendir(int fd) {
    REAL(DIR *, "fdopendir", int);
    char path[PATH];
    absolute(fd, 0, path);
    BEFORE("list", NULL)
    DIR *result = real(fd);
    if (watched) after("list", path, 0, 0, 0, 0, result ? 0 : -errno, 0, 0);
    return result;
}
