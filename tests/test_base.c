/* test_base.c - errors, memory, text, random numbers and whole files, each against values known from elsewhere:
 * Random123's known answers for Philox, RFC 3720's for CRC-32C, Python's repr for numbers. */
#include <float.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../base.h"
#include "../philox.h"
#include "check.h"

static void test_errors(void) {
    struct error e = {0};
    CHECK(error_set(&e, ERROR_USER, "%s:%d", "f", 3) == ERROR_USER);
    CHECK(e.kind == ERROR_USER && strcmp(e.text, "f:3") == 0, "%s", e.text);
    CHECK(error_set(NULL, ERROR_ENVIRONMENT, "nobody listens") == ERROR_ENVIRONMENT);
    CHECK(error_memory(&e, 12, "a hat") == ERROR_TRIAL);
    CHECK(strcmp(e.text, "out of memory: 12 bytes for a hat") == 0, "%s", e.text);
    error_set(&e, ERROR_USER, "%s: torn", "a\nb\x1b[2J\x7f\xc3\xa9");
    CHECK(strcmp(e.text, "a\\x0ab\\x1b[2J\\x7f\xc3\xa9: torn") == 0, "%s", e.text);
    char longer[3000];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    error_set(&e, ERROR_USER, "%s", longer);
    CHECK(strlen(e.text) == sizeof e.text - 1);
    memset(longer, '\n', sizeof longer - 1);
    error_set(&e, ERROR_USER, "%s", longer);
    CHECK(strlen(e.text) == (sizeof e.text - 1) / 4 * 4 && strcmp(e.text + strlen(e.text) - 4, "\\x0a") == 0);
}

static void test_memory(void) {
    mem_fail_after = 2;
    void *first = mem_alloc(10), *second = mem_alloc(10), *third = mem_zero(5, 4);
    CHECK(first != NULL && second == NULL && third != NULL && mem_fail_after == 0);
    for (int i = 0; third != NULL && i < 20; i++) CHECK(((char *)third)[i] == 0);
    mem_free(first);
    mem_free(third);
    mem_free(NULL);
    CHECK(mem_zero(SIZE_MAX / 2, 4) == NULL);
    void *aligned = mem_aligned(100);
    CHECK((uintptr_t)aligned % 64 == 0);
    mem_free(aligned);
    char *copy = mem_string("");
    CHECK(copy != NULL && copy[0] == '\0');
    copy = mem_grow(copy, 100);
    CHECK(copy != NULL && copy[0] == '\0');
    mem_free(copy);

    struct arena a = {0};
    unsigned char *p[300];
    for (int i = 0; i < 300; i++) { /* sizes that fit a block and sizes that do not */
        const size_t n = (size_t)(i % 7 == 0 ? 20000 + i : i * 3);
        p[i] = arena_alloc(&a, n);
        CHECK(p[i] != NULL && (uintptr_t)p[i] % 16 == 0);
        for (size_t k = 0; k < n; k++) {
            if (p[i][k] != 0) CHECK(0, "arena memory is not cleared at %d", i);
        }
        memset(p[i], i & 255, n);
    }
    int overlap = 0;
    for (int i = 0; i < 300; i++) {
        const size_t n = (size_t)(i % 7 == 0 ? 20000 + i : i * 3);
        for (size_t k = 0; k < n; k++) overlap += p[i][k] != (i & 255);
    }
    CHECK(overlap == 0);
    CHECK(arena_alloc(&a, SIZE_MAX) == NULL && arena_alloc(&a, SIZE_MAX - 20) == NULL);
    const char *s = arena_string(&a, "hello there", 5);
    CHECK(s != NULL && strcmp(s, "hello") == 0);
    mem_fail_after = 1;
    CHECK(arena_alloc(&a, 40000) == NULL);
    arena_free(&a);
    CHECK(a.blocks == NULL);
    arena_free(&a);
}

