/* main.c - commands and options. Nobody else sees argv, and nobody else (but the search's progress) prints.
 *
 * Each command has a table of its options, from which its arguments are read and its --help is printed, and one
 * function. Errors come up to main, which prints the one line and makes the exit status of it: 0 done, 1 the
 * environment failed, 2 the user's mistake, 128 + N after signal N. */
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "search.h"
#include "worker.h"

#define VERSION "0.1.0"

/* ---- options ---- */

struct settings {
    const char *data, *space, *first, *results, *objective, *device, *weights;
    int trials, epochs, images, validation, threads, quiet, json, sample, flip_test, seed_given;
    int workers, jobs, checkpoint_every, new_space;
    double heartbeat;
    const char *precision, *tpe, *running; /* running NULL, and those of TPE below 0: what --tpe has */
    int startup, candidates, forgetting;
    double seconds, width, gamma, prior_weight;
    uint64_t seed;
};

enum option_kind { OPTION_FLAG, OPTION_STRING, OPTION_COUNT, OPTION_NUMBER, OPTION_TIME, OPTION_SEED };
struct option {
    const char *name, *value; /* value: how the help calls it */
    enum option_kind kind;
    size_t offset; /* into struct settings */
    const char *help;
};
#define OPTION(name, value, kind, member, help) \
    { name, value, kind, offsetof(struct settings, member), help }

#define OPTION_DATA                                      \
    OPTION("data", "DIR|synthetic", OPTION_STRING, data, \
           "a folder with CIFAR-100 or CIFAR-10 in binary, or images drawn by rule [synthetic]")
#define OPTION_EPOCHS OPTION("epochs", "N", OPTION_COUNT, epochs, "passes over the training images [100]")
#define OPTION_IMAGES OPTION("images", "N", OPTION_COUNT, images, "train on so many images [all]")
#define OPTION_SEED_ OPTION("seed", "N", OPTION_SEED, seed, "where all randomness comes from [1]")
#define OPTION_DEVICE OPTION("device", "auto|cpu|cuda", OPTION_STRING, device, "where to compute [auto]")
#define OPTION_PRECISION \
    OPTION("precision", "bf16|fp32", OPTION_STRING, precision, "on a GPU: fp32 for checking [bf16]")
#define OPTION_THREADS \
    OPTION("threads", "N", OPTION_COUNT, threads, "CPU threads; any number gives the same bits [one a core]")
#define OPTION_OBJECTIVE                                             \
    OPTION("objective", "validation|test", OPTION_STRING, objective, \
           "judge on held-out training images, or on the test set as the original did [validation]")
#define OPTION_VALIDATION \
    OPTION("validation", "N", OPTION_COUNT, validation, "hold out so many [5000, or a quarter of --images if fewer]")
#define OPTION_WIDTH \
    OPTION("width", "X", OPTION_NUMBER, width, "multiply every layer's width by X, for a quick look [1]")
#define OPTION_FLIP \
    OPTION("flip-test", NULL, OPTION_FLAG, flip_test, "flip images when judging too, as the original did")
#define OPTION_QUIET OPTION("quiet", NULL, OPTION_FLAG, quiet, "no progress")

