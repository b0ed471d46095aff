/* data.c - the CIFAR files as they are distributed, or images drawn by rule, split into what a trial trains on, what
 * it is judged on, and the test set.
 *
 * Splits are stratified and follow from the seed alone: the held-out images do not depend on how many of the others
 * are asked for, so a quick search and a long one judge on the same images.
 *
 * The synthetic images: one of ten shapes, filled or as an outline, makes the coarse class; one of five stripes or dots
 * of the surface makes the fine class within it. Colours, place, size, turn, background, light and noise are drawn
 * anew for each image, so a class has no mean to be told by: it must be seen. */
#include "data.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { SIDE = 32, PLANE = SIDE * SIDE, PIXELS = 3 * PLANE };
enum { SYNTHETIC_TRAIN = 12000, SYNTHETIC_TEST = 2000 };

static int images_alloc(struct images *s, int n, struct error *e) {
    *s = (struct images){.n = n, .h = SIDE, .w = SIDE, .c = 3};
    s->pixels = mem_alloc((size_t)n * PIXELS);
    s->fine = mem_alloc((size_t)n);
    s->coarse = mem_zero((size_t)n, 1);
    if (s->pixels != NULL && s->fine != NULL && s->coarse != NULL) return OK;
    return error_memory(e, (size_t)n * PIXELS, "the images");
}

static void images_free(struct images *s) {
    mem_free(s->pixels);
    mem_free(s->fine);
    mem_free(s->coarse);
    memset(s, 0, sizeof *s);
}

void data_close(struct dataset *d) {
    images_free(&d->train);
    images_free(&d->judge);
    images_free(&d->test);
}

/* =========================================== CIFAR ============================================ */

/* Records into images[at..], which must have the room. */
static int decode_into(struct images *s, size_t at, const uint8_t *bytes, size_t n, int labels, int fine_limit,
                       int coarse_limit, const char *file, struct error *e) {
    const size_t record = (size_t)labels + PIXELS;
    for (size_t i = 0; i < n / record; i++) {
        const uint8_t *r = bytes + i * record, *planes = r + labels;
        const int fine = r[labels - 1], coarse = labels == 2 ? r[0] : 0;
        if (fine >= fine_limit) {
            return error_set(e, ERROR_USER,
                             "%s: byte %zu: label %d is out of range (below %d); the file is damaged, fetch it again",
                             file, i * record + (size_t)labels - 1, fine, fine_limit);
        }
        if (labels == 2 && coarse >= coarse_limit) {
            return error_set(
                e, ERROR_USER,
                "%s: byte %zu: coarse label %d is out of range (below %d); the file is damaged, fetch it again", file,
                i * record, coarse, coarse_limit);
        }
        uint8_t *to = s->pixels + (at + i) * PIXELS;
        for (int p = 0; p < PLANE; p++) {
            for (int c = 0; c < 3; c++) to[3 * p + c] = planes[c * PLANE + p];
        }
        s->fine[at + i] = (uint8_t)fine;
        s->coarse[at + i] = (uint8_t)coarse;
    }
    return OK;
}

int data_decode(struct images *s, const uint8_t *bytes, size_t n, int labels, int fine_limit, int coarse_limit,
                const char *file, struct error *e) {
    const size_t record = (size_t)labels + PIXELS;
    memset(s, 0, sizeof *s);
    if (n == 0 || n % record != 0) {
        return error_set(
            e, ERROR_USER,
            "%s: has %zu bytes, which is no whole number of records of %zu; the file is damaged, fetch it again", file,
            n, record);
    }
    int failed = images_alloc(s, (int)(n / record), e);
    if (!failed) failed = decode_into(s, 0, bytes, n, labels, fine_limit, coarse_limit, file, e);
    if (failed) images_free(s);
    return failed;
}

