// Shows the mesh of the page: unpacks it, draws it with WebGL 2, and turns it with pointer, wheel and keys.
(async () => {
  "use strict";
  const viewer = document.querySelector(".viewer");
  const canvas = viewer.querySelector("canvas");
  const packed = JSON.parse(document.getElementById("mesh").textContent);
  const gl = canvas.getContext("webgl2", { antialias: true, alpha: true, premultipliedAlpha: false });
  if (!gl || typeof DecompressionStream === "undefined") return; // the still picture stays

  // Unpacks: every plane holds differences of neighbors, one byte of all values after the other.
  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }
  let buffer, at = 0;
  function plane(count, width) {
    const values = new Uint32Array(count), mask = width === 4 ? 0xffffffff : 2 ** (8 * width) - 1;
    for (let byte = 0; byte < width; byte++) {
      for (let i = 0; i < count; i++) values[i] |= buffer[at + i] << (8 * byte);
      at += count;
    }
    for (let i = 1; i < count; i++) values[i] = ((values[i] + values[i - 1]) & mask) >>> 0;
    return values;
  }
  function interleaved(count, columns, width, Kind) {
    const result = new Kind(count * columns);
    for (let column = 0; column < columns; column++) {
      const values = plane(count, width);
      for (let i = 0; i < count; i++) result[columns * i + column] = values[i];
    }
    return result;
  }
  buffer = await unpack(packed.data);
  const positions = interleaved(packed.vertices, 3, 2, Uint16Array);
  const colors = packed.colors ? interleaved(packed.vertices, 3, 1, Uint8Array) : null;
  const places = packed.texture ? interleaved(packed.vertices, 2, 2, Uint16Array) : null;
  const corners = plane(3 * packed.faces, 4);
  buffer = null;

  const program = gl.createProgram();
  function compile(kind, source) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, "#version 300 es\nprecision highp float;\n" + source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  compile(gl.VERTEX_SHADER, `
    uniform mat3 turn; uniform vec3 low, extent; uniform float zoom, distance, aspect;
    in vec3 position; in vec3 color; in vec2 place;
    out vec3 seen, tint; out vec2 uv;
    void main() {
      seen = turn * (low + position * extent) - vec3(0.0, 0.0, distance);
      tint = color; uv = place;
      vec2 plane = seen.xy * distance * zoom / vec2(max(aspect, 1.0), max(1.0 / aspect, 1.0));
      float near = distance - 1.2, far = distance + 1.2;
      gl_Position = vec4(plane, -seen.z * (far + near) / (far - near) - 2.0 * far * near / (far - near), -seen.z);
    }`);
  compile(gl.FRAGMENT_SHADER, `
    uniform int shape, textured; uniform sampler2D picture;
    in vec3 seen, tint; in vec2 uv;
    out vec4 shown;
    void main() {
      vec3 normal = normalize(cross(dFdx(seen), dFdy(seen)));
      float shade = 0.25 + 0.75 * max(dot(normal, normalize(vec3(-0.4, 0.55, 0.73))), 0.0);
      vec3 color = textured == 1 ? texture(picture, uv).rgb : tint;
      vec3 clay = gl_FrontFacing ? vec3(0.91, 0.886, 0.847) : vec3(0.47, 0.588, 0.922);
      shown = vec4(shape == 1 ? clay * shade : color, 1.0);
    }`);
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) return;
  gl.useProgram(program);

  function attribute(name, values, columns, kind) {
    const location = gl.getAttribLocation(program, name);
    if (location < 0) return;
    if (!values) return gl.vertexAttrib3f(location, 0.9, 0.9, 0.9);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(location);
    gl.vertexAttribPointer(location, columns, kind, true, 0, 0);
  }
  attribute("position", positions, 3, gl.UNSIGNED_SHORT);
  attribute("color", colors, 3, gl.UNSIGNED_BYTE);
  attribute("place", places, 2, gl.UNSIGNED_SHORT);
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, corners, gl.STATIC_DRAW);
  gl.enable(gl.DEPTH_TEST);
  const uniform = (name) => gl.getUniformLocation(program, name);
  const low = packed.low, high = packed.high;
  gl.uniform3f(uniform("low"), ...low);
  gl.uniform3f(uniform("extent"), high[0] - low[0], high[1] - low[1], high[2] - low[2]);
  gl.uniform1f(uniform("distance"), 4.0);
  gl.uniform1i(uniform("textured"), packed.texture ? 1 : 0);
  if (packed.texture) {
    const image = new Image();
    image.src = packed.texture;
    await image.decode();
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, image);
    gl.generateMipmap(gl.TEXTURE_2D);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR_MIPMAP_LINEAR);
  }

  const start = { yaw: 0.0, pitch: packed.pitch, zoom: 1.0 };
  let view = { ...start }, shape = !(colors || packed.texture), waiting = false;
  function draw() {
    waiting = false;
    const scale = window.devicePixelRatio || 1;
    const width = Math.max(1, Math.round(canvas.clientWidth * scale)), height = Math.max(1, Math.round(canvas.clientHeight * scale));
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    gl.viewport(0, 0, width, height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    const cy = Math.cos(view.yaw), sy = Math.sin(view.yaw), cp = Math.cos(view.pitch), sp = Math.sin(view.pitch);
    gl.uniformMatrix3fv(uniform("turn"), false, [cy, sp * sy, -cp * sy, 0, cp, sp, sy, -sp * cy, cp * cy]);
    gl.uniform1f(uniform("zoom"), 0.97 * view.zoom);
    gl.uniform1f(uniform("aspect"), width / height);
    gl.uniform1i(uniform("shape"), shape ? 1 : 0);
    gl.drawElements(gl.TRIANGLES, corners.length, gl.UNSIGNED_INT, 0);
  }
  function redraw() {
    if (!waiting) { waiting = true; requestAnimationFrame(draw); }
  }
  function turn(yaw, pitch, zoom = 1.0) {
    view.yaw += yaw;
    view.pitch = Math.min(Math.PI / 2, Math.max(-Math.PI / 2, view.pitch + pitch));
    view.zoom = Math.min(12.0, Math.max(0.3, view.zoom * zoom));
    redraw();
  }

  const pointers = new Map();
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
  });
  const spread = () => {
    const [a, b] = [...pointers.values()];
    return Math.hypot(a[0] - b[0], a[1] - b[1]);
  };
  canvas.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const apart = pointers.size === 2 ? spread() : 0;
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    if (pointers.size === 1) turn((event.clientX - before[0]) * 0.01, (event.clientY - before[1]) * 0.01);
    else if (pointers.size === 2 && apart > 0) turn(0, 0, spread() / apart);
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => pointers.delete(event.pointerId));
  canvas.addEventListener("wheel", (event) => {
    if (document.activeElement !== canvas) return; // the page scrolls until the mesh is clicked
    event.preventDefault();
    turn(0, 0, Math.exp(-event.deltaY * 0.001));
  }, { passive: false });
  const keys = {
    ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1], "+": [0, 0, 1.1], "=": [0, 0, 1.1], "-": [0, 0, 1 / 1.1],
  };
  const reset = () => { view = { ...start }; redraw(); };
  canvas.addEventListener("keydown", (event) => {
    if (event.key === "Home") reset();
    else if (keys[event.key]) turn(...keys[event.key]);
    else return;
    event.preventDefault();
  });
  canvas.addEventListener("dblclick", reset);
  for (const button of viewer.querySelectorAll("button[data-shape]")) {
    button.setAttribute("aria-pressed", String((button.dataset.shape === "1") === shape));
    button.addEventListener("click", () => {
      shape = button.dataset.shape === "1";
      for (const other of viewer.querySelectorAll("button[data-shape]")) other.setAttribute("aria-pressed", String(other === button));
      redraw();
    });
  }
  viewer.querySelector("button[data-reset]").addEventListener("click", reset);
  new ResizeObserver(redraw).observe(canvas);
  viewer.classList.add("live");
  redraw();
})();