static const struct option search_options[] = {
    OPTION_DATA,
    OPTION("space", "FILE", OPTION_STRING, space,
           "a search space in hyperopt's notation, or a script that has it [the original's]"),
    OPTION("first", "FILE|DIR", OPTION_STRING, first,
           "try this first: a configuration, a result file, or a folder of them, the best first"),
    OPTION("results", "DIR", OPTION_STRING, results, "where the log and the result files go [results]"),
    OPTION("trials", "N", OPTION_COUNT, trials,
           "end when so many are recorded, those of earlier runs included [no end]"),
    OPTION("time", "90m", OPTION_TIME, seconds, "begin no trial after so long: 45s, 90m, 2h, 1d [no end]"),
    OPTION_EPOCHS,
    OPTION_IMAGES,
    OPTION_SEED_,
    OPTION_DEVICE,
    OPTION_PRECISION,
    OPTION_THREADS,
    OPTION("workers", "K", OPTION_COUNT, workers, "start so many processes, a GPU each where there are several [1]"),
    OPTION("jobs", "N", OPTION_COUNT, jobs, "train so many trials at once in each process, on one GPU [1]"),
    OPTION("heartbeat", "SECONDS", OPTION_NUMBER, heartbeat,
           "tell the other workers so often that this one lives; after 6 of these it is held dead [5]"),
    OPTION("running", "ignore|liar", OPTION_STRING, running,
           "trials under way count for TPE not at all, or as bad ones [liar, joint ignore]"),
    OPTION("checkpoint-every", "N", OPTION_COUNT, checkpoint_every,
           "write a trial's state after every N epochs, to go on from after a crash; 0: never [in 2 % of its time]"),
    OPTION("continue-with-new-space", NULL, OPTION_FLAG, new_space,
           "go on with a search in another space: earlier trials count where they have a place in it"),
    OPTION_OBJECTIVE,
    OPTION_VALIDATION,
    OPTION_WIDTH,
    OPTION_FLIP,
    OPTION("tpe", "hyperopt|joint", OPTION_STRING, tpe,
           "TPE: each hyperparameter by itself, as hyperopt, or whole points [hyperopt]"),
    OPTION("startup", "N", OPTION_COUNT, startup, "TPE: random trials before the model is used [20, joint 10]"),
    OPTION("candidates", "N", OPTION_COUNT, candidates, "TPE: draws that compete for each value [24]"),
    OPTION("gamma", "X", OPTION_NUMBER, gamma,
           "TPE: the good group is ceil(X sqrt(trials)), joint ceil(X trials) [0.25, joint 0.06]"),
    OPTION("prior-weight", "X", OPTION_NUMBER, prior_weight, "TPE: the prior counts as so many trials [1, joint 1.5]"),
    OPTION("forgetting", "N", OPTION_COUNT, forgetting, "TPE: the newest N trials count fully, older ones less [25]"),
    OPTION_QUIET,
    {0}};
static const struct option train_options[] = {
    OPTION_DATA,
    OPTION_EPOCHS,
    OPTION_IMAGES,
    OPTION("weights", "FILE", OPTION_STRING, weights, "write the best epoch's weights there"),
    OPTION("json", NULL, OPTION_FLAG, json, "print the result as JSON on stdout, progress on stderr"),
    OPTION_SEED_,
    OPTION_DEVICE,
    OPTION_PRECISION,
    OPTION_THREADS,
    OPTION_OBJECTIVE,
    OPTION_VALIDATION,
    OPTION_WIDTH,
    OPTION_FLIP,
    OPTION_QUIET,
    {0}};
static const struct option test_options[] = {
    OPTION_DATA,  OPTION_DEVICE, OPTION_THREADS,
    OPTION_SEED_, OPTION_FLIP,   OPTION("json", NULL, OPTION_FLAG, json, "print JSON"),
    {0}};
static const struct option space_options[] = {
    OPTION("sample", "N", OPTION_COUNT, sample, "draw N configurations instead, a line of JSON each"),
    OPTION_SEED_,
    {0}};
static const struct option no_options[] = {{0}};

static int read_count(const char *s, long low, int *out) {
    char *end;
    errno = 0;
    const long n = strtol(s, &end, 10);
    if (errno || end == s || *end || n < low || n > INT_MAX) return 0;
    *out = (int)n;
    return 1;
}

static int read_seconds(const char *s, double *out) {
    double sum = 0;
    if (*s == '\0') return 0;
    while (*s != '\0') {
        char *end;
        const double x = strtod(s, &end);
        if (end == s || !(x >= 0) || x > 1e9) return 0;
        const double unit = *end == 's' ? 1 : *end == 'm' ? 60 : *end == 'h' ? 3600 : *end == 'd' ? 86400 : 0;
        if (unit == 0) return 0;
        sum += x * unit;
        s = end + 1;
    }
    *out = sum;
    return sum > 0;
}

