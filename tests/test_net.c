/* test_net.c - whole networks: sizes against SEED.md, every gradient against finite differences of the loss, the
 * memory plan against one where nothing shares, thread counts against each other, weights there and back. */
#include "checkpoint.h"
#include "net.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "check.h"
#include "witness.h"

static const char plain[] =
    "{'lr_rate_mult': 1, 'l2_weight_reg_mult': 1, 'batch_size': 12, 'optimizer': 'Nadam', 'coarse_labels_weight': 0.2,"
    " 'conv_dropout_drop_proba': 0.175, 'fc_dropout_drop_proba': 0.3, 'use_BN': True, 'first_conv': 4, 'residual': 4,"
    " 'conv_hiddn_units_mult': 1.0, 'nb_conv_pool_layers': 3, 'pooling_type': 'inception', 'conv_kernel_size': 3.0,"
    " 'fc_units_1_mult': 1.0, 'one_more_fc': 1.0, 'activation': 'elu'}";
static const char best[] =
    "{\"activation\": \"elu\", \"batch_size\": 320.0, \"coarse_labels_weight\": 0.3067103474295116, "
    "\"conv_dropout_drop_proba\": 0.25923531175521264, \"conv_hiddn_units_mult\": 1.5958302613876916, "
    "\"conv_kernel_size\": 3.0, \"conv_pool_res_start_idx\": 0.0, \"fc_dropout_drop_proba\": 0.4322253354921089, "
    "\"fc_units_1_mult\": 1.3083964454436132, \"first_conv\": 3, \"l2_weight_reg_mult\": 0.41206755600055983, "
    "\"lr_rate_mult\": 0.6549347353077412, \"nb_conv_pool_layers\": 3, \"one_more_fc\": null, \"optimizer\": "
    "\"Nadam\", "
    "\"pooling_type\": \"avg\", \"res_conv_kernel_size\": 2.0, \"residual\": 3.0, \"use_BN\": true}";

static struct net_config config_of(const char *text) {
    struct document doc = {0};
    struct error e = {0};
    struct net_config c;
    memset(&c, 0, sizeof c);
    CHECK(value_parse(&doc, text, strlen(text), "test", &e) == OK, "%s", e.text);
    CHECK(config_read(&c, doc.root, "test", &e) == OK, "%s", e.text);
    document_free(&doc);
    return c;
}

/* n images of noise on which a rule of brightness decides the label. */
static struct net_images make_images(struct device *d, int n) {
    struct images from = {.n = n, .h = 32, .w = 32, .c = 3};
    struct rng rng = rng_make(5, 0, RNG_SYNTHETIC);
    struct net_images set;
    struct error e = {0};
    const size_t bytes = (size_t)n * 3072;
    from.pixels = mem_alloc(bytes);
    from.fine = mem_alloc((size_t)n);
    from.coarse = mem_alloc((size_t)n);
    for (int i = 0; i < n; i++) {
        from.fine[i] = (uint8_t)(i % 10);
        from.coarse[i] = (uint8_t)(i % 2);
        for (int k = 0; k < 3072; k++) {
            const int stripe = (k / 96) % 10 == i % 10 ? 120 : 0;
            from.pixels[i * 3072 + k] = (uint8_t)(rng_below(&rng, 136) + (uint32_t)stripe);
        }
    }
    CHECK(net_images_load(&set, &from, d, &e) == OK, "%s", e.text);
    mem_free(from.pixels);
    mem_free(from.fine);
    mem_free(from.coarse);
    return set;
}

static void test_sizes(struct device *d, const struct net_images *set) {
    const char *texts[] = {plain, best};
    const size_t parameters[] = {5738581, 7056706};
    const double mega[] = {242.2, 234.6};
    for (int i = 0; i < 2; i++) {
        const struct net_config c = config_of(texts[i]);
        const struct net_options o = {.seed = 1, .fine = 100, .coarse = 20};
        struct error e = {0};
        struct net *net = NULL;
        CHECK(net_build(&net, &c, &o, d, set, NULL, &e) == OK, "%s", e.text);
        if (net == NULL) continue;
        const struct net_size size = net_get_size(net);
        CHECK(size.parameters == parameters[i], "%zu parameters, not %zu", size.parameters, parameters[i]);
        CHECK(fabs(size.multiply_adds / 1e6 - mega[i]) < 0.05, "%.3f M multiply-adds", size.multiply_adds / 1e6);
        net_free(net);
    }
}

