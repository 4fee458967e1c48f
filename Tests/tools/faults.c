// Makes chosen file calls of a program fail, wait or kill it, and counts or lists all of them. Loaded with LD_PRELOAD;
// FARSHORE_FAULTS names a file of rules that is mapped and may be changed while the program runs (Tests/scenarios/sites.py
// writes it). The calls are those that change a file or make one durable, and pread.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { RULES = 8, PATH_BYTES = 192 };

// As packed by sites.py: 64 bytes and the path, all little-endian.
struct rule {
    uint32_t armed;       // 0: skip this rule
    char call[12];        // "pwrite", "fdatasync" …
    int32_t error;        // errno; 0: let the call through after the delay; -1: kill the process instead of the call
    uint32_t skip;        // matches let through first
    uint32_t times;       // matches that fail, then the rule rests; 0: all
    uint32_t hits;        // matches so far
    uint64_t offset_min, offset_max;
    uint64_t length_min;
    uint32_t delay_us;
    uint32_t failed;      // calls that were made to fail
    char path[PATH_BYTES];  // part of the file's path; with $ at its end, the path's end
};

struct rules {
    uint32_t is_listing;  // write each call to FILE.calls
    uint32_t unused[15];
    struct rule rule[RULES];
};

static struct rules *rules;
static int list = -1;

__attribute__((constructor)) static void start(void) {
    const char *file = getenv("FARSHORE_FAULTS");
    if (!file) return;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, file, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0) return;
    void *memory = mmap(NULL, sizeof(struct rules), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (memory == MAP_FAILED) return;
    char name[PATH_MAX];
    snprintf(name, sizeof name, "%s.calls", file);
    int raw = (int)syscall(SYS_openat, AT_FDCWD, name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    // Out of the way of the numbers that a program hands on to another.
    list = fcntl(raw, F_DUPFD_CLOEXEC, 900);
    syscall(SYS_close, raw);
    rules = memory;
}

static void path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t count = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    path[count < 0 ? 0 : count] = 0;
}

static int fits(const char *path, const char *wanted) {
    size_t length = strnlen(wanted, PATH_BYTES), has = strlen(path);
    if (length == 0 || wanted[length - 1] != '$') return strstr(path, wanted) != NULL;
    return has >= length - 1 && memcmp(path + has - (length - 1), wanted, length - 1) == 0;
}

// 0 when the call goes on, else -1 with errno set.
static int meet(const char *call, const char *path, uint64_t offset, uint64_t length) {
    if (rules->is_listing && list >= 0) {
        char line[PATH_MAX + 100];
        int count = snprintf(line, sizeof line, "%s %llu %llu %s\n", call, (unsigned long long)offset, (unsigned long long)length, path);
        syscall(SYS_write, list, line, (size_t)count);
    }
    for (int index = 0; index < RULES; index++) {
        struct rule *rule = &rules->rule[index];
        if (!__atomic_load_n(&rule->armed, __ATOMIC_ACQUIRE) || strncmp(rule->call, call, sizeof rule->call) != 0) continue;
        if (offset < rule->offset_min || offset > rule->offset_max || length < rule->length_min || !fits(path, rule->path)) continue;
        uint32_t hit = __atomic_fetch_add(&rule->hits, 1, __ATOMIC_SEQ_CST);
        if (hit < rule->skip || (rule->times != 0 && hit - rule->skip >= rule->times)) continue;
        if (rule->delay_us) usleep(rule->delay_us);
        if (rule->error == 0) continue;
        __atomic_fetch_add(&rule->failed, 1, __ATOMIC_SEQ_CST);
        if (rule->error == -1) kill(getpid(), SIGKILL);
        errno = rule->error;
        return -1;
    }
    return 0;
}

static int meet_fd(const char *call, int fd, uint64_t offset, uint64_t length) {
    if (!rules) return 0;
    char path[PATH_MAX];
    int saved = errno;
    path_of(fd, path);
    errno = saved;
    return meet(call, path, offset, length);
}

static int meet_name(const char *call, const char *path) { return rules ? meet(call, path, 0, 0) : 0; }

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static uint64_t bytes_of(const struct iovec *parts, int count) {
    uint64_t sum = 0;
    for (int index = 0; index < count; index++) sum += parts[index].iov_len;
    return sum;
}

#define PWRITE(name, offset_type) \
    ssize_t name(int fd, const void *bytes, size_t count, offset_type at) { \
        REAL(name); \
        return meet_fd("pwrite", fd, (uint64_t)at, count) ? -1 : real(fd, bytes, count, at); }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define PREAD(name, offset_type) \
    ssize_t name(int fd, void *bytes, size_t count, offset_type at) { \
        REAL(name); \
        return meet_fd("pread", fd, (uint64_t)at, count) ? -1 : real(fd, bytes, count, at); }
PREAD(pread, off_t)
PREAD(pread64, off64_t)

#define PWRITEV(name, offset_type) \
    ssize_t name(int fd, const struct iovec *parts, int count, offset_type at) { \
        REAL(name); \
        return meet_fd("pwrite", fd, (uint64_t)at, bytes_of(parts, count)) ? -1 : real(fd, parts, count, at); }
PWRITEV(pwritev, off_t)
PWRITEV(pwritev64, off64_t)

#define SYNC(name) \
    int name(int fd) { REAL(name); return meet_fd(#name, fd, 0, 0) ? -1 : real(fd); }
SYNC(fsync)
SYNC(fdatasync)

#define TRUNCATE(name, offset_type) \
    int name(int fd, offset_type size) { REAL(name); return meet_fd("ftruncate", fd, (uint64_t)size, 0) ? -1 : real(fd, size); }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define ALLOCATE(name, offset_type) \
    int name(int fd, int mode, offset_type at, offset_type length) { \
        REAL(name); \
        return meet_fd("fallocate", fd, (uint64_t)at, (uint64_t)length) ? -1 : real(fd, mode, at, length); }
ALLOCATE(fallocate, off_t)
ALLOCATE(fallocate64, off64_t)

// Only what makes a file is a site; the rest opens what is there.
#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        return flags & O_CREAT && meet_name("create", path) ? -1 : real(path, flags, mode); }
OPEN(open)
OPEN(open64)

int rename(const char *from, const char *to) { REAL(rename); return meet_name("rename", to) ? -1 : real(from, to); }
int unlink(const char *path) { REAL(unlink); return meet_name("unlink", path) ? -1 : real(path); }