static int read_option(struct settings *s, const struct option *o, const char *value) {
    char *const at = (char *)s + o->offset;
    char *end;
    switch (o->kind) {
        case OPTION_FLAG: *(int *)(void *)at = 1; return 1;
        case OPTION_STRING: *(const char **)(void *)at = value; return value[0] != '\0';
        case OPTION_COUNT: {
            const int may_be_0 = strcmp(o->name, "startup") == 0 || strcmp(o->name, "checkpoint-every") == 0;
            return read_count(value, may_be_0 ? 0 : 1, (int *)(void *)at);
        }
        case OPTION_TIME: return read_seconds(value, (double *)(void *)at);
        case OPTION_NUMBER: {
            const double x = strtod(value, &end);
            if (end == value || *end || !(x > 0) || !isfinite(x)) return 0;
            *(double *)(void *)at = x;
            return 1;
        }
        case OPTION_SEED:
            errno = 0;
            s->seed = strtoull(value, &end, 10);
            s->seed_given = 1;
            return !errno && end != value && *end == '\0' && strchr(value, '-') == NULL;
    }
    return 0;
}

struct command {
    const char *name, *arguments, *about;
    const struct option *options;
    int least, most; /* positional arguments */
    int (*run)(const struct settings *, char **positional, int n, struct error *);
};

/* Splits argv into options and up to 4 positional arguments. */
static int read_arguments(const struct command *c, int argc, char **argv, struct settings *s, char **positional, int *n,
                          struct error *e) {
    *n = 0;
    for (int i = 2; i < argc; i++) {
        char *a = argv[i];
        if (strncmp(a, "--", 2) != 0 || a[2] == '\0') {
            if (*n == c->most)
                return error_set(e, ERROR_USER, "%s: '%s' is one argument too many; see parzen %s --help", c->name, a,
                                 c->name);
            positional[(*n)++] = a;
            continue;
        }
        const char *equals = strchr(a, '=');
        const size_t length = equals != NULL ? (size_t)(equals - a - 2) : strlen(a + 2);
        const struct option *o = c->options;
        while (o->name != NULL && (strlen(o->name) != length || strncmp(o->name, a + 2, length) != 0)) o++;
        if (o->name == NULL)
            return error_set(e, ERROR_USER, "%s: no option '%s'; see parzen %s --help", c->name, a, c->name);
        const char *value = equals != NULL ? equals + 1 : "";
        if (o->kind == OPTION_FLAG && equals != NULL)
            return error_set(e, ERROR_USER, "%s: --%s takes no value", c->name, o->name);
        if (o->kind != OPTION_FLAG && equals == NULL) {
            if (++i == argc)
                return error_set(e, ERROR_USER, "%s: --%s needs a value: --%s %s", c->name, o->name, o->name, o->value);
            value = argv[i];
        }
        if (!read_option(s, o, value))
            return error_set(e, ERROR_USER, "%s: '%s' is no value for --%s %s", c->name, value, o->name, o->value);
    }
    if (*n < c->least)
        return error_set(e, ERROR_USER, "%s: needs %s; see parzen %s --help", c->name, c->arguments, c->name);
    return OK;
}

