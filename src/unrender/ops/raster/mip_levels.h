// The loops of mips.py on a CPU. Each runs through its levels in turn, for one band of rows of every level.

// section: sizes
const int images = pyramid.images, height = pyramid.height, width = pyramid.width, channels = pyramid.channels;

// section: sides
// The sizes of a level and of the one below it, and the rows of the band. A side of one texel stays: then only two texels are averaged.
const int below_h = (height >> (level - 1)) > 1 ? height >> (level - 1) : 1;
const int below_w = (width >> (level - 1)) > 1 ? width >> (level - 1) : 1;
const int h = below_h > 1 ? below_h / 2 : 1, w = below_w > 1 ? below_w / 2 : 1;
const int step_down = below_h > 1 ? below_w * channels : 0, step_right = below_w > 1 ? channels : 0;
const float share = (below_h > 1 ? 0.5f : 1.f) * (below_w > 1 ? 0.5f : 1.f);
const int band_begin = h * band / bands, band_end = h * (band + 1) / bands;

// section: build
// use: sizes
for (int level = first_level; level < end_level; level++) {
    // use: sides
    for (int image = 0; image < images; image++)
    for (int row = band_begin; row < band_end; row++) {
        const float* top = (const float*)pyramid.levels[level - 1] + (image * below_h + (below_h > 1 ? 2 : 1) * row) * below_w * channels;
        const float* bottom = top + step_down;
        float* out = (float*)pyramid.levels[level] + (image * h + row) * w * channels;
        if (step_right && step_down && channels == 3) {
            for (int x = 0; x < w; x++)
                for (int c = 0; c < 3; c++)
                    out[3 * x + c] = share * (top[6 * x + c] + top[6 * x + 3 + c] + bottom[6 * x + c] + bottom[6 * x + 3 + c]);
        } else if (step_right && step_down) {
            for (int x = 0; x < w; x++) {
                const float* a = top + 2 * x * channels;
                const float* b = bottom + 2 * x * channels;
                for (int c = 0; c < channels; c++) out[x * channels + c] = share * (a[c] + a[channels + c] + b[c] + b[channels + c]);
            }
        } else {
            const float* other = step_right ? top + step_right : bottom;
            const int stride = (step_right ? 2 : 1) * channels;
            for (int x = 0; x < w; x++)
                for (int c = 0; c < channels; c++) out[x * channels + c] = share * (top[x * stride + c] + other[x * stride + c]);
        }
    }
}

// section: pull
// use: sizes
unsigned char* const rows = (unsigned char*)pyramid.written;  // which rows of which level hold a gradient; null where nobody noted them
const int image_rows = images * height;
for (int level = end_level - 1; level >= first_level; level--) {
    // use: sides
    for (int image = 0; image < images; image++)
    for (int row = band_begin; row < band_end; row++) {
        if (rows) {
            if (!rows[level * image_rows + image * h + row]) continue;
            unsigned char* below = rows + (level - 1) * image_rows + image * below_h + (below_h > 1 ? 2 : 1) * row;
            below[0] = 1;
            if (below_h > 1) below[1] = 1;
        }
        float* top = (float*)pyramid.levels[level - 1] + (image * below_h + (below_h > 1 ? 2 : 1) * row) * below_w * channels;
        const float* from = (const float*)pyramid.levels[level] + (image * h + row) * w * channels;
        const int stride = (step_right ? 2 : 1) * channels;
        for (int begin = 0; begin < w; begin += 16) {  // skip sixteen texels whose gradient is zero
            const int end = begin + 16 < w ? begin + 16 : w;
            int any = 0;
            for (int k = begin * channels; k < end * channels; k++) any |= from[k] != 0.f;
            if (!any) continue;
            if (step_right && step_down && channels == 3) {
                for (int x = begin; x < end; x++)
                    for (int c = 0; c < 3; c++) {
                        const float part = share * from[3 * x + c];
                        top[6 * x + c] += part;
                        top[6 * x + 3 + c] += part;
                        top[step_down + 6 * x + c] += part;
                        top[step_down + 6 * x + 3 + c] += part;
                    }
                continue;
            }
            for (int x = begin; x < end; x++) {
                float* to = top + x * stride;
                for (int c = 0; c < channels; c++) {
                    const float part = share * from[x * channels + c];
                    to[c] += part;
                    if (step_right) to[c + step_right] += part;
                    if (step_down) to[c + step_down] += part;
                    if (step_right && step_down) to[c + step_down + step_right] += part;
                }
            }
        }
    }
}
