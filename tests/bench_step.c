/* Measures a training step and judging on the CPU: bench_step CONFIG [ISA [BATCH]]
 *
 * CONFIG is a configuration as `parzen train` takes it; ISA avx512, avx2 or base (the machine's best if absent); BATCH
 * 100 if absent. One batch of noise, two warm-up steps, then the fastest of eight: what else runs on the machine can
 * only make a step slower. A step is reckoned as six times the forward multiply-adds (forward, and two passes back). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net.h"

enum { WARM = 2, STEPS = 8, MOST_BYTES = 1 << 20 };

static int check(int status, const struct error *e) {
    if (status != OK) {
        fprintf(stderr, "%s\n", e->text);
        exit(1);
    }
    return status;
}

int main(int argc, char **argv) {
    struct error e = {0};
    struct document doc = {0};
    struct net_config config;
    struct device *device = NULL;
    struct net_images set;
    struct net *net = NULL;
    struct net_metrics m;
    char *text;
    size_t n;
    if (argc < 2) {
        fprintf(stderr, "usage: bench_step CONFIG [ISA [BATCH]]\n");
        return 2;
    }
    check(file_read(argv[1], MOST_BYTES, &text, &n, &e), &e);
    check(value_parse(&doc, text, n, argv[1], &e), &e);
    check(config_read(&config, doc.root, argv[1], &e), &e);
    const int batch = argc > 3 ? atoi(argv[3]) : 100;
    config.batch_size = batch > 0 ? batch : 1;
    check(device_cpu(&device, 0, argc > 2 ? argv[2] : NULL, &e), &e);

    const size_t images = (size_t)config.batch_size, bytes = images * 32 * 32 * 3;
    struct images noise = {.n = config.batch_size, .h = 32, .w = 32, .c = 3};
    noise.pixels = mem_alloc(bytes);
    noise.fine = mem_alloc(images);
    noise.coarse = mem_zero(images, 1);
    if (noise.pixels == NULL || noise.fine == NULL || noise.coarse == NULL) return 1;
    for (size_t i = 0; i < bytes; i++) noise.pixels[i] = (uint8_t)((uint32_t)i * 2654435761u >> 24);
    for (size_t i = 0; i < images; i++) noise.fine[i] = (uint8_t)(i % 100);
    check(net_images_load(&set, &noise, device, &e), &e);
    const struct net_options options = {.fine = 100, .coarse = 20, .seed = 1};
    check(net_build(&net, &config, &options, device, &set, &set, &e), &e);

    double step = HUGE_VAL, judge = HUGE_VAL;
    for (int i = 0; i < WARM + STEPS; i++) { /* an epoch is one step */
        const double start = clock_seconds();
        check(net_train_epoch(net, i, &m, NULL, NULL, &e), &e);
        const double middle = clock_seconds();
        check(net_judge(net, &m, NULL, NULL, &e), &e);
        const double end = clock_seconds();
        if (i >= WARM && middle - start < step) step = middle - start;
        if (i >= WARM && end - middle < judge) judge = end - middle;
    }
    const struct net_size size = net_get_size(net);
    const double forward = size.multiply_adds * (double)images;
    printf("%s; %s; batch %d; %zu parameters, %.1f M multiply-adds\n", argv[1], device->about, config.batch_size,
           size.parameters, size.multiply_adds / 1e6);
    printf("training %.1f images/s, %.0f GFLOP/s; judging %.1f images/s, %.0f GFLOP/s\n", (double)images / step,
           6 * forward / step / 1e9, (double)images / judge, 2 * forward / judge / 1e9);

    net_free(net);
    net_images_unload(&set, device);
    device->close(device);
    document_free(&doc);
    mem_free(noise.pixels);
    mem_free(noise.fine);
    mem_free(noise.coarse);
    mem_free(text);
    return 0;
}
