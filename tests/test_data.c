/* test_data.c - CIFAR files and drawn images into splits: the decoder on small records, data_open on files that are
 * wrong in each way, splits on whole fake datasets whose images carry their number in their first pixels (the files
 * are sparse, so that they are written in no time), and what the synthetic images promise: no class can be told by its
 * colours, or by a linear classifier of the pixels. PARZEN_CIFAR100=FOLDER also reads the real files. */
#define _GNU_SOURCE
#include "data.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"

enum { PIXELS = 3072, SIZE_100 = 3074, SIZE_10 = 3073, TRAIN = 50000, TEST = 10000 };

static char folder[200];

static const char *path_of(const char *name) {
    static char path[2][400];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

/* ---- files to read ---- */

/* A file of so many bytes, all 0: it takes no room on the disk. */
static void make_file(const char *name, long bytes) {
    const int f = open(path_of(name), O_WRONLY | O_CREAT | O_TRUNC, 0666);
    CHECK(f >= 0 && ftruncate(f, bytes) == 0, "%s", name);
    close(f);
}

static void set_byte(const char *name, long at, int byte) {
    const uint8_t b = (uint8_t)byte;
    const int f = open(path_of(name), O_WRONLY);
    CHECK(f >= 0 && pwrite(f, &b, 1, at) == 1, "%s", name);
    close(f);
}

/* n records: image i is of class 7 i mod `classes`, and its number stands in its first pixels' red. */
static void make_records(const char *name, int n, int labels, int classes) {
    make_file(name, (long)n * (labels + PIXELS));
    const int f = open(path_of(name), O_WRONLY);
    int written = 0;
    for (int i = 0; i < n; i++) {
        uint8_t head[6];
        const int fine = 7 * i % classes;
        if (labels == 2) head[0] = (uint8_t)(fine / 5);
        head[labels - 1] = (uint8_t)fine;
        for (int k = 0; k < 4; k++) head[labels + k] = (uint8_t)(i >> 8 * k & 255);
        written += pwrite(f, head, (size_t)labels + 4, (long)i * (labels + PIXELS)) == labels + 4;
    }
    CHECK(written == n, "%d of %d written to %s", written, n, name);
    close(f);
}

static int number_of(const struct images *s, int i) {
    const uint8_t *p = s->pixels + (size_t)i * PIXELS;
    return p[0] | p[3] << 8 | p[6] << 16;
}

static void remove_files(const char *const *names) {
    for (; *names != NULL; names++) CHECK(remove(path_of(*names)) == 0, "%s", *names);
}

/* ---- the decoder ---- */

static void test_decode(void) {
    static uint8_t bytes[3 * SIZE_100];
    struct images s;
    struct error e = {0};
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)(i * 2654435761u >> 24);
    for (int labels = 1; labels <= 2; labels++) {
        const size_t record = (size_t)labels + PIXELS;
        for (size_t i = 0; i < 3; i++) {
            bytes[i * record] = (uint8_t)(i + 5);
            bytes[i * record + (size_t)labels - 1] = (uint8_t)(i + 7);
        }
        CHECK(data_decode(&s, bytes, 3 * record, labels, 10, 20, "file", &e) == OK, "%s", e.text);
        CHECK(s.n == 3 && s.h == 32 && s.w == 32 && s.c == 3);
        int wrong = 0;
        for (size_t i = 0; i < 3; i++) {
            wrong += s.fine[i] != i + 7 || s.coarse[i] != (labels == 2 ? i + 5 : 0);
            for (size_t p = 0; p < 1024; p++) {
                for (size_t c = 0; c < 3; c++) {
                    wrong += s.pixels[i * PIXELS + 3 * p + c] != bytes[i * record + (size_t)labels + c * 1024 + p];
                }
            }
        }
        CHECK(wrong == 0, "%d wrong values with %d labels", wrong, labels);
        mem_free(s.pixels);
        mem_free(s.fine);
        mem_free(s.coarse);
    }
    /* Labels out of range, with their byte. */
    bytes[SIZE_100 + 1] = 10;
    CHECK(data_decode(&s, bytes, 3 * SIZE_100, 2, 10, 20, "file", &e) == ERROR_USER);
    CHECK(strstr(e.text, "file: byte 3075: label 10 is out of range") != NULL, "%s", e.text);
    bytes[SIZE_100 + 1] = 9;
    bytes[2 * SIZE_100] = 20;
    CHECK(data_decode(&s, bytes, 3 * SIZE_100, 2, 10, 20, "file", &e) == ERROR_USER);
    CHECK(strstr(e.text, "file: byte 6148: coarse label 20 is out of range") != NULL, "%s", e.text);
    CHECK(s.pixels == NULL && s.fine == NULL && s.coarse == NULL, "nothing is left to free");
    /* Sizes. */
    const size_t sizes[] = {0, 1, SIZE_100 - 1, SIZE_100 + 1, 2 * SIZE_10};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        CHECK(data_decode(&s, bytes, sizes[i], 2, 256, 256, "file", &e) == ERROR_USER, "%zu bytes", sizes[i]);
        CHECK(strstr(e.text, "no whole number of records") != NULL, "%s", e.text);
    }
    for (long k = 1; k <= 3; k++) {
        mem_fail_after = k;
        CHECK(data_decode(&s, bytes, SIZE_100, 2, 256, 256, "file", &e) == ERROR_TRIAL, "allocation %ld", k);
        CHECK(s.pixels == NULL && s.fine == NULL && s.coarse == NULL);
    }
    mem_fail_after = 0;
}