static int check_settings(const struct settings *s, struct error *e) {
    if (strcmp(s->objective, "validation") != 0 && strcmp(s->objective, "test") != 0) {
        return error_set(e, ERROR_USER, "--objective is validation or test, not '%s'", s->objective);
    }
    if (strcmp(s->device, "auto") != 0 && strcmp(s->device, "cpu") != 0 && strcmp(s->device, "cuda") != 0) {
        return error_set(e, ERROR_USER, "--device is auto, cpu or cuda, not '%s'", s->device);
    }
    if (strcmp(s->precision, "bf16") != 0 && strcmp(s->precision, "fp32") != 0)
        return error_set(e, ERROR_USER, "--precision is bf16 or fp32, not '%s'", s->precision);
    if (s->running != NULL && strcmp(s->running, "ignore") != 0 && strcmp(s->running, "liar") != 0)
        return error_set(e, ERROR_USER, "--running is ignore or liar, not '%s'", s->running);
    if (strcmp(s->tpe, "hyperopt") != 0 && strcmp(s->tpe, "joint") != 0)
        return error_set(e, ERROR_USER, "--tpe is hyperopt or joint, not '%s'", s->tpe);
    if (s->workers > 1024 || s->jobs > 64)
        return error_set(e, ERROR_USER, "--workers is at most 1024, --jobs at most 64");
    if (s->candidates > 1000000) /* tpe_open's limit, told before the data is read */
        return error_set(e, ERROR_USER, "--candidates is at most 1000000");
    if (s->heartbeat < 0.1 || s->heartbeat > WORKER_SLOWEST)
        return error_set(e, ERROR_USER, "--heartbeat is 0.1 to %d seconds", WORKER_SLOWEST);
    return OK;
}

/* ---- what the commands share ---- */

static int is_fp32(const struct settings *s) { return strcmp(s->precision, "fp32") == 0; }

static void take_signals(int number) {
    if (search_stop != 0) _exit(128 + number);
    search_stop = number;
}

static struct data_options data_options(const struct settings *s) {
    return (struct data_options){.where = s->data,
                                 .objective = strcmp(s->objective, "test") == 0 ? OBJECTIVE_TEST : OBJECTIVE_VALIDATION,
                                 .validation = s->validation,
                                 .images = s->images,
                                 .seed = s->seed};
}

static struct tpe_options tpe_options(const struct settings *s, int joint) {
    struct tpe_options o = joint ? tpe_joint : tpe_defaults;
    if (s->startup >= 0) o.n_startup_jobs = s->startup;
    if (s->candidates >= 0) o.n_EI_candidates = s->candidates;
    if (s->gamma >= 0) o.gamma = s->gamma;
    if (s->prior_weight >= 0) o.prior_weight = s->prior_weight;
    if (s->forgetting >= 0) o.linear_forgetting = s->forgetting;
    return o;
}

/* ---- the commands ---- */

static int run_search(const struct settings *s, char **positional, int n, struct error *e) {
    (void)positional;
    (void)n;
    const int joint = strcmp(s->tpe, "joint") == 0;
    const int liar = s->running != NULL ? strcmp(s->running, "liar") == 0 : !joint;
    const struct search_options o = {.data = data_options(s),
                                     .space = s->space,
                                     .first = s->first,
                                     .results = s->results,
                                     .trials = s->trials,
                                     .seconds = s->seconds,
                                     .seed_given = s->seed_given,
                                     .train = {.epochs = s->epochs,
                                               .width = s->width,
                                               .seed = s->seed,
                                               .flip_test = s->flip_test,
                                               .checkpoint_every = s->checkpoint_every},
                                     .tpe = tpe_options(s, joint),
                                     .device = s->device,
                                     .fp32 = is_fp32(s),
                                     .threads = s->threads,
                                     .workers = s->workers,
                                     .jobs = s->jobs,
                                     .heartbeat = s->heartbeat,
                                     .running = liar ? RUNNING_LIAR : RUNNING_IGNORE,
                                     .new_space = s->new_space,
                                     .quiet = s->quiet,
                                     .to = stdout};
    return search_run(&o, e);
}

/* What `train` and `test` need: the data and a device with its sets of images. */
struct bench {
    struct dataset data;
    struct device *device;
    struct net_images train, judge;
};

static int bench_open(struct bench *b, const struct settings *s, const struct images *(*judged)(const struct bench *),
                      int train, struct error *e) {
    const struct data_options options = data_options(s);
    char notice[400];
    memset(b, 0, sizeof *b);
    int failed = data_open(&b->data, &options, e);
    if (!failed) failed = search_device(&b->device, s->device, 0, is_fp32(s), s->threads, notice, sizeof notice, e);
    if (!failed && notice[0] && !s->quiet) fprintf(stderr, "%s\n", notice);
    if (!failed && train) failed = net_images_load(&b->train, &b->data.train, b->device, e);
    if (!failed) failed = net_images_load(&b->judge, judged(b), b->device, e);
    return failed;
}

