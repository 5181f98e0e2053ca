#include "tests/nn/kernel_support.h"

/* The convolution and dense kernels. */

typedef struct conv_case {
    const char *what;
    int64_t n, c, h, w, k, r, s, stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, groups;
} conv_case;

/* Small odd shapes, and the smallest that make the cpu backend cut in each way it knows. */
static const conv_case conv_cases[] = {
    {"one of everything", 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1},
    {"one channel", 2, 1, 7, 5, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1},
    {"one output", 3, 5, 6, 7, 1, 3, 3, 1, 1, 0, 0, 1, 1, 1},
    {"same size 3x3", 4, 3, 9, 8, 6, 3, 3, 1, 1, 1, 1, 1, 1, 1},
    {"stride 2", 5, 4, 9, 11, 5, 3, 3, 2, 2, 1, 1, 1, 1, 1},
    {"stride 2, even size", 2, 4, 8, 10, 5, 3, 3, 2, 2, 1, 1, 1, 1, 1},
    {"stride 3 by 1", 2, 3, 11, 7, 4, 3, 2, 3, 1, 0, 1, 1, 1, 1},
    {"stride 1 by 2", 2, 3, 6, 9, 4, 2, 3, 1, 2, 1, 0, 1, 1, 1},
    {"stride over filter", 2, 3, 10, 10, 4, 2, 2, 4, 4, 0, 0, 1, 1, 1},
    {"pad over filter", 2, 2, 4, 3, 3, 3, 3, 1, 1, 4, 5, 1, 1, 1},
    {"same size 5x1", 3, 3, 10, 6, 4, 5, 1, 1, 1, 2, 0, 1, 1, 1},
    {"same size 1x7", 3, 3, 6, 10, 4, 1, 7, 1, 1, 0, 3, 1, 1, 1},
    {"filter wider than plane", 2, 2, 3, 2, 3, 3, 7, 1, 1, 1, 3, 1, 1, 1},
    {"dilated, same size", 2, 3, 12, 13, 4, 3, 3, 1, 1, 2, 2, 2, 2, 1},
    {"dilated 3 by 2, stride 2", 2, 3, 15, 14, 4, 3, 3, 2, 2, 3, 1, 3, 2, 1},
    {"dilated beyond plane", 1, 2, 5, 5, 2, 3, 3, 1, 1, 6, 6, 6, 6, 1},
    {"large window", 2, 3, 21, 19, 5, 7, 7, 2, 2, 3, 3, 1, 1, 1},
    {"1x1", 3, 7, 18, 17, 9, 1, 1, 1, 1, 0, 0, 1, 1, 1},
    {"1x1, small planes", 9, 17, 7, 7, 20, 1, 1, 1, 1, 0, 0, 1, 1, 1},
    {"1x1, stride 2", 3, 7, 9, 8, 5, 1, 1, 2, 2, 0, 0, 1, 1, 1},
    {"1x1, padded", 2, 3, 5, 5, 4, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {"1x1 plane", 9, 33, 1, 1, 12, 1, 1, 1, 1, 0, 0, 1, 1, 1},
    {"groups", 3, 6, 7, 8, 9, 3, 3, 1, 1, 1, 1, 1, 1, 3},
    {"groups, stride 2", 2, 8, 9, 9, 4, 3, 3, 2, 2, 1, 1, 1, 1, 2},
    {"groups, 1x1", 2, 8, 17, 18, 12, 1, 1, 1, 1, 0, 0, 1, 1, 4},
    {"groups of one output", 2, 6, 7, 7, 3, 3, 3, 1, 1, 1, 1, 1, 1, 3},
    {"depthwise", 3, 5, 9, 35, 5, 3, 3, 1, 1, 1, 1, 1, 1, 5},
    {"depthwise, stride 2", 2, 6, 9, 10, 6, 3, 3, 2, 2, 1, 1, 1, 1, 6},
    {"depthwise, multiplier 2", 2, 4, 7, 6, 8, 5, 3, 1, 2, 2, 1, 1, 1, 4},
    {"depthwise, dilated", 2, 3, 8, 9, 3, 3, 3, 1, 1, 2, 2, 2, 2, 3},
    {"depthwise beyond plane", 1, 2, 3, 3, 2, 3, 3, 1, 1, 5, 5, 5, 5, 2},
    {"images in bundles", 9, 6, 7, 7, 8, 3, 3, 1, 1, 1, 1, 1, 1, 1},
    {"bundles, stride 2", 7, 4, 15, 15, 6, 3, 3, 2, 2, 1, 1, 1, 1, 1},
    {"bundles, groups", 8, 6, 6, 5, 4, 3, 3, 1, 1, 1, 1, 1, 1, 2},
    {"rows in tiles", 2, 3, 37, 33, 5, 3, 3, 1, 1, 1, 1, 1, 1, 1},
    {"rows in tiles, stride 2", 1, 2, 75, 67, 4, 5, 5, 2, 2, 2, 2, 1, 1, 1},
    {"1x1, rows in tiles", 2, 5, 37, 33, 7, 1, 1, 1, 1, 0, 0, 1, 1, 1},
    {"columns in tiles", 2, 3, 2, 1403, 4, 1, 9, 1, 1, 0, 4, 1, 1, 1},
    {"columns in tiles, stride 2", 1, 2, 1, 1501, 3, 1, 5, 1, 2, 0, 2, 1, 1, 1},
    {"channels in blocks", 2, 70, 16, 17, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1},
    {"outputs in blocks", 1, 3, 12, 12, 83, 3, 3, 1, 1, 1, 1, 1, 1, 1},
    {"outputs in blocks, bundles", 3, 3, 6, 6, 67, 3, 3, 1, 1, 1, 1, 1, 1, 1},
    {"blocks, same size 3x3", 2, 16, 9, 8, 32, 3, 3, 1, 1, 1, 1, 1, 1, 1},
    {"blocks, part of one", 3, 12, 6, 7, 20, 3, 3, 1, 1, 1, 1, 1, 1, 1},
    {"blocks, an odd number", 2, 40, 7, 7, 72, 3, 3, 1, 1, 1, 1, 1, 1, 1},
    {"blocks, wide rows", 2, 18, 5, 61, 37, 3, 3, 1, 1, 1, 1, 1, 1, 1},
    {"blocks, 5x1", 2, 16, 10, 6, 17, 5, 1, 1, 1, 2, 0, 1, 1, 1},
    {"blocks, 1x7", 2, 16, 6, 10, 33, 1, 7, 1, 1, 0, 3, 1, 1, 1},
    {"blocks, no padding", 2, 19, 8, 9, 16, 3, 2, 1, 1, 0, 0, 1, 1, 1},
    {"blocks, stride 2", 2, 16, 9, 11, 48, 3, 3, 2, 2, 1, 1, 1, 1, 1},
    {"blocks, stride 2, even size", 2, 33, 8, 10, 16, 3, 3, 2, 2, 1, 1, 1, 1, 1},
    {"blocks, stride 3 by 1", 2, 16, 11, 7, 16, 3, 2, 3, 1, 0, 1, 1, 1, 1},
    {"blocks, stride over filter", 2, 16, 10, 11, 17, 2, 2, 4, 4, 0, 0, 1, 1, 1},
    {"blocks, stride over plane", 2, 16, 3, 2, 17, 2, 2, 4, 4, 1, 1, 1, 1, 1},
    {"blocks, pad over filter", 2, 16, 4, 3, 16, 3, 3, 1, 1, 4, 5, 1, 1, 1},
    {"blocks, dilated", 2, 16, 12, 13, 17, 3, 3, 1, 1, 2, 2, 2, 2, 1},
    {"blocks, dilated 3 by 2, stride 2", 2, 16, 15, 14, 17, 3, 3, 2, 2, 3, 1, 3, 2, 1},
    {"blocks, dilated beyond plane", 1, 16, 5, 5, 16, 3, 3, 1, 1, 6, 6, 6, 6, 1},
    {"blocks, 1x1", 3, 48, 9, 7, 32, 1, 1, 1, 1, 0, 0, 1, 1, 1},
    {"blocks, 1x1, stride 2", 3, 17, 9, 8, 35, 1, 1, 2, 2, 0, 0, 1, 1, 1},
    {"blocks, 1x1, padded", 2, 16, 5, 5, 16, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {"blocks, 1x1, deep", 2, 530, 5, 7, 300, 1, 1, 1, 1, 0, 0, 1, 1, 1},
    {"blocks, 1x1, long rows", 3, 272, 17, 19, 200, 1, 1, 1, 1, 0, 0, 1, 1, 1},
    {"blocks, stride 2, no padding", 2, 16, 9, 11, 48, 3, 3, 2, 2, 0, 0, 1, 1, 1},
    {"blocks, parts of the gradient", 3, 150, 9, 11, 100, 3, 3, 2, 2, 0, 2, 1, 1, 1},
    {"blocks, rows in bands", 2, 70, 61, 19, 18, 3, 3, 1, 1, 1, 1, 1, 1, 1},
    {"blocks, rows in bands, stride 2", 1, 70, 75, 67, 18, 5, 5, 2, 2, 2, 2, 1, 1, 1},
    {"blocks, many images", 67, 16, 4, 4, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1},
    {"blocks, too many taps", 1, 12, 19, 18, 12, 17, 17, 1, 1, 2, 2, 1, 1, 1},
    {"blocks, groups", 2, 32, 7, 8, 32, 3, 3, 1, 1, 1, 1, 1, 1, 2},
    {"blocks, depthwise", 2, 20, 9, 10, 20, 3, 3, 2, 2, 1, 1, 1, 1, 20},
    {"depthwise blocks", 3, 48, 9, 11, 48, 3, 3, 1, 1, 1, 1, 1, 1, 48},
    {"depthwise blocks, stride 2 by 3", 2, 33, 11, 14, 33, 3, 3, 2, 3, 1, 1, 1, 1, 33},
    {"depthwise blocks, 5x5, dilated", 2, 20, 13, 12, 20, 5, 5, 1, 1, 4, 4, 2, 2, 20},
    {"depthwise blocks, dilated 3 by 2, stride 2", 2, 16, 15, 14, 16, 3, 2, 2, 2, 3, 1, 3, 2, 16},
    {"depthwise blocks, beyond plane", 1, 18, 3, 3, 18, 3, 3, 1, 1, 5, 5, 5, 5, 18},
    {"depthwise blocks, 1x1, stride 2", 2, 20, 5, 6, 20, 1, 1, 2, 2, 0, 0, 1, 1, 20},
    {"depthwise blocks, 1x1", 2, 20, 5, 6, 20, 1, 1, 1, 1, 0, 0, 1, 1, 20},
    {"depthwise blocks, short rows", 5, 40, 7, 7, 40, 3, 3, 1, 1, 1, 1, 1, 1, 40},
    {"depthwise blocks, long rows", 1, 17, 3, 601, 17, 3, 3, 1, 1, 1, 1, 1, 1, 17},
    {"depthwise blocks, rows in bands", 1, 17, 75, 61, 17, 7, 7, 1, 1, 3, 3, 1, 1, 17},
    {"depthwise blocks, rows in bands, stride 2", 1, 16, 131, 131, 16, 3, 3, 2, 2, 1, 1, 1, 1, 16},
    {"depthwise blocks, many channels", 2, 300, 4, 5, 300, 3, 3, 1, 1, 1, 1, 1, 1, 300},
    {"depthwise blocks, many images", 67, 20, 4, 4, 20, 3, 3, 1, 1, 1, 1, 1, 1, 20},
    {"depthwise blocks, multiplier 2", 2, 8, 7, 6, 16, 3, 3, 1, 1, 1, 1, 1, 1, 8},
    {"depthwise blocks, too many taps", 1, 8, 19, 18, 8, 17, 17, 1, 1, 2, 2, 1, 1, 8},
    {"groups of 2", 2, 22, 9, 8, 22, 3, 3, 1, 1, 1, 1, 1, 1, 11},
    {"groups of 2, few channels", 2, 6, 9, 8, 6, 3, 3, 1, 2, 1, 1, 1, 1, 3},
    {"groups of 4, stride 2", 3, 36, 9, 10, 36, 3, 3, 2, 2, 1, 1, 1, 1, 9},
    {"groups of 8, dilated", 2, 40, 8, 7, 40, 3, 3, 1, 1, 2, 1, 2, 1, 5},
    {"groups of 8, 5x2, stride 3 by 1", 2, 56, 14, 7, 56, 5, 2, 3, 1, 2, 0, 1, 1, 7},
    {"groups of 8, 1x1", 2, 24, 9, 7, 24, 1, 1, 1, 1, 0, 0, 1, 1, 3},
    {"groups of 12", 2, 24, 7, 8, 24, 3, 3, 1, 1, 1, 1, 1, 1, 2},
    {"groups of 4 to 8", 2, 16, 7, 8, 32, 3, 3, 1, 1, 1, 1, 1, 1, 4},
    {"groups of 16 to 8", 2, 32, 7, 8, 16, 3, 3, 1, 1, 1, 1, 1, 1, 2},
    {"groups of 16", 2, 48, 9, 8, 48, 3, 3, 1, 1, 1, 1, 1, 1, 3},
    {"groups of 16 to 32, stride 2", 2, 48, 9, 8, 96, 3, 3, 2, 2, 1, 1, 1, 1, 3},
    {"groups of 48 to 16", 2, 96, 7, 6, 32, 3, 3, 1, 1, 1, 1, 1, 1, 2},
    {"groups of 16 to 48, 1x1", 3, 64, 9, 7, 192, 1, 1, 1, 1, 0, 0, 1, 1, 4},
    {"groups of 32, 1x1, stride 2", 3, 64, 9, 7, 64, 1, 1, 2, 2, 0, 0, 1, 1, 2},
    {"groups of 16, rows in bands", 1, 32, 75, 67, 32, 5, 5, 2, 2, 2, 2, 1, 1, 2},
    {"groups of 16, many images", 67, 32, 4, 4, 32, 3, 3, 1, 1, 1, 1, 1, 1, 2},
    {"32 groups of 4", 2, 128, 11, 10, 128, 3, 3, 1, 1, 1, 1, 1, 1, 32},
    {"32 groups of 8, stride 2", 2, 256, 9, 8, 256, 3, 3, 2, 2, 1, 1, 1, 1, 32},
    {"32 groups of 16", 2, 512, 5, 4, 512, 3, 3, 1, 1, 1, 1, 1, 1, 32},
    {"planes to blocks", 2, 3, 17, 19, 32, 7, 7, 2, 2, 3, 3, 1, 1, 1},
    {"planes to blocks, 3x3", 3, 3, 8, 9, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1},
    {"planes to blocks, bands", 2, 5, 147, 131, 17, 7, 7, 2, 2, 3, 3, 1, 1, 1},
    {"planes to blocks, short rows", 5, 6, 9, 5, 50, 3, 3, 1, 1, 1, 1, 1, 1, 1},
    {"planes to blocks, 1x1", 3, 7, 6, 5, 40, 1, 1, 1, 1, 0, 0, 1, 1, 1},
    {"planes to blocks, dilated", 2, 1, 11, 12, 16, 3, 3, 1, 2, 2, 2, 2, 3, 1},
    {"planes, 5x5 padded", 3, 1, 29, 28, 6, 5, 5, 1, 1, 2, 2, 1, 1, 1},
    {"planes, long rows", 2, 8, 5, 61, 7, 3, 3, 1, 1, 1, 1, 1, 1, 1},
    {"planes, whole vectors", 2, 4, 6, 32, 8, 3, 3, 1, 1, 1, 1, 1, 1, 1},
    {"planes, dilated 2 by 3", 2, 5, 13, 35, 8, 3, 2, 1, 1, 2, 1, 2, 3, 1},
    {"planes, padded beyond taps", 2, 6, 7, 6, 5, 3, 3, 1, 1, 4, 3, 1, 1, 1},
    {"planes, bands", 2, 7, 75, 67, 8, 5, 5, 1, 1, 2, 2, 1, 1, 1},
    {"planes, many images", 35, 2, 6, 5, 2, 3, 3, 1, 1, 0, 0, 1, 1, 1},
    {"planes, 5x5, whole tiles", 2, 3, 12, 16, 4, 5, 5, 1, 1, 0, 2, 1, 1, 1},
    {"planes, 5x5, part of a tile", 3, 1, 27, 28, 6, 5, 5, 1, 1, 1, 0, 1, 1, 1},
    {"planes, 5x3, dilated columns", 2, 4, 10, 37, 8, 5, 3, 1, 1, 2, 2, 1, 2, 1},
    {"planes, 5x7, bands", 2, 2, 61, 150, 1, 5, 7, 1, 1, 2, 3, 1, 1, 1},
    {"planes, 1x1", 3, 8, 7, 9, 8, 1, 1, 1, 1, 0, 0, 1, 1, 1},
    {"planes to blocks, 5x5", 19, 6, 15, 13, 16, 5, 5, 1, 1, 0, 0, 1, 1, 1},
    {"planes to blocks, 5x5, two", 2, 8, 9, 13, 33, 5, 5, 1, 1, 1, 2, 1, 1, 1},
    {"14x14, 5x5", 19, 6, 14, 14, 16, 5, 5, 1, 1, 0, 0, 1, 1, 1},
    {"14x14, 5x5, one image", 1, 7, 14, 14, 17, 5, 5, 1, 1, 0, 0, 1, 1, 1},
    {"14x14, 5x5, padded", 35, 3, 10, 12, 9, 5, 5, 1, 1, 2, 1, 1, 1, 1},
    {"14x14, 5x5, mostly padding", 5, 8, 14, 4, 50, 5, 5, 1, 1, 0, 5, 1, 1, 1},
    {"14x14, 5x5, many images", 150, 4, 8, 14, 20, 5, 5, 1, 1, 3, 0, 1, 1, 1},
    {"14x14, 5x5, two channels", 3, 2, 14, 14, 16, 5, 5, 1, 1, 0, 0, 1, 1, 1},
    {"planes to blocks, tall taps", 3, 7, 11, 6, 20, 3, 3, 1, 1, 1, 1, 2, 1, 1},
    {"planes to blocks, 5x3", 2, 1, 9, 70, 17, 5, 3, 1, 1, 2, 0, 1, 1, 1},
    {"blocks to one plane", 2, 20, 9, 11, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1},
    {"blocks to two planes", 3, 9, 6, 35, 2, 2, 3, 1, 1, 0, 1, 1, 1, 1},
    {"blocks to three planes", 2, 33, 5, 3, 3, 3, 5, 1, 1, 1, 2, 1, 1, 1},
    {"blocks to four planes", 2, 16, 8, 17, 4, 1, 1, 1, 1, 0, 0, 1, 1, 1},
    {"blocks to five planes", 2, 17, 7, 15, 5, 3, 3, 1, 1, 2, 3, 1, 2, 1},
    {"blocks to six planes, bands", 1, 40, 33, 37, 6, 5, 5, 1, 1, 2, 2, 1, 1, 1},
    {"blocks to seven planes", 5, 16, 10, 10, 7, 5, 5, 1, 1, 4, 4, 1, 1, 1},
    {"blocks to eight planes", 2, 24, 9, 18, 8, 3, 3, 1, 1, 5, 5, 1, 1, 1},
    {"blocks, many filters", 1, 496, 5, 4, 240, 3, 3, 1, 1, 1, 1, 1, 1, 1},
    {"blocks, many tiles", 19, 12, 9, 7, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1},
    {"blocks, fours and threes", 3, 24, 14, 10, 40, 3, 3, 1, 1, 1, 1, 1, 1, 1},
    {"blocks, fours and threes, no padding", 2, 17, 15, 9, 33, 3, 3, 1, 1, 0, 0, 1, 1, 1},
    {"blocks, fours and threes, wide padding", 9, 16, 5, 9, 16, 3, 3, 1, 1, 2, 2, 1, 1, 1},
    {"blocks, threes alone", 13, 33, 6, 9, 17, 3, 3, 1, 1, 1, 1, 1, 1, 1},
    {"blocks, threes beside fours", 11, 16, 12, 6, 48, 3, 3, 1, 1, 1, 1, 1, 1, 1},
    {"blocks, a tile of two", 5, 20, 5, 8, 36, 3, 3, 1, 1, 1, 1, 1, 1, 1},
    {"blocks, many filters, fours and threes", 2, 496, 7, 7, 240, 3, 3, 1, 1, 1, 1, 1, 1, 1},
    {"blocks, shares of thirds", 15, 40, 9, 12, 56, 3, 3, 1, 1, 1, 1, 1, 1, 1},
    {"blocks, several patches", 17, 145, 5, 7, 132, 3, 3, 1, 1, 0, 2, 1, 1, 1},
    {"blocks, many patches", 1, 400, 4, 5, 390, 3, 3, 1, 1, 1, 1, 1, 1, 1},
    {"blocks, tiles in the padding", 2, 16, 4, 9, 33, 3, 3, 1, 1, 6, 6, 1, 1, 1},
    {"blocks, threes in the padding", 2, 16, 3, 1, 16, 3, 3, 1, 1, 5, 5, 1, 1, 1},
    {"blocks, long rows from the padding", 2, 16, 6, 300, 16, 3, 3, 1, 1, 0, 6, 1, 1, 1},
    {"stem", 3, 3, 36, 40, 32, 7, 7, 2, 2, 3, 3, 1, 1, 1},
    {"stem, rows in parts", 1, 3, 21, 233, 17, 7, 7, 2, 2, 3, 3, 1, 1, 1},
    {"stem, several chunks", 2, 3, 71, 59, 64, 7, 7, 2, 2, 3, 3, 1, 1, 1},
    {"stem, one channel, 5x8", 2, 1, 31, 45, 48, 5, 8, 2, 2, 0, 1, 1, 1, 1},
    {"stem, two channels, 8x5", 2, 2, 24, 47, 9, 8, 5, 2, 2, 5, 4, 1, 1, 1},
    {"stem, four channels, 6x7", 2, 4, 19, 37, 40, 6, 7, 2, 2, 1, 0, 1, 1, 1},
    {"stem, many images", 70, 1, 16, 32, 16, 7, 7, 2, 2, 3, 3, 1, 1, 1},
    {"stem, past the caches", 1, 1, 511, 515, 16, 5, 5, 2, 2, 2, 2, 1, 1, 1},
    {"stem, padded to the filter", 1, 3, 9, 30, 16, 7, 7, 2, 2, 6, 6, 1, 1, 1},
    {"stem, four channels, 8x8", 2, 4, 20, 36, 16, 8, 8, 2, 2, 3, 3, 1, 1, 1},
    {"stem, three channels, 8x8", 1, 3, 20, 36, 20, 8, 8, 2, 2, 3, 3, 1, 1, 1},
    {"stem, three channels, 7x8", 1, 3, 21, 35, 16, 7, 8, 2, 2, 3, 2, 1, 1, 1},
    {"planes, 5x5, many images", 35, 2, 9, 7, 3, 5, 5, 1, 1, 2, 2, 1, 1, 1},
    {"planes, 3x3, bands", 2, 7, 75, 67, 8, 3, 3, 1, 1, 1, 1, 1, 1, 1},
    {"planes, 5x5, six rows", 2, 2, 6, 9, 7, 5, 5, 1, 1, 2, 2, 1, 1, 1},
    {"planes, 5x5, forward too low", 2, 2, 8, 9, 3, 5, 5, 1, 1, 0, 0, 1, 1, 1},
    {"14x14, 5x5, nearly all padding", 3, 3, 2, 2, 16, 5, 5, 1, 1, 6, 6, 1, 1, 1},
    {"blocks, stride 2, whole tiles", 3, 60, 16, 15, 70, 3, 3, 2, 2, 1, 1, 1, 1, 1},
    {"blocks, stride 2, all sizes of tiles", 2, 50, 13, 28, 51, 3, 3, 2, 2, 1, 1, 1, 1, 1},
    {"blocks, stride 2, wide rows", 1, 40, 7, 131, 90, 3, 3, 2, 2, 1, 1, 1, 1, 1},
    {"blocks, stride 2, outputs outside", 2, 64, 7, 10, 64, 3, 3, 2, 2, 1, 1, 1, 1, 1},
    {"blocks, stride 2, few channels", 2, 16, 7, 10, 32, 3, 3, 2, 2, 1, 1, 1, 1, 1},
    {"blocks, stride 2, few outputs", 2, 64, 9, 10, 64, 3, 3, 2, 2, 1, 1, 1, 1, 1},
    {"blocks, stride 2, small planes", 5, 64, 5, 6, 64, 3, 3, 2, 2, 1, 1, 1, 1, 1},
    {"blocks, stride 2, many filters", 3, 360, 7, 6, 330, 3, 3, 2, 2, 1, 1, 1, 1, 1},
    {"blocks, stride 2, shares", 23, 50, 17, 24, 56, 3, 3, 2, 2, 1, 1, 1, 1, 1},
    {"blocks, stride 2, several patches", 17, 145, 9, 14, 132, 3, 3, 2, 2, 1, 1, 1, 1, 1},
    {"blocks, stride 2, many patches", 1, 400, 7, 8, 390, 3, 3, 2, 2, 1, 1, 1, 1, 1},
    {"many partial sums", 41, 2, 12, 12, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1},
};
enum { N_CONV_CASES = sizeof conv_cases / sizeof conv_cases[0] };

static nn_conv2d_geom geom_of(const conv_case *test)
{
    nn_conv2d_geom geom = {.n = test->n,
                           .c = test->c,
                           .h = test->h,
                           .w = test->w,
                           .k = test->k,
                           .r = test->r,
                           .s = test->s,
                           .stride_h = test->stride_h,
                           .stride_w = test->stride_w,
                           .pad_h = test->pad_h,
                           .pad_w = test->pad_w,
                           .dil_h = test->dil_h,
                           .dil_w = test->dil_w,
                           .groups = test->groups};

    geom.p = (geom.h + 2 * geom.pad_h - geom.dil_h * (geom.r - 1) - 1) / geom.stride_h + 1;
    geom.q = (geom.w + 2 * geom.pad_w - geom.dil_w * (geom.s - 1) - 1) / geom.stride_w + 1;
    return geom;
}

typedef struct conv_sizes {
    int64_t x, y, filter, k;
} conv_sizes;

static conv_sizes sizes_of(const nn_conv2d_geom *geom)
{
    return (conv_sizes){.x = geom->n * geom->c * geom->h * geom->w,
                        .y = geom->n * geom->k * geom->p * geom->q,
                        .filter = geom->k * (geom->c / geom->groups) * geom->r * geom->s,
                        .k = geom->k};
}

/* out: y with bias, y without, dx, dx added to numbers, dfilter with dbias, dfilter alone. */
static int64_t n_conv_outputs(const conv_sizes *size)
{
    return 2 * size->y + 2 * size->x + 2 * size->filter + size->k;
}

static void run_conv(nn_backend *backend, const void *arg, float *out)
{
    const nn_conv2d_geom geom = geom_of(arg);
    const conv_sizes size = sizes_of(&geom);
    const nn_backend_ops *ops = backend->ops;
    const nn_shape in = kernel_shape(geom.n, geom.c, geom.h, geom.w);
    const nn_shape to = kernel_shape(geom.n, geom.k, geom.p, geom.q);
    float *x = kernel_random_activation(backend, 1, &in);
    float *dy = kernel_random_activation(backend, 4, &to);
    float *filter = kernel_random_floats(2, size.filter), *bias = kernel_random_floats(3, size.k);
    float *y = kernel_blank(backend, &to), *plain_y = kernel_blank(backend, &to);
    float *dx = kernel_blank(backend, &in), *added_dx = kernel_random_activation(backend, 5, &in);
    float *dfilter = out + 2 * (size.y + size.x);
    void *workspace = kernel_spoilt_workspace(backend, &geom);

    assert_ok(ops->conv2d_forward(backend, &geom, x, filter, bias, y, workspace));
    assert_ok(ops->conv2d_forward(backend, &geom, x, filter, NULL, plain_y, workspace));
    assert_ok(ops->conv2d_backward_data(backend, &geom, dy, filter, dx, 0, workspace));
    assert_ok(ops->conv2d_backward_data(backend, &geom, dy, filter, added_dx, 1, workspace));
    assert_ok(ops->conv2d_backward_filter(backend, &geom, x, dy, dfilter, dfilter + size.filter,
                                          workspace));
    assert_ok(ops->conv2d_backward_filter(backend, &geom, x, dy, dfilter + size.filter + size.k,
                                          NULL, workspace));
    assert_ok(ops->sync(backend));
    kernel_take(backend, &to, y, out);
    kernel_take(backend, &to, plain_y, out + size.y);
    kernel_take(backend, &in, dx, out + 2 * size.y);
    kernel_take(backend, &in, added_dx, out + 2 * size.y + size.x);
    ops->release(backend, workspace);
    cvy_free(x);
    cvy_free(filter);
    cvy_free(bias);
    cvy_free(dy);
}

static void conv2d_every_shape_is_as_reference_at_any_thread_count(void **state)
{
    (void)state;
    for (int i = 0; i < N_CONV_CASES; i++) {
        const nn_conv2d_geom geom = geom_of(&conv_cases[i]);
        const conv_sizes size = sizes_of(&geom);
        kernel_check(conv_cases[i].what, run_conv, &conv_cases[i], n_conv_outputs(&size),
                     kernel_conv_tolerance(&geom));
    }
}

/* Whatever images it shares a batch with, an image's output and gradient have the same bits. */
static void conv2d_of_an_image_does_not_depend_on_the_others(void **state)
{
    static const conv_case cases[] = {
        {"sweep", 70, 16, 5, 6, 32, 3, 3, 2, 2, 2, 2, 1, 1, 1},
        {"planes", 70, 3, 9, 21, 6, 3, 3, 1, 1, 1, 1, 1, 1, 1},
        {"planes, 5 rows of taps", 70, 2, 9, 21, 6, 5, 3, 1, 1, 2, 1, 1, 1, 1},
        {"planes to blocks", 70, 3, 9, 21, 20, 3, 3, 1, 1, 1, 1, 1, 1, 1},
        {"14x14, 5x5", 70, 5, 14, 12, 20, 5, 5, 1, 1, 0, 1, 1, 1, 1},
        {"blocks to planes", 70, 20, 9, 21, 6, 5, 5, 1, 1, 2, 2, 1, 1, 1},
        {"stem", 70, 3, 19, 37, 20, 7, 7, 2, 2, 3, 3, 1, 1, 1},
        {"1x1", 70, 48, 7, 7, 80, 1, 1, 1, 1, 0, 0, 1, 1, 1},
        {"depthwise", 70, 20, 5, 6, 20, 3, 3, 1, 1, 1, 1, 1, 1, 20},
        {"groups of 4, stride 2", 70, 300, 5, 6, 300, 3, 3, 2, 2, 1, 1, 1, 1, 75},
        {"groups of 16", 70, 32, 5, 6, 32, 3, 3, 1, 1, 1, 1, 1, 1, 2},
        {"transformed", 70, 16, 8, 7, 32, 3, 3, 1, 1, 1, 1, 1, 1, 1},
        {"transformed, tiles in the padding", 70, 16, 5, 9, 48, 3, 3, 1, 1, 6, 6, 1, 1, 1},
        {"transformed, fours and threes", 70, 16, 14, 10, 48, 3, 3, 1, 1, 1, 1, 1, 1, 1},
        {"transformed, in slabs", 290, 496, 4, 4, 240, 3, 3, 1, 1, 1, 1, 1, 1, 1},
        {"transformed, in slabs, fours and threes", 70, 496, 7, 6, 240, 3, 3, 1, 1, 1, 1, 1, 1, 1},
        {"transformed, stride 2", 70, 20, 14, 11, 48, 3, 3, 2, 2, 1, 1, 1, 1, 1},
        {"transformed, stride 2, in slabs", 290, 360, 7, 8, 330, 3, 3, 2, 2, 1, 1, 1, 1, 1}};
    nn_backend *backend = kernel_backend("cpu", 2);
    const nn_backend_ops *ops = backend->ops;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        nn_conv2d_geom geom = geom_of(&cases[i]);
        const int64_t n = geom.n;
        const nn_shape in = kernel_shape(n, geom.c, geom.h, geom.w);
        const nn_shape to = kernel_shape(n, geom.k, geom.p, geom.q);
        const int64_t n_in = ops->activation_elems(backend, &in) / n;
        const int64_t n_out = ops->activation_elems(backend, &to) / n;
        float *x = kernel_random_activation(backend, 1, &in), *dx = kernel_blank(backend, &in);
        float *dy = kernel_random_activation(backend, 2, &to), *y = kernel_blank(backend, &to);
        float *one = kernel_floats(n_in + n_out);
        float *filter = kernel_random_floats(3, geom.k * geom.c * geom.r * geom.s);
        void *workspace = kernel_spoilt_workspace(backend, &geom);

        assert_ok(ops->conv2d_forward(backend, &geom, x, filter, NULL, y, workspace));
        assert_ok(ops->conv2d_backward_data(backend, &geom, dy, filter, dx, 0, workspace));
        geom.n = 1;
        for (int64_t image = 0; image < n; image += (n - 1) / 5) {
            assert_ok(ops->conv2d_forward(backend, &geom, x + image * n_in, filter, NULL, one,
                                          workspace));
            assert_memory_equal(one, y + image * n_out, (size_t)n_out * sizeof *one);
            assert_ok(ops->conv2d_backward_data(backend, &geom, dy + image * n_out, filter, one, 0,
                                                workspace));
            assert_memory_equal(one, dx + image * n_in, (size_t)n_in * sizeof *one);
        }
        ops->release(backend, workspace);
        cvy_free(x);
        cvy_free(dx);
        cvy_free(dy);
        cvy_free(y);
        cvy_free(one);
        cvy_free(filter);
    }
    nn_backend_close(&backend);
}

/* --- A convolution with its tail -----------------------------------------------------------------
 */

/* out: with all of the tail, then batch norm alone. Backends without the kernel run its parts. */
static void run_conv_tail(nn_backend *backend, const void *arg, float *out)
{
    const nn_conv2d_geom geom = geom_of(arg);
    const conv_sizes size = sizes_of(&geom);
    const nn_backend_ops *ops = backend->ops;
    const nn_shape in = kernel_shape(geom.n, geom.c, geom.h, geom.w);
    const nn_shape to = kernel_shape(geom.n, geom.k, geom.p, geom.q);
    const int64_t n = ops->activation_elems(backend, &to);
    const nn_bn_geom norm = {.n = geom.n, .c = geom.k, .spatial = geom.p * geom.q, .eps = 1e-5};
    float *x = kernel_random_activation(backend, 1, &in);
    float *residual = kernel_floats(n);
    float *filter = kernel_random_floats(2, size.filter);
    float *values = kernel_random_floats(3, 5 * size.k); /* bias, gamma, beta, mean, variance */
    void *workspace = kernel_spoilt_workspace(backend, &geom);

    for (int64_t i = 0; i < size.k; i++) values[4 * size.k + i] = 1.5f + values[4 * size.k + i];
    for (int all = 1; all >= 0; all--) {
        float *y = all ? kernel_random_activation(backend, 4, &to) : kernel_blank(backend, &to);
        const nn_conv_tail tail = {.gamma = values + size.k,
                                   .beta = values + 2 * size.k,
                                   .running_mean = values + 3 * size.k,
                                   .running_var = values + 4 * size.k,
                                   .eps = norm.eps,
                                   .residual = all ? y : NULL,
                                   .is_relu = all};
        const float *bias = all ? values : NULL;
        if (ops->conv2d_tail_forward != NULL) {
            assert_ok(
                ops->conv2d_tail_forward(backend, &geom, x, filter, bias, &tail, y, workspace));
        } else {
            memcpy(residual, y, (size_t)n * sizeof *y);
            assert_ok(ops->conv2d_forward(backend, &geom, x, filter, bias, y, workspace));
            assert_ok(ops->batchnorm_inference(backend, &norm, y, tail.gamma, tail.beta,
                                               tail.running_mean, tail.running_var, y));
            if (all) assert_ok(ops->accumulate(backend, n, residual, y));
            if (all) assert_ok(ops->relu_forward(backend, n, y, y));
        }
        kernel_take(backend, &to, y, out + (1 - all) * size.y);
    }
    ops->release(backend, workspace);
    cvy_free(x);
    cvy_free(residual);
    cvy_free(filter);
    cvy_free(values);
}

static void conv2d_with_a_tail_is_as_its_parts_at_any_thread_count(void **state)
{
    (void)state;
    for (int i = 0; i < N_CONV_CASES; i++) {
        const nn_conv2d_geom geom = geom_of(&conv_cases[i]);
        const conv_sizes size = sizes_of(&geom);
        /* Variances are 0.5 at least. */
        kernel_check(conv_cases[i].what, run_conv_tail, &conv_cases[i], 2 * size.y,
                     1.5 * kernel_conv_tolerance(&geom));
    }
}

/* A net is planned for its minibatch, and the last batch of an epoch may be smaller. */
static void conv2d_workspace_of_fewer_images_is_not_larger(void **state)
{
    (void)state;
    for (int idx = 0; idx < nn_backend_count(); idx++) {
        nn_backend *backend = kernel_backend(nn_backend_at(idx)->name, 3);
        for (int i = 0; i < N_CONV_CASES; i++) {
            nn_conv2d_geom geom = geom_of(&conv_cases[i]);
            size_t before = 0;
            for (geom.n = 1; geom.n < 80; geom.n++) {
                const size_t now = backend->ops->conv2d_workspace_bytes(backend, &geom);
                if (now < before) {
                    fail_msg("%s: %zu bytes for %lld images, %zu for one less", conv_cases[i].what,
                             now, (long long)geom.n, before);
                }
                before = now;
            }
        }
        nn_backend_close(&backend);
    }
}

static void conv2d_hand_values(nn_backend *backend)
{
    static const conv_case test = {"", 1, 1, 3, 3, 1, 2, 2, 1, 1, 1, 1, 1, 1, 1};
    static const float x[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    static const float filter[4] = {1, 10, 100, 1000}; /* not flipped, so digits show places */
    static const float bias[1] = {0.5f};
    static const float expected[16] = {1000.5f, 2100.5f, 3200.5f, 300.5f,  4010.5f, 5421.5f,
                                       6532.5f, 603.5f,  7040.5f, 8754.5f, 9865.5f, 906.5f,
                                       70.5f,   87.5f,   98.5f,   9.5f};
    const nn_conv2d_geom geom = geom_of(&test);
    void *workspace = kernel_spoilt_workspace(backend, &geom);
    float y[16];

    assert_ok(backend->ops->conv2d_forward(backend, &geom, x, filter, bias, y, workspace));
    assert_memory_equal(y, expected, sizeof y);
    backend->ops->release(backend, workspace);
}

static void conv2d_of_small_image_gives_hand_computed_values(void **state)
{
    (void)state;
    kernel_for_each_backend(conv2d_hand_values);
}

static double dot(int64_t n, const float *a, const float *b)
{
    double sum = 0.0;

    for (int64_t i = 0; i < n; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}

/* y is linear in x and in the filter, so <y, dy> = <x, dx> = <filter, dfilter>, exactly. */
static void conv2d_backward_is_adjoint_of_forward(void **state)
{
    nn_backend *backend = kernel_backend("ref", 1);

    (void)state;
    for (int i = 0; i < N_CONV_CASES; i++) {
        const nn_conv2d_geom geom = geom_of(&conv_cases[i]);
        const conv_sizes size = sizes_of(&geom);
        float *out = kernel_floats(n_conv_outputs(&size));
        float *x = kernel_random_floats(1, size.x), *filter = kernel_random_floats(2, size.filter);
        float *dy = kernel_random_floats(4, size.y);
        const float *dx = out + 2 * size.y;

        run_conv(backend, &conv_cases[i], out);
        const double forward = dot(size.y, out + size.y, dy);
        /* Outputs were rounded to float: 1e-7 each, of sums below 1e4. */
        assert_true(fabs(forward - dot(size.x, x, dx)) < 1e-3);
        assert_true(fabs(forward - dot(size.filter, filter, dx + 2 * size.x)) < 1e-3);
        cvy_free(out);
        cvy_free(x);
        cvy_free(filter);
        cvy_free(dy);
    }
    nn_backend_close(&backend);
}

typedef struct dense_case {
    const char *what;
    int64_t n, c, k;
} dense_case;

static const dense_case dense_cases[] = {
    {"small, whole vectors", 16, 48, 20},
    {"small, odd everything", 13, 59, 21},
    {"small, wide input", 9, 400, 120},
    {"small, one output", 21, 33, 1},
    {"small, one input", 5, 1, 19},
    {"small, many images", 301, 20, 10},
    {"one of everything", 1, 1, 1},
    {"one image", 1, 67, 10},
    {"one input", 5, 1, 7},
    {"one output", 9, 31, 1},
    {"outputs in blocks", 7, 33, 150},
    {"inputs in blocks", 3, 601, 5},
    {"images in blocks", 300, 9, 4},
    {"large, outputs in blocks", 7, 453, 150},
    {"large, inputs in blocks", 3, 601, 111},
    {"large, images in blocks", 300, 501, 140},
};

/* out: y with bias, y without, dx, dx added, dweight, dbias, dweight alone (no dx, no dbias), dx
 * alone. */
static void run_dense(nn_backend *backend, const void *arg, float *out)
{
    const dense_case *test = arg;
    const int64_t n = test->n, c = test->c, k = test->k;
    const nn_backend_ops *ops = backend->ops;
    float *x = kernel_random_floats(1, n * c), *weight = kernel_random_floats(2, k * c);
    float *bias = kernel_random_floats(3, k), *dy = kernel_random_floats(4, n * k);
    float *dx = out + 2 * n * k, *dweight = dx + 2 * n * c;

    assert_ok(ops->dense_forward(backend, n, c, k, x, weight, bias, out));
    assert_ok(ops->dense_forward(backend, n, c, k, x, weight, NULL, out + n * k));
    assert_ok(
        ops->dense_backward(backend, n, c, k, x, weight, dy, dx, 0, dweight, dweight + k * c));
    kernel_random(5, n * c, dx + n * c);
    assert_ok(ops->dense_backward(backend, n, c, k, x, weight, dy, dx + n * c, 1, dweight,
                                  dweight + k * c));
    assert_ok(
        ops->dense_backward(backend, n, c, k, x, weight, dy, NULL, 0, dweight + k * c + k, NULL));
    assert_ok(ops->dense_backward(backend, n, c, k, x, weight, dy, dweight + 2 * k * c + k, 0, NULL,
                                  NULL));
    cvy_free(x);
    cvy_free(weight);
    cvy_free(bias);
    cvy_free(dy);
}

static void dense_every_shape_is_as_reference_at_any_thread_count(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof dense_cases / sizeof dense_cases[0]; i++) {
        const dense_case *test = &dense_cases[i];
        const int64_t n_out = test->n * (2 * test->k + 3 * test->c) + 2 * test->k * test->c +
                              test->k;
        /* Sums of up to 601 products below 1 in float. */
        kernel_check(test->what, run_dense, test, n_out, 1e-5);
    }
}

static void dense_hand_values(nn_backend *backend)
{
    static const float x[4] = {1, 2, 3, 4}, weight[6] = {1, 0, 0, 1, 1, 1};
    static const float bias[3] = {10, 20, 30}, dy[6] = {1, 2, 3, 4, 5, 6};
    static const float expected_y[6] = {11, 22, 33, 13, 24, 37};
    static const float expected_dx[4] = {4, 5, 10, 11};
    static const float expected_dweight[6] = {13, 18, 17, 24, 21, 30};
    static const float expected_dbias[3] = {5, 7, 9};
    float y[6], dx[4], dweight[6], dbias[3];

    assert_ok(backend->ops->dense_forward(backend, 2, 2, 3, x, weight, bias, y));
    assert_ok(backend->ops->dense_backward(backend, 2, 2, 3, x, weight, dy, dx, 0, dweight, dbias));
    assert_memory_equal(y, expected_y, sizeof y);
    assert_memory_equal(dx, expected_dx, sizeof dx);
    assert_memory_equal(dweight, expected_dweight, sizeof dweight);
    assert_memory_equal(dbias, expected_dbias, sizeof dbias);
}

static void dense_of_small_matrix_gives_hand_computed_values(void **state)
{
    (void)state;
    kernel_for_each_backend(dense_hand_values);
}

static const struct CMUnitTest tests[] = {
    cvy_unit_test(conv2d_every_shape_is_as_reference_at_any_thread_count),
    cvy_unit_test(conv2d_with_a_tail_is_as_its_parts_at_any_thread_count),
    cvy_unit_test(conv2d_of_an_image_does_not_depend_on_the_others),
    cvy_unit_test(conv2d_workspace_of_fewer_images_is_not_larger),
    cvy_unit_test(conv2d_of_small_image_gives_hand_computed_values),
    cvy_unit_test(conv2d_backward_is_adjoint_of_forward),
    cvy_unit_test(dense_every_shape_is_as_reference_at_any_thread_count),
    cvy_unit_test(dense_of_small_matrix_gives_hand_computed_values),
};

int main(void)
{
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
