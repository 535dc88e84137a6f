// The bending energy of some layers of a grid: the loops over the voxels of one row of ops/encodings/grid_bending.py.
//
// `layer` counts from the first of `layers`, which is `begin`; `y` is the row of the layer.

// section: laplacian
// Differences of the six neighbors to each inner voxel, zero at the border; and the sum of their squares.
const int row = size_x, plane = size_y * size_x, offset = layer * plane + y * row;
const float* g = vertices.data + (long long)begin * plane + offset;
float* out = laplacian.data + offset;
float sum = 0.f;
if (layer == 0 || layer == layers - 1 || y == 0 || y == size_y - 1) {
    for (int x = 0; x < row; x++) out[x] = 0.f;
} else {
    out[0] = out[row - 1] = 0.f;
    for (int x = 1; x < row - 1; x++)
        out[x] = ((g[x - plane] + g[x + plane]) + (g[x - row] + g[x + row]) + (g[x - 1] + g[x + 1])) - 6.f * g[x];
    for (int x = 1; x < row - 1; x++) sum += out[x] * out[x];
}
sums.data[layer * size_y + y] = sum;

// section: gradient
// The transposed differences, times `scale`, added to the gradient of the grid.
const int row = size_x, plane = size_y * size_x, offset = layer * plane + y * row;
const float* l = laplacian.data + offset;
float* out = gradient.data + (long long)begin * plane + offset;
for (int x = 0; x < row; x++) {
    float sum = -6.f * l[x];
    if (layer > 0) sum += l[x - plane];
    if (layer < layers - 1) sum += l[x + plane];
    if (y > 0) sum += l[x - row];
    if (y < size_y - 1) sum += l[x + row];
    if (x > 0) sum += l[x - 1];
    if (x < row - 1) sum += l[x + 1];
    out[x] += scale * sum;
}