/* ---- data_open and what it refuses ---- */

static void refuse(const struct data_options *o, const char *what) {
    struct dataset d;
    struct error e = {0};
    const int failed = data_open(&d, o, &e);
    CHECK(failed == ERROR_USER && e.kind == ERROR_USER, "%d for '%s'", failed, what);
    CHECK(strstr(e.text, what) != NULL, "'%s' has no '%s'", e.text, what);
    CHECK(strchr(e.text, '\n') == NULL);
    if (failed) CHECK(d.train.pixels == NULL && d.judge.pixels == NULL && d.test.pixels == NULL);
    if (!failed) data_close(&d);
}

static void refuse_folder(const char *where, const char *what) {
    const struct data_options o = {.where = where, .validation = -1};
    refuse(&o, what);
}

static void test_wrong_files(void) {
    char inner[300];
    snprintf(inner, sizeof inner, "%s", path_of("cifar-100-binary"));
    refuse_folder(path_of("nowhere"), "nowhere: is no folder");
    refuse_folder(folder, "holds neither cifar-100-binary");
    CHECK(mkdir(inner, 0777) == 0);
    refuse_folder(folder, "holds neither cifar-100-binary");
    make_file("cifar-100-binary/test.bin", (long)TEST * SIZE_100);
    refuse_folder(folder, "cifar-100-binary/train.bin: is missing");
    refuse_folder(inner, "cifar-100-binary/train.bin: is missing");
    make_file("cifar-100-binary/train.bin", 12345);
    refuse_folder(folder, "train.bin: has 12345 bytes, not 153700000");
    make_file("cifar-100-binary/train.bin", (long)TRAIN * SIZE_100 + 2);
    refuse_folder(folder, "train.bin: has 153700002 bytes, not 153700000");
    make_file("cifar-100-binary/train.bin", (long)TRAIN * SIZE_100);
    set_byte("cifar-100-binary/train.bin", 777L * SIZE_100 + 1, 100);
    refuse_folder(folder, "train.bin: byte 2388499: label 100 is out of range");
    set_byte("cifar-100-binary/train.bin", 777L * SIZE_100 + 1, 99);
    set_byte("cifar-100-binary/train.bin", 49999L * SIZE_100, 255);
    refuse_folder(folder, "train.bin: byte 153696926: coarse label 255 is out of range");
    set_byte("cifar-100-binary/train.bin", 49999L * SIZE_100, 0);
    set_byte("cifar-100-binary/test.bin", 3L * SIZE_100 + 1, 200);
    refuse_folder(folder, "test.bin: byte 9223: label 200 is out of range");
    CHECK(remove(path_of("cifar-100-binary/test.bin")) == 0);
    refuse_folder(folder, "cifar-100-binary/test.bin: is missing");
    CHECK(mkdir(path_of("cifar-100-binary/test.bin"), 0777) == 0);
    refuse_folder(folder, "test.bin: is a folder");
    CHECK(rmdir(path_of("cifar-100-binary/test.bin")) == 0 && remove(path_of("cifar-100-binary/train.bin")) == 0);
    CHECK(rmdir(inner) == 0);
}

/* ---- splits ---- */

