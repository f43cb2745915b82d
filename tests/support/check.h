/* check.h - the tests' little framework: named tests, comparisons that say where and by how much, and that a NaN fails.

   static void test_thing(void) { CHECK(1 + 1 == 2); CHECK_CLOSE("y", got, want, n, 1e-5); }
   int main(int argc, char **argv) { check_begin(argc, argv); CHECK_RUN(test_thing); return check_end(); }

   A test is what lies between check_start and check_finish (CHECK_RUN does both); it passes when no check in it failed.
   The program takes a word: only tests whose name holds it are run. The last line it prints is `N passed, N failed, N
   skipped`. */
#ifndef BMVP_CHECK_H
#define BMVP_CHECK_H

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef struct check_state {
    int passed, failed, skipped;
    int bad;            /* failed checks of the running test */
    int quiet;          /* 1: failures are counted and not printed (for testing the checks themselves) */
    const char *only;   /* run tests whose name holds this; NULL: all */
    char test[160];     /* name of the running test */
    double most_used;   /* largest part of an allowance that a passing comparison used */
    char most_used_by[400];
} check_state;

static check_state check_all;

static inline void check_begin(int argc, char **argv)
{
    memset(&check_all, 0, sizeof check_all);
    check_all.only = argc > 1 ? argv[1] : NULL;
    setvbuf(stdout, NULL, _IOLBF, 0);
}

/* 1: go on; 0: this test is not wanted. */
static inline int check_start(const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    vsnprintf(check_all.test, sizeof check_all.test, format, ap);
    va_end(ap);
    check_all.bad = 0;
    return !check_all.only || strstr(check_all.test, check_all.only) != NULL;
}

static inline void check_finish(void)
{
    if (check_all.bad == 0) ++check_all.passed;
    else ++check_all.failed;
}

static inline void check_skip(const char *why)
{
    printf("skipped: %s: %s\n", check_all.test, why);
    ++check_all.skipped;
}

static inline int check_end(void)
{
    if (check_all.most_used > 0)
        printf("most of an allowance used: %.0f%% by %s\n", 100 * check_all.most_used, check_all.most_used_by);
    printf("%d passed, %d failed, %d skipped\n", check_all.passed, check_all.failed, check_all.skipped);
    return check_all.failed > 0;
}

/* Counts and prints a failure when ok is 0; returns ok. */
static inline int check_report(int ok, const char *file, int line, const char *format, ...)
{
    va_list ap;
    if (ok) return 1;
    ++check_all.bad;
    if (check_all.quiet) return 0;
    printf("%s:%d: %s: ", file, line, check_all.test);
    va_start(ap, format);
    vprintf(format, ap);
    va_end(ap);
    printf("\n");
    return 0;
}

/* Every |got - want| must be at most tol times (root mean square of want + |want|). */
static inline int check_close(const char *file, int line, const char *what, const float *got, const float *want,
                              int64_t n, double tol)
{
    double square = 0, rms, worst = -1;
    int64_t i, at = 0;
    if (!check_report(n > 0 && got && want, file, line, "%s: nothing to compare", what)) return 0;
    for (i = 0; i < n; ++i) square += (double)want[i] * (double)want[i];
    rms = sqrt(square / (double)n);
    for (i = 0; i < n; ++i) {
        const double diff = fabs((double)got[i] - (double)want[i]), allowed = tol * (rms + fabs((double)want[i]));
        const double used = diff == 0 ? 0 : allowed > 0 ? diff / allowed : HUGE_VAL;
        if (!(used <= worst)) {
            worst = used == used ? used : HUGE_VAL; /* NaN is as bad as can be */
            at = i;
        }
        if (worst == HUGE_VAL) break;
    }
    if (worst <= 1 && worst > check_all.most_used && !check_all.quiet) {
        check_all.most_used = worst;
        snprintf(check_all.most_used_by, sizeof check_all.most_used_by, "%s %s", check_all.test, what);
    }
    return check_report(worst <= 1, file, line,
                        "%s[%lld of %lld] is %.9g, should be %.9g (rms %.3g), %.0f%% of the allowance %.1e", what,
                        (long long)at, (long long)n, (double)got[at], (double)want[at], rms, 100 * worst, tol);
}

/* The same bytes; the first float that differs is printed. */
static inline int check_same(const char *file, int line, const char *what, const float *got, const float *want,
                             int64_t n)
{
    int64_t i;
    if (!check_report(n > 0 && got && want, file, line, "%s: nothing to compare", what)) return 0;
    for (i = 0; i < n; ++i)
        if (memcmp(&got[i], &want[i], sizeof *got) != 0) break;
    if (i == n) return 1;
    return check_report(0, file, line, "%s[%lld of %lld] is %.9g, should be %.9g, bit for bit", what, (long long)i,
                        (long long)n, (double)got[i], (double)want[i]);
}

static inline int check_near(const char *file, int line, const char *what, double got, double want, double tol)
{
    return check_report(fabs(got - want) <= tol, file, line, "%s is %.12g, should be %.12g within %.1e", what, got,
                        want, tol);
}

static inline int check_holds(const char *file, int line, const char *text, const char *part)
{
    return check_report(text && strstr(text, part), file, line, "\"%s\" does not hold \"%s\"", text ? text : "(none)",
                        part);
}

#define CHECK(condition) check_report((condition) ? 1 : 0, __FILE__, __LINE__, "%s", #condition)
#define CHECK_NEAR(got, want, tol) check_near(__FILE__, __LINE__, #got, got, want, tol)
#define CHECK_CLOSE(what, got, want, n, tol) check_close(__FILE__, __LINE__, what, got, want, n, tol)
#define CHECK_SAME(what, got, want, n) check_same(__FILE__, __LINE__, what, got, want, n)
#define CHECK_HOLDS(text, part) check_holds(__FILE__, __LINE__, text, part)
#define CHECK_RUN(test) do { if (check_start("%s", #test)) { test(); check_finish(); } } while (0)

#endif /* BMVP_CHECK_H */
