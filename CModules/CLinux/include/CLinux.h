// Linux calls and constants that Swift's Glibc overlay does not carry, and atomic
// operations on memory that other threads (or the supervisor) share.
#ifndef FARSHORE_CLINUX_H
#define FARSHORE_CLINUX_H

#define _GNU_SOURCE 1
// Swift builds Glibc and Dispatch without X/Open names; with them fd_set is another type here than there, and whether
// a file compiles depends on the order of its imports.
#include <features.h>
#undef __USE_XOPEN
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

// fcntl(2) and ioctl(2) are variadic: Swift cannot call them.
static inline int farshore_ofd_setlk(int fd, int type, int64_t start, int64_t length) {
    struct flock lock = {.l_type = (short)type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    return fcntl(fd, F_OFD_SETLK, &lock);
}
// Returns 0 and sets *type to F_UNLCK when the range could be locked.
static inline int farshore_ofd_getlk(int fd, int *type, int64_t start, int64_t length) {
    struct flock lock = {.l_type = (short)*type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    int result = fcntl(fd, F_OFD_GETLK, &lock);
    *type = lock.l_type;
    return result;
}
static inline int farshore_open(const char *path, int flags, unsigned mode) { return open(path, flags, mode); }
static inline int farshore_openat(int dir, const char *path, int flags, unsigned mode) { return openat(dir, path, flags, mode); }
// Of `path` below `directory`, by no symbolic link (ELOOP) and not out of it (EXDEV).
int farshore_open_beneath(int directory, const char *path, int flags);
// Of `path` with `directory` as its root: links and `..` lead nowhere out of it, nor into another mount.
int farshore_open_in_root(int directory, const char *path, int flags);
// Gives this thread, and those and the programs it starts later, mounts of their own with an empty file system at `place`. They are gone
// with the last process that has them, however it ends. Needs root.
int farshore_private_mounts(const char *place);
// Starts a process that does nothing but have this thread's mounts until `*end`, a pipe's end, is closed. When this thread ends first, it
// takes away `disks`, so that whoever waits for them gets an error. Its id, or -1.
pid_t farshore_hold_mounts(const char *disks, int *end);
// Goes back to the mounts of `outside` (an open /proc/self/ns/mnt), as long as no other thread shares this one's working directory.
int farshore_leave_mounts(int outside);
// Named by a macro that Swift does not see.
static const int farshore_o_path = O_PATH;
// EEXIST when the new name is taken; EINVAL where the filesystem cannot do it (NFS).
static inline int farshore_rename_noreplace(int olddir, const char *old, int newdir, const char *new_) {
    return (int)syscall(SYS_renameat2, olddir, old, newdir, new_, 1u /* RENAME_NOREPLACE */);
}
// Of the mount that the descriptor was opened in: never used again where the kernel can do that (6.8); 0 when it tells none.
uint64_t farshore_mount_id(int fd);
// Reads what the page cache holds and begins the disk's read of what it does not; EAGAIN or a short count then.
ssize_t farshore_pread_nowait(int fd, void *buffer, size_t count, int64_t offset);
static inline int farshore_set_cloexec(int fd, int on) { return fcntl(fd, F_SETFD, on ? FD_CLOEXEC : 0); }
static inline int farshore_block_device_size(int fd, uint64_t *bytes) { return ioctl(fd, BLKGETSIZE64, bytes); }

// Whether the kernel holds the wall clock to be disciplined (NTP).
bool farshore_clock_is_synchronised(void);
uint64_t farshore_locked_memory_bytes_max(void);
// Raises the soft limit of open files to the hard one; the limit then, 0 when it cannot be asked.
uint64_t farshore_raise_open_files_max(void);
// This process, and what it starts, writes no core file; 1 and not 0, since the kernel goes by 0 only where it writes a file,
// not where it pipes it into a program. A child may raise it again.
void farshore_write_no_core(void);
// At most 15 bytes are kept.
static inline void farshore_name_this_thread(const char *name) { prctl(PR_SET_NAME, name, 0, 0, 0); }

// As many arenas for all threads to allocate from; glibc would give each thread one of its own, up to 8 for each processor, and each keeps
// tens of MiB of what was freed.
void farshore_set_arenas_max(int count);

static inline uint64_t farshore_load_acquire(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void farshore_store_release(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
// True when *p held `expected` and now holds `desired`.
static inline bool farshore_compare_exchange(uint64_t *p, uint64_t expected, uint64_t desired) {
    return __atomic_compare_exchange_n(p, &expected, desired, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}
// Raises *p to `v` unless it is already higher; returns the value found before.
static inline uint64_t farshore_fetch_max(uint64_t *p, uint64_t v) {
    uint64_t seen = __atomic_load_n(p, __ATOMIC_ACQUIRE);
    while (seen < v && !__atomic_compare_exchange_n(p, &seen, v, true, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {}
    return seen;
}

#endif
