/* Breaks the n-th call of a process that changes a file system, so that a test can stand at every point of its life.
 *
 * Counted are calls that create, write, name, remove or settle files. What is not a regular file or a directory
 * (sockets, pipes, terminals) is not counted, nor is what stdout and stderr are. Reading is counted only on request.
 *
 *   FAULT_AT=N          the call to break; 0 breaks none
 *   FAULT_DO=kill       SIGKILL before the call      FAULT_DO=after   SIGKILL after it
 *   FAULT_DO=term       SIGTERM before the call      FAULT_DO=stop    SIGSTOP before it
 *   FAULT_DO=short      the call writes only half, if it writes
 *   FAULT_DO=E...       the call fails with this errno, given as a number: FAULT_DO=28
 *   FAULT_FROM=1        not only the N-th call, but every one from it on
 *   FAULT_READS=DIR     count instead what opens or reads files below DIR
 *   FAULT_COUNT=FILE    write the number of calls there when the process ends
 *   FAULT_NO_FLOCK=1    flock does nothing, as on some network file systems
 *   FAULT_BAD_FLOCK=1   flock is refused, as on others
 *   FAULT_NO_EXCHANGE=1 renameat2 knows no flags, as on some file systems
 *   FAULT_REFUSES=CALLS which calls are always refused, of those that a file system may lack: exchange, replace (a
 *                       rename onto a directory that is not empty), link, copy, mode, time, folder (fsync of one), lock
 *   FAULT_REFUSED=N     with this errno
 *
 * A process that has this library may arm it anew, with other settings, by calling fault_arm.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static atomic_long calls;
static long at;
static int from, error_number;
static const char *what = "", *count_file, *reads;

/* Begin to count anew; strings are the caller's no longer. */
void fault_arm(long call, const char *does, int and_from_there, const char *below) {
    at = 0, calls = 0;
    what = strdup(does), error_number = atoi(does), from = and_from_there, reads = *below ? strdup(below) : NULL;
    at = call;
}

long fault_calls(void) { return calls; }

__attribute__((constructor)) static void begin(void) {
    const char *call = getenv("FAULT_AT"), *does = getenv("FAULT_DO"), *below = getenv("FAULT_READS");
    fault_arm(call ? atol(call) : 0, does ? does : "", getenv("FAULT_FROM") != NULL, below ? below : "");
    count_file = getenv("FAULT_COUNT");
}

__attribute__((destructor)) static void end(void) {
    char text[32];
    int fd;
    if (!count_file || (fd = syscall(SYS_openat, AT_FDCWD, count_file, O_WRONLY | O_CREAT | O_TRUNC, 0644)) < 0) return;
    int length = snprintf(text, sizeof text, "%ld", (long)calls);
    if (syscall(SYS_write, fd, text, length) < 0) return;
    close(fd);
}

/* 0: go on; 1: go on, then die; -1: fail with errno; -2: do half. */
static int hit(void) {
    long number = ++calls;
    if (!at || (from ? number < at : number != at)) return 0;
    if (!strcmp(what, "kill")) raise(SIGKILL);
    if (!strcmp(what, "term")) kill(getpid(), SIGTERM);
    if (!strcmp(what, "stop")) raise(SIGSTOP);
    if (!strcmp(what, "after")) return 1;
    if (!strcmp(what, "short")) return -2;
    if (error_number) { errno = error_number; return -1; }
    return 0;
}
static int strike(void) { return reads ? 0 : hit(); }

static int counts(int fd) {
    struct stat found;
    return fd != 1 && fd != 2 && !syscall(SYS_fstat, fd, &found) && (S_ISREG(found.st_mode) || S_ISDIR(found.st_mode));
}

static int refused(const char *call) {
    const char *calls = getenv("FAULT_REFUSES"), *number = getenv("FAULT_REFUSED");
    if (!calls || !number || !strstr(calls, call)) return 0;
    errno = atoi(number);
    return 1;
}

static int is_full(const char *path) {
    DIR *folder = REAL(opendir)(path);
    int entries = 0;
    if (!folder) return 0;
    while (readdir(folder)) entries++;
    closedir(folder);
    return entries > 2;
}

static int is_folder(int fd) {
    struct stat found;
    return !syscall(SYS_fstat, fd, &found) && S_ISDIR(found.st_mode);
}

