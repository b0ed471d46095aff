/* check.h - the whole test harness: CHECK counts, check_done prints one line for `make test` to add up.
 * A failed check prints where and what, and the test goes on. */
#ifndef CHECK_H
#define CHECK_H
#include <math.h>
#include <stdio.h>
#include <string.h>

static int check_passed, check_failed;

#define CHECK(condition, ...)                                             \
    do {                                                                  \
        if (condition) {                                                  \
            check_passed++;                                               \
        } else {                                                          \
            check_failed++;                                               \
            printf("%s:%d: failed: %s:", __FILE__, __LINE__, #condition); \
            printf(" " __VA_ARGS__);                                      \
            printf("\n");                                                 \
        }                                                                 \
    } while (0)

/* |a - b| <= tolerance * max(1, |b|); equal infinities are close, NaN never is. */
static inline int check_close(double a, double b, double tolerance) {
    if (a == b) return 1;
    const double scale = fabs(b) > 1 ? fabs(b) : 1;
    return fabs(a - b) <= tolerance * scale;
}

static inline int check_done(void) {
    printf("%d passed, %d failed\n", check_passed, check_failed);
    return check_failed != 0;
}
#endif
