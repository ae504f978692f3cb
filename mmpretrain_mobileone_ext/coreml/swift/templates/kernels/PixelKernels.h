// Loops over pixels, in C because Swift's are some fifty times slower in a
// debug build. Sixteen products a statement keep them fast without an
// optimizer. All arithmetic is whole numbers, so that the pixels are the same
// in every build and on every machine.
//
// Everything is static: an app may hold two such packages.
#ifndef PIXEL_KERNELS_H
#define PIXEL_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef PIXEL_KERNEL
#define PIXEL_KERNEL static inline
#endif

typedef uint8_t PixelBytes16 __attribute__((vector_size(16), aligned(1), may_alias));
typedef int32_t PixelSums16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t PixelWord __attribute__((aligned(1), may_alias));

#define PIXEL_WIDE(p) __builtin_convertvector(*(const PixelBytes16 *)(p), PixelSums16)

/// For each new pixel the old ones that it is made of, and their weights in
/// units of 2 to the power of -22, as Pillow has them.
typedef struct {
    ptrdiff_t count;
    /// First old pixel of each new one.
    const ptrdiff_t *firsts;
    /// Where the weights of each new pixel start, and where the last end.
    const ptrdiff_t *starts;
    const int32_t *weights;
} PixelTaps;

/// For each new pixel as many old ones, and their weights in units of 1/2048,
/// as OpenCV has them.
typedef struct {
    ptrdiff_t count;
    /// Old pixels of each new one, 2 or 4.
    ptrdiff_t length;
    const ptrdiff_t *pixels;
    const int32_t *weights;
} PixelSamples;

/// From Y'CbCr to R'G'B', in units of 2 to the power of -16.
typedef struct {
    int32_t black, luma, red_of_cr, green_of_cb, green_of_cr, blue_of_cb;
} PixelYCbCr;

PIXEL_KERNEL uint8_t pixel_clipped(int32_t value) {
    return value < 0 ? 0 : value > 255 ? 255 : (uint8_t)value;
}

/// One new pixel of B G R A; alpha becomes 255.
PIXEL_KERNEL void pixel_sum_color(
    const uint8_t *old, const int32_t *weights, const int32_t *fourfold, ptrdiff_t count,
    uint8_t *new_pixel
) {
    PixelSums16 sums = {0};
    ptrdiff_t tap = 0;
    for (; tap + 16 <= count; tap += 16, old += 64) {
        const PixelSums16 *w = (const PixelSums16 *)(fourfold + 4 * tap);
        sums += PIXEL_WIDE(old) * w[0] + PIXEL_WIDE(old + 16) * w[1]
            + PIXEL_WIDE(old + 32) * w[2] + PIXEL_WIDE(old + 48) * w[3];
    }
    for (; tap + 4 <= count; tap += 4, old += 16) {
        sums += PIXEL_WIDE(old) * *(const PixelSums16 *)(fourfold + 4 * tap);
    }
    int32_t blue = (1 << 21) + sums[0] + sums[4] + sums[8] + sums[12];
    int32_t green = (1 << 21) + sums[1] + sums[5] + sums[9] + sums[13];
    int32_t red = (1 << 21) + sums[2] + sums[6] + sums[10] + sums[14];
    for (; tap < count; tap++, old += 4) {
        blue += old[0] * weights[tap];
        green += old[1] * weights[tap];
        red += old[2] * weights[tap];
    }
    new_pixel[0] = pixel_clipped(blue >> 22);
    new_pixel[1] = pixel_clipped(green >> 22);
    new_pixel[2] = pixel_clipped(red >> 22);
    new_pixel[3] = 255;
}

