#include "CLinux.h"
#include <linux/openat2.h>
#include <sys/resource.h>
#include <sys/timex.h>

#ifndef STATX_MNT_ID_UNIQUE
#define STATX_MNT_ID_UNIQUE 0x4000U
#endif

uint64_t farshore_mount_id(int fd) {
    struct statx status = {0};
    const unsigned wanted[] = {STATX_MNT_ID_UNIQUE, STATX_MNT_ID};
    for (int kind = 0; kind < 2; kind++) {
        if (statx(fd, "", AT_EMPTY_PATH, wanted[kind], &status) == 0 && status.stx_mask & wanted[kind]) return status.stx_mnt_id;
    }
    return 0;
}

ssize_t farshore_pread_nowait(int fd, void *buffer, size_t count, int64_t offset) {
    struct iovec part = {.iov_base = buffer, .iov_len = count};
    return preadv2(fd, &part, 1, offset, RWF_NOWAIT);
}

bool farshore_clock_is_synchronised(void) {
    struct timex state = {0};
    int result = adjtimex(&state);
    return result >= 0 && result != TIME_ERROR;
}

uint64_t farshore_raise_open_files_max(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 0;
    struct rlimit raised = {.rlim_cur = limit.rlim_max, .rlim_max = limit.rlim_max};
    return (uint64_t)(setrlimit(RLIMIT_NOFILE, &raised) == 0 ? raised.rlim_cur : limit.rlim_cur);
}

void farshore_write_no_core(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_CORE, &limit) != 0 || limit.rlim_max == 0) return;
    limit.rlim_cur = 1;
    (void)setrlimit(RLIMIT_CORE, &limit);
}

uint64_t farshore_locked_memory_bytes_max(void) {
    struct rlimit limit;
    return getrlimit(RLIMIT_MEMLOCK, &limit) == 0 ? (uint64_t)limit.rlim_cur : 0;
}

int farshore_open_beneath(int directory, const char *path, int flags) {
    struct open_how how = {.flags = (unsigned)flags, .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
    return (int)syscall(SYS_openat2, directory, path, &how, sizeof(how));
}

int farshore_open_in_root(int directory, const char *path, int flags) {
    struct open_how how = {.flags = (unsigned)flags, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV};
    return (int)syscall(SYS_openat2, directory, path, &how, sizeof(how));
}

int farshore_private_mounts(const char *place) {
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) return -1;
    return mount("none", place, "tmpfs", MS_NODEV | MS_NOSUID, "mode=700,size=64m");
}