static void test_text(void) {
    static const struct {
        double x;
        const char *repr;
    } doubles[] = {{0, "0.0"},
                   {-0.0, "-0.0"},
                   {1, "1.0"},
                   {-1.5, "-1.5"},
                   {0.1, "0.1"},
                   {1.0 / 3, "0.3333333333333333"},
                   {2.0 / 3, "0.6666666666666666"},
                   {100, "100.0"},
                   {123456.789, "123456.789"},
                   {1e15, "1000000000000000.0"},
                   {1.2e15, "1200000000000000.0"},
                   {9007199254740993.0, "9007199254740992.0"},
                   {1e16, "1e+16"},
                   {1.5e16, "1.5e+16"},
                   {1e22, "1e+22"},
                   {1e23, "1e+23"},
                   {1e100, "1e+100"},
                   {0.0001, "0.0001"},
                   {0.00012345, "0.00012345"},
                   {0.00001, "1e-05"},
                   {1.5e-7, "1.5e-07"},
                   {5e-324, "5e-324"},
                   {2.2250738585072014e-308, "2.2250738585072014e-308"},
                   {DBL_MAX, "1.7976931348623157e+308"},
                   {INFINITY, "Infinity"},
                   {-INFINITY, "-Infinity"},
                   {(double)NAN, "NaN"},
                   {9.5, "9.5"},
                   {0.501, "0.501"},
                   {5e-5, "5e-05"}};
    struct text t = {0};
    for (size_t i = 0; i < sizeof doubles / sizeof *doubles; i++) {
        text_add_double(&t, doubles[i].x);
        CHECK(strcmp(t.s, doubles[i].repr) == 0, "%s, not %s", t.s, doubles[i].repr);
        text_free(&t);
    }
    struct rng r = rng_make(7, 0, RNG_NAME);
    int wrong = 0;
    for (int i = 0; i < 20000; i++) { /* any bits come back as they were */
        const uint64_t bits = (uint64_t)rng_bits(&r) << 32 | rng_bits(&r);
        double x;
        memcpy(&x, &bits, sizeof x);
        if (isnan(x)) continue;
        if (i % 2) x = ldexp(x == 0 || isinf(x) ? 1 : frexp(x, &(int){0}), (int)rng_below(&r, 80) - 20);
        text_add_double(&t, x);
        if (isinf(x)) {
            text_free(&t);
            continue;
        }
        wrong += strtod(t.s, NULL) != x;
        text_free(&t);
    }
    CHECK(wrong == 0, "%d numbers do not read back", wrong);

    CHECK(t.s == NULL && t.n == 0);
    text_add(&t, "%s", "");
    CHECK(t.s != NULL && t.s[0] == '\0');
    for (int i = 0; i < 1000; i++) text_add(&t, "%d,", i);
    CHECK(t.n == 3890 && strncmp(t.s, "0,1,2,", 6) == 0 && strcmp(t.s + t.n - 4, "999,") == 0, "%zu", t.n);
    text_free(&t);
    text_add_json_string(&t, "a\"b\\c\nd\te\x01\x7f\xc3\xa9/");
    CHECK(strcmp(t.s, "\"a\\\"b\\\\c\\nd\\te\\u0001\\u007f\xc3\xa9/\"") == 0, "%s", t.s);
    text_free(&t);

    text_add(&t, "kept");
    mem_fail_after = 1;
    for (int i = 0; i < 200; i++) text_add(&t, "more text than there is room for");
    CHECK(t.failed && strncmp(t.s, "kept", 4) == 0 && strlen(t.s) == t.n);
    mem_fail_after = 0;
    const size_t n = t.n;
    text_add(&t, "x");
    text_add_double(&t, 1);
    text_add_json_string(&t, "x");
    CHECK(t.n == n);
    text_free(&t);
    CHECK(!t.failed);
}