/// One new gray pixel.
PIXEL_KERNEL uint8_t pixel_sum_gray(
    const uint8_t *old, const int32_t *weights, ptrdiff_t count
) {
    PixelSums16 sums = {0};
    ptrdiff_t tap = 0;
    for (; tap + 16 <= count; tap += 16) {
        sums += PIXEL_WIDE(old + tap) * *(const PixelSums16 *)(weights + tap);
    }
    int32_t gray = 1 << 21;
    for (int lane = 0; lane < 16; lane++) {
        gray += sums[lane];
    }
    for (; tap < count; tap++) {
        gray += old[tap] * weights[tap];
    }
    return pixel_clipped(gray >> 22);
}

/// New columns as weighted sums of old ones: (height, width, channels) to
/// (height, taps.count, channels). `fourfold` has every weight four times.
PIXEL_KERNEL void pixel_widen(
    const uint8_t *old, ptrdiff_t width, ptrdiff_t height, ptrdiff_t channels, PixelTaps taps,
    const int32_t *fourfold, uint8_t *found
) {
    for (ptrdiff_t y = 0; y < height; y++, old += width * channels) {
        for (ptrdiff_t x = 0; x < taps.count; x++, found += channels) {
            const uint8_t *first = old + channels * taps.firsts[x];
            ptrdiff_t start = taps.starts[x], count = taps.starts[x + 1] - start;
            if (channels == 4) {
                pixel_sum_color(
                    first, taps.weights + start, fourfold + 4 * start, count, found);
            } else {
                *found = pixel_sum_gray(first, taps.weights + start, count);
            }
        }
    }
}

/// Sixteen bytes of a new row; `row` is the distance of the old rows.
PIXEL_KERNEL void pixel_sum_rows(
    const uint8_t *old, ptrdiff_t row, const int32_t *weights, ptrdiff_t count, uint8_t *found
) {
    PixelSums16 sums = {0};
    sums += 1 << 21;
    ptrdiff_t tap = 0;
    for (; tap + 4 <= count; tap += 4, old += 4 * row) {
        sums += PIXEL_WIDE(old) * weights[tap] + PIXEL_WIDE(old + row) * weights[tap + 1]
            + PIXEL_WIDE(old + 2 * row) * weights[tap + 2]
            + PIXEL_WIDE(old + 3 * row) * weights[tap + 3];
    }
    for (; tap < count; tap++, old += row) {
        sums += PIXEL_WIDE(old) * weights[tap];
    }
    sums >>= 22;
    for (int lane = 0; lane < 16; lane++) {
        found[lane] = pixel_clipped(sums[lane]);
    }
}

/// New rows as weighted sums of old ones; `row` is the bytes of a row.
PIXEL_KERNEL void pixel_heighten(
    const uint8_t *old, ptrdiff_t row, PixelTaps taps, uint8_t *found
) {
    for (ptrdiff_t y = 0; y < taps.count; y++, found += row) {
        const uint8_t *first = old + taps.firsts[y] * row;
        const int32_t *weights = taps.weights + taps.starts[y];
        ptrdiff_t count = taps.starts[y + 1] - taps.starts[y], x = 0;
        for (; x + 16 <= row; x += 16) {
            pixel_sum_rows(first + x, row, weights, count, found + x);
        }
        for (; x < row; x++) {
            int32_t sum = 1 << 21;
            for (ptrdiff_t tap = 0; tap < count; tap++) {
                sum += first[tap * row + x] * weights[tap];
            }
            found[x] = pixel_clipped(sum >> 22);
        }
    }
}

/// One old row at the new columns, in units of 1/2048.
PIXEL_KERNEL void pixel_sample_row(
    const uint8_t *old, ptrdiff_t channels, PixelSamples columns, int32_t *line
) {
    for (ptrdiff_t x = 0; x < columns.count; x++) {
        const ptrdiff_t *pixels = columns.pixels + x * columns.length;
        const int32_t *weights = columns.weights + x * columns.length;
        for (ptrdiff_t channel = 0; channel < channels; channel++) {
            int32_t sum = 0;
            for (ptrdiff_t i = 0; i < columns.length; i++) {
                sum += old[pixels[i] * channels + channel] * weights[i];
            }
            *line++ = sum;
        }
    }
}

