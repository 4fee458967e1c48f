// A machine made of one thread: the program that links this gets its system calls and pthreads from here. While a run is on,
// threads are fibers that a seeded scheduler switches at calls, descriptors from SIMULATED_DESCRIPTOR_MIN on belong to the
// storage that the program defines (the second half of this file), and clocks and random bytes follow the seed.
// Outside of a run everything goes to the kernel. Linking is all it takes: the code under test is the production code.
#ifndef SIMULATED_SYSTEM_H
#define SIMULATED_SYSTEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

enum { SIMULATED_DESCRIPTOR_MIN = 1 << 28 };
#define SIMULATED_ROOT "/simulated/"

// The calling thread becomes fiber 0 (process 0). A switch happens at one in `switch_one_in` calls.
void simulated_begin(uint64_t seed, uint64_t switch_one_in, uint64_t steps_max);
// All other fibers have ended.
void simulated_end(void);
void simulated_spawn(uint32_t process, void (*body)(void *), void *argument);
// The process the running fiber belongs to.
uint32_t simulated_process(void);
uint32_t simulated_fiber(void);
// Fibers of the process that have not ended.
int simulated_living(uint32_t process);
// Possibly lets another fiber run.
void simulated_point(void);
// Lets another fiber run, and this one after that much simulated time.
void simulated_sleep(uint64_t nanoseconds);
// Fiber 0 only: sleeps until that many points later, or until `simulated_ring`.
void simulated_wait_points(uint64_t points);
void simulated_ring(void);
uint64_t simulated_now(void);
uint64_t simulated_steps(void);
int64_t simulated_wall(void);
// The wall clock goes to and fro; the monotonic one does not.
void simulated_set_wall_clock(int64_t nanoseconds_from_monotonic);
// Numbers of the run, for whatever has to be drawn.
uint64_t simulated_random(void);
// A hash over all that was scheduled and noted: equal seeds give equal hashes.
void simulated_note(uint64_t value);
uint64_t simulated_hash(void);

// Defined by the program. They return -errno on failure.
int simulated_open(const char *path, int flags);
// What `open` of /proc/self/fd/N does: another description of the same file.
int simulated_open_again(int descriptor);
int simulated_close(int descriptor);
int64_t simulated_pread(int descriptor, void *bytes, size_t count, int64_t offset);
int64_t simulated_pwrite(int descriptor, const void *bytes, size_t count, int64_t offset, bool durable);
int simulated_sync(int descriptor, bool data_only);
int simulated_truncate(int descriptor, int64_t bytes);
int simulated_fallocate(int descriptor, int mode, int64_t offset, int64_t length);
int64_t simulated_seek(int descriptor, int64_t offset, bool to_data);
int simulated_stat(int descriptor, struct stat *status);
int simulated_lock(int descriptor, int type, bool ask_only);
int simulated_unlink(const char *path);
int simulated_rename(const char *from, const char *to);
int simulated_make_directory(const char *path);
int simulated_remove_directory(const char *path);
int simulated_access(const char *path);
// A list of names, and the name at a place of it; false at its end.
int simulated_list(const char *path);
bool simulated_list_name(int list, int place, char *name, size_t capacity);
// No fiber can run, or the run took too many points: does not return.
void simulated_stuck(const char *reason) __attribute__((noreturn));

#endif
