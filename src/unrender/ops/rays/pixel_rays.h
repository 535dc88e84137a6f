// Drawn pixels and their rays: the loop of ops/rays/pixel_rays.py.

// section: pixels
// A ray is the direction of its pixel in the camera, turned by the pose of the view. A color is four bytes, red first.
const long long* views = (const long long*)view_address;
const long long* places = (const long long*)place_address;
const long long* begins = (const long long*)begin_address;
const long long* widths = (const long long*)width_address;
const unsigned* packed = (const unsigned*)packed_address;
const float* directions = (const float*)direction_address;
for (int n = begin; n < end; n++) {
    // A pixel of no view is seen by none. How many places a view has is not known here.
    const bool exists = views[n] >= 0 && views[n] < view_count && widths[views[n]] > 0;
    const long long view = exists ? views[n] : 0, place = exists ? places[n] : 0, width = exists ? widths[view] : 1, row = place / width;
    pixels.data[2 * n] = (float)(place - row * width) + 0.5f;
    pixels.data[2 * n + 1] = (float)row + 0.5f;
    const unsigned bytes = packed[n];
    color.data[3 * n] = (float)(bytes & 255u) * (1.f / 255.f);
    color.data[3 * n + 1] = (float)(bytes >> 8 & 255u) * (1.f / 255.f);
    color.data[3 * n + 2] = (float)(bytes >> 16 & 255u) * (1.f / 255.f);
    alpha.data[n] = (float)(bytes >> 24) * (1.f / 255.f);
    if (!directions) continue;
    const long long at = exists ? begins[view] + place : -1;
    const bool known = at >= 0 && at < direction_count;
    const float* pose = poses.data + 12 * view;
    const float* d = directions + 3 * (known ? at : 0);
    for (int c = 0; c < 3; c++) {
        ray_origins.data[3 * n + c] = known ? pose[4 * c + 3] : 0.f;
        ray_directions.data[3 * n + c] = known ? pose[4 * c] * d[0] + pose[4 * c + 1] * d[1] + pose[4 * c + 2] * d[2] : 0.f;
    }
}
