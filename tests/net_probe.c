/* net_probe.c - net.c as a program that a script can ask: what the conformance and speed scripts in Python hold against
 * Keras. It has no network code of its own.
 *
 *   net_probe compare CONFIG WEIGHTS BATCHES OUT THREADS   a training step on each row of "order", everything into OUT
 *   net_probe learn CONFIG WEIGHTS BATCHES OUT THREADS     an epoch, and a judgement, for each row of "order"
 *   net_probe time CONFIG THREADS STEPS                    the seconds of each training step, one a line
 *
 * Files of tensors are safetensors (checkpoint.h), float32 throughout. WEIGHTS: a net's tensors by name. BATCHES:
 * "train.images" [n][32][32][3] (bytes, as numbers), "train.fine", "train.coarse" [n], the same three of "judge", and
 * "order" [rows][images]: which training images each row takes, in which order. Flips and dropout are off.
 * OUT of compare:
 *   "train.LAYER" [images][h][w][c]  each layer's output on the first row
 *   "gradient.TENSOR"                of the first step: of the losses, without the L2 part
 *   "first.TENSOR", "last.TENSOR"    the weights and moving averages after the first and after the last step
 *   "before.TENSOR", "before.m.TENSOR", "before.v.TENSOR"   weights and moments (m not of RMSprop) before the last step
 *   "last.gradient.TENSOR", "last.m.TENSOR", "last.v.TENSOR"   the last step's gradient, and the moments after it
 *   "metrics" [rows][5]              loss, fine loss, coarse loss, fine and coarse accuracy of each step
 *   "judge.metrics" [5], "judge.LAYER"   after the last step, through the moving averages (LAYER: of the last batch)
 * OUT of learn: "metrics" [rows][5] and "judge.metrics" [rows][5]. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../checkpoint.h"
#include "../net.h"

enum { METRICS = 5 };

static void die(const char *what) {
    fprintf(stderr, "net_probe: %s\n", what);
    exit(1);
}

static void *room(size_t n, size_t bytes) {
    void *p = mem_zero(n + 1, bytes);
    if (p == NULL) die("out of memory");
    return p;
}

static int count(const char *s) {
    char *end;
    const long x = strtol(s, &end, 10);
    if (*end != '\0' || end == s || x < 1 || x > 100000) die("a count is wanted");
    return (int)x;
}

/* ---- in ---- */

static struct net_config read_config(const char *path) {
    struct document doc;
    struct net_config config;
    struct error e = {0};
    char *text;
    size_t n;
    if (file_read(path, 1 << 20, &text, &n, &e) || value_parse(&doc, text, n, path, &e)) die(e.text);
    if (config_read(&config, doc.root, path, &e)) die(e.text);
    document_free(&doc);
    mem_free(text);
    return config;
}

static const struct tensor *tensor_named(const struct tensors *file, const char *set, const char *name, int dims) {
    char full[64];
    snprintf(full, sizeof full, "%s%s", set, name);
    const struct tensor *t = tensors_find(file, full);
    if (t == NULL || t->dims != dims) die("the batches file lacks a tensor, or it has another shape");
    return t;
}

static size_t size_of(const struct tensor *t) {
    size_t n = 1;
    for (int i = 0; i < t->dims; i++) n *= (size_t)t->shape[i];
    return n;
}

static uint8_t *bytes_of(const struct tensor *t, int limit) {
    const size_t n = size_of(t);
    uint8_t *out = room(n, 1);
    for (size_t i = 0; i < n; i++) {
        if (!(t->data[i] >= 0 && t->data[i] < (float)limit))
            die("the batches file has a pixel or a label out of range");
        out[i] = (uint8_t)t->data[i];
    }
    return out;
}

static void load_images(struct net_images *set, const struct tensors *file, const char *name, struct device *d) {
    const struct tensor *t = tensor_named(file, name, ".images", 4);
    const struct tensor *fine = tensor_named(file, name, ".fine", 1), *coarse = tensor_named(file, name, ".coarse", 1);
    struct images from = {.n = t->shape[0], .h = t->shape[1], .w = t->shape[2], .c = t->shape[3]};
    struct error e = {0};
    if (from.n < 1 || fine->shape[0] != from.n || coarse->shape[0] != from.n) die("images and labels differ in number");
    from.pixels = bytes_of(t, 256);
    from.fine = bytes_of(fine, 100);
    from.coarse = bytes_of(coarse, 20);
    if (net_images_load(set, &from, d, &e)) die(e.text);
    mem_free(from.pixels);
    mem_free(from.fine);
    mem_free(from.coarse);
}

