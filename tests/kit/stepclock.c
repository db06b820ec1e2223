/* The wall clock of a program, moved by what a mapped file says: preloaded into PostgreSQL by stepclock.py.
 *
 * The file holds one signed 64-bit number of microseconds. Who writes it steps the clock of every process at
 * once. Monotonic clocks and the timers of the kernel go on as they are, as when an administrator sets the clock.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const int64_t no_step;
static const int64_t *step_us = &no_step;

__attribute__((constructor)) static void map_the_step(void)
{
    const char *path = getenv("TEST_CLOCK_STEP");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *page = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *step_us, PROT_READ, MAP_SHARED, file, 0);
    if (page != MAP_FAILED)
        step_us = page;
    if (file >= 0)
        close(file);
}

static int moved(clockid_t id, struct timespec *now)
{
    int failed = syscall(SYS_clock_gettime, id, now);
    if (!failed && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
        int64_t us = __atomic_load_n(step_us, __ATOMIC_RELAXED);
        int64_t ns = now->tv_nsec + us % 1000000 * 1000;
        now->tv_sec += us / 1000000 + (ns >= 1000000000) - (ns < 0);
        now->tv_nsec = ns + (ns < 0 ? 1000000000 : 0) - (ns >= 1000000000 ? 1000000000 : 0);
    }
    return failed;
}

int clock_gettime(clockid_t id, struct timespec *now)
{
    return moved(id, now);
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec exact;
    int failed = moved(CLOCK_REALTIME, &exact);
    (void)zone;
    if (!failed) {
        now->tv_sec = exact.tv_sec;
        now->tv_usec = exact.tv_nsec / 1000;
    }
    return failed;
}

time_t time(time_t *where)
{
    struct timespec exact;
    if (moved(CLOCK_REALTIME, &exact))
        return (time_t)-1;
    if (where)
        *where = exact.tv_sec;
    return exact.tv_sec;
}
