/* Wall time that a file sets, for one process and its children: preloaded, it adds the seconds in
 * the file that FDFED_CLOCK names. Monotonic time is left alone, as a clock that is set leaves it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static int (*real)(clockid_t, struct timespec *);

static double offset(void) {
    static __thread double found;
    static __thread time_t looked = -1;
    struct timespec now;
    real(CLOCK_MONOTONIC_COARSE, &now);
    if (now.tv_sec != looked) {
        const char *path = getenv("FDFED_CLOCK");
        FILE *file = path ? fopen(path, "re") : NULL;
        looked = now.tv_sec;
        if (file) {
            if (fscanf(file, "%lf", &found) != 1) found = 0.0;
            fclose(file);
        }
    }
    return found;
}

int clock_gettime(clockid_t id, struct timespec *to) {
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, to);
    if (result == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
        double by = offset();
        to->tv_sec += (time_t)floor(by);
        to->tv_nsec += (long)((by - floor(by)) * 1e9);
        if (to->tv_nsec >= 1000000000L) {
            to->tv_nsec -= 1000000000L;
            to->tv_sec += 1;
        }
    }
    return result;
}

int gettimeofday(struct timeval *restrict to, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    to->tv_sec = now.tv_sec;
    to->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *to) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to) *to = now.tv_sec;
    return now.tv_sec;
}