static uint32_t *read_order(const struct tensor *order, int images) {
    const size_t n = size_of(order);
    uint32_t *out = room(n, sizeof *out);
    for (size_t i = 0; i < n; i++) {
        if (!(order->data[i] >= 0 && order->data[i] < (float)images)) die("the order names an image that is not there");
        out[i] = (uint32_t)order->data[i];
    }
    return out;
}

/* ---- out ---- */

struct output {
    struct arena names;
    struct tensor *all;
    int n, room;
};

/* A new tensor of the output, for the caller to fill. */
static float *add_tensor(struct output *out, const char *prefix, const char *name, int dims, const int shape[4]) {
    char full[120];
    const int length = snprintf(full, sizeof full, "%s%s", prefix, name);
    if (out->n == out->room) {
        out->room = 2 * out->room + 256;
        out->all = mem_grow(out->all, (size_t)out->room * sizeof *out->all);
        if (out->all == NULL) die("out of memory");
    }
    struct tensor *t = &out->all[out->n++];
    *t = (struct tensor){.name = arena_string(&out->names, full, (size_t)length), .dims = dims};
    memcpy(t->shape, shape, 4 * sizeof(int));
    t->data = room(size_of(t), sizeof(float));
    if (t->name == NULL) die("out of memory");
    return t->data;
}

static void add_layers(struct output *out, struct net *net, const char *prefix, int training, int images) {
    struct error e = {0};
    for (int i = 0; i < net_n_layers(net, training); i++) {
        const struct net_layer l = net_get_layer(net, training, i);
        const int shape[4] = {images, l.h, l.w, l.c};
        if (net_read_layer(net, training, i, images, add_tensor(out, prefix, l.name, 4, shape), &e)) die(e.text);
    }
}

static void add_tensors(struct output *out, struct net *net, const char *prefix, enum net_kind kind) {
    struct error e = {0};
    for (int i = 0; i < net_n_tensors(net); i++) {
        const struct net_tensor t = net_get_tensor(net, i);
        if (kind != NET_VALUE && t.moving) continue;
        if (net_read_tensor(net, i, kind, add_tensor(out, prefix, t.name, t.dims, t.shape), &e)) die(e.text);
    }
}

static void put_metrics(float out[METRICS], const struct net_metrics *m, double weight) {
    const double all[METRICS] = {m->loss, m->fine_loss, m->coarse_loss, m->fine_accuracy, m->coarse_accuracy};
    for (int i = 0; i < METRICS; i++) out[i] += (float)(weight * all[i]);
}

static void write_output(struct output *out, const char *path) {
    const char *const metadata[] = {NULL};
    struct error e = {0};
    if (tensors_write(path, out->all, out->n, metadata, &e)) die(e.text);
    for (int i = 0; i < out->n; i++) mem_free(out->all[i].data);
    mem_free(out->all);
    arena_free(&out->names);
}

/* ---- the modes ---- */

static struct device *open_device(const char *threads) {
    struct device *d;
    struct error e = {0};
    if (device_cpu(&d, count(threads), NULL, &e)) die(e.text);
    return d;
}

static void add_moments(struct output *out, struct net *net, const char *m, const char *v, enum optimiser kind) {
    if (kind != OPT_RMSPROP) add_tensors(out, net, m, NET_FIRST_MOMENT);
    add_tensors(out, net, v, NET_SECOND_MOMENT);
}

/* A training step for each row of the order; of the first, everything. judged: images in the last judged batch. */
static void compare(struct net *net, struct output *out, const struct tensor *order, const uint32_t *rows,
                    enum optimiser kind, int judged) {
    const int n_rows = order->shape[0], images = order->shape[1], shape[4] = {n_rows, METRICS}, one[4] = {METRICS};
    float *metrics = add_tensor(out, "", "metrics", 2, shape);
    struct net_metrics m;
    struct error e = {0};
    for (int i = 0; i < n_rows; i++) {
        if (i == n_rows - 1) {
            add_tensors(out, net, "before.", NET_VALUE);
            add_moments(out, net, "before.m.", "before.v.", kind);
        }
        if (net_train_step(net, rows + (size_t)i * (size_t)images, images, &m, &e)) die(e.text);
        put_metrics(metrics + i * METRICS, &m, 1);
        if (i > 0) continue;
        add_layers(out, net, "train.", 1, images);
        add_tensors(out, net, "gradient.", NET_GRADIENT);
        add_tensors(out, net, "first.", NET_VALUE);
    }
    add_tensors(out, net, "last.", NET_VALUE);
    add_tensors(out, net, "last.gradient.", NET_GRADIENT);
    add_moments(out, net, "last.m.", "last.v.", kind);
    if (net_judge(net, &m, NULL, NULL, &e)) die(e.text);
    put_metrics(add_tensor(out, "", "judge.metrics", 1, one), &m, 1);
    add_layers(out, net, "judge.", 0, judged);
}