static void expect_complaint(const char *text, const char *what) {
    struct document doc = {0};
    struct error e = {0};
    struct net_config c;
    CHECK(value_parse(&doc, text, strlen(text), "test", &e) == OK, "%s", e.text);
    CHECK(config_read(&c, doc.root, "test", &e) == ERROR_USER, "accepted: %s", text);
    CHECK(strstr(e.text, what) != NULL, "'%s' has no '%s'", e.text, what);
    document_free(&doc);
}

/* The plain configuration with one piece of its text replaced. */
static char *with(const char *from, const char *old, const char *new) {
    const char *at = strstr(from, old);
    char *s = mem_alloc(strlen(from) + strlen(new) + 1);
    const size_t head = at != NULL ? (size_t)(at - from) : 0;
    CHECK(at != NULL, "no '%s'", old);
    if (at == NULL) at = from;
    memcpy(s, from, head);
    strcpy(s + head, new);
    strcat(s, at + strlen(old));
    return s;
}

static void test_config(void) {
    const char *cases[][3] = {{"'lr_rate_mult': 1,", "", "'lr_rate_mult' is missing"},
                              {"'use_BN': True", "'use_BN': True, 'typo': 1", "'typo' is not a key"},
                              {"'Nadam'", "'SGD'", "must be one of 'Adam', 'Nadam', 'RMSprop'"},
                              {"'first_conv': 4", "'first_conv': 9", "'first_conv' must be a number from 1 to 4"},
                              {"'batch_size': 12", "'batch_size': 0", "'batch_size' must be"},
                              {"'use_BN': True", "'use_BN': 'yes'", "'use_BN' must be True or False"},
                              {"'activation': 'elu'", "'activation': None", "'activation' must be one of"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text = with(plain, cases[i][0], cases[i][1]);
        expect_complaint(text, cases[i][2]);
        mem_free(text);
    }
    expect_complaint("[1, 2]", "a configuration is a dictionary");
}

/* ---- gradients ---- */

/* AddressSanitizer makes a step seven times as long and looks for errors that one step shows: it gets each eighth. */
#ifdef __SANITIZE_ADDRESS__
enum { EACH = 8 };
#else
enum { EACH = 1 };
#endif

static double data_loss(const struct net_metrics *m, const struct net_config *c) {
    return m->fine_loss + c->coarse_labels_weight * m->coarse_loss;
}

/* The loss's slope along each tensor's own gradient is that gradient's length: so says its definition. */
static void check_gradients(struct device *d, const struct net_images *set, const struct net_config *c,
                            const char *name) {
    const struct net_options o = {.seed = 3, .fine = 10, .coarse = 2};
    uint32_t order[12];
    struct error e = {0};
    struct net_metrics m;
    struct net *net = NULL;
    for (uint32_t i = 0; i < 12; i++) order[i] = (i * 7) % 12;
    CHECK(net_build(&net, c, &o, d, set, NULL, &e) == OK, "%s: %s", name, e.text);
    if (net == NULL) return;
    const int n = net_n_tensors(net);
    float **value = mem_zero((size_t)n, sizeof *value), **gradient = mem_zero((size_t)n, sizeof *gradient);
    for (int i = 0; i < n; i++) {
        const struct net_tensor t = net_get_tensor(net, i);
        value[i] = mem_alloc(t.n * sizeof(float));
        gradient[i] = mem_alloc(t.n * sizeof(float));
        net_read_tensor(net, i, NET_VALUE, value[i], &e);
    }
    CHECK(net_train_step(net, order, 12, &m, &e) == OK, "%s", e.text);
    for (int i = 0; i < n; i++) {
        if (!net_get_tensor(net, i).moving) net_read_tensor(net, i, NET_GRADIENT, gradient[i], &e);
    }
    for (int i = 0; i < n; i++) {
        const struct net_tensor t = net_get_tensor(net, i);
        double length = 0, loss[2];
        if (t.moving || i % EACH != 0) continue;
        for (size_t k = 0; k < t.n; k++) length += (double)gradient[i][k] * (double)gradient[i][k];
        length = sqrt(length);
        CHECK(isfinite(length), "%s: %s", name, t.name);
        if (!(length > 0)) continue;             /* a bias that a normalisation takes out again */
        const double step = 1e-3 / (1 + length); /* short: activations and pools have kinks */
        float *moved = mem_alloc(t.n * sizeof(float));
        for (int side = 0; side < 2; side++) {
            for (int k = 0; k < n; k++) net_write_tensor(net, k, NET_VALUE, value[k], &e);
            for (size_t k = 0; k < t.n; k++)
                moved[k] = value[i][k] + (float)((side ? -step : step) * (double)gradient[i][k] / length);
            net_write_tensor(net, i, NET_VALUE, moved, &e);
            net_train_step(net, order, 12, &m, &e);
            loss[side] = data_loss(&m, c);
        }
        const double slope = (loss[0] - loss[1]) / (2 * step);
        CHECK(fabs(slope - length) <= 0.05 * length + 3e-4,
              "%s: %s: the loss has slope %g along a gradient of length %g", name, t.name, slope, length);
        mem_free(moved);
    }
    for (int i = 0; i < n; i++) {
        mem_free(value[i]);
        mem_free(gradient[i]);
    }
    mem_free(value);
    mem_free(gradient);
    net_free(net);
}

static void test_gradients(struct device *d, const struct net_images *set) {
    static const char *const poolings[] = {"max", "avg", "all_conv", "inception"};
    int count = 0;
    for (int pooling = 0; pooling < 4; pooling++) {
        for (int bits = 0; bits < 8; bits++, count++) {
            char name[120];
            struct net_config c = config_of(plain);
            c.pooling = (enum pooling)pooling;
            c.use_bn = bits & 1;
            c.residual = bits & 2 ? 2 : 0;
            c.first_conv = bits & 4 ? 3 + bits % 2 : 0;
            c.one_more_fc = bits & 1 ? 0.02 : 0;
            c.conv_kernel = 1 + count % 4;
            c.res_kernel = 1 + (count + 2) % 4;
            c.residual_start = bits == 6 ? 1 : 0;
            c.softmax = count % 3 == 0;
            c.nb_conv_pool_layers = 2;
            c.conv_hiddn_units_mult = count % 2 ? 0.3 : 0.16;
            c.fc_units_1_mult = 0.03;
            c.conv_dropout = count % 5 == 0 ? 0 : 0.2;
            c.activation = count % 4 == 1 ? ACT_RELU : ACT_ELU;
            snprintf(name, sizeof name, "%s%s%s%s k%d", poolings[pooling], c.use_bn ? " bn" : "",
                     c.residual ? " residual" : "", c.first_conv ? " first_conv" : "", c.conv_kernel);
            check_gradients(d, set, &c, name);
        }
    }
}

/* ---- the plan, the threads, the weights ---- */

struct run {
    struct net_metrics train[2], judge;
    double sum; /* of all weights */
};

static struct run short_run(struct device *d, const struct net_images *set, const struct net_config *c, int keep,
                            const char *save) {
    const struct net_options o = {.seed = 9, .trial = 4, .fine = 10, .coarse = 2, .keep = keep};
    struct run r;
    struct error e = {0};
    struct net *net = NULL;
    memset(&r, 0, sizeof r);
    CHECK(net_build(&net, c, &o, d, set, set, &e) == OK, "%s", e.text);
    if (net == NULL) return r;
    for (int i = 0; i < 2; i++) CHECK(net_train_epoch(net, i, &r.train[i], NULL, NULL, &e) == OK, "%s", e.text);
    CHECK(net_judge(net, &r.judge, NULL, NULL, &e) == OK, "%s", e.text);
    for (int i = 0; i < net_n_tensors(net); i++) {
        const struct net_tensor t = net_get_tensor(net, i);
        float *x = mem_alloc(t.n * sizeof *x);
        net_read_tensor(net, i, NET_VALUE, x, &e);
        for (size_t k = 0; k < t.n; k++) r.sum += (double)(k % 7 + 1) * (double)x[k];
        mem_free(x);
    }
    if (save != NULL) {
        const char *const metadata[] = {"config", "{}", NULL};
        CHECK(net_save(net, save, metadata, &e) == OK, "%s", e.text);
    }
    net_free(net);
    return r;
}

/* Runs each weight gradient as late as d->beside lets it: a map that was not kept for it holds something else by then.
 */
static int late_run(struct device *d, const struct program *p, int n, struct error *e) {
    struct device *const real = ((struct witness *)d)->real;
    struct op *ops = mem_alloc((size_t)p->n_ops * sizeof *ops);
    int n_ops = 0, begun = 0, done = 0; /* weight gradients */
    int *weights = mem_alloc((size_t)p->n_ops * sizeof *weights);
    if (ops == NULL || weights == NULL) return error_memory(e, (size_t)p->n_ops * sizeof *ops, "the operations");
    for (int i = 0; i <= p->n_ops; i++) {
        const enum op_kind kind = i < p->n_ops ? p->ops[i].kind : OP_OPTIMISE;
        const int beside = kind == OP_CONV_WEIGHT ? d->beside - 1 : kind == OP_OPTIMISE ? 0 : begun;
        while (done < begun - beside) ops[n_ops++] = p->ops[weights[done++]];
        if (kind == OP_CONV_WEIGHT) {
            weights[begun++] = i;
        } else if (i < p->n_ops) {
            ops[n_ops++] = p->ops[i];
        }
    }
    CHECK(n_ops == p->n_ops, "%d operations, not %d", n_ops, p->n_ops);
    const struct program late = {n_ops, ops, p->parameters, p->step, p->tally};
    const int failed = real->run(real, &late, n, e);
    mem_free(ops);
    mem_free(weights);
    return failed;
}

static void test_sharing(void) {
    static const int beside[] = {0, 0, 0, 1, 6};
    enum { WAYS = sizeof beside / sizeof *beside };
    struct run runs[WAYS][4];
    char path[] = "/tmp/parzen_test_XXXXXX";
    const int f = mkstemp(path);
    if (f >= 0) close(f);
    /* One thread; three threads; no map shares memory; weight gradients late. */
    for (int way = 0; way < WAYS; way++) {
        struct error e = {0};
        struct device *cpu = NULL;
        CHECK(device_cpu(&cpu, way == 1 ? 3 : 1, NULL, &e) == OK, "%s", e.text);
        if (cpu == NULL) return;
        struct witness late = witness_of(cpu);
        struct device *const d = beside[way] > 0 ? &late.device : cpu;
        late.device.beside = beside[way];
        late.device.run = late_run;
        struct net_images set = make_images(d, 40);
        for (int pooling = 0; pooling < 4; pooling++) {
            struct net_config c = config_of(plain);
            c.pooling = (enum pooling)pooling;
            c.residual = pooling % 2 ? 2 : 0;
            c.use_bn = pooling < 3;
            c.optimizer = (enum optimiser)(pooling % 3);
            c.conv_hiddn_units_mult = 0.2;
            c.fc_units_1_mult = 0.05;
            c.one_more_fc = pooling % 2 ? 0.05 : 0;
            c.batch_size = 16; /* the last batch is smaller */
            runs[way][pooling] = short_run(d, &set, &c, way == 2, pooling == 3 ? path : NULL);
            CHECK(memcmp(&runs[way][pooling], &runs[0][pooling], sizeof runs[0][0]) == 0,
                  "way %d, pooling %d: other bits (%.9g, %.9g)", way, pooling, runs[way][pooling].sum,
                  runs[0][pooling].sum);
            if (pooling == 3) { /* the weights come back, and are judged alike */
                const struct net_options o = {.seed = 77, .fine = 10, .coarse = 2};
                struct net_metrics m;
                struct net *net = NULL;
                CHECK(net_build(&net, &c, &o, d, NULL, &set, &e) == OK, "%s", e.text);
                CHECK(net_load(net, path, &e) == OK, "%s", e.text);
                CHECK(net_judge(net, &m, NULL, NULL, &e) == OK, "%s", e.text);
                CHECK(memcmp(&m, &runs[way][3].judge, sizeof m) == 0, "judged %g, then %g", runs[way][3].judge.loss,
                      m.loss);
                net_free(net);
                c.conv_hiddn_units_mult = 0.3;
                CHECK(net_build(&net, &c, &o, d, NULL, &set, &e) == OK, "%s", e.text);
                CHECK(net_load(net, path, &e) == ERROR_USER && strstr(e.text, "another shape") != NULL, "%s", e.text);
                net_free(net);
            }
        }
        net_images_unload(&set, d);
        cpu->close(cpu);
    }
    unlink(path);
}

static void test_learning(struct device *d) {
    struct net_images set = make_images(d, 200);
    struct net_config c = config_of(plain);
    const struct net_options o = {.seed = 1, .fine = 10, .coarse = 2};
    struct net_metrics first, m;
    struct error e = {0};
    struct net *net = NULL;
    c.pooling = POOLING_MAX;
    c.residual = 0;
    c.conv_hiddn_units_mult = 0.2;
    c.fc_units_1_mult = 0.05;
    c.one_more_fc = 0;
    c.batch_size = 20; /* 400 updates: the moving averages arrive */
    CHECK(net_build(&net, &c, &o, d, &set, &set, &e) == OK, "%s", e.text);
    if (net != NULL) {
        CHECK(net_train_epoch(net, 0, &first, NULL, NULL, &e) == OK, "%s", e.text);
        for (int i = 1; i < 40; i++) CHECK(net_train_epoch(net, i, &m, NULL, NULL, &e) == OK, "%s", e.text);
        CHECK(m.fine_loss < 0.5 * first.fine_loss && m.fine_accuracy > 0.7, "loss %g to %g, accuracy %g",
              first.fine_loss, m.fine_loss, m.fine_accuracy);
        CHECK(net_judge(net, &m, NULL, NULL, &e) == OK, "%s", e.text);
        CHECK(m.coarse_accuracy > 0.7 && m.loss > m.fine_loss, "judged: coarse %g, loss %g", m.coarse_accuracy, m.loss);
    }
    net_free(net);
    net_images_unload(&set, d);
}

/* Each allocation of building a net fails in turn: an error, and nothing leaks (the sanitizers say so). */
static void test_memory(struct device *d, const struct net_images *set) {
    struct net_config c = config_of(plain);
    const struct net_options o = {.seed = 1, .fine = 10, .coarse = 2};
    int failed = 1, i = 0;
    c.conv_hiddn_units_mult = 0.1;
    c.fc_units_1_mult = 0.01;
    c.one_more_fc = 0.01;
    c.batch_size = 2;
    for (; failed && i < 5000; i++) {
        struct error e = {0};
        struct net *net = NULL;
        mem_fail_after = i + 1;
        failed = net_build(&net, &c, &o, d, set, set, &e);
        mem_fail_after = 0;
        if (failed)
            CHECK(failed == ERROR_TRIAL && net == NULL && strstr(e.text, "out of memory") != NULL, "%d: %s", failed,
                  e.text);
        net_free(net);
    }
    CHECK(!failed, "never built");
}

/* A training that is interrupted after its second epoch, and goes on from its state in another net, ends with the bits
 * of one that is not; a state that is hurt, or another net's, changes nothing. */
static void test_state(struct device *d, const struct net_images *set) {
    struct net_config c = config_of(plain);
    const struct net_options o = {.seed = 4, .trial = 2, .fine = 100, .coarse = 20};
    const char *const metadata[] = {"config", "a line", NULL};
    char path[] = "/tmp/parzen-state-XXXXXX";
    const int file = mkstemp(path);
    CHECK(file >= 0, "%s", path);
    if (file >= 0) close(file);
    config_scale(&c, 0.06);
    c.batch_size = 5; /* a smaller last batch */
    for (enum optimiser kind = OPT_ADAM; kind <= OPT_RMSPROP; kind++) {
        struct net *whole, *first, *second;
        struct net_metrics a = {0}, b = {0};
        struct tensors file_meta;
        struct error e = {0};
        c.optimizer = kind;
        CHECK(net_build(&whole, &c, &o, d, set, set, &e) == OK && net_build(&first, &c, &o, d, set, set, &e) == OK &&
                  net_build(&second, &c, &o, d, set, set, &e) == OK,
              "%s", e.text);
        for (int epoch = 0; epoch < 4; epoch++)
            CHECK(net_train_epoch(whole, epoch, &a, NULL, NULL, &e) == OK, "%s", e.text);
        for (int epoch = 0; epoch < 2; epoch++)
            CHECK(net_train_epoch(first, epoch, &b, NULL, NULL, &e) == OK, "%s", e.text);
        CHECK(net_save_state(first, path, metadata, &e) == OK && net_load_state(second, path, &file_meta, &e) == OK,
              "%s", e.text);
        CHECK(tensors_get(&file_meta, "config") != NULL && strcmp(tensors_get(&file_meta, "config"), "a line") == 0);
        tensors_free(&file_meta);
        for (int epoch = 2; epoch < 4; epoch++)
            CHECK(net_train_epoch(second, epoch, &b, NULL, NULL, &e) == OK, "%s", e.text);
        CHECK(memcmp(&a, &b, sizeof a) == 0, "optimiser %d: loss %.17g, not %.17g", (int)kind, b.loss, a.loss);
        CHECK(net_judge(whole, &a, NULL, NULL, &e) == OK && net_judge(second, &b, NULL, NULL, &e) == OK, "%s", e.text);
        CHECK(memcmp(&a, &b, sizeof a) == 0, "optimiser %d: judged %.17g, not %.17g", (int)kind, b.loss, a.loss);

        char *bytes;
        size_t n;
        CHECK(file_read(path, 1 << 26, &bytes, &n, &e) == OK, "%s", e.text);
        struct rng rng = rng_make(9, (uint32_t)kind, RNG_SYNTHETIC);
        for (int i = 0; i < 60; i++) { /* of the header every byte counts, too */
            const size_t at = i < 30 ? rng_below(&rng, 400) : rng_below(&rng, (uint32_t)n);
            bytes[at] = (char)(bytes[at] ^ 1 << rng_below(&rng, 8));
            CHECK(file_write(path, bytes, n, &e) == OK, "%s", e.text);
            const int failed = net_load_state(first, path, &file_meta, &e);
            CHECK(failed == ERROR_USER, "byte %zu of %zu: status %d", at, n, failed);
            tensors_free(&file_meta);
            mem_free(bytes);
            CHECK(net_save_state(second, path, metadata, &e) == OK && file_read(path, 1 << 26, &bytes, &n, &e) == OK,
                  "%s", e.text);
        }
        mem_free(bytes);
        net_free(whole);
        net_free(first);
        net_free(second);
    }
    unlink(path);
}

/* A profile is a step like others: the same weights after it. */
static void test_profile(struct device *d, const struct net_images *set) {
    struct net_config c = config_of(best);
    const struct net_options options = {.seed = 1, .fine = 10, .coarse = 2};
    struct witness w[] = {witness_of(d), witness_of(d)}; /* the nets' devices: as long as they */
    struct net *net[2];
    struct error e = {0};
    c.conv_hiddn_units_mult = c.fc_units_1_mult = 0.05;
    for (int k = 0; k < 2; k++) {
        struct net_metrics m;
        double seconds[400];
        const uint32_t order[] = {3, 1, 4, 0};
        CHECK(net_build(&net[k], &c, &options, &w[k].device, set, NULL, &e) == OK &&
                  net_train_step(net[k], order, 2, &m, &e) == OK,
              "%s", e.text);
        const struct program *p = w[k].program;
        CHECK(p->n_ops <= 400 && (k == 0 ? d->run(d, p, 2, &e) : d->profile(d, p, 2, seconds, &e)) == OK &&
                  d->run(d, p, 2, &e) == OK,
              "%s", e.text);
    }
    for (int i = 0; i < net_n_tensors(net[0]); i++) {
        const struct net_tensor t = net_get_tensor(net[0], i);
        float *x = mem_alloc(2 * t.n * sizeof *x);
        CHECK(net_read_tensor(net[0], i, NET_VALUE, x, &e) == OK &&
                  net_read_tensor(net[1], i, NET_VALUE, x + t.n, &e) == OK,
              "%s", e.text);
        CHECK(memcmp(x, x + t.n, t.n * sizeof *x) == 0, "%s after a profile", t.name);
        mem_free(x);
    }
    net_free(net[0]);
    net_free(net[1]);
}

/* Does an operation only add to what the one before it, the i-th, made? */
static int pairs(const struct program *p, int i) {
    const struct op *const op = &p->ops[i % p->n_ops];
    if (i % p->n_ops + 1 == p->n_ops || op[1].kind != op->kind) return 0;
    return (op->kind == OP_CONV && op[1].conv.add.at != NULL && op[1].conv.add.at == op->conv.out.at) ||
           (op->kind == OP_CONV_DATA && op[1].conv_data.add.at != NULL &&
            op[1].conv_data.add.at == op->conv_data.gradient.at);
}

/* `once` against the next touch of each byte (in steps of 64), found from the end of two programs in a row: a map is
 * touched once where more than `cache` bytes of maps come before the next touch of any of its bytes. */
static void test_once(void) {
    enum { STEP = 64 };
    struct net_config c = config_of(best);
    c.batch_size = 4;
    int flagged = 0, not_flagged = 0;
    for (int k = 0; k < 2; k++) {
        struct witness w = witness_of(NULL);
        struct error e = {0};
        struct net_metrics m;
        struct net *net = NULL;
        const size_t cache = w.device.cache = (size_t)200000 << (2 * k);
        struct net_images set = make_images(&w.device, 4);
        const struct net_options options = {.seed = 1, .fine = 10, .coarse = 2};
        if (k == 1) c.pooling = POOLING_INCEPTION;
        CHECK(net_build(&net, &c, &options, &w.device, &set, NULL, &e) == OK &&
                  net_train_epoch(net, 0, &m, NULL, NULL, &e) == OK,
              "%s", e.text);
        const struct program *p = w.program;
        struct map *maps[8];
        uintptr_t base = UINTPTR_MAX, end = 0;
        double *before = mem_zero((size_t)(2 * p->n_ops + 1), sizeof *before); /* bytes of all operations before */
        for (int i = 0; i < 2 * p->n_ops; i++) {
            before[i + 1] = before[i];
            for (int q = op_maps(&p->ops[i % p->n_ops], maps) - 1; q >= 0; q--) {
                if (maps[q]->at == NULL) continue;
                const size_t bytes = map_extent(maps[q], w.n, 2);
                before[i + 1] += (double)bytes;
                if ((uintptr_t)maps[q]->at < base) base = (uintptr_t)maps[q]->at;
                if ((uintptr_t)maps[q]->at + bytes > end) end = (uintptr_t)maps[q]->at + bytes;
            }
        }
        const size_t steps = (end - base) / STEP + 1;
        int *next = mem_zero(steps, sizeof *next); /* the next operation that touches it, from 1; 0: none yet */
        for (int i = 2 * p->n_ops - 1; i >= 0; i--) {
            /* Of two operations that a device may make as one, both are looked at behind the second. */
            const int last = pairs(p, i) ? i - 1 : i;
            for (int of = i > 0 && pairs(p, i - 1) ? i - 1 : i; of <= last && of < p->n_ops; of++) {
                for (int q = op_maps(&p->ops[of], maps) - 1; q >= 0; q--) {
                    const struct map *x = maps[q];
                    if (x->at == NULL) continue;
                    const size_t bytes = map_extent(x, w.n, 2);
                    const size_t from = ((uintptr_t)x->at - base) / STEP,
                                 to = ((uintptr_t)x->at + bytes - 1 - base) / STEP;
                    int soonest = INT_MAX;
                    for (size_t at = from; at <= to; at++) {
                        if (next[at] > 0 && next[at] < soonest) soonest = next[at];
                    }
                    const double between = soonest == INT_MAX ? HUGE_VAL : before[soonest - 1] - before[i + 1];
                    /* Of the operation that touches it next only the maps before it count: it can go either way. */
                    const int sure = soonest == INT_MAX || between > (double)cache ||
                                     before[soonest] - before[i + 1] <= (double)cache;
                    CHECK(!sure || x->once == (between > (double)cache), "%d, %s: map %d: once %d, %.0f bytes between",
                          k, p->ops[of].layer, q, x->once, between);
                    flagged += x->once;
                    not_flagged += !x->once;
                }
            }
            const int n = op_maps(&p->ops[i % p->n_ops], maps);
            for (int q = 0; q < n; q++) {
                if (maps[q]->at == NULL) continue;
                const size_t bytes = map_extent(maps[q], w.n, 2);
                const size_t from = ((uintptr_t)maps[q]->at - base) / STEP,
                             to = ((uintptr_t)maps[q]->at + bytes - 1 - base) / STEP;
                for (size_t s = from; s <= to; s++) next[s] = i + 1;
            }
        }
        mem_free(next);
        mem_free(before);
        net_free(net);
        net_images_unload(&set, &w.device);
    }
    CHECK(flagged > 20 && not_flagged > 20, "%d maps touched once, %d soon again", flagged, not_flagged);
}

int main(void) {
    struct error e = {0};
    struct device *d = NULL;
    CHECK(device_cpu(&d, 2, NULL, &e) == OK, "%s", e.text);
    if (d == NULL) return check_done();
    struct net_images set = make_images(d, 12);
    test_config();
    test_sizes(d, &set);
    test_gradients(d, &set);
    test_sharing();
    test_once();
    test_profile(d, &set);
    test_learning(d);
    test_state(d, &set);
    test_memory(d, &set);
    net_images_unload(&set, d);
    d->close(d);
    return check_done();
}