static int is_below(const char *path) { return reads && !strncmp(path, reads, strlen(reads)); }

static int lies_below(int fd) {
    char link[32], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = reads ? syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1) : -1;
    if (length < 0) return 0;
    path[length] = 0;
    return is_below(path);
}

/* What was opened for reading is taken away again where opening it is to fail. */
static int opened(int fd) {
    if (fd < 0 || !lies_below(fd) || hit() >= 0) return fd;
    int number = errno;
    syscall(SYS_close, fd);
    errno = number;
    return -1;
}

#define BROKEN(type, call) do { int struck = strike(); if (struck == -1) return -1; \
    type result = (call); if (struck > 0) raise(SIGKILL); return result; } while (0)
#define WRITTEN(call) do { int struck = strike(); if (struck == -1) return -1; \
    if (struck == -2 && size > 1) size /= 2; \
    ssize_t result = (call); if (struck > 0) raise(SIGKILL); return result; } while (0)
#define READ(call) return lies_below(fd) && hit() == -1 ? -1 : (call)

static int opens_to_write(const char *path, int flags) {
    return flags & (O_CREAT | O_WRONLY | O_RDWR | O_TRUNC) && strncmp(path, "/dev/", 5) && strncmp(path, "/proc/", 6);
}

#define MODE va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest)
int open(const char *path, int flags, ...) {
    MODE;
    if (!opens_to_write(path, flags)) return opened(REAL(open)(path, flags, mode));
    BROKEN(int, opened(REAL(open)(path, flags, mode)));
}
int open64(const char *path, int flags, ...) {
    MODE;
    if (!opens_to_write(path, flags)) return opened(REAL(open64)(path, flags, mode));
    BROKEN(int, opened(REAL(open64)(path, flags, mode)));
}
int openat(int at, const char *path, int flags, ...) {
    MODE;
    if (!opens_to_write(path, flags)) return opened(REAL(openat)(at, path, flags, mode));
    BROKEN(int, opened(REAL(openat)(at, path, flags, mode)));
}
int openat64(int at, const char *path, int flags, ...) {
    MODE;
    if (!opens_to_write(path, flags)) return opened(REAL(openat64)(at, path, flags, mode));
    BROKEN(int, opened(REAL(openat64)(at, path, flags, mode)));
}
DIR *opendir(const char *path) {
    return is_below(path) && hit() == -1 ? NULL : REAL(opendir)(path);
}
ssize_t read(int fd, void *data, size_t size) { READ(REAL(read)(fd, data, size)); }
ssize_t pread(int fd, void *data, size_t size, off_t where) { READ(REAL(pread)(fd, data, size, where)); }
ssize_t pread64(int fd, void *data, size_t size, off64_t where) { READ(REAL(pread64)(fd, data, size, where)); }
ssize_t preadv(int fd, const struct iovec *data, int count, off_t where) { READ(REAL(preadv)(fd, data, count, where)); }
ssize_t preadv64(int fd, const struct iovec *data, int count, off64_t where) { READ(REAL(preadv64)(fd, data, count, where)); }
ssize_t preadv64v2(int fd, const struct iovec *data, int count, off64_t where, int flags) {
    READ(REAL(preadv64v2)(fd, data, count, where, flags));
}
int statvfs64(const char *path, struct statvfs64 *found) { return is_below(path) && hit() == -1 ? -1 : REAL(statvfs64)(path, found); }
int stat(const char *path, struct stat *found) { return is_below(path) && hit() == -1 ? -1 : REAL(stat)(path, found); }
int stat64(const char *path, struct stat64 *found) { return is_below(path) && hit() == -1 ? -1 : REAL(stat64)(path, found); }
int lstat(const char *path, struct stat *found) { return is_below(path) && hit() == -1 ? -1 : REAL(lstat)(path, found); }
int lstat64(const char *path, struct stat64 *found) { return is_below(path) && hit() == -1 ? -1 : REAL(lstat64)(path, found); }
int fstatat64(int at, const char *path, struct stat64 *found, int flags) {
    return is_below(path) && hit() == -1 ? -1 : REAL(fstatat64)(at, path, found, flags);
}