struct format {
    const char *name, *folder, *hint;
    int labels, fine, coarse, per_file, n_train;
    const char *train[5], *test;
};
static const struct format formats[] = {
    {"cifar-100", "cifar-100-binary", "make cifar100 fetches it", 2, 100, 20, 50000, 1, {"train.bin"}, "test.bin"},
    {"cifar-10",
     "cifar-10-batches-bin",
     "it is in cifar-10-binary.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html",
     1,
     10,
     0,
     10000,
     5,
     {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"},
     "test_batch.bin"}};
enum { N_FORMATS = sizeof formats / sizeof *formats, TEST_IMAGES = 10000 };

/* -1: it is not there. */
static long long size_of(const char *folder, const char *file) {
    struct text path = {0};
    struct stat s;
    text_add(&path, "%s/%s", folder, file);
    const long long size = !path.failed && stat(path.s, &s) == 0 ? (long long)s.st_size : -1;
    text_free(&path);
    return size;
}
static int exists(const char *folder, const char *file) { return size_of(folder, file) >= 0; }

static int read_cifar_file(struct images *s, size_t at, const struct format *f, const char *folder, const char *file,
                           int images, struct error *e) {
    struct text path = {0};
    char *bytes = NULL;
    size_t n = 0;
    const size_t want = (size_t)images * (size_t)(f->labels + PIXELS);
    text_add(&path, "%s/%s", folder, file);
    int failed = path.failed ? error_memory(e, strlen(folder), "a path") : file_read(path.s, want + 1, &bytes, &n, e);
    const long long size = failed == ERROR_USER ? size_of(folder, file) : (long long)n;
    if ((!failed && n != want) || size > (long long)want) {
        failed = error_set(e, ERROR_USER, "%s: has %lld bytes, not %zu: it is not %s's, or was not fetched whole; %s",
                           path.s, size, want, f->name, f->hint);
    } else if (size < 0) {
        failed = error_set(e, ERROR_USER, "%s: is missing; %s", path.s, f->hint);
    } /* else what it says: it cannot be opened, say */
    if (!failed) failed = decode_into(s, at, (const uint8_t *)bytes, n, f->labels, f->fine, f->coarse, path.s, e);
    mem_free(bytes);
    text_free(&path);
    return failed;
}

static int read_cifar(struct dataset *d, struct images *all, const struct format *f, const char *folder,
                      struct error *e) {
    snprintf(d->name, sizeof d->name, "%s", f->name);
    d->fine_classes = f->fine;
    d->coarse_classes = f->coarse;
    int failed = images_alloc(all, f->n_train * f->per_file, e);
    for (int i = 0; i < f->n_train && !failed; i++) {
        failed = read_cifar_file(all, (size_t)i * (size_t)f->per_file, f, folder, f->train[i], f->per_file, e);
    }
    if (!failed) failed = images_alloc(&d->test, TEST_IMAGES, e);
    if (!failed) failed = read_cifar_file(&d->test, 0, f, folder, f->test, TEST_IMAGES, e);
    return failed;
}

/* Which dataset lies in `where`, or in a folder of its name in there. */
static int find_cifar(struct dataset *d, struct images *all, const char *where, struct error *e) {
    struct stat s;
    if (stat(where, &s) != 0 || !S_ISDIR(s.st_mode)) {
        return error_set(e, ERROR_USER,
                         "%s: is no folder; --data takes a folder with cifar-100-binary (make cifar100 fetches it) or "
                         "cifar-10-batches-bin, or 'synthetic'",
                         where);
    }
    for (int nested = 0; nested < 2; nested++) {
        for (int i = 0; i < N_FORMATS; i++) {
            struct text folder = {0};
            text_add(&folder, nested ? "%s/%s" : "%s", where, formats[i].folder);
            if (folder.failed) return error_memory(e, strlen(where), "a path");
            /* Any of its files tells a dataset: that another is missing is then the thing to say. */
            const int here = exists(folder.s, formats[i].train[0]) || exists(folder.s, formats[i].test);
            const int failed = here ? read_cifar(d, all, &formats[i], folder.s, e) : OK;
            text_free(&folder);
            if (here) return failed;
        }
    }
    return error_set(
        e, ERROR_USER,
        "%s: holds neither cifar-100-binary (train.bin, test.bin; make cifar100 fetches it) nor cifar-10-batches-bin",
        where);
}

/* ==================================== images drawn by rule ==================================== */

enum { SHAPES = 10, SURFACES = 5 };

/* Signed distance of (x, y) from the outline of a shape of size 1, about: below 0 inside. */
static double shape_distance(int shape, double x, double y) {
    const double r = sqrt(x * x + y * y), a = atan2(y, x), ax = fabs(x), ay = fabs(y);
    switch (shape) {
        case 0: return r - 0.9;                                                    /* disc */
        case 1: return fmax(ax, ay) - 0.75;                                        /* square */
        case 2: return fmax(y - 0.6, 0.87 * ax - 0.5 * y - 0.55);                  /* triangle */
        case 3: return fmin(fmax(ax - 0.3, ay - 0.95), fmax(ay - 0.3, ax - 0.95)); /* plus */
        case 4: return r - 0.62 - 0.32 * cos(5 * a);                               /* star */
        case 5: return fabs(r - 0.68) - 0.24;                                      /* ring */
        case 6: return fmax(r - 0.95, 0.7 - sqrt((x - 0.7) * (x - 0.55) + y * y)); /* crescent */
        case 7: return fmax(ax - 0.98, ay - 0.42);                                 /* bar */
        case 8:
            return fmin(sqrt((x - 0.5) * (x - 0.5) + y * y), sqrt((x + 0.5) * (x + 0.5) + y * y)) -
                   0.47; /* two discs */
        default: return fmin(fmax(fabs(x + 0.55) - 0.25, ay - 0.85), fmax(fabs(y - 0.6) - 0.25, ax - 0.8)); /* L */
    }
}

/* How much of the second colour a surface shows at (x, y), 0 to 1; period about 2 pixels of detail a unit. */
static double surface(int kind, double x, double y, double phase) {
    const double u = x * 9.5 + phase, v = y * 9.5 + phase * 1.7;
    switch (kind) {
        case 0: return 0;                             /* plain */
        case 1: return sin(u) > 0;                    /* stripes one way */
        case 2: return sin(v) > 0;                    /* the other way */
        case 3: return (sin(u) > 0) != (sin(v) > 0);  /* checks */
        default: return sin(u) > 0.2 && sin(v) > 0.2; /* dots */
    }
}

static void colour_of(double hue, double lightness, double rgb[3]) {
    for (int c = 0; c < 3; c++) rgb[c] = lightness * (0.55 + 0.45 * cos(6.283185307179586 * (hue - c / 3.0)));
}

static uint8_t to_byte(double x) { return (uint8_t)(x < 0 ? 0 : x > 1 ? 255 : x * 255 + 0.5); }

static void draw_image(uint8_t *pixels, int fine, struct rng *rng) {
    const int coarse = fine / SURFACES, kind = fine % SURFACES, shape = coarse % SHAPES, outline = coarse / SHAPES;
    double first[3], second[3], ground[3], far_ground[3];
    /* Bright on dark always: with either, a net would need many more images to see that the shape is what counts. */
    const double hue = rng_uniform(rng), light = 0.8 + 0.2 * rng_uniform(rng), dark = 0.15 + 0.15 * rng_uniform(rng);
    colour_of(hue, light, first);
    colour_of(hue + 0.35 + 0.3 * rng_uniform(rng), 0.5 * light, second);
    colour_of(rng_uniform(rng), dark, ground);
    colour_of(rng_uniform(rng), dark, far_ground);
    const double size = 8.5 + 4.5 * rng_uniform(rng), turn = 0.4 * (rng_uniform(rng) - 0.5), sine = sin(turn),
                 cosine = cos(turn);
    const double cx = 15.5 + 8.5 * (rng_uniform(rng) - 0.5), cy = 15.5 + 8.5 * (rng_uniform(rng) - 0.5),
                 phase = 6.3 * rng_uniform(rng);
    const double slope = 0.3 * (rng_uniform(rng) - 0.5), noise = 0.02 + 0.05 * rng_uniform(rng);
    for (int y = 0; y < SIDE; y++) {
        for (int x = 0; x < SIDE; x++) {
            const double dx = (x - cx) / size, dy = (y - cy) / size, u = cosine * dx + sine * dy,
                         v = cosine * dy - sine * dx;
            double distance = shape_distance(shape, u, v);
            if (outline) distance = fabs(distance + 0.12) - 0.15;
            const double cover = fmin(1, fmax(0, 0.5 - distance * size)), part = surface(kind, u, v, phase),
                         far_part = (x + y) / 62.0;
            const double shade = 1 + slope * (x - 15.5) / 15.5;
            const uint32_t bits = rng_bits(rng); /* ten for each colour's noise */
            for (int c = 0; c < 3; c++) {
                const double on = first[c] * (1 - part) + second[c] * part,
                             off = ground[c] * (1 - far_part) + far_ground[c] * far_part;
                const double grain = noise * ((double)(bits >> 10 * c & 1023) / 511.5 - 1);
                pixels[(y * SIDE + x) * 3 + c] = to_byte(shade * (cover * on + (1 - cover) * off) + grain);
            }
        }
    }
}

enum { TRAIN_SET = 1, TEST_SET };
/* to's image `at` is the i-th of a set: the same each time, as files are. */
static void draw(struct images *to, int at, uint32_t set, uint32_t i) {
    struct rng rng = rng_make(set, i, RNG_SYNTHETIC);
    const int fine = (int)(i % 100);
    to->fine[at] = (uint8_t)fine;
    to->coarse[at] = (uint8_t)(fine / SURFACES);
    draw_image(to->pixels + (size_t)at * PIXELS, fine, &rng);
}

/* Of those to train on only the labels, by which they are split: what is picked is drawn then. */
static int draw_synthetic(struct dataset *d, struct images *all, struct error *e) {
    snprintf(d->name, sizeof d->name, "synthetic");
    d->fine_classes = SHAPES * 2 * SURFACES;
    d->coarse_classes = SHAPES * 2;
    *all = (struct images){.n = SYNTHETIC_TRAIN};
    all->fine = mem_alloc(SYNTHETIC_TRAIN);
    if (all->fine == NULL) return error_memory(e, SYNTHETIC_TRAIN, "the labels");
    for (int i = 0; i < SYNTHETIC_TRAIN; i++) all->fine[i] = (uint8_t)(i % 100);
    const int failed = images_alloc(&d->test, SYNTHETIC_TEST, e);
    for (int i = 0; i < SYNTHETIC_TEST && !failed; i++) draw(&d->test, i, TEST_SET, (uint32_t)i);
    return failed;
}

/* =========================================== splits =========================================== */

/* Moves `want` of order[0..n), the same share of each class, to its front; order is shuffled already. The largest
 * remainders get the images that whole numbers leave over. */
static int stratify(const struct images *all, uint32_t *order, int n, int want, int classes, struct error *e) {
    int count[256] = {0}, share[256], left = want;
    double rest[256];
    uint32_t *picked = mem_alloc((size_t)n * sizeof *picked);
    if (picked == NULL) return error_memory(e, (size_t)n * sizeof *picked, "a split");
    for (int i = 0; i < n; i++) count[all->fine[order[i]]]++;
    for (int c = 0; c < classes; c++) {
        const double exact = (double)want * count[c] / n;
        share[c] = (int)exact;
        rest[c] = exact - share[c];
        left -= share[c];
    }
    for (; left > 0; left--) {
        int most = 0;
        for (int c = 1; c < classes; c++) most = rest[c] > rest[most] ? c : most;
        share[most]++;
        rest[most] = -1;
    }
    int front = 0, back = want;
    for (int i = 0; i < n; i++) {
        const int c = all->fine[order[i]];
        picked[share[c]-- > 0 ? front++ : back++] = order[i];
    }
    memcpy(order, picked, (size_t)n * sizeof *order);
    mem_free(picked);
    return OK;
}

/* Those of `from` that order[0..n) names, drawn where it has no pixels. */
static int copy_images(struct images *to, const struct images *from, const uint32_t *order, int n, struct error *e) {
    const int failed = images_alloc(to, n, e);
    for (int i = 0; i < n && !failed; i++) {
        if (from->pixels == NULL) {
            draw(to, i, TRAIN_SET, order[i]);
            continue;
        }
        memcpy(to->pixels + (size_t)i * PIXELS, from->pixels + (size_t)order[i] * PIXELS, PIXELS);
        to->fine[i] = from->fine[order[i]];
        to->coarse[i] = from->coarse[order[i]];
    }
    return failed;
}

static int split(struct dataset *d, const struct images *all, const struct data_options *o, struct error *e) {
    const int holds = o->objective == OBJECTIVE_VALIDATION;
    int out = holds ? o->validation : 0;
    if (out < 0) out = o->images > 0 && o->images / 4 < 5000 ? (o->images + 3) / 4 : 5000;
    if (holds && o->validation < 0 && out > all->n / 4) out = all->n / 4;
    if (holds && (out < 1 || out >= all->n)) {
        return error_set(e, ERROR_USER, "--validation %d: %s has %d training images; hold out from 1 to %d", out,
                         d->name, all->n, all->n - 1);
    }
    const int rest = all->n - out, want = o->images > 0 ? o->images : rest;
    if (want > rest) {
        return error_set(e, ERROR_USER, "--images %d: %s has %d training images%s; take at most %d", want, d->name,
                         all->n, holds ? ", some of them held out" : "", rest);
    }
    uint32_t *order = mem_alloc((size_t)all->n * sizeof *order);
    if (order == NULL) return error_memory(e, (size_t)all->n * sizeof *order, "a split");
    struct rng rng = rng_make(o->seed, 0, RNG_SPLIT);
    for (int i = 0; i < all->n; i++) order[i] = (uint32_t)i;
    rng_shuffle(&rng, order, (uint32_t)all->n);
    int failed = stratify(all, order, all->n, out, d->fine_classes, e);
    if (!failed && holds) failed = copy_images(&d->judge, all, order, out, e);
    if (!failed) failed = stratify(all, order + out, rest, want, d->fine_classes, e);
    if (!failed) failed = copy_images(&d->train, all, order + out, want, e);
    mem_free(order);
    if (failed || holds) return failed;
    failed = images_alloc(&d->judge, d->test.n, e);
    if (failed) return failed;
    memcpy(d->judge.pixels, d->test.pixels, (size_t)d->test.n * PIXELS);
    memcpy(d->judge.fine, d->test.fine, (size_t)d->test.n);
    memcpy(d->judge.coarse, d->test.coarse, (size_t)d->test.n);
    return OK;
}

int data_open(struct dataset *d, const struct data_options *o, struct error *e) {
    struct images all = {0};
    memset(d, 0, sizeof *d);
    int failed = strcmp(o->where, "synthetic") == 0 ? draw_synthetic(d, &all, e) : find_cifar(d, &all, o->where, e);
    if (!failed) failed = split(d, &all, o, e);
    images_free(&all);
    if (failed) data_close(d);
    return failed;
}