/* An epoch for each row of the order. Its steps are net_train_step's, which takes a given order. */
static void learn(struct net *net, struct output *out, const struct tensor *order, const uint32_t *rows, int batch) {
    const int epochs = order->shape[0], images = order->shape[1], shape[4] = {epochs, METRICS};
    float *metrics = add_tensor(out, "", "metrics", 2, shape), *judged = add_tensor(out, "", "judge.metrics", 2, shape);
    struct net_metrics m;
    struct error e = {0};
    for (int i = 0; i < epochs; i++) {
        for (int first = 0; first < images; first += batch) {
            const int n = images - first < batch ? images - first : batch;
            if (net_train_step(net, rows + (size_t)i * (size_t)images + first, n, &m, &e)) die(e.text);
            put_metrics(metrics + i * METRICS, &m, (double)n / images);
        }
        if (net_judge(net, &m, NULL, NULL, &e)) die(e.text);
        put_metrics(judged + i * METRICS, &m, 1);
    }
}

static void run(int learning, char **argv) {
    struct net_config config = read_config(argv[0]);
    struct device *d = open_device(argv[4]);
    const struct net_options options = {
        .seed = 1, .fine = 100, .coarse = 20, .no_flip = 1, .no_dropout = 1, .keep = !learning};
    struct net_images train = {0}, judge = {0};
    struct tensors file;
    struct net *net = NULL;
    struct output out = {0};
    struct error e = {0};
    if (tensors_read(&file, argv[2], &e)) die(e.text);
    load_images(&train, &file, "train", d);
    load_images(&judge, &file, "judge", d);
    const struct tensor *order = tensor_named(&file, "", "order", 2);
    uint32_t *rows = read_order(order, train.n);
    if (config.batch_size > train.n) config.batch_size = train.n;
    if (order->shape[0] < 1 || order->shape[1] < 1 || order->shape[1] > train.n) die("an order of no use");
    if (!learning && order->shape[1] > config.batch_size) die("a row of the order is larger than a batch");

    if (net_build(&net, &config, &options, d, &train, &judge, &e) || net_load(net, argv[1], &e)) die(e.text);
    if (learning) {
        learn(net, &out, order, rows, config.batch_size);
    } else {
        compare(net, &out, order, rows, config.optimizer, (judge.n - 1) % config.batch_size + 1);
    }
    write_output(&out, argv[3]);
    net_free(net);
    mem_free(rows);
    tensors_free(&file);
    net_images_unload(&train, d);
    net_images_unload(&judge, d);
    d->close(d);
}

static void time_steps(char **argv) {
    const struct net_config config = read_config(argv[0]);
    const struct net_options options = {.seed = 1, .fine = 100, .coarse = 20};
    struct device *d = open_device(argv[1]);
    const int steps = count(argv[2]);
    const size_t n = (size_t)config.batch_size;
    struct images from = {.n = config.batch_size, .h = 32, .w = 32, .c = 3};
    struct net_images set;
    struct net_metrics m;
    struct net *net = NULL;
    struct error e = {0};
    struct rng rng = rng_make(1, 0, RNG_SYNTHETIC);
    uint32_t *order = room(n, sizeof *order);
    from.pixels = room(n * 3072, 1);
    from.fine = room(n, 1);
    from.coarse = room(n, 1);
    for (size_t i = 0; i < n * 3072; i++) from.pixels[i] = (uint8_t)rng_below(&rng, 256);
    for (size_t i = 0; i < n; i++) {
        order[i] = (uint32_t)i;
        from.fine[i] = (uint8_t)rng_below(&rng, 100);
        from.coarse[i] = (uint8_t)rng_below(&rng, 20);
    }
    if (net_images_load(&set, &from, d, &e)) die(e.text);
    if (net_build(&net, &config, &options, d, &set, NULL, &e)) die(e.text);
    for (int i = 0; i < steps; i++) {
        const double start = clock_seconds();
        if (net_train_step(net, order, set.n, &m, &e)) die(e.text);
        printf("%.6f\n", clock_seconds() - start);
    }
    net_free(net);
    net_images_unload(&set, d);
    mem_free(order);
    mem_free(from.pixels);
    mem_free(from.fine);
    mem_free(from.coarse);
    d->close(d);
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    if (argc == 7 && (strcmp(mode, "compare") == 0 || strcmp(mode, "learn") == 0)) {
        run(strcmp(mode, "learn") == 0, argv + 2);
    } else if (argc == 5 && strcmp(mode, "time") == 0) {
        time_steps(argv + 2);
    } else {
        fprintf(stderr,
                "usage: net_probe compare|learn CONFIG WEIGHTS BATCHES OUT THREADS | time CONFIG THREADS STEPS\n");
        return 2;
    }
    return 0;
}
