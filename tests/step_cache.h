/* step_cache.h - how many bytes of maps a step moves to and from memory behind a second-level cache: the operations
 * are walked in their order, each slice of the batch by slice of the batch, and a cache that gives up the page touched
 * longest ago says which pages it still has. For bench.c.
 *
 * What layers.cu does for it is counted: passes go by turns from the first image to the last and back, and pages of
 * maps that are not touched again soon (`once` in struct map) are the first to go. What is not: the maps' borders, the
 * weight gradients' being late, and that hardware only comes near such an order. */
#ifndef STEP_CACHE_H
#define STEP_CACHE_H
#include "op_outputs.h"
#include "step_cost.h"

enum { PAGE = 32768, SLICES = 64 };

/* Pages in the order in which they were touched: next[pages] is the newest, prev[pages] the oldest that is there. */
struct cache {
    int pages, room, used;
    int *prev, *next;
    unsigned char *there, *dirty;
    double moved; /* bytes read and written back */
};

static void cache_unlink(struct cache *c, int page) {
    c->next[c->prev[page]] = c->next[page];
    c->prev[c->next[page]] = c->prev[page];
}

static void cache_link(struct cache *c, int page, int behind) {
    c->prev[page] = behind;
    c->next[page] = c->next[behind];
    c->prev[c->next[behind]] = page;
    c->next[behind] = page;
}

static void cache_touch(struct cache *c, int page, int writes, int once, double share) {
    if (c->there[page]) {
        cache_unlink(c, page);
    } else {
        c->used++;
        if (!writes) c->moved += PAGE * share;
    }
    c->there[page] = 1;
    if (writes) c->dirty[page] = 1;
    cache_link(c, page, once ? c->prev[c->pages] : c->pages);
    while (c->used > c->room) {
        const int oldest = c->prev[c->pages];
        cache_unlink(c, oldest);
        if (c->dirty[oldest]) c->moved += PAGE;
        c->there[oldest] = c->dirty[oldest] = 0;
        c->used--;
    }
}

/* A slice of n images of a map; of a part of a join its share of the bytes, though all of its pages. */
static void cache_map(struct cache *c, const char *base, const struct map *m, int n, int slice, int writes, int once) {
    const double bytes = (double)n * m->h * m->w * m->stride * 2;
    const double at = (double)((const char *)m->at - base - 2 * m->first);
    const int from = slice == 0 ? (int)(at / PAGE) : (int)((at + bytes * slice / SLICES + PAGE - 1) / PAGE);
    const int to = (int)((at + bytes * (slice + 1) / SLICES + PAGE - 1) / PAGE);
    for (int page = from; page < to; page++) cache_touch(c, page, writes, once, (double)map_stored(m) / m->stride);
}

struct touched {
    const struct map *read[16], *made[4];
    int reads, makes;
};

/* Adds what op touches; not what it reads at `inside`, a sum that stays in registers. */
static void touched_by(struct touched *t, struct op *op, const void *inside) {
    const struct map *made[2] = {NULL, NULL};
    struct map *maps[8];
    const int n = op_maps(op, maps);
    (void)op_outputs(op, made);
    for (int i = 0; i < n; i++) {
        const struct map *const m = maps[i];
        const int writes = m == made[0] || m == made[1];
        if (m->at == NULL || m->wide || (!writes && m->at == inside)) continue;
        if (writes) {
            t->made[t->makes++] = m;
        } else {
            t->read[t->reads++] = m;
        }
    }
}

/* One step. turns: passes go by turns one way and the other, and the cache is told of `once`. */
static void cache_step(struct cache *c, const char *base, const struct program *p, int n, enum making making, int turns,
                       double *moved) {
    int back = 0;
    for (int i = 0; i < p->n_ops; i++) {
        struct op *const op = &p->ops[i];
        const int first = i;
        const double before = c->moved;
        struct touched t = {.reads = 0};
        struct window w;
        touched_by(&t, op, NULL);
        if (making >= IN_PAIRS && i + 1 < p->n_ops && is_pair(&w, op, op + 1, n, making)) {
            if (op->kind == OP_CONV_DATA) t.makes = 0;
            touched_by(&t, op + 1, op->kind == OP_CONV ? op[1].conv.add.at : op[1].conv_data.add.at);
            i++;
        }
        if (op->kind != OP_CONV_WEIGHT && t.reads + t.makes > 0) back = turns && !back;
        for (int s = 0; s < SLICES; s++) {
            const int slice = back ? SLICES - 1 - s : s;
            for (int k = 0; k < t.reads; k++) cache_map(c, base, t.read[k], n, slice, 0, turns && t.read[k]->once);
            for (int k = 0; k < t.makes; k++) cache_map(c, base, t.made[k], n, slice, 1, turns && t.made[k]->once);
        }
        moved[first] = c->moved - before;
    }
}

/* moved[i]: bytes of maps to and from memory during the i-th operation of a step that follows another, behind a cache
 * of so many bytes. Returns 0 for want of memory. */
static int cache_account(const struct program *p, int n, enum making making, double bytes, int turns, double *moved) {
    const char *base = NULL, *end = NULL;
    for (int i = 0; i < p->n_ops; i++) {
        struct map *maps[8];
        moved[i] = 0;
        for (int m = op_maps(&p->ops[i], maps) - 1; m >= 0; m--) {
            if (maps[m]->at == NULL || maps[m]->wide) continue;
            const char *const at = (const char *)maps[m]->at - 2 * maps[m]->first;
            const char *const to =
                at + (size_t)n * (size_t)maps[m]->h * (size_t)maps[m]->w * (size_t)maps[m]->stride * 2;
            if (base == NULL || at < base) base = at;
            if (end == NULL || to > end) end = to;
        }
    }
    if (base == NULL) return 1;
    struct cache c = {.pages = (int)((end - base) / PAGE) + 2, .room = (int)(bytes / PAGE)};
    int *const links = mem_zero(2 * ((size_t)c.pages + 1), sizeof *links);
    unsigned char *const flags = mem_zero(2 * (size_t)c.pages, 1);
    if (links != NULL && flags != NULL) {
        c.prev = links, c.next = links + c.pages + 1;
        c.there = flags, c.dirty = flags + c.pages;
        c.prev[c.pages] = c.next[c.pages] = c.pages;
        for (int round = 0; round < 2; round++) cache_step(&c, base, p, n, making, turns, moved);
    }
    mem_free(links);
    mem_free(flags);
    return links != NULL && flags != NULL;
}
#endif