static void bench_close(struct bench *b) {
    if (b->device != NULL) {
        net_images_unload(&b->train, b->device);
        net_images_unload(&b->judge, b->device);
        b->device->close(b->device);
    }
    data_close(&b->data);
}

static const struct images *judge_images(const struct bench *b) { return &b->data.judge; }
static const struct images *test_images(const struct bench *b) { return &b->data.test; }

static void print_training(const struct outcome *o, const struct bench *b, const char *objective) {
    char time[24];
    const struct net_metrics *best = &o->judge[o->best];
    printf("best epoch %d of %d: fine %.4f  coarse %.4f on %d %s images; %zu parameters; %s\n", o->best + 1, o->epochs,
           best->fine_accuracy, best->coarse_accuracy, b->judge.n, objective, o->parameters,
           report_time(o->seconds, time, sizeof time));
    if (o->reason[0]) printf("%s\n", o->reason);
}

/* Before hours of training: can the weights be written there? */
static int check_writable(const char *path, struct error *e) {
    struct text attempt = {0};
    struct stat info;
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode))
        return error_set(e, ERROR_USER, "--weights %s: is a folder; it takes a file's name", path);
    text_add(&attempt, "%s.try", path);
    int failed = attempt.failed ? error_memory(e, strlen(path), "a path") : file_write(attempt.s, "", 0, e);
    if (!failed) {
        unlink(attempt.s);
    } else if (!attempt.failed) {
        failed = error_set(e, ERROR_USER, "--weights %s: cannot be written: %s", path, strerror(errno));
    }
    text_free(&attempt);
    return failed;
}

static int run_train(const struct settings *s, char **positional, int n, struct error *e) {
    (void)n;
    struct document doc = {0};
    const struct value *dict;
    struct net_config config;
    struct bench b = {0};
    struct outcome outcome = {0};
    struct progress progress;
    struct text line = {0}, json = {0};
    FILE *to = s->json ? stderr : stdout;
    int failed = config_file(positional[0], &doc, &dict, &config, e);
    if (!failed && s->weights != NULL) failed = check_writable(s->weights, e);
    if (!failed) failed = bench_open(&b, s, judge_images, 1, e);
    if (!failed) {
        value_print_json(&line, dict, 0);
        if (line.failed) failed = error_memory(e, line.n, "the configuration");
    }
    if (!failed) {
        const struct train_options options = {.epochs = s->epochs,
                                              .width = s->width,
                                              .seed = s->seed,
                                              .flip_test = s->flip_test,
                                              .weights = s->weights,
                                              .config = line.s};
        if (!s->quiet) {
            fprintf(to, "%s: %d images to train on, %d to judge on; %s\n", b.data.name, b.train.n, b.judge.n,
                    b.device->about);
            if (b.data.coarse_classes == 0)
                fprintf(to, "one kind of label: one head; coarse_labels_weight is ignored\n");
        }
        progress_begin(&progress, to, s->quiet, 0, 0, s->epochs);
        progress.each_epoch = 1;
        failed = search_train(&outcome, &config, &options, 0, b.device, &b.data, &b.train, &b.judge, &progress, e);
    }
    if (!failed && outcome.status != OK) {
        failed = error_set(e, outcome.status == ERROR_USER ? ERROR_USER : ERROR_ENVIRONMENT, "%s", outcome.reason);
    }
    if (!failed && s->json) {
        char name[64];
        struct rng rng = rng_make(s->seed, 0, RNG_NAME);
        report_name(name, sizeof name, outcome.judge[outcome.best].fine_accuracy, rng_bits(&rng));
        failed = report_result(&json, &outcome, dict, name, e);
        if (!failed) fputs(json.s, stdout);
    } else if (!failed) {
        print_training(&outcome, &b, s->objective);
    }
    text_free(&json);
    text_free(&line);
    outcome_free(&outcome);
    bench_close(&b);
    document_free(&doc);
    return failed;
}