/// OpenCV's interpolation. `lines` holds `rows.length` lines of columns.count
/// times channels; `truncates`: round as OpenCV's linear pass over columns.
PIXEL_KERNEL void pixel_interpolate(
    const uint8_t *old, ptrdiff_t width, ptrdiff_t channels, PixelSamples columns,
    PixelSamples rows, bool truncates, int32_t *lines, uint8_t *found
) {
    ptrdiff_t row = columns.count * channels;
    // Neighboring new rows read the same old ones: line n is row `held[n]`.
    ptrdiff_t held[4] = {-1, -1, -1, -1};
    for (ptrdiff_t y = 0; y < rows.count; y++) {
        const ptrdiff_t *pixels = rows.pixels + y * rows.length;
        const int32_t *weights = rows.weights + y * rows.length;
        for (ptrdiff_t i = 0; i < rows.length; i++) {
            ptrdiff_t slot = pixels[i] % rows.length;
            if (held[slot] != pixels[i]) {
                held[slot] = pixels[i];
                pixel_sample_row(
                    old + pixels[i] * width * channels, channels, columns, lines + slot * row);
            }
        }
        for (ptrdiff_t x = 0; x < row; x++) {
            int64_t sum = truncates ? 2 : 1 << 21;
            for (ptrdiff_t i = 0; i < rows.length; i++) {
                int64_t value = lines[(pixels[i] % rows.length) * row + x];
                sum += truncates ? (weights[i] * (value >> 4)) >> 16 : weights[i] * value;
            }
            *found++ = pixel_clipped((int32_t)(sum >> (truncates ? 2 : 22)));
        }
    }
}

/// The pixels at these columns and rows.
PIXEL_KERNEL void pixel_pick(
    const uint8_t *old, ptrdiff_t width, ptrdiff_t channels, const ptrdiff_t *columns,
    ptrdiff_t column_count, const ptrdiff_t *rows, ptrdiff_t row_count, uint8_t *found
) {
    for (ptrdiff_t y = 0; y < row_count; y++) {
        const uint8_t *row = old + rows[y] * width * channels;
        for (ptrdiff_t x = 0; x < column_count; x++, found += channels) {
            const uint8_t *pixel = row + columns[x] * channels;
            if (channels == 4) {
                *(PixelWord *)found = *(const PixelWord *)pixel;
            } else {
                *found = *pixel;
            }
        }
    }
}

/// A tile of new pixels, whose old ones lie `across` bytes from column to
/// column and `down` bytes from row to row.
PIXEL_KERNEL void pixel_turn_tile(
    const uint8_t *old, ptrdiff_t across, ptrdiff_t down, ptrdiff_t channels, ptrdiff_t width,
    ptrdiff_t height, ptrdiff_t row, uint8_t *found
) {
    for (ptrdiff_t y = 0; y < height; y++) {
        const uint8_t *pixel = old + y * down;
        uint8_t *target = found + y * row, *end = target + width * channels;
        if (channels == 4) {
            for (; target < end; target += 4, pixel += across) {
                *(PixelWord *)target = *(const PixelWord *)pixel;
            }
        } else {
            for (; target < end; target += 1, pixel += across) {
                *target = *pixel;
            }
        }
    }
}

/// A turned or mirrored image of (height, width), the new one's. Its first
/// pixel is at `old`; see `pixel_turn_tile` for `across` and `down`.
PIXEL_KERNEL void pixel_turn(
    const uint8_t *old, ptrdiff_t across, ptrdiff_t down, ptrdiff_t channels, ptrdiff_t width,
    ptrdiff_t height, uint8_t *found
) {
    // Tiles stay in the cache, whichever way the rows run.
    const ptrdiff_t side = 64;
    for (ptrdiff_t y = 0; y < height; y += side) {
        for (ptrdiff_t x = 0; x < width; x += side) {
            pixel_turn_tile(
                old + y * down + x * across, across, down, channels,
                width - x < side ? width - x : side, height - y < side ? height - y : side,
                width * channels, found + (y * width + x) * channels);
        }
    }
}

