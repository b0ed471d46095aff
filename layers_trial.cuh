/* layers_trial.cuh - does this GPU, with this driver, do what it is taken to do? A part of layers.cu.
 *
 * Opening a device runs a few small convolutions: with wgmma and without, recorded and not. What does not make the same
 * is left out from then on, and the device's line says so (see open_device). */
#ifndef LAYERS_TRIAL_CUH
#define LAYERS_TRIAL_CUH

/* What is tried: a convolution to `width` channels, and the data gradient and the weight gradient of one from so many,
 * of a few images. Their maps stand one behind the other: in and out_gradient, and what is made of them. */
enum { TRIAL_IMAGES = 3, TRIAL_SIDE = 8, TRIAL_FEW = 24, TRIAL_MANY = 80, TRIAL_K = 2 };
enum { TRIAL_PIXELS = TRIAL_IMAGES * TRIAL_SIDE * TRIAL_SIDE, TRIAL_RESULT = TRIAL_PIXELS * 2 * TRIAL_MANY };
enum { TRIAL_WEIGHTS = TRIAL_K * TRIAL_K * TRIAL_FEW * TRIAL_MANY };
struct trial_run {
    bf16 *in, *out_gradient, *made; /* device memory: [pixels][few], twice; [pixels][width], twice */
    float *weights, *gradients;     /* device memory */
};

static struct map trial_map(bf16 *at, int width) {
    struct map m = {};
    m.at = at, m.h = m.w = TRIAL_SIDE, m.parts = 1, m.width = m.stride = width;
    return m;
}

static bf16 narrowed(float v) { /* of a v that bf16 has */
    bf16 b;
    memcpy(&b.bits, (const char *)&v + 2, sizeof b.bits);
    return b;
}
static float widened(bf16 b) {
    float v = 0;
    memcpy((char *)&v + 2, &b.bits, sizeof b.bits);
    return v;
}

/* Runs it so many times, each into zeros. *recorded: whether the last was a recorded step. */
static int run_trial(struct device_cuda *c, const struct trial_run *t, int width, int times, bf16 made[TRIAL_RESULT],
                     int *recorded, struct error *e) {
    struct parameters parameters = {};
    struct op ops[3] = {};
    struct program program = {};
    struct map *const back = &ops[2].conv_data.gradient;
    int failed = OK;
    parameters.value = t->weights, parameters.gradient = t->gradients;
    parameters.n = parameters.n_decayed = TRIAL_WEIGHTS;
    ops[0].kind = OP_CONV;
    ops[0].conv.k = TRIAL_K, ops[0].conv.stride = 1, ops[0].conv.bias = LAYERS_NONE;
    ops[0].conv.in = trial_map(t->in, TRIAL_FEW);
    ops[0].conv.out = trial_map(t->made, width);
    ops[1].kind = OP_CONV_WEIGHT; /* beside, before the next in the chain: so a step's launches fork */
    ops[1].conv_weight.k = TRIAL_K, ops[1].conv_weight.stride = 1, ops[1].conv_weight.bias = LAYERS_NONE;
    ops[1].conv_weight.in = ops[0].conv.in, ops[1].conv_weight.out_gradient = ops[0].conv.out;
    ops[2].kind = OP_CONV_DATA;
    ops[2].conv_data.k = TRIAL_K, ops[2].conv_data.stride = 1, ops[2].conv_data.y_scale = 1;
    ops[2].conv_data.out_gradient = trial_map(t->out_gradient, TRIAL_FEW);
    *back = trial_map(t->made + TRIAL_PIXELS * width, width);
    program.n_ops = 3, program.ops = ops, program.parameters = &parameters;
    for (int i = 0; i < times && !failed; i++) {
        failed = cuda_check(cudaMemsetAsync(t->made, 0, TRIAL_RESULT * sizeof(bf16), c->stream), "clearing memory", e);
        if (!failed) failed = cuda_run(&c->device, &program, TRIAL_IMAGES, e);
    }
    *recorded = c->n_captured > 0 && c->captured[c->n_captured - 1].graph != NULL;
    if (!failed) failed = cuda_read(&c->device, made, t->made, TRIAL_RESULT * sizeof(bf16), e);
    forget_captured(c); /* it knows this program by its address */
    return failed;
}

