// Makes chosen file calls of a program fail, wait or kill it, and counts or lists all of them. Loaded with LD_PRELOAD;
// FARSHORE_FAULTS names a file of rules that is mapped and may be changed while the program runs (Tests/tools/sites.py
// writes it). The calls are those that change a file or make one durable, and pread.
//
// FARSHORE_PLACES names a file to which each place that makes a call is appended when it is first met: id, call, path, return
// addresses. A place is the call and the chain of return addresses inside the program itself, so one helper called from two
// functions is two places; addresses count from the program's start, so a binary has the same ids in every run.
// FARSHORE_KILL_PLACE=ID:N kills the process group before the N-th call from that place.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { RULES = 8, PATH_BYTES = 192, FRAMES = 24, OWN_FRAMES = 4, PLACES = 1 << 14 };

// As packed by sites.py: 64 bytes and the path, all little-endian.
struct rule {
    uint32_t armed;       // 0: skip this rule
    char call[12];        // "pwrite", "fdatasync" …
    int32_t error;        // errno; 0: let the call through after the delay; -1: kill the process instead of the call;
                          // -2, for syncs: do nothing and say that it succeeded
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

static uintptr_t load_base, text_start, text_end;
static const char *places_file;
static uint64_t met[PLACES];
static uint64_t kill_place;
static long kill_count;
static __thread int is_inside;

static int find_program(struct dl_phdr_info *info, size_t size, void *unused) {
    (void)size, (void)unused;
    load_base = info->dlpi_addr;
    for (int index = 0; index < info->dlpi_phnum; index++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[index];
        if (part->p_type != PT_LOAD || !(part->p_flags & PF_X)) continue;
        text_start = load_base + part->p_vaddr;
        text_end = text_start + part->p_memsz;
    }
    return 1;  // the program is the first
}

static void start_places(void) {
    places_file = getenv("FARSHORE_PLACES");
    const char *wanted = getenv("FARSHORE_KILL_PLACE");
    if (!places_file && !wanted) return;
    dl_iterate_phdr(find_program, NULL);
    void *frames[2];
    backtrace(frames, 2);  // loads the unwinder now, not inside of a call
    if (!wanted) return;
    char *end;
    kill_place = strtoull(wanted, &end, 16);
    kill_count = *end == ':' ? atol(end + 1) : 1;
}

__attribute__((constructor)) static void start(void) {
    start_places();
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

static int is_new(uint64_t place) {
    for (unsigned at = place % PLACES, tries = 0; tries < PLACES; tries++, at = (at + 1) % PLACES) {
        uint64_t there = 0;
        if (__atomic_compare_exchange_n(&met[at], &there, place, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) return 1;
        if (there == place) return 0;
    }
    return 0;
}

static void note_place(uint64_t place, const char *call, int fd, const char *path, const uintptr_t *own, int count) {
    char line[PATH_MAX + 200], found[PATH_MAX] = "";
    if (fd >= 0) path_of(fd, found);
    int used = snprintf(line, sizeof line, "%016llx\t%s\t%s\t", (unsigned long long)place, call, path ? path : found);
    for (int index = 0; index < count; index++) used += snprintf(line + used, sizeof line - (size_t)used, " %lx", (unsigned long)own[index]);
    line[used++] = '\n';
    int out = (int)syscall(SYS_openat, AT_FDCWD, places_file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (out < 0) return;
    syscall(SYS_write, out, line, (size_t)used);
    syscall(SYS_close, out);
}

static void meet_place(const char *call, int fd, const char *path) {
    if ((!places_file && !kill_place) || is_inside) return;
    int saved = errno;
    is_inside = 1;
    void *frames[FRAMES];
    uintptr_t own[OWN_FRAMES];
    int count = backtrace(frames, FRAMES), owned = 0;
    uint64_t place = 14695981039346656037u;
    for (const char *letter = call; *letter; letter++) place = (place ^ (unsigned char)*letter) * 1099511628211u;
    for (int index = 0; index < count && owned < OWN_FRAMES; index++) {
        uintptr_t at = (uintptr_t)frames[index];
        if (at < text_start || at >= text_end) continue;
        own[owned++] = at - load_base;
        place = (place ^ (at - load_base)) * 1099511628211u;
    }
    if (place == kill_place && __atomic_fetch_sub(&kill_count, 1, __ATOMIC_SEQ_CST) == 1) {
        syscall(SYS_kill, 0, SIGKILL);
        for (;;) syscall(SYS_pause);
    }
    if (places_file && is_new(place)) note_place(place, call, fd, path, own, owned);
    is_inside = 0;
    errno = saved;
}

// 0 when the call goes on, -1 with errno set when it fails, 1 when it is left out.
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
        if (rule->error == -2) return 1;
        errno = rule->error;
        return -1;
    }
    return 0;
}

static int meet_fd(const char *call, int fd, uint64_t offset, uint64_t length) {
    meet_place(call, fd, NULL);
    if (!rules) return 0;
    char path[PATH_MAX];
    int saved = errno;
    path_of(fd, path);
    errno = saved;
    return meet(call, path, offset, length);
}

static int meet_name(const char *call, const char *path) {
    meet_place(call, -1, path);
    return rules ? meet(call, path, 0, 0) : 0;
}

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
    int name(int fd) { \
        REAL(name); \
        int answer = meet_fd(#name, fd, 0, 0); \
        return answer ? (answer > 0 ? 0 : -1) : real(fd); }
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
        if (!(flags & O_CREAT)) meet_place("open", -1, path); \
        return flags & O_CREAT && meet_name("create", path) ? -1 : real(path, flags, mode); }
OPEN(open)
OPEN(open64)

int rename(const char *from, const char *to) { REAL(rename); return meet_name("rename", to) ? -1 : real(from, to); }
int unlink(const char *path) { REAL(unlink); return meet_name("unlink", path) ? -1 : real(path); }

// The calls below are only places: no rule is for them.
#define BY_FD(result, name, parameters, arguments) \
    result name parameters { REAL(name); meet_place(#name, fd, NULL); return real arguments; }
#define BY_PATH(name, parameters, arguments) \
    int name parameters { REAL(name); meet_place(#name, -1, path); return real arguments; }
BY_FD(ssize_t, write, (int fd, const void *bytes, size_t count), (fd, bytes, count))
BY_FD(ssize_t, writev, (int fd, const struct iovec *parts, int count), (fd, parts, count))
BY_FD(ssize_t, readv, (int fd, const struct iovec *parts, int count), (fd, parts, count))
BY_FD(ssize_t, send, (int fd, const void *bytes, size_t count, int flags), (fd, bytes, count, flags))
BY_FD(ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags), (fd, message, flags))
BY_FD(ssize_t, recv, (int fd, void *bytes, size_t count, int flags), (fd, bytes, count, flags))
BY_FD(int, close, (int fd), (fd))
BY_PATH(mkdir, (const char *path, mode_t mode), (path, mode))
BY_PATH(mkdirat, (int folder, const char *path, mode_t mode), (folder, path, mode))
BY_PATH(rmdir, (const char *path), (path))
BY_PATH(unlinkat, (int folder, const char *path, int flags), (folder, path, flags))
BY_PATH(link, (const char *from, const char *path), (from, path))
BY_PATH(linkat, (int one, const char *from, int other, const char *path, int flags), (one, from, other, path, flags))
BY_PATH(renameat, (int one, const char *from, int other, const char *path), (one, from, other, path))

#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        REAL(name); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        meet_place(flags & O_CREAT ? "create" : "open", -1, path); \
        return real(folder, path, flags, mode); }
OPENAT(openat)
OPENAT(openat64)