static int open_or_fail(struct dataset *d, const struct data_options *o) {
    struct error e = {0};
    const int failed = data_open(d, o, &e);
    CHECK(failed == OK, "%s", e.text);
    return failed == OK;
}

/* Each class has its share, give or take the one that whole numbers leave over. */
static void check_shares(const struct images *s, int n, int classes, const char *what) {
    int count[256] = {0}, wrong = 0;
    CHECK(s->n == n, "%s: %d images, not %d", what, s->n, n);
    for (int i = 0; i < s->n; i++) count[s->fine[i]]++;
    for (int c = 0; c < classes; c++) wrong += count[c] < n / classes || count[c] > (n + classes - 1) / classes;
    CHECK(wrong == 0, "%s: %d classes have no fair share of %d images", what, wrong, n);
}

/* Are images and labels what the file has; no image twice, none both in train and in judge? */
static void check_images(const struct dataset *d, int classes) {
    static uint8_t seen[TRAIN];
    int wrong = 0, twice = 0;
    memset(seen, 0, sizeof seen);
    for (int set = 0; set < 2; set++) {
        const struct images *s = set ? &d->judge : &d->train;
        for (int i = 0; i < s->n; i++) {
            const int number = number_of(s, i);
            if (number >= TRAIN) {
                wrong++;
                continue;
            }
            wrong += s->fine[i] != 7 * number % classes || s->coarse[i] != s->fine[i] / 5;
            twice += seen[number]++;
        }
    }
    CHECK(wrong == 0, "%d images have not their own label", wrong);
    CHECK(twice == 0, "%d images are there twice", twice);
}

static int same_images(const struct images *a, const struct images *b) {
    return a->n == b->n && memcmp(a->pixels, b->pixels, (size_t)a->n * PIXELS) == 0 &&
           memcmp(a->fine, b->fine, (size_t)a->n) == 0 && memcmp(a->coarse, b->coarse, (size_t)a->n) == 0;
}

/* Of the allocations of a data_open, every fifth: those that come late cost a whole reading. */
static void check_memory(void) {
    const struct data_options o = {.where = folder, .validation = 100, .images = 100};
    struct dataset d;
    struct error e = {0};
    long nth = 1;
    for (; nth < 60; nth += 5) {
        mem_fail_after = nth;
        const int failed = data_open(&d, &o, &e);
        if (!failed) data_close(&d);
        if (mem_fail_after > 0) break; /* it got by without its n-th */
        CHECK(!failed || d.train.pixels == NULL, "allocation %ld", nth);
    }
    mem_fail_after = 0;
    CHECK(nth > 10 && nth < 60, "%ld allocations", nth);
}

static void test_splits(void) {
    struct data_options o = {.where = folder, .validation = -1, .seed = 7};
    struct dataset whole, some, other;
    CHECK(mkdir(path_of("cifar-100-binary"), 0777) == 0);
    make_records("cifar-100-binary/train.bin", TRAIN, 2, 100);
    make_records("cifar-100-binary/test.bin", TEST, 2, 100);
    if (!open_or_fail(&whole, &o)) return;
    CHECK(strcmp(whole.name, "cifar-100") == 0 && whole.fine_classes == 100 && whole.coarse_classes == 20);
    check_shares(&whole.train, 45000, 100, "train");
    check_shares(&whole.judge, 5000, 100, "held out");
    check_shares(&whole.test, 10000, 100, "test");
    check_images(&whole, 100);
    int in_order = 0;
    for (int i = 0; i < whole.test.n; i++) in_order += number_of(&whole.test, i) == i;
    CHECK(in_order == TEST, "the test set stands as in its file");

    o.images = 1050; /* no whole number for each class */
    o.validation = 5000;
    if (open_or_fail(&some, &o)) {
        check_shares(&some.train, 1050, 100, "some of train");
        check_images(&some, 100);
        CHECK(same_images(&some.judge, &whole.judge), "the hold-out does not depend on --images");
        if (open_or_fail(&other, &o)) {
            CHECK(same_images(&some.train, &other.train) && same_images(&some.judge, &other.judge), "the seed decides");
            data_close(&other);
        }
        o.seed = 8;
        if (open_or_fail(&other, &o)) {
            CHECK(!same_images(&some.train, &other.train) && !same_images(&some.judge, &other.judge));
            check_images(&other, 100);
            data_close(&other);
        }
        data_close(&some);
    }
    data_close(&whole);

    o = (struct data_options){.where = path_of("cifar-100-binary"), .objective = OBJECTIVE_TEST, .validation = -1};
    if (open_or_fail(&some, &o)) {
        CHECK(same_images(&some.judge, &some.test), "the objective test judges on the test set");
        check_shares(&some.train, 50000, 100, "all of train");
        data_close(&some);
    }
    o = (struct data_options){.where = folder, .validation = 45000, .images = 5001};
    refuse(&o, "--images 5001: cifar-100 has 50000 training images, some of them held out; take at most 5000");
    o.validation = 0;
    refuse(&o, "--validation 0: cifar-100 has 50000 training images; hold out from 1 to 49999");
    check_memory();
    remove_files((const char *[]){"cifar-100-binary/train.bin", "cifar-100-binary/test.bin", "cifar-100-binary", NULL});
}

