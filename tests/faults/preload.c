/* Breaks the n-th call of a process that changes a file system, so that a test can stand at every point of its life.
 *
 * Counted are calls that create, write, name, remove or settle files; reading is not. What is not a regular file or a
 * directory (sockets, pipes, terminals) is not counted either.
 *
 *   FAULT_AT=N          the call to break; 0 breaks none
 *   FAULT_DO=kill       SIGKILL before the call      FAULT_DO=after   SIGKILL after it
 *   FAULT_DO=term       SIGTERM before the call
 *   FAULT_DO=E...       the call fails with this errno, given as a number: FAULT_DO=28
 *   FAULT_FROM=1        not only the N-th call, but every one from it on
 *   FAULT_COUNT=FILE    write the number of calls there when the process ends
 *   FAULT_NO_FLOCK=1    flock does nothing, as on some network file systems
 *   FAULT_NO_EXCHANGE=1 renameat2 knows no flags, as on some file systems
 */
#define _GNU_SOURCE
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
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long calls;
static long at;
static int from, error_number;
static const char *what = "", *count_file;

__attribute__((constructor)) static void begin(void) {
    const char *text;
    if ((text = getenv("FAULT_AT"))) at = atol(text);
    if ((text = getenv("FAULT_DO"))) what = text, error_number = atoi(text);
    from = getenv("FAULT_FROM") != NULL;
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

/* 0: go on; 1: go on, then die; -1: fail with errno. */
static int strike(void) {
    long number = ++calls;
    if (!at || (from ? number < at : number != at)) return 0;
    if (!strcmp(what, "kill")) raise(SIGKILL);
    if (!strcmp(what, "term")) kill(getpid(), SIGTERM);
    if (!strcmp(what, "after")) return 1;
    if (error_number) { errno = error_number; return -1; }
    return 0;
}

static int counts(int fd) {
    struct stat found;
    return !syscall(SYS_fstat, fd, &found) && (S_ISREG(found.st_mode) || S_ISDIR(found.st_mode));
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define BROKEN(type, call) do { int struck = strike(); if (struck < 0) return -1; \
    type result = (call); if (struck) raise(SIGKILL); return result; } while (0)

static int opens_to_write(int flags) { return flags & (O_CREAT | O_WRONLY | O_RDWR | O_TRUNC); }

int open(const char *path, int flags, ...) {
    va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest);
    if (!opens_to_write(flags) || !strncmp(path, "/dev/", 5) || !strncmp(path, "/proc/", 6)) return REAL(open)(path, flags, mode);
    BROKEN(int, REAL(open)(path, flags, mode));
}
int open64(const char *path, int flags, ...) {
    va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest);
    if (!opens_to_write(flags) || !strncmp(path, "/dev/", 5) || !strncmp(path, "/proc/", 6)) return REAL(open64)(path, flags, mode);
    BROKEN(int, REAL(open64)(path, flags, mode));
}
ssize_t write(int fd, const void *data, size_t size) {
    if (!counts(fd)) return REAL(write)(fd, data, size);
    BROKEN(ssize_t, REAL(write)(fd, data, size));
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t where) { BROKEN(ssize_t, REAL(pwrite64)(fd, data, size, where)); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t where) { BROKEN(ssize_t, REAL(pwrite)(fd, data, size, where)); }
ssize_t copy_file_range(int from_fd, off64_t *from_where, int to, off64_t *to_where, size_t size, unsigned flags) {
    BROKEN(ssize_t, REAL(copy_file_range)(from_fd, from_where, to, to_where, size, flags));
}
int rename(const char *one, const char *other) { BROKEN(int, REAL(rename)(one, other)); }
int renameat(int a, const char *one, int b, const char *other) { BROKEN(int, REAL(renameat)(a, one, b, other)); }
int renameat2(int a, const char *one, int b, const char *other, unsigned flags) {
    if (getenv("FAULT_NO_EXCHANGE")) { errno = EINVAL; return -1; }
    BROKEN(int, REAL(renameat2)(a, one, b, other, flags));
}
int link(const char *one, const char *other) { BROKEN(int, REAL(link)(one, other)); }
int linkat(int a, const char *one, int b, const char *other, int flags) { BROKEN(int, REAL(linkat)(a, one, b, other, flags)); }
int unlink(const char *path) { BROKEN(int, REAL(unlink)(path)); }
int unlinkat(int fd, const char *path, int flags) { BROKEN(int, REAL(unlinkat)(fd, path, flags)); }
int mkdir(const char *path, mode_t mode) { BROKEN(int, REAL(mkdir)(path, mode)); }
int mkdirat(int fd, const char *path, mode_t mode) { BROKEN(int, REAL(mkdirat)(fd, path, mode)); }
int rmdir(const char *path) { BROKEN(int, REAL(rmdir)(path)); }
int fchmod(int fd, mode_t mode) { BROKEN(int, REAL(fchmod)(fd, mode)); }
int chmod(const char *path, mode_t mode) { BROKEN(int, REAL(chmod)(path, mode)); }
int futimens(int fd, const struct timespec times[2]) { BROKEN(int, REAL(futimens)(fd, times)); }
int utimensat(int fd, const char *path, const struct timespec times[2], int flags) { BROKEN(int, REAL(utimensat)(fd, path, times, flags)); }
int ftruncate64(int fd, off64_t size) { BROKEN(int, REAL(ftruncate64)(fd, size)); }
int fsync(int fd) { if (!counts(fd)) return REAL(fsync)(fd); BROKEN(int, REAL(fsync)(fd)); }
int flock(int fd, int operation) { return getenv("FAULT_NO_FLOCK") ? 0 : REAL(flock)(fd, operation); }