static int run_test(const struct settings *s, char **positional, int n, struct error *e) {
    (void)n;
    struct tensors file;
    struct document doc = {0};
    struct net_config config;
    struct bench b = {0};
    struct net *net = NULL;
    struct net_metrics m = {0};
    struct settings settings = *s;
    settings.objective = "test"; /* nothing needs to be held out */
    int failed = tensors_read(&file, positional[0], e);
    if (failed) return failed;
    const char *text = tensors_get(&file, "config");
    if (text == NULL) {
        failed =
            error_set(e, ERROR_USER, "%s: has no configuration in its metadata; it was not written by parzen train",
                      positional[0]);
    } else {
        failed = value_parse(&doc, text, strlen(text), positional[0], e);
    }
    const char *width = tensors_get(&file, "width");
    if (!failed) failed = config_read(&config, doc.root, positional[0], e);
    if (!failed && width != NULL) config_scale(&config, strtod(width, NULL));
    if (!failed) failed = bench_open(&b, &settings, test_images, 0, e);
    if (!failed) {
        const struct net_options options = {
            .seed = s->seed, .fine = b.data.fine_classes, .coarse = b.data.coarse_classes, .flip_test = s->flip_test};
        failed = net_build(&net, &config, &options, b.device, NULL, &b.judge, e);
    }
    if (!failed) failed = net_load(net, positional[0], e);
    if (!failed) failed = net_judge(net, &m, NULL, NULL, e);
    if (!failed && s->json) {
        printf(
            "{\"images\": %d, \"fine_accuracy\": %.6f, \"coarse_accuracy\": %.6f, \"fine_loss\": %.6f, "
            "\"coarse_loss\": %.6f}\n",
            b.judge.n, m.fine_accuracy, m.coarse_accuracy, m.fine_loss, m.coarse_loss);
    } else if (!failed) {
        printf("%s, %d test images: fine %.4f  coarse %.4f  (losses %.4f, %.4f)\n", b.data.name, b.judge.n,
               m.fine_accuracy, m.coarse_accuracy, m.fine_loss, m.coarse_loss);
    }
    net_free(net);
    bench_close(&b);
    document_free(&doc);
    tensors_free(&file);
    return failed;
}

static int open_results(struct log **log, char **positional, int n, struct error *e) {
    char notice[400];
    const int failed = log_open(log, n > 0 ? positional[0] : "results", NULL, 0, notice, sizeof notice, e);
    if (!failed && notice[0]) fprintf(stderr, "%s\n", notice);
    return failed;
}

static int run_best(const struct settings *s, char **positional, int n, struct error *e) {
    (void)s;
    struct log *log;
    struct space *space = NULL;
    struct document doc = {0};
    struct text json = {0};
    int failed = open_results(&log, positional, n, e);
    if (failed) return failed;
    const char *const folder = n > 0 ? positional[0] : "results";
    const int best = report_best(log);
    if (best < 0) {
        failed = error_set(e, ERROR_USER, "%s: no trial has ended well yet", folder);
    } else { /* in its own space: the log's last may be another (--continue-with-new-space) */
        const struct trial *t = log_trial(log, best);
        const char *text = log_space(log, t->space);
        failed = space_parse(&space, text, strlen(text), "the log's space", e);
        if (!failed && t->n_values != space->n_params)
            failed = error_set(e, ERROR_USER, "%s/trials.log: trial %u has %d values, its space %d", folder,
                               t->number + 1, t->n_values, space->n_params);
        if (!failed) failed = space_config(space, t->values, &doc, e);
    }
    if (!failed) {
        value_print_json(&json, doc.root, 4);
        failed = json.failed ? error_memory(e, json.n, "the configuration") : OK;
    }
    if (!failed) puts(json.s);
    text_free(&json);
    document_free(&doc);
    if (space != NULL) space_free(space);
    log_close(log);
    return failed;
}

