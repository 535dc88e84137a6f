// Shows the asset of the page: unpacks it, draws it with WebGL 2, and turns it with pointer, touch and keys.
//
// Lit assets are shaded as the renderer does (split sum): color = base (1 - metallic) irradiance + P(r, roughness) (F0 A + B), scaled by
// the shadows at the vertices. As the light is turned by 45 degrees, these become those of light from everywhere.
(async () => {
  "use strict";
  const viewer = document.querySelector(".viewer"), canvas = viewer.querySelector("canvas"), alone = document.body.classList.contains("alone");
  const asset = JSON.parse(document.getElementById("asset").textContent);
  if (typeof DecompressionStream === "undefined") return; // the still picture stays

  // Unpacks: every plane holds differences of neighbors, one byte of all values after the other.
  const bytes = Uint8Array.from(atob(asset.data), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  let buffer = new Uint8Array(await new Response(stream).arrayBuffer()), at = 0;
  function rows(count, columns, Kind) {
    const result = new Kind(count * columns), width = Kind.BYTES_PER_ELEMENT;
    for (let column = 0; column < columns; column++) {
      for (let byte = 0; byte < width; byte++, at += count) {
        for (let i = 0; i < count; i++) result[columns * i + column] |= buffer[at + i] << (8 * byte);
      }
      for (let i = columns + column; i < result.length; i += columns) result[i] += result[i - columns]; // modulo the type
    }
    return result;
  }
  const { textures, light, vertices: count } = asset;
  const attributes = { position: [rows(count, 3, Uint16Array), 3] };
  if (asset.colors) attributes.tint = [rows(count, 3, Uint8Array), 3];
  if (asset.uvBox) attributes.place = [rows(count, 2, Uint16Array), 2];
  if (asset.lit) attributes.normal = [rows(count, 2, Uint16Array), 2];
  if (textures.normal) {
    attributes.tangent = [rows(count, 2, Uint16Array), 2];
    attributes.handedness = [rows(count, 1, Uint8Array), 1];
  }
  const corners = rows(3 * asset.faces, 1, Uint32Array);
  if (asset.strongest) attributes.shadow = [rows(count, 4, Uint8Array), 4]; // factors of diffuse light, and openness
  const cubes = asset.lit ? light.sizes.map((size) => rows(6 * size * size, 1, Uint32Array)) : [];
  const reflectance = asset.lit ? rows(asset.reflectance ** 2, 2, Uint16Array) : null;
  buffer = null;
  const pictures = {};
  for (const [name, address] of Object.entries(textures)) {
    pictures[name] = new Image();
    pictures[name].src = address;
    await pictures[name].decode();
  }

  const DISTANCE = 4; // of the eye from the target; the asset fits into a ball of radius one
  const MODES = ["lit", "color", "roughness", "metallic", "normals", "shape", "wireframe"];
  const levels = asset.lit ? light.levels : [];
  const defined = [asset.lit && "LIT", asset.strongest && "SHADOWS", asset.colors && "COLORS", asset.uvBox && "PLACES", ...Object.keys(textures).map((name) => name.toUpperCase() + "_TEXTURE")];
  const head = "#version 300 es\nprecision highp float; precision highp int; precision highp sampler2D; precision highp samplerCube;\n"
    + defined.filter(Boolean).map((name) => `#define ${name}\n`).join("");
  const ENCODED = `
    vec3 encoded(vec3 light) { // sRGB
      light = clamp(light, 0.0, 1.0);
      return mix(1.055 * pow(light, vec3(1.0 / 2.4)) - 0.055, 12.92 * light, lessThan(light, vec3(0.0031308)));
    }`;
  const VERTEX = `
    uniform mat4 clip_from_page; uniform vec3 low, extent; uniform vec4 places;
    in vec3 position, tint; in vec2 place, normal, tangent; in float handedness; in vec4 shadow;
    out vec3 point, color, outward; out vec4 along, shade; centroid out vec2 uv; // at silhouettes too it stays on the triangle
    vec3 direction(vec2 square) { // of an octahedron unfolded to a square
      vec2 s = 2.0 * square - 1.0;
      float z = 1.0 - abs(s.x) - abs(s.y);
      return normalize(vec3(z < 0.0 ? (1.0 - abs(s.yx)) * mix(vec2(-1.0), vec2(1.0), greaterThanEqual(s, vec2(0.0))) : s, z));
    }
    void main() {
      point = low + position * extent; shade = shadow;
      color = mix(pow((tint + 0.055) / 1.055, vec3(2.4)), tint / 12.92, lessThan(tint, vec3(0.04045)));
      outward = direction(normal); along = vec4(direction(tangent), handedness < 0.5 ? -1.0 : 1.0); uv = places.xy + place * places.zw;
      gl_Position = clip_from_page * vec4(point, 1.0);
    }`;
  const FRAGMENT = `
    uniform int mode; uniform vec3 eye; uniform float exposure, rough, metal, turned; uniform mat3 light_from_page, view_from_page;
    uniform sampler2D color_texture, gloss_texture, normal_texture, reflectance; uniform samplerCube irradiance;
    ${levels.map((_, k) => `uniform samplerCube level${k};`).join(" ")}
    in vec3 point, color, outward; in vec4 along, shade; centroid in vec2 uv;
    out vec4 shown;
    ${ENCODED}
    #ifdef LIT
    vec3 blurred(vec3 towards, float r) { // P, linear between the levels
      vec3 sum = textureLod(level0, towards, 0.0).rgb, next;
      ${levels.slice(1).map((end, k) => `next = textureLod(level${k + 1}, towards, 0.0).rgb;
      sum = mix(sum, next, clamp((r - ${levels[k].toFixed(6)}) / ${(end - levels[k]).toFixed(6)}, 0.0, 1.0));`).join("\n")}
      return sum;
    }
    #endif
    void main() {
      vec3 facing = normalize(cross(dFdx(point), dFdy(point))), viewer = normalize(eye - point), base = vec3(1.0), normal = facing;
      float opacity = 1.0, r = rough, m = metal;
      #ifdef COLORS
      base = color;
      #endif
      #ifdef COLOR_TEXTURE
      vec4 found = texture(color_texture, uv);
      base = found.rgb; opacity = found.a;
      if (opacity < 0.02) discard;
      #endif
      #ifdef GLOSS_TEXTURE
      vec2 gloss = texture(gloss_texture, uv).gb;
      r = gloss.x; m = gloss.y;
      #endif
      #ifdef LIT
      float side = gl_FrontFacing ? 1.0 : -1.0;
      vec3 n = normalize(outward);
      normal = side * n;
      #ifdef NORMAL_TEXTURE
      vec3 mapped = 2.0 * texture(normal_texture, uv).xyz - 1.0, t = normalize(along.xyz);
      vec3 bent = normalize(side * (mapped.x * t + mapped.y * sign(along.w) * cross(n, t) + mapped.z * n));
      normal = normalize(mix(facing, bent, clamp(dot(bent, viewer) / 0.1, 0.0, 1.0))); // a normal that turns away becomes the triangle's
      #endif
      #endif
      if (mode == 1) shown = vec4(encoded(exposure * base), opacity);
      else if (mode == 2) shown = vec4(vec3(r), 1.0);
      else if (mode == 3) shown = vec4(vec3(m), 1.0);
      else if (mode == 4) shown = vec4(0.5 * normal + 0.5, 1.0);
      else if (mode >= 5) {
        vec3 clay = mode == 6 ? vec3(0.97) : gl_FrontFacing ? vec3(0.91, 0.886, 0.847) : vec3(0.47, 0.588, 0.922);
        float shade = 0.25 + 0.75 * max(dot(view_from_page * facing, normalize(vec3(-0.4, 0.55, 0.73))), 0.0);
        shown = vec4(clay * (mode == 6 ? 1.0 : shade), 1.0);
      }
      #ifdef LIT
      else {
        float cosine = dot(normal, viewer);
        vec2 ab = texture(reflectance, (vec2(clamp(cosine, 0.0001, 1.0), r) * ${asset.reflectance - 1}.0 + 0.5) / ${asset.reflectance}.0).xy;
        vec3 f0 = mix(vec3(0.04), base, m);
        vec3 diffuse = base * (1.0 - m) * textureLod(irradiance, light_from_page * normal, 0.0).rgb;
        vec3 specular = blurred(light_from_page * (2.0 * cosine * normal - viewer), r) * (f0 * ab.x + ab.y);
        #ifdef SHADOWS
        diffuse *= mix(${(asset.strongest ?? 1).toFixed(6)} * shade.rgb, shade.aaa, turned); // other light casts other shadows
        specular *= clamp(pow(max(clamp(cosine, 0.0, 1.0) + shade.a, 0.0001), exp2(-16.0 * r * r - 1.0)) - 1.0 + shade.a, 0.0, 1.0);
        #endif
        shown = vec4(encoded(exposure * (diffuse + specular)), opacity);
      }
      #endif
    }`;
  const PLAIN = { // the lines of the wireframe, and the light behind the asset
    lines: ["uniform mat4 clip_from_page; uniform vec3 low, extent; in vec3 position;\n"
      + "void main() { gl_Position = clip_from_page * vec4(low + position * extent, 1.0); }",
    "out vec4 shown; void main() { shown = vec4(0.04, 0.36, 0.33, 1.0); }"],
    sky: [`uniform mat3 view_from_page; uniform vec2 slope; out vec3 towards;
      void main() {
        vec2 corner = vec2(gl_VertexID == 1 ? 3.0 : -1.0, gl_VertexID == 2 ? 3.0 : -1.0);
        towards = vec3(corner * slope, -1.0) * view_from_page; // times the transpose
        gl_Position = vec4(corner, 0.0, 1.0);
      }`,
    `uniform samplerCube blurred; uniform mat3 light_from_page; uniform float exposure; in vec3 towards; out vec4 shown;
      ${ENCODED}
      void main() { shown = vec4(encoded(exposure * textureLod(blurred, light_from_page * towards, 0.0).rgb), 1.0); }`],
  };

  const gl = canvas.getContext("webgl2", { antialias: true, alpha: true, premultipliedAlpha: false });
  if (!gl) return;
  let surface, lines, sky, edges;
  function program(vertex, fragment, units) {
    const made = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, head + source);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS) && !gl.isContextLost()) console.error(gl.getShaderInfoLog(shader));
      gl.attachShader(made, shader);
    }
    Object.keys(attributes).forEach((name, k) => gl.bindAttribLocation(made, k, name));
    gl.linkProgram(made);
    if (!gl.getProgramParameter(made, gl.LINK_STATUS)) return null;
    gl.useProgram(made);
    const places = {};
    const at = (name) => places[name] ??= gl.getUniformLocation(made, name);
    for (const [name, unit] of Object.entries(units)) gl.uniform1i(at(name), unit);
    const [low, high] = asset.box;
    gl.uniform3f(at("low"), ...low);
    gl.uniform3f(at("extent"), ...high.map((x, k) => x - low[k]));
    if (asset.uvBox) gl.uniform4f(at("places"), ...asset.uvBox[0], ...asset.uvBox[1].map((x, k) => x - asset.uvBox[0][k]));
    if (asset.lit) gl.uniform1f(at("rough"), asset.roughness);
    if (asset.lit) gl.uniform1f(at("metal"), asset.metallic);
    return { made, at };
  }
  function build() { // everything that lives on the GPU
    Object.values(attributes).forEach(([values, columns], k) => {
      gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
      gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
      gl.enableVertexAttribArray(k);
      gl.vertexAttribPointer(k, columns, values.BYTES_PER_ELEMENT === 1 ? gl.UNSIGNED_BYTE : gl.UNSIGNED_SHORT, true, 0, 0);
    });
    const triangles = gl.createBuffer();
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, triangles);
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, corners, gl.STATIC_DRAW);
    const units = {};
    function texture(name, target, wrap, fill, mips) {
      units[name] = Object.keys(units).length;
      gl.activeTexture(gl.TEXTURE0 + units[name]);
      gl.bindTexture(target, gl.createTexture());
      fill();
      gl.texParameteri(target, gl.TEXTURE_WRAP_S, wrap);
      gl.texParameteri(target, gl.TEXTURE_WRAP_T, wrap);
      gl.texParameteri(target, gl.TEXTURE_MAG_FILTER, gl.LINEAR);
      gl.texParameteri(target, gl.TEXTURE_MIN_FILTER, mips ? gl.LINEAR_MIPMAP_LINEAR : gl.LINEAR);
    }
    gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    const outside = asset.uvBox && (Math.min(...asset.uvBox[0]) < 0 || Math.max(...asset.uvBox[1]) > 1);
    for (const [name, picture] of Object.entries(pictures)) {
      texture(`${name}_texture`, gl.TEXTURE_2D, outside ? gl.REPEAT : gl.CLAMP_TO_EDGE, () => {
        gl.texImage2D(gl.TEXTURE_2D, 0, name === "color" ? gl.SRGB8_ALPHA8 : gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE, picture);
        gl.generateMipmap(gl.TEXTURE_2D);
        gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAX_LEVEL, 3); // coarser levels of an atlas mix neighboring charts
      }, true);
    }
    if (asset.lit) {
      const n = asset.reflectance;
      texture("reflectance", gl.TEXTURE_2D, gl.CLAMP_TO_EDGE, () => {
        gl.texImage2D(gl.TEXTURE_2D, 0, gl.RG16F, n, n, 0, gl.RG, gl.HALF_FLOAT, reflectance);
      });
    }
    cubes.forEach((texels, k) => texture(k ? `level${k - 1}` : "irradiance", gl.TEXTURE_CUBE_MAP, gl.CLAMP_TO_EDGE, () => {
      const size = light.sizes[k];
      for (let face = 0; face < 6; face++) {
        const part = texels.subarray(face * size * size, (face + 1) * size * size);
        gl.texImage2D(gl.TEXTURE_CUBE_MAP_POSITIVE_X + face, 0, gl.RGB9_E5, size, size, 0, gl.RGB, gl.UNSIGNED_INT_5_9_9_9_REV, part);
      }
    }));
    surface = program(VERTEX, FRAGMENT, units);
    lines = program(...PLAIN.lines, {});
    // The texels of a sharper level would show as blocks.
    sky = asset.lit ? program(...PLAIN.sky, { blurred: units.level1 ?? units.level0 }) : null;
    edges = null;
    if (surface) surface.triangles = triangles;
    return surface;
  }
  function edgeBuffer() { // every side of every triangle, when the wireframe is asked for
    const ends = new Uint32Array(2 * corners.length);
    for (let i = 0, k = 0; i < corners.length; i++) {
      ends[k++] = corners[i];
      ends[k++] = corners[i % 3 === 2 ? i - 2 : i + 1];
    }
    const made = gl.createBuffer();
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, made);
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, ends, gl.STATIC_DRAW);
    return made;
  }

  const buttons = [...viewer.querySelectorAll("button[data-mode]")];
  const start = { mode: buttons[0].dataset.mode, yaw: 0, pitch: asset.pitch, zoom: 1, target: [0, 0, 0], light: 0, exposure: 0, background: 0 };
  const view = { ...start };
  let waiting = false;
  const product = (m, v) => [0, 1, 2].map((row) => m[row] * v[0] + m[3 + row] * v[1] + m[6 + row] * v[2]);
  const times = (a, b) => [0, 3, 6].flatMap((k) => product(a, b.slice(k, k + 3)));
  function turned() { // view_from_page, column by column
    const cy = Math.cos(view.yaw), sy = Math.sin(view.yaw), cp = Math.cos(view.pitch), sp = Math.sin(view.pitch);
    return [cy, sp * sy, -cp * sy, 0, cp, sp, sy, -sp * cy, cp * cy];
  }
  function draw() {
    waiting = false;
    if (gl.isContextLost()) return;
    const scale = Math.min(window.devicePixelRatio || 1, 2);
    const width = Math.max(1, Math.round(canvas.clientWidth * scale)), height = Math.max(1, Math.round(canvas.clientHeight * scale));
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    const turn = turned(), [tx, ty, tz] = product(turn, view.target), mode = MODES.indexOf(view.mode);
    const focal = 0.97 * view.zoom * DISTANCE, fx = focal / Math.max(width / height, 1), fy = focal * Math.min(width / height, 1);
    const reach = 1.2 + Math.hypot(...view.target), near = Math.max(DISTANCE - reach, 0.1), far = DISTANCE + reach;
    const a = (far + near) / (near - far), b = 2 * far * near / (near - far), tall = -tz - DISTANCE;
    const clip = [0, 3, 6].flatMap((k) => [fx * turn[k], fy * turn[k + 1], a * turn[k + 2], -turn[k + 2]])
      .concat([-fx * tx, -fy * ty, a * tall + b, -tall]);
    const eye = [0, 1, 2].map((k) => view.target[k] + DISTANCE * turn[3 * k + 2]);
    const angle = view.light * Math.PI / 180, c = Math.cos(angle), s = Math.sin(angle);
    const towardsLight = asset.lit ? times(light.fromPage, [c, 0, s, 0, 1, 0, -s, 0, c]) : null;
    gl.viewport(0, 0, width, height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    if (sky && view.background && view.mode === "lit") {
      gl.useProgram(sky.made);
      gl.disable(gl.DEPTH_TEST);
      gl.uniformMatrix3fv(sky.at("view_from_page"), false, turn);
      gl.uniformMatrix3fv(sky.at("light_from_page"), false, towardsLight);
      gl.uniform2f(sky.at("slope"), 1 / fx, 1 / fy);
      gl.uniform1f(sky.at("exposure"), 2 ** view.exposure);
      gl.drawArrays(gl.TRIANGLES, 0, 3);
    }
    gl.useProgram(surface.made);
    gl.enable(gl.DEPTH_TEST);
    gl.enable(gl.BLEND);
    gl.blendFuncSeparate(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA, gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.uniformMatrix4fv(surface.at("clip_from_page"), false, clip);
    gl.uniformMatrix3fv(surface.at("view_from_page"), false, turn);
    gl.uniform3f(surface.at("eye"), ...eye);
    gl.uniform1f(surface.at("exposure"), view.mode === "lit" ? 2 ** view.exposure : 1);
    gl.uniform1i(surface.at("mode"), mode);
    if (asset.lit) {
      gl.uniformMatrix3fv(surface.at("light_from_page"), false, towardsLight);
      gl.uniform1f(surface.at("turned"), Math.min(Math.abs(view.light) / 45, 1));
    }
    gl.polygonOffset(1, 1);
    if (view.mode === "wireframe") gl.enable(gl.POLYGON_OFFSET_FILL);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, surface.triangles);
    gl.drawElements(gl.TRIANGLES, corners.length, gl.UNSIGNED_INT, 0);
    gl.disable(gl.POLYGON_OFFSET_FILL);
    if (view.mode === "wireframe") {
      edges ??= edgeBuffer();
      gl.useProgram(lines.made);
      gl.uniformMatrix4fv(lines.at("clip_from_page"), false, clip);
      gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, edges);
      gl.drawElements(gl.LINES, 2 * corners.length, gl.UNSIGNED_INT, 0);
    }
  }
  function redraw() {
    if (!waiting) { waiting = true; requestAnimationFrame(draw); }
  }
  const within = (low, value, high) => Math.min(high, Math.max(low, value));
  function turn(yaw, pitch) {
    view.yaw += yaw;
    view.pitch = within(-Math.PI / 2, view.pitch + pitch, Math.PI / 2);
    redraw();
  }
  function zoom(factor) {
    view.zoom = within(0.3, view.zoom * factor, 40);
    redraw();
  }
  function move(dx, dy) { // by pixels of the page
    const unit = 2 / (0.97 * view.zoom * Math.max(1, Math.min(canvas.clientWidth, canvas.clientHeight))), m = turned();
    view.target = view.target.map((x, k) => within(-1, x - unit * (dx * m[3 * k] - dy * m[3 * k + 1]), 1));
    redraw();
  }

  // Pointers: one turns, or moves with another button or Shift; two zoom and move.
  const pointers = new Map();
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
  });
  const pair = () => {
    const [[ax, ay], [bx, by]] = [...pointers.values()];
    return { apart: Math.hypot(ax - bx, ay - by), x: (ax + bx) / 2, y: (ay + by) / 2 };
  };
  canvas.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const was = pointers.size === 2 ? pair() : null, dx = event.clientX - before[0], dy = event.clientY - before[1];
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    if (was && was.apart > 0) {
      const is = pair();
      zoom(is.apart / was.apart);
      move(is.x - was.x, is.y - was.y);
    } else if (pointers.size === 1) (event.shiftKey || event.buttons > 1 ? move : (x, y) => turn(0.01 * x, 0.01 * y))(dx, dy);
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => pointers.delete(event.pointerId));
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("wheel", (event) => {
    if (!alone && document.activeElement !== canvas) return; // the page scrolls until the asset is clicked
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.03 : 0.001)));
  }, { passive: false });
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  canvas.addEventListener("keydown", (event) => {
    const arrow = arrows[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (arrow && event.shiftKey) move(20 * arrow[0], 20 * arrow[1]);
    else if (arrow) turn(0.1 * arrow[0], 0.1 * arrow[1]);
    else if (event.key === "+" || event.key === "=") zoom(1.1);
    else if (event.key === "-") zoom(1 / 1.1);
    else if (event.key === "Home") reset();
    else return;
    event.preventDefault();
  });

  const sliders = [...viewer.querySelectorAll("input")], background = viewer.querySelector("[data-background]");
  function show() { // brings buttons and sliders up to date
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.mode === view.mode));
    for (const slider of sliders) slider.value = view[slider.name];
    background?.setAttribute("aria-pressed", String(Boolean(view.background)));
    redraw();
  }
  function reset() {
    Object.assign(view, start, { mode: view.mode });
    show();
  }
  canvas.addEventListener("dblclick", reset);
  viewer.querySelector("[data-reset]").addEventListener("click", reset);
  for (const button of buttons) button.addEventListener("click", () => { view.mode = button.dataset.mode; show(); });
  for (const slider of sliders) slider.addEventListener("input", () => { view[slider.name] = Number(slider.value); redraw(); });
  background?.addEventListener("click", () => { view.background = view.background ? 0 : 1; show(); });
  function follow() { // viewer.html#mode=normals&yaw=1.5 opens a page on a view
    for (const [name, text] of new URLSearchParams(location.hash.slice(1))) {
      if (name === "mode" && buttons.some((button) => button.dataset.mode === text)) view.mode = text;
      else if (typeof start[name] === "number" && Number.isFinite(Number(text))) view[name] = Number(text);
    }
    show();
  }
  canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
  canvas.addEventListener("webglcontextrestored", () => { build(); redraw(); });

  if (!build()) return;
  viewer.querySelector(".note").textContent = matchMedia("(pointer: coarse)").matches
    ? (alone ? "Drag to turn, pinch to zoom, two fingers move." : "Drag sideways to turn, pinch to zoom, two fingers move.")
    : `Drag to turn, ${alone ? "scroll" : "click and scroll"} to zoom, drag with Shift or the right button to move, double-click to reset.`;
  viewer.classList.add("live");
  new ResizeObserver(draw).observe(canvas); // at once: the old picture would be stretched for a frame
  if (alone) window.addEventListener("hashchange", follow);
  if (alone) follow();
  else show();
})();
