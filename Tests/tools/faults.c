// Makes chosen file calls of a program fail, wait or kill it. Loaded with LD_PRELOAD;
// FARSHORE_FAULTS names a file of rules that is mapped and may be changed while the program runs (Tests/tools/sites.py
// writes it). The calls are those that change a file or make one durable, and reads.
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

enum { RULES = 8, PATH_BYTES = 184, FRAMES = 24, OWN_FRAMES = 4, PLACES = 1 << 14 };

// As packed by sites.py: 72 bytes and the path, all little-endian.
struct rule {
    uint32_t armed;       // 0: skip this rule
    char call[12];        // "pwrite", "fdatasync" …
    int32_t error;        // errno; 0: let the call through after the delay; -1: kill the process instead of the call;
                          // -2, for syncs: do nothing and say that it succeeded; -3: transfer a part of the bytes
    uint32_t skip;        // matches let through first
    uint32_t times;       // matches that fail, then the rule rests; 0: all
    uint32_t hits;        // matches so far
    uint64_t offset_min, offset_max;
    uint64_t length_min;
    uint32_t delay_us;
    uint32_t failed;      // calls that were made to fail
    uint64_t place;       // not 0: only calls from this place, whatever their path
    char path[PATH_BYTES];  // part of the file's path; with $ at its end, the path's end
};

struct rules {
    uint32_t unused[16];
    struct rule rule[RULES];
};

static struct rules *rules;

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

static int has_place_rules(void) {
    if (!rules) return 0;
    for (int index = 0; index < RULES; index++)
        if (__atomic_load_n(&rules->rule[index].armed, __ATOMIC_ACQUIRE) && rules->rule[index].place) return 1;
    return 0;
}

// The place, 0 where nobody asks for it.
static uint64_t meet_place(const char *call, int fd, const char *path) {
    if ((!places_file && !kill_place && !has_place_rules()) || is_inside) return 0;
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
    return place;
}

enum { FAILS = -1, GOES_ON, LEFT_OUT, SHORT };

// FAILS with errno set.
static int meet(const char *call, const char *path, uint64_t place, uint64_t offset, uint64_t length) {
    for (int index = 0; index < RULES; index++) {
        struct rule *rule = &rules->rule[index];
        if (!__atomic_load_n(&rule->armed, __ATOMIC_ACQUIRE) || strncmp(rule->call, call, sizeof rule->call) != 0) continue;
        if (offset < rule->offset_min || offset > rule->offset_max || length < rule->length_min) continue;
        if (rule->place ? rule->place != place : !fits(path, rule->path)) continue;
        uint32_t hit = __atomic_fetch_add(&rule->hits, 1, __ATOMIC_SEQ_CST);
        if (hit < rule->skip || (rule->times != 0 && hit - rule->skip >= rule->times)) continue;
        if (rule->delay_us) usleep(rule->delay_us);
        if (rule->error == 0) continue;
        __atomic_fetch_add(&rule->failed, 1, __ATOMIC_SEQ_CST);
        if (rule->error == -1) kill(getpid(), SIGKILL);
        if (rule->error == -2) return LEFT_OUT;
        if (rule->error == -3) return SHORT;
        errno = rule->error;
        return FAILS;
    }
    return GOES_ON;
}

static int meet_fd(const char *call, int fd, uint64_t offset, uint64_t length) {
    uint64_t place = meet_place(call, fd, NULL);
    if (!rules) return GOES_ON;
    char path[PATH_MAX];
    int saved = errno;
    path_of(fd, path);
    errno = saved;
    return meet(call, path, place, offset, length);
}

static int meet_name(const char *call, const char *path) {
    uint64_t place = meet_place(call, -1, path);
    return rules ? meet(call, path, place, 0, 0) : GOES_ON;
}

static size_t part_of(size_t count) { return count > 1 ? count / 2 : count; }

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static uint64_t bytes_of(const struct iovec *parts, int count) {
    uint64_t sum = 0;
    for (int index = 0; index < count; index++) sum += parts[index].iov_len;
    return sum;
}

// A call on `fd` that transfers `count` bytes.
#define TRANSFER(name, told, at, parameters, arguments) \
    ssize_t name parameters { \
        REAL(name); \
        int answer = meet_fd(told, fd, (uint64_t)(at), count); \
        if (answer == SHORT) count = part_of(count); \
        return answer == FAILS ? -1 : real arguments; }