/// Gray to B G R A.
PIXEL_KERNEL void pixel_gray_to_color(const uint8_t *old, ptrdiff_t count, uint8_t *found) {
    for (const uint8_t *end = old + count; old < end; old++, found += 4) {
        *(PixelWord *)found = 0x010101u * *old | 0xFF000000u;
    }
}

/// B G R A to gray with the weights of OpenCV's reader: ITU-R BT.601 in 14-bit
/// fixed point.
PIXEL_KERNEL void pixel_color_to_gray(const uint8_t *old, ptrdiff_t count, uint8_t *found) {
    for (uint8_t *end = found + count; found < end; found++, old += 4) {
        *found = (uint8_t)((1868 * old[0] + 9617 * old[1] + 4899 * old[2] + (1 << 13)) >> 14);
    }
}

/// Colors of `step` bytes a pixel in one order to `new_step` bytes in the
/// other: R G B to B G R A or back. The fourth byte becomes 255.
PIXEL_KERNEL void pixel_swap(
    const uint8_t *old, ptrdiff_t step, ptrdiff_t count, ptrdiff_t new_step, uint8_t *found
) {
    for (ptrdiff_t i = 0; i < count; i++, old += step, found += new_step) {
        found[0] = old[2];
        found[1] = old[1];
        found[2] = old[0];
        if (new_step == 4) {
            found[3] = 255;
        }
    }
}

/// B G R A, or gray where `step` is 1, to a plane of numbers for each channel.
/// `reversed`: R, G, B; else B, G, R.
PIXEL_KERNEL void pixel_planes(
    const uint8_t *old, ptrdiff_t step, ptrdiff_t count, bool reversed, float *found
) {
    for (ptrdiff_t channel = 0, last = step == 1 ? 0 : 2; channel <= last; channel++) {
        const uint8_t *from = old + (reversed && last ? last - channel : channel);
        for (float *end = found + count; found < end; found++, from += step) {
            *found = *from;
        }
    }
}

/// B G R A whose colors were multiplied by alpha, back to colors alone, in
/// place. Where alpha is 0, color is lost: it is black.
PIXEL_KERNEL void pixel_unpremultiply(uint8_t *pixels, ptrdiff_t count) {
    for (uint8_t *end = pixels + 4 * count; pixels < end; pixels += 4) {
        int32_t alpha = pixels[3];
        for (int channel = 0; channel < 3 && alpha > 0 && alpha < 255; channel++) {
            pixels[channel] = pixel_clipped((255 * pixels[channel] + alpha / 2) / alpha);
        }
        pixels[3] = 255;
    }
}

/// A camera's two planes, Y' and Cb Cr of half the size, to B G R A. Each pair
/// of Cb and Cr holds for its four pixels.
PIXEL_KERNEL void pixel_ycbcr_to_color(
    const uint8_t *luma, ptrdiff_t luma_row, const uint8_t *chroma, ptrdiff_t chroma_row,
    ptrdiff_t width, ptrdiff_t height, PixelYCbCr matrix, uint8_t *found
) {
    for (ptrdiff_t y = 0; y < height; y++) {
        const uint8_t *pairs = chroma + y / 2 * chroma_row;
        for (ptrdiff_t x = 0; x < width; x++, found += 4) {
            int32_t cb = pairs[x & ~(ptrdiff_t)1] - 128, cr = pairs[x | 1] - 128;
            int32_t gray = (luma[y * luma_row + x] - matrix.black) * matrix.luma + (1 << 15);
            found[0] = pixel_clipped((gray + matrix.blue_of_cb * cb) >> 16);
            found[1] = pixel_clipped(
                (gray + matrix.green_of_cb * cb + matrix.green_of_cr * cr) >> 16);
            found[2] = pixel_clipped((gray + matrix.red_of_cr * cr) >> 16);
            found[3] = 255;
        }
    }
}

#endif