static void test_cifar_10(void) {
    const struct data_options o = {.where = folder, .validation = -1, .images = 1000, .seed = 1};
    struct dataset d;
    CHECK(mkdir(path_of("cifar-10-batches-bin"), 0777) == 0);
    make_records("cifar-10-batches-bin/test_batch.bin", TEST, 1, 10);
    refuse_folder(folder, "data_batch_1.bin: is missing");
    for (int i = 1; i <= 5; i++) { /* one file by six names */
        char name[100];
        snprintf(name, sizeof name, "cifar-10-batches-bin/data_batch_%d.bin", i);
        CHECK(link(path_of("cifar-10-batches-bin/test_batch.bin"), path_of(name)) == 0, "%s", name);
    }
    if (open_or_fail(&d, &o)) {
        CHECK(strcmp(d.name, "cifar-10") == 0 && d.fine_classes == 10 && d.coarse_classes == 0);
        check_shares(&d.train, 1000, 10, "train");
        check_shares(&d.judge, 250, 10, "held out: a quarter");
        check_shares(&d.test, 10000, 10, "test");
        int wrong = 0;
        for (int i = 0; i < d.train.n; i++)
            wrong += d.train.fine[i] != 7 * number_of(&d.train, i) % 10 || d.train.coarse[i] != 0;
        CHECK(wrong == 0, "%d images have not their own label", wrong);
        data_close(&d);
    }
    CHECK(remove(path_of("cifar-10-batches-bin/data_batch_3.bin")) == 0);
    refuse_folder(path_of("cifar-10-batches-bin"), "data_batch_3.bin: is missing");
    remove_files((const char *[]){"cifar-10-batches-bin/data_batch_1.bin", "cifar-10-batches-bin/data_batch_2.bin",
                                  "cifar-10-batches-bin/data_batch_4.bin", "cifar-10-batches-bin/data_batch_5.bin",
                                  "cifar-10-batches-bin/test_batch.bin", "cifar-10-batches-bin", NULL});
}

/* ---- images drawn by rule ---- */

/* The mean colour of each class, against that of all and against how images of one class differ. */
static void check_colours(const struct images *s) {
    static double mean[100][3];
    int count[100] = {0};
    double all[3] = {0}, within = 0, between = 0, most = 0;
    memset(mean, 0, sizeof mean);
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < s->n; i++) {
            double colour[3] = {0};
            for (int k = 0; k < PIXELS; k++) colour[k % 3] += s->pixels[(size_t)i * PIXELS + (size_t)k] / 1024.0;
            const int fine = s->fine[i];
            count[fine] += !pass;
            for (int c = 0; c < 3; c++) {
                if (!pass) mean[fine][c] += colour[c], all[c] += colour[c] / s->n;
                if (pass) within += pow(colour[c] - mean[fine][c], 2) / (3.0 * s->n);
            }
        }
        for (int k = 0; k < 300 && !pass; k++) mean[k / 3][k % 3] /= count[k / 3];
    }
    for (int k = 0; k < 300; k++) {
        const double off = mean[k / 3][k % 3] - all[k % 3];
        between += off * off / 300;
        most = fmax(most, fabs(off));
    }
    CHECK(most < 40, "a class is %.1f of 255 off the mean colour", most);
    CHECK(between < within, "class means differ by %.1f, images of a class by %.1f", sqrt(between), sqrt(within));
}