TRANSFER(pwrite, "pwrite", offset, (int fd, const void *bytes, size_t count, off_t offset), (fd, bytes, count, offset))
TRANSFER(pwrite64, "pwrite", offset, (int fd, const void *bytes, size_t count, off64_t offset), (fd, bytes, count, offset))
TRANSFER(pread, "pread", offset, (int fd, void *bytes, size_t count, off_t offset), (fd, bytes, count, offset))
TRANSFER(pread64, "pread", offset, (int fd, void *bytes, size_t count, off64_t offset), (fd, bytes, count, offset))
TRANSFER(write, "write", 0, (int fd, const void *bytes, size_t count), (fd, bytes, count))
TRANSFER(read, "read", 0, (int fd, void *bytes, size_t count), (fd, bytes, count))

// Of these a short one ends with the first part.
#define GATHERED(name, told, parameters, arguments) \
    ssize_t name parameters { \
        REAL(name); \
        int answer = meet_fd(told, fd, (uint64_t)offset, bytes_of(parts, count)); \
        if (answer == SHORT && count > 1) count = 1; \
        return answer == FAILS ? -1 : real arguments; }
GATHERED(pwritev, "pwrite", (int fd, const struct iovec *parts, int count, off_t offset), (fd, parts, count, offset))
GATHERED(pwritev64, "pwrite", (int fd, const struct iovec *parts, int count, off64_t offset), (fd, parts, count, offset))
GATHERED(preadv2, "preadv2", (int fd, const struct iovec *parts, int count, off_t offset, int flags), (fd, parts, count, offset, flags))

#define BY_FD(result, name, told, at, length, parameters, arguments) \
    result name parameters { \
        REAL(name); \
        int answer = meet_fd(told, fd, (uint64_t)(at), (uint64_t)(length)); \
        return answer == GOES_ON ? real arguments : answer == LEFT_OUT ? 0 : -1; }
BY_FD(int, fsync, "fsync", 0, 0, (int fd), (fd))
BY_FD(int, fdatasync, "fdatasync", 0, 0, (int fd), (fd))
BY_FD(int, sync_file_range, "sync_range", at, length, (int fd, off64_t at, off64_t length, unsigned flags), (fd, at, length, flags))
BY_FD(int, ftruncate, "ftruncate", size, 0, (int fd, off_t size), (fd, size))
BY_FD(int, ftruncate64, "ftruncate", size, 0, (int fd, off64_t size), (fd, size))
BY_FD(int, fallocate, "fallocate", at, length, (int fd, int mode, off_t at, off_t length), (fd, mode, at, length))
BY_FD(int, fallocate64, "fallocate", at, length, (int fd, int mode, off64_t at, off64_t length), (fd, mode, at, length))

// Only what makes a file is a site; the rest opens what is there.
#define OPEN(name, parameters, arguments) \
    int name parameters { \
        REAL(name); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        if (!(flags & O_CREAT)) meet_place("open", -1, path); \
        return flags & O_CREAT && meet_name("create", path) ? -1 : real arguments; }
OPEN(open, (const char *path, int flags, ...), (path, flags, mode))
OPEN(open64, (const char *path, int flags, ...), (path, flags, mode))
OPEN(openat, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))
OPEN(openat64, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))

#define BY_PATH(name, parameters, arguments) \
    int name parameters { REAL(name); return meet_name(#name, path) ? -1 : real arguments; }
BY_PATH(rename, (const char *from, const char *path), (from, path))
BY_PATH(renameat, (int one, const char *from, int other, const char *path), (one, from, other, path))
BY_PATH(link, (const char *from, const char *path), (from, path))
BY_PATH(linkat, (int one, const char *from, int other, const char *path, int flags), (one, from, other, path, flags))
BY_PATH(unlink, (const char *path), (path))
BY_PATH(unlinkat, (int folder, const char *path, int flags), (folder, path, flags))
BY_PATH(mkdir, (const char *path, mode_t mode), (path, mode))
BY_PATH(mkdirat, (int folder, const char *path, mode_t mode), (folder, path, mode))
BY_PATH(rmdir, (const char *path), (path))

// The calls below are only places: no rule is for them.
#define PLACE(result, name, parameters, arguments) \
    result name parameters { REAL(name); meet_place(#name, fd, NULL); return real arguments; }
PLACE(ssize_t, writev, (int fd, const struct iovec *parts, int count), (fd, parts, count))
PLACE(ssize_t, readv, (int fd, const struct iovec *parts, int count), (fd, parts, count))
PLACE(ssize_t, send, (int fd, const void *bytes, size_t count, int flags), (fd, bytes, count, flags))
PLACE(ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags), (fd, message, flags))
PLACE(ssize_t, recv, (int fd, void *bytes, size_t count, int flags), (fd, bytes, count, flags))
PLACE(int, close, (int fd), (fd))