static int run_list(const struct settings *s, char **positional, int n, struct error *e) {
    (void)s;
    struct log *log;
    struct watchers *watchers;
    int failed = open_results(&log, positional, n, e);
    if (failed) return failed;
    failed = watchers_open(&watchers, n > 0 ? positional[0] : "results", e);
    if (!failed) {
        report_list(stdout, log, watchers);
        watchers_close(watchers);
    }
    log_close(log);
    return failed;
}

/* The space of a file, or of the search in a folder. */
static int open_space(struct space **space, char *where, struct error *e) {
    struct stat info;
    struct log *log;
    if (stat(where, &info) != 0 || !S_ISDIR(info.st_mode)) return space_read(space, where, e);
    int failed = open_results(&log, &where, 1, e);
    if (failed) return failed;
    const char *const text = log_get_header(log)->space;
    failed = space_parse(space, text, strlen(text), "the log's space", e);
    log_close(log);
    return failed;
}

static int run_space(const struct settings *s, char **positional, int n, struct error *e) {
    struct space *space;
    int failed = n > 0 ? open_space(&space, positional[0], e)
                       : space_parse(&space, space_seed, strlen(space_seed), "the built-in space", e);
    if (failed) return failed;
    failed = config_check_space(space, n > 0 ? positional[0] : "the built-in space", e);
    if (!failed && s->sample == 0) puts(space->text);
    double *values = mem_zero((size_t)space->n_params + 1, sizeof *values);
    if (values == NULL) failed = error_memory(e, sizeof *values, "a point");
    for (int i = 0; i < s->sample && !failed; i++) {
        struct rng rng = rng_make(s->seed, (uint32_t)i, RNG_SUGGEST);
        struct document doc = {0};
        struct text json = {0};
        space_draw(space, &rng, values);
        failed = space_config(space, values, &doc, e);
        if (!failed) {
            value_print_json(&json, doc.root, 0);
            failed = json.failed ? error_memory(e, json.n, "a configuration") : OK;
        }
        if (!failed) puts(json.s);
        text_free(&json);
        document_free(&doc);
    }
    mem_free(values);
    space_free(space);
    return failed;
}

/* ---- help and main ---- */

static const struct command commands[] = {
    {"search", "", "search a space of networks with TPE; the same command again resumes", search_options, 0, 0,
     run_search},
    {"train", "CONFIG", "train one configuration: a result file or its `space`, JSON or Python", train_options, 1, 1,
     run_train},
    {"test", "WEIGHTS", "print the accuracies of a weights file on the test images", test_options, 1, 1, run_test},
    {"best", "[RESULTS]", "print the best configuration of a search as JSON", no_options, 0, 1, run_best},
    {"list", "[RESULTS]", "print a table of a search's trials, the best last", no_options, 0, 1, run_list},
    {"space", "[FILE]",
     "check a space file (or a search's, given its folder) and print it in normal form, or draw from it", space_options,
     0, 1, run_space}};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static void print_help(void) {
    printf(
        "parzen finds a good convolutional network for an image data set by itself.\n\nusage: parzen COMMAND "
        "[OPTIONS]\n\n");
    for (int i = 0; i < N_COMMANDS; i++) {
        char usage[40];
        snprintf(usage, sizeof usage, "%s %s", commands[i].name, commands[i].arguments);
        printf("  %-18s %s\n", usage, commands[i].about);
    }
    printf(
        "\n  parzen COMMAND --help   the command's options\n  parzen --version        the version, and the devices it "
        "was built with\n");
}