/* Share of `test` that a softmax over the pixels tells, after some passes of SGD over the first n of `train`. */
static double linear_accuracy(const struct images *train, int n, const struct images *test) {
    float *w = mem_zero(PIXELS * 100, sizeof *w);
    float bias[100] = {0};
    int right = 0;
    for (int step = 0; step < 3 * n + test->n; step++) {
        const int judging = step >= 3 * n, i = judging ? step - 3 * n : (int)((long)step * 1009 % n);
        const struct images *s = judging ? test : train;
        const uint8_t *x = s->pixels + (size_t)i * PIXELS;
        float z[100], sum = 0;
        int best = 0;
        memcpy(z, bias, sizeof z);
        for (int k = 0; k < PIXELS; k++) {
            const float v = (float)x[k] / 255.0f - 0.3f;
            for (int c = 0; c < 100; c++) z[c] += v * w[k * 100 + c];
        }
        for (int c = 0; c < 100; c++) best = z[c] > z[best] ? c : best;
        if (judging) {
            right += best == s->fine[i];
            continue;
        }
        const float top = z[best];
        for (int c = 0; c < 100; c++) sum += z[c] = expf(z[c] - top);
        for (int c = 0; c < 100; c++) z[c] = 0.003f * (z[c] / sum - (c == s->fine[i] ? 1.0f : 0.0f));
        for (int c = 0; c < 100; c++) bias[c] -= z[c];
        for (int k = 0; k < PIXELS; k++) {
            const float v = (float)x[k] / 255.0f - 0.3f;
            for (int c = 0; c < 100; c++) w[k * 100 + c] -= v * z[c];
        }
    }
    mem_free(w);
    return (double)right / test->n;
}

static void test_synthetic(void) {
    struct data_options o = {.where = "synthetic", .validation = -1, .seed = 3};
    struct dataset d, again;
    if (!open_or_fail(&d, &o)) return;
    CHECK(strcmp(d.name, "synthetic") == 0 && d.fine_classes == 100 && d.coarse_classes == 20);
    CHECK(d.judge.n == (d.train.n + d.judge.n) / 4, "%d held out: a quarter of few images", d.judge.n);
    check_shares(&d.train, d.train.n, 100, "train");
    check_shares(&d.judge, d.judge.n, 100, "held out");
    check_shares(&d.test, d.test.n, 100, "test");
    int wrong = 0;
    for (int i = 0; i < d.train.n; i++) wrong += d.train.coarse[i] != d.train.fine[i] / 5;
    CHECK(wrong == 0, "%d fine classes are in the wrong coarse class", wrong);
    check_colours(&d.train);
    o.seed = 4;
    if (open_or_fail(&again, &o)) {
        CHECK(same_images(&d.test, &again.test) && !same_images(&d.judge, &again.judge),
              "the seed splits; the images are the same each time");
        data_close(&again);
    }
    const double accuracy = linear_accuracy(&d.train, d.train.n < 3000 ? d.train.n : 3000, &d.test);
    CHECK(accuracy < 0.15, "a linear classifier tells %.1f %%", 100 * accuracy);
    CHECK(accuracy > 0.005, "the linear classifier learns nothing: %.1f %%", 100 * accuracy);
    data_close(&d);
}

static void test_real(const char *where) {
    const struct data_options o = {.where = where, .objective = OBJECTIVE_TEST, .validation = -1};
    struct dataset d;
    int parent[100];
    if (!open_or_fail(&d, &o)) return;
    CHECK(d.train.n == TRAIN && d.test.n == TEST);
    check_shares(&d.train, TRAIN, 100, "train");
    check_shares(&d.test, TEST, 100, "test");
    int wrong = 0;
    memset(parent, -1, sizeof parent);
    for (int i = 0; i < d.train.n; i++) {
        int *p = &parent[d.train.fine[i]];
        if (*p < 0) *p = d.train.coarse[i];
        wrong += *p != d.train.coarse[i];
    }
    CHECK(wrong == 0, "%d images of a class are in two coarse ones", wrong);
    data_close(&d);
}

int main(void) {
    const char *temporary = getenv("TMPDIR"), *real = getenv("PARZEN_CIFAR100");
    snprintf(folder, sizeof folder, "%s/parzen-data-XXXXXX", temporary != NULL ? temporary : "/tmp");
    CHECK(mkdtemp(folder) != NULL, "%s", folder);
    test_decode();
    test_wrong_files();
    test_splits();
    test_cifar_10();
    test_synthetic();
    if (real != NULL && *real != '\0') test_real(real);
    CHECK(rmdir(folder) == 0, "%s", folder);
    return check_done();
}