static void test_philox(void) {
    /* kat_vectors of Random123: philox4x32, 10 rounds */
    static const uint32_t known[3][10] = {{0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
                                          {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff,
                                           0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
                                          {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0,
                                           0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}};
    for (int i = 0; i < 3; i++) {
        uint32_t out[4];
        philox(known[i] + 4, known[i], out);
        CHECK(memcmp(out, known[i] + 6, sizeof out) == 0, "known answer %d", i);
    }
}

static void test_random(void) {
    struct rng a = rng_make(1, 2, RNG_INIT), b = rng_make(1, 2, RNG_INIT);
    for (int i = 0; i < 100; i++) CHECK(rng_bits(&a) == rng_bits(&b));
    const struct rng others[] = {rng_make(2, 2, RNG_INIT), rng_make(1, 3, RNG_INIT), rng_make(1, 2, RNG_SHUFFLE),
                                 rng_make(1 + ((uint64_t)1 << 32), 2, RNG_INIT)};
    for (int k = 0; k < 4; k++) {
        struct rng other = others[k], fresh = rng_make(1, 2, RNG_INIT);
        int same = 0;
        for (int i = 0; i < 100; i++) same += rng_bits(&other) == rng_bits(&fresh);
        CHECK(same == 0, "stream %d is not its own", k);
    }
    enum { N = 200000 };
    double sum = 0, squares = 0, normal = 0, normal2 = 0, normal4 = 0, least = 1, most = 0;
    int bins[16] = {0}, within = 0;
    for (int i = 0; i < N; i++) {
        const double u = rng_uniform(&a), z = rng_normal(&a);
        sum += u;
        squares += u * u;
        least = fmin(least, u);
        most = fmax(most, u);
        bins[(int)(u * 16)]++;
        normal += z;
        normal2 += z * z;
        normal4 += z * z * z * z;
        within += fabs(z) < 1;
    }
    double chi2 = 0;
    for (int i = 0; i < 16; i++) chi2 += pow(bins[i] - N / 16.0, 2) / (N / 16.0);
    CHECK(least >= 0 && most < 1 && chi2 < 40, "chi2 %g", chi2); /* 15 degrees: 40 is p = 5e-4 */
    CHECK(fabs(sum / N - 0.5) < 5 * 0.2887 / sqrt(N) && fabs(squares / N - 1.0 / 3) < 0.005);
    CHECK(fabs(normal / N) < 5 / sqrt(N) && fabs(normal2 / N - 1) < 0.02 && fabs(normal4 / N - 3) < 0.15);
    CHECK(fabs((double)within / N - 0.682689) < 0.005);

    int counts[7] = {0};
    for (int i = 0; i < 70000; i++) counts[rng_below(&a, 7)]++;
    for (int i = 0; i < 7; i++) CHECK(abs(counts[i] - 10000) < 500, "%d: %d", i, counts[i]);
    CHECK(rng_below(&a, 1) == 0 && rng_below(&a, 0) == 0);
    int high = 0; /* 3 * 2^30: the plain remainder would put half of all draws into the first third */
    for (int i = 0; i < 30000; i++) high += rng_below(&a, 3u << 30) >= 1u << 30;
    CHECK(abs(high - 20000) < 500, "%d", high);

    int where[24] = {0}; /* every order of four things, equally often */
    for (int i = 0; i < 24000; i++) {
        uint32_t x[4] = {0, 1, 2, 3};
        rng_shuffle(&a, x, 4);
        int code = 0;
        for (int k = 0; k < 4; k++) {
            int before = 0;
            for (int j = k + 1; j < 4; j++) before += x[j] < x[k];
            code = code * (4 - k) + before;
        }
        where[code]++;
    }
    for (int i = 0; i < 24; i++) CHECK(abs(where[i] - 1000) < 170, "%d: %d", i, where[i]);
    rng_shuffle(&a, NULL, 0);
}

static int exists(const char *path) {
    struct stat s;
    return stat(path, &s) == 0;
}

static void test_files(void) {
    char root[] = "/tmp/parzen-base-XXXXXX", path[200], deep[200];
    struct error e = {0};
    char *bytes;
    size_t n;
    if (mkdtemp(root) == NULL) {
        CHECK(0, "no folder in /tmp to test in");
        return;
    }
    snprintf(path, sizeof path, "%s/a", root);
    CHECK(file_read(path, 100, &bytes, &n, &e) == ERROR_USER && bytes == NULL && strstr(e.text, path) != NULL, "%s",
          e.text);
    CHECK(file_read(root, 100, &bytes, &n, &e) == ERROR_USER && strstr(e.text, "folder") != NULL, "%s", e.text);
    CHECK(file_write(path, "one\0two", 7, &e) == OK);
    CHECK(file_read(path, 7, &bytes, &n, &e) == OK && n == 7 && memcmp(bytes, "one\0two", 8) == 0);
    mem_free(bytes);
    CHECK(file_read(path, 6, &bytes, &n, &e) == ERROR_USER && bytes == NULL, "too large");
    CHECK(file_write(path, "", 0, &e) == OK); /* replaces the old file */
    CHECK(file_read(path, 0, &bytes, &n, &e) == OK && n == 0 && bytes[0] == '\0');
    mem_free(bytes);
    enum { LARGE = 300000 };
    char *large = mem_alloc(LARGE);
    for (int i = 0; i < LARGE; i++) large[i] = (char)(i * 7 % 251);
    CHECK(file_write(path, large, LARGE, &e) == OK);
    CHECK(file_read(path, 1 << 20, &bytes, &n, &e) == OK && n == LARGE && memcmp(bytes, large, LARGE) == 0);
    mem_free(bytes);
    for (long i = 1; i < 20; i++) { /* fails cleanly, and the file stays as it was */
        mem_fail_after = i;
        const int failed = file_write(path, "x", 1, &e);
        const int used_up = mem_fail_after == 0;
        mem_fail_after = 0;
        if (!failed && !used_up) break;
        CHECK(!used_up || failed == ERROR_TRIAL || failed == OK);
    }
    CHECK(file_write(path, large, LARGE, &e) == OK);
    for (long i = 1; i < 20; i++) {
        mem_fail_after = i;
        const int failed = file_read(path, 1 << 20, &bytes, &n, &e);
        const int used_up = mem_fail_after == 0;
        mem_fail_after = 0;
        if (!used_up) {
            CHECK(!failed && n == LARGE);
            mem_free(bytes);
            break;
        }
        CHECK(failed == ERROR_TRIAL && bytes == NULL);
    }
    mem_free(large);

    snprintf(deep, sizeof deep, "%s/x/y/z", root);
    CHECK(folder_make(deep, &e) == OK && exists(deep), "%s", e.text);
    CHECK(folder_make(deep, &e) == OK);
    snprintf(deep, sizeof deep, "%s/x/w/", root);
    CHECK(folder_make(deep, &e) == OK && exists(deep), "%s", e.text);
    snprintf(deep, sizeof deep, "%s/a/b", root);
    CHECK(folder_make(deep, &e) != OK && strstr(e.text, "/a") != NULL, "%s", e.text);
    CHECK(folder_make(path, &e) == ERROR_USER);
    CHECK(file_write(deep, "x", 1, &e) == ERROR_ENVIRONMENT, "%s", e.text);
    snprintf(deep, sizeof deep, "%s/x", root);
    CHECK(file_write(deep, "x", 1, &e) == ERROR_ENVIRONMENT, "a folder stands there");
    snprintf(deep, sizeof deep, "%s/x.tmp.%ld", root, (long)getpid());
    CHECK(!exists(deep), "the temporary file is left behind");
    static const char *const made[] = {"/x/y/z", "/x/y", "/x/w", "/x", "/a", ""};
    for (size_t i = 0; i < sizeof made / sizeof *made; i++) {
        snprintf(deep, sizeof deep, "%s%s", root, made[i]);
        CHECK(remove(deep) == 0, "%s", deep);
    }
}

static void test_crc(void) {
    unsigned char bytes[32];
    CHECK(crc32c(0, "123456789", 9) == 0xe3069283);
    CHECK(crc32c(0, "", 0) == 0);
    memset(bytes, 0, sizeof bytes);
    CHECK(crc32c(0, bytes, 32) == 0x8a9136aa); /* RFC 3720, B.4 */
    memset(bytes, 0xff, sizeof bytes);
    CHECK(crc32c(0, bytes, 32) == 0x62a8ab43);
    for (int i = 0; i < 32; i++) bytes[i] = (unsigned char)i;
    CHECK(crc32c(0, bytes, 32) == 0x46dd794e);
    CHECK(crc32c(crc32c(0, bytes, 11), bytes + 11, 21) == 0x46dd794e, "in two parts");
}

int main(void) {
    test_errors();
    test_memory();
    test_text();
    test_philox();
    test_random();
    test_files();
    test_crc();
    const double t = clock_seconds();
    CHECK(clock_seconds() >= t);
    return check_done();
}