ssize_t write(int fd, const void *data, size_t size) {
    if (!counts(fd)) return REAL(write)(fd, data, size);
    WRITTEN(REAL(write)(fd, data, size));
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t where) { WRITTEN(REAL(pwrite64)(fd, data, size, where)); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t where) { WRITTEN(REAL(pwrite)(fd, data, size, where)); }
/* Half of the first piece: less than was given, and ending within a piece. */
#define WRITTEN_IN_PIECES(call) do { int struck = strike(); if (struck == -1) return -1; \
    if (struck == -2) return REAL(pwrite64)(fd, data->iov_base, (data->iov_len + 1) / 2, where); \
    ssize_t result = (call); if (struck > 0) raise(SIGKILL); return result; } while (0)
ssize_t pwritev64(int fd, const struct iovec *data, int count, off64_t where) { WRITTEN_IN_PIECES(REAL(pwritev64)(fd, data, count, where)); }
ssize_t pwritev64v2(int fd, const struct iovec *data, int count, off64_t where, int flags) {
    WRITTEN_IN_PIECES(REAL(pwritev64v2)(fd, data, count, where, flags));
}
ssize_t sendfile(int to, int source, off_t *where, size_t size) {
    if (!counts(to)) return REAL(sendfile)(to, source, where, size);
    WRITTEN(REAL(sendfile)(to, source, where, size));
}
ssize_t sendfile64(int to, int source, off64_t *where, size_t size) {
    if (!counts(to)) return REAL(sendfile64)(to, source, where, size);
    WRITTEN(REAL(sendfile64)(to, source, where, size));
}
ssize_t copy_file_range(int from_fd, off64_t *from_where, int to, off64_t *to_where, size_t size, unsigned flags) {
    if (refused("copy")) return -1;
    WRITTEN(REAL(copy_file_range)(from_fd, from_where, to, to_where, size, flags));
}
int rename(const char *one, const char *other) {
    if (is_full(other) && refused("replace")) return -1;
    BROKEN(int, REAL(rename)(one, other));
}
int renameat(int a, const char *one, int b, const char *other) { BROKEN(int, REAL(renameat)(a, one, b, other)); }
int renameat2(int a, const char *one, int b, const char *other, unsigned flags) {
    if (flags && refused("exchange")) return -1;
    if (getenv("FAULT_NO_EXCHANGE")) { errno = EINVAL; return -1; }
    BROKEN(int, REAL(renameat2)(a, one, b, other, flags));
}
int link(const char *one, const char *other) {
    if (refused("link")) return -1;
    BROKEN(int, REAL(link)(one, other));
}
int linkat(int a, const char *one, int b, const char *other, int flags) {
    if (refused("link")) return -1;
    BROKEN(int, REAL(linkat)(a, one, b, other, flags));
}
int unlink(const char *path) { BROKEN(int, REAL(unlink)(path)); }
int unlinkat(int fd, const char *path, int flags) { BROKEN(int, REAL(unlinkat)(fd, path, flags)); }
int mkdir(const char *path, mode_t mode) { BROKEN(int, REAL(mkdir)(path, mode)); }
int mkdirat(int fd, const char *path, mode_t mode) { BROKEN(int, REAL(mkdirat)(fd, path, mode)); }
int rmdir(const char *path) { BROKEN(int, REAL(rmdir)(path)); }
int fchmod(int fd, mode_t mode) {
    if (refused("mode")) return -1;
    BROKEN(int, REAL(fchmod)(fd, mode));
}
int chmod(const char *path, mode_t mode) {
    if (refused("mode")) return -1;
    BROKEN(int, REAL(chmod)(path, mode));
}
int futimens(int fd, const struct timespec times[2]) {
    if (refused("time")) return -1;
    BROKEN(int, REAL(futimens)(fd, times));
}
int utimensat(int fd, const char *path, const struct timespec times[2], int flags) { BROKEN(int, REAL(utimensat)(fd, path, times, flags)); }
int ftruncate64(int fd, off64_t size) { BROKEN(int, REAL(ftruncate64)(fd, size)); }
int fsync(int fd) {
    if (is_folder(fd) && refused("folder")) return -1;
    if (!counts(fd)) return REAL(fsync)(fd);
    BROKEN(int, REAL(fsync)(fd));
}
int flock(int fd, int operation) {
    if (refused("lock")) return -1;
    if (getenv("FAULT_BAD_FLOCK")) { errno = ENOLCK; return -1; }
    return getenv("FAULT_NO_FLOCK") ? 0 : REAL(flock)(fd, operation);
}
