/* clock.c - wall clocks that go an hour back whenever they are read, from ten years ago on; preloaded into a program
 * to see that it does not mind. The monotonic clock stays what it is. */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static atomic_long reads;

static time_t wrong_time(void) {
    struct timespec now;
    syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
    return now.tv_sec - 10L * 366 * 86400 - 3600 * atomic_fetch_add(&reads, 1);
}

time_t time(time_t *out) {
    const time_t now = wrong_time();
    if (out != NULL) *out = now;
    return now;
}

int clock_gettime(clockid_t clock, struct timespec *out) {
    const int failed = (int)syscall(SYS_clock_gettime, clock, out);
    if (!failed && clock == CLOCK_REALTIME) out->tv_sec = wrong_time();
    return failed;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    (void)zone;
    *out = (struct timeval){.tv_sec = wrong_time()};
    return 0;
}