static void print_command_help(const struct command *c) {
    printf("usage: parzen %s%s%s%s\n\n%s\n", c->name, c->arguments[0] ? " " : "", c->arguments,
           c->options->name != NULL ? " [OPTIONS]" : "", c->about);
    if (c->options->name != NULL) printf("\n");
    for (const struct option *o = c->options; o->name != NULL; o++) {
        char left[48];
        snprintf(left, sizeof left, "--%s%s%s", o->name, o->value != NULL ? " " : "", o->value != NULL ? o->value : "");
        printf("  %-30s %s\n", left, o->help);
    }
}

static void print_version(void) {
#ifdef PARZEN_CUDA
    printf("parzen %s, built with devices: cpu, cuda\n", VERSION);
#else
    printf("parzen %s, built with devices: cpu (no CUDA in this build)\n", VERSION);
#endif
}

/* An argument as a shell takes it: what holds more than harmless characters stands in single quotes. */
static void print_argument(FILE *to, const char *a) {
    const char *const harmless = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./=:,@%+";
    if (a[0] != '\0' && a[strspn(a, harmless)] == '\0') {
        fputs(a, to);
        return;
    }
    fputc('\'', to);
    for (; *a != '\0'; a++) {
        if (*a == '\'')
            fputs("'\\''", to);
        else
            fputc(*a, to);
    }
    fputc('\'', to);
}

static int run_command(const struct command *c, int argc, char **argv, struct error *e) {
    struct settings s = {.data = "synthetic",
                         .results = "results",
                         .objective = "validation",
                         .device = "auto",
                         .precision = "bf16",
                         .workers = 1,
                         .jobs = 1,
                         .heartbeat = 5,
                         .checkpoint_every = CHECKPOINT_BY_TIME,
                         .epochs = 100,
                         .validation = -1,
                         .width = 1,
                         .seed = 1,
                         .tpe = "hyperopt",
                         .startup = -1,
                         .candidates = -1,
                         .gamma = -1,
                         .prior_weight = -1,
                         .forgetting = -1};
    char *positional[4];
    int n;
    int failed = read_arguments(c, argc, argv, &s, positional, &n, e);
    if (!failed) failed = check_settings(&s, e);
    if (!failed) failed = c->run(&s, positional, n, e);
    if (!failed && (fflush(stdout) != 0 || ferror(stdout)))
        failed = error_set(e, ERROR_ENVIRONMENT, "cannot write to stdout: %s", strerror(errno));
    return failed == ERROR_TRIAL ? ERROR_ENVIRONMENT : failed; /* no memory, and no trial whose end it would be */
}

int main(int argc, char **argv) {
    const struct command *c = commands;
    struct error e = {0};
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        print_help();
        return argc < 2 ? ERROR_USER : OK;
    }
    if (strcmp(argv[1], "--version") == 0) {
        print_version();
        return OK;
    }
    while (c < commands + N_COMMANDS && strcmp(c->name, argv[1]) != 0) c++;
    if (c == commands + N_COMMANDS) {
        fprintf(stderr, "parzen: no command '%s'; see parzen --help\n", argv[1]);
        return ERROR_USER;
    }
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            print_command_help(c);
            return OK;
        }
    }
    struct sigaction action = {.sa_handler = take_signals};
    sigemptyset(&action.sa_mask);
    const int handled[] = {SIGINT, SIGTERM, SIGHUP};
    for (size_t i = 0; i < sizeof handled / sizeof *handled; i++) sigaction(handled[i], &action, NULL);
    signal(SIGXFSZ, SIG_IGN); /* a limit on file sizes shows as a failed write */
    const int failed = run_command(c, argc, argv, &e);
    if (failed == NET_STOPPED) {
        if (strcmp(c->name, "search") == 0) {
            fprintf(stderr,
                    "parzen: ended by a signal; nothing recorded is lost; to go on, give the same command again:\n ");
            for (int i = 0; i < argc; i++) {
                fputc(' ', stderr);
                print_argument(stderr, argv[i]);
            }
            fprintf(stderr, "\n");
        }
        return 128 + (int)search_stop;
    }
    if (failed) fprintf(stderr, "parzen: %s\n", e.text);
    return failed;
}
