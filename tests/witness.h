/* witness.h - a device that computes nothing, or lets another compute, and remembers the last program that was run. For
 * bench.c and occupancy.c. */
#ifndef WITNESS_H
#define WITNESS_H
#include <string.h>

#include "../layers.h"

struct witness {
    struct device device;
    struct device *real; /* NULL: none */
    const struct program *program;
    int n;
};

static int none_alloc(struct device *d, size_t bytes, void **out, struct error *e) {
    (void)d;
    *out = mem_zero(bytes + 1, 1);
    return *out != NULL ? OK : error_memory(e, bytes, "the net");
}
static void none_release(struct device *d, void *p) {
    (void)d;
    mem_free(p);
}
static int none_copy(struct device *d, void *to, const void *from, size_t bytes, struct error *e) {
    (void)d;
    (void)e;
    memcpy(to, from, bytes);
    return OK;
}
static int none_wait(struct device *d, struct error *e) {
    (void)d;
    (void)e;
    return OK;
}

static int witness_alloc(struct device *d, size_t bytes, void **out, struct error *e) {
    struct witness *w = (struct witness *)d;
    return w->real->alloc(w->real, bytes, out, e);
}
static void witness_release(struct device *d, void *p) {
    struct witness *w = (struct witness *)d;
    w->real->release(w->real, p);
}
static int witness_write(struct device *d, void *to, const void *from, size_t bytes, struct error *e) {
    struct witness *w = (struct witness *)d;
    return w->real->write(w->real, to, from, bytes, e);
}
static int witness_read(struct device *d, void *to, const void *from, size_t bytes, struct error *e) {
    struct witness *w = (struct witness *)d;
    return w->real->read(w->real, to, from, bytes, e);
}
static int witness_wait(struct device *d, struct error *e) {
    struct witness *w = (struct witness *)d;
    return w->real->wait(w->real, e);
}
static int witness_run(struct device *d, const struct program *p, int n, struct error *e) {
    struct witness *w = (struct witness *)d;
    if (p->n_ops > 1) {
        w->program = p;
        w->n = n;
    }
    return w->real != NULL ? w->real->run(w->real, p, n, e) : OK;
}

static struct witness witness_of(struct device *real) {
    struct witness w = {.real = real};
    w.device = (struct device){.name = "none",
                               .element = 2,
                               .cache = 60 << 20, /* an H200's */
                               .alloc = none_alloc,
                               .release = none_release,
                               .write = none_copy,
                               .read = none_copy,
                               .run = witness_run,
                               .wait = none_wait};
    if (real != NULL) {
        w.device = *real;
        w.device.alloc = witness_alloc;
        w.device.release = witness_release;
        w.device.write = witness_write;
        w.device.read = witness_read;
        w.device.wait = witness_wait;
        w.device.run = witness_run;
    }
    return w;
}
#endif