/* Where two matrices lie is told to wgmma in words that only the hardware reads: small convolutions of every width are
 * made both ways before a net is, and where they differ (or the program carries no image that has them) wgmma is left
 * alone. */
static int try_wgmma(struct device_cuda *c, const struct trial_run *t, bf16 *with, bf16 *without, struct error *e) {
    const int multiprocessors = c->multiprocessors;
    int failed = OK, same = 1, recorded;
    c->multiprocessors = 1; /* then a tile is as wide as the result */
    for (int width = 24; width <= TRIAL_MANY && same && !failed; width += 8) {
        float largest = 0;
        c->wgmma = 1;
        failed = run_trial(c, t, width, 1, with, &recorded, e);
        c->wgmma = 0;
        if (!failed) failed = run_trial(c, t, width, 1, without, &recorded, e);
        for (int i = 0; i < 2 * TRIAL_PIXELS * width; i++) largest = fmaxf(largest, fabsf(widened(without[i])));
        for (int i = 0; i < 2 * TRIAL_PIXELS * width; i++)
            same &= fabsf(widened(with[i]) - widened(without[i])) <= largest / 64;
    }
    c->multiprocessors = multiprocessors;
    c->wgmma = same && !failed;
    return failed;
}

/* Can a step be recorded, and does it then make the same? If not, perhaps without early kernels. */
static int try_recording(struct device_cuda *c, const struct trial_run *t, bf16 *once, bf16 *twice, struct error *e) {
    int failed = OK;
    for (;;) {
        failed = run_trial(c, t, TRIAL_FEW, 1, once, &c->records, e);
        c->records = 1;
        if (!failed) failed = run_trial(c, t, TRIAL_FEW, 2, twice, &c->records, e);
        if (!failed && c->records) c->records = memcmp(once, twice, 2 * TRIAL_PIXELS * TRIAL_FEW * sizeof *once) == 0;
        if (failed || c->records || !c->early) return failed;
        c->early = 0;
    }
}

static int try_device(struct device_cuda *c, int wgmma, struct error *e) {
    enum { IN = TRIAL_PIXELS * TRIAL_FEW, MAPS = 2 * IN + TRIAL_RESULT };
    bf16 *const maps = (bf16 *)mem_zero(MAPS + TRIAL_RESULT, sizeof *maps), *at = NULL;
    float *const weights = (float *)mem_zero(2 * TRIAL_WEIGHTS, sizeof *weights);
    struct trial_run t = {};
    int failed = maps == NULL || weights == NULL ? error_memory(e, MAPS * sizeof *maps, "the device") : OK;
    if (!failed) failed = cuda_alloc(&c->device, MAPS * sizeof *maps, (void **)&at, e);
    if (!failed) failed = cuda_alloc(&c->device, 2 * TRIAL_WEIGHTS * sizeof *weights, (void **)&t.weights, e);
    if (!failed) {
        for (int i = 0; i < 2 * IN; i++) maps[i] = narrowed((float)(i * 7 % 13 - 6) / 4);
        for (int i = 0; i < TRIAL_WEIGHTS; i++) weights[i] = (float)(i * 11 % 17 - 8) / 64;
        t.in = at, t.out_gradient = at + IN, t.made = at + 2 * IN;
        t.gradients = t.weights + TRIAL_WEIGHTS;
        failed = cuda_write(&c->device, at, maps, MAPS * sizeof *maps, e);
    }
    if (!failed) failed = cuda_write(&c->device, t.weights, weights, TRIAL_WEIGHTS * sizeof *weights, e);
    if (!failed && wgmma) failed = try_wgmma(c, &t, maps, maps + TRIAL_RESULT, e);
    if (!failed) failed = try_recording(c, &t, maps, maps + TRIAL_RESULT, e);
    if (t.weights != NULL) cuda_release(&c->device, t.weights);
    if (at != NULL) cuda_release(&c->device, at);
    mem_free(weights);
    mem_free(maps);
    return failed;
}
#endif
