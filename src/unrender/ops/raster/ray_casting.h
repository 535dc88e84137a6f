// C++ of ray casting, by sections (ops/kernels/native.py). Notation: ray_casting.py.

// section: meet
// Keeps the triangle `face` if the ray meets it nearer than what it has met so far.
#if defined(__CUDA_ARCH__)
#define UNRENDER_SHEAR(p, s, z) (float)((p) - __dmul_rn(s, z))
#else
#define UNRENDER_SHEAR(p, s, z) (float)((p) - (s) * (z))
#endif
    const float* corner = corners.data + 9 * (size_t)face;
    const float* o = origins.data + 3 * ray;
    const double* d = units.data + 3 * ray;
    const double far_x = d[0] < 0 ? -d[0] : d[0], far_y = d[1] < 0 ? -d[1] : d[1], far_z = d[2] < 0 ? -d[2] : d[2];
    const int kz = far_x > far_y ? (far_x > far_z ? 0 : 2) : (far_y > far_z ? 1 : 2);
    const int kx = kz == 2 ? 0 : kz + 1, ky = kx == 2 ? 0 : kx + 1;
    const double sx = d[kx] / d[kz], sy = d[ky] / d[kz];
    const double za = (double)corner[kz] - o[kz], zb = (double)corner[3 + kz] - o[kz], zc = (double)corner[6 + kz] - o[kz];
    const double ax = UNRENDER_SHEAR((double)corner[kx] - o[kx], sx, za), ay = UNRENDER_SHEAR((double)corner[ky] - o[ky], sy, za);
    const double bx = UNRENDER_SHEAR((double)corner[3 + kx] - o[kx], sx, zb), by = UNRENDER_SHEAR((double)corner[3 + ky] - o[ky], sy, zb);
    const double cx = UNRENDER_SHEAR((double)corner[6 + kx] - o[kx], sx, zc), cy = UNRENDER_SHEAR((double)corner[6 + ky] - o[ky], sy, zc);
#undef UNRENDER_SHEAR
    const double u = cx * by - cy * bx, v = ax * cy - ay * cx, w = bx * ay - by * ax;
    if ((u < 0 || v < 0 || w < 0) && (u > 0 || v > 0 || w > 0)) return;
    const double sum = u + v + w;
    if (!(sum > 0 || sum < 0)) return;
    const double t = (u * za + v * zb + w * zc) / (sum * d[kz]);
    if (!(t >= nearest && t <= hits.data[3 * ray])) return;
    if (t == hits.data[3 * ray] && faces.data[ray] >= 0 && faces.data[ray] < face) return;
    hits.data[3 * ray] = t;
    hits.data[3 * ray + 1] = u / sum;
    hits.data[3 * ray + 2] = v / sum;
    faces.data[ray] = face;
