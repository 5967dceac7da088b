"use strict";
/* A mesh or a point cloud that turns: gzipped GLB -> canvas. Draws when something changes, and never by itself. */
const viewer = (() => {
  const canvas = page.find("mesh");
  const START = { around: 0.6, above: 0.35, far: 1 };
  const STEP = Math.PI / 12;
  let place = { ...START };
  let parts = null; // renderer, scene and camera, made when the first mesh is shown
  let turn = 0; // of the calls to show: a slow one must not overwrite a later one
  let bare = false;

  function setUp() {
    const renderer = new THREE.WebGLRenderer({ canvas, antialias: true, alpha: true });
    const scene = new THREE.Scene();
    const camera = new THREE.PerspectiveCamera(40, 1, 0.01, 100);
    const light = new THREE.DirectionalLight(0xffffff, 2.2);
    scene.add(new THREE.HemisphereLight(0xffffff, 0x555566, 1.6), light);
    parts = { renderer, scene, camera, light, mesh: null, centre: new THREE.Vector3(), size: 1 };
    new ResizeObserver(draw).observe(canvas);
  }

  function draw() {
    if (!parts?.mesh || !canvas.clientWidth) return;
    const { renderer, scene, camera, light, centre, size } = parts;
    const [width, height, ratio] = [canvas.clientWidth, canvas.clientHeight, Math.min(devicePixelRatio, 2)];
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      renderer.setPixelRatio(ratio);
      renderer.setSize(width, height, false);
    }
    const far = (0.98 * size * place.far) / Math.sin((camera.fov * Math.PI) / 360);
    const { around, above } = place;
    camera.position.set(Math.sin(around) * Math.cos(above), Math.sin(above), Math.cos(around) * Math.cos(above));
    light.position.copy(camera.position).applyAxisAngle(new THREE.Vector3(0, 1, 0), 0.5);
    camera.position.multiplyScalar(far).add(centre);
    camera.lookAt(centre);
    renderer.render(scene, camera);
  }

  /* Files hold the colours of vertices and points as sRGB; three.js takes them for linear light. */
  function linearise(geometry) {
    const stored = geometry.attributes.color;
    const [values, colour] = [new Float32Array(3 * stored.count), new THREE.Color()];
    for (let index = 0; index < stored.count; index += 1) {
      colour.setRGB(stored.getX(index), stored.getY(index), stored.getZ(index), THREE.SRGBColorSpace).toArray(values, 3 * index);
    }
    geometry.setAttribute("color", new stored.constructor(values, 3));
  }

  function clothe() {
    parts.mesh.traverse((part) => {
      if (part.isPoints) {
        const count = part.geometry.attributes.position.count;
        Object.assign(part.material, { sizeAttenuation: true, size: (7 * parts.size) / Math.sqrt(count), needsUpdate: true });
      }
      if (!part.isMesh) return;
      part.userData.own ??= new THREE.MeshBasicMaterial({
        map: part.material.map,
        vertexColors: part.material.vertexColors,
        side: THREE.DoubleSide,
      });
      part.userData.bare ??= new THREE.MeshLambertMaterial({ color: 0xb9bfc6, side: THREE.DoubleSide, flatShading: true });
      const plain = !part.userData.own.map && !part.userData.own.vertexColors; // it would be white on white
      part.material = bare || plain ? part.userData.bare : part.userData.own;
    });
  }

  async function unzipped(content) {
    const stream = new Blob([content]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  }

  /* Shows the mesh under this key. Returns its GLB, or null if another mesh was asked for meanwhile. Throws without WebGL. */
  async function show(key, name) {
    const mine = ++turn;
    if (!parts) setUp();
    const glb = await unzipped(page.bytes(key));
    const { scene } = await new THREE.GLTFLoader().parseAsync(glb.slice(0), "");
    if (mine !== turn) return null;
    if (parts.mesh) {
      parts.scene.remove(parts.mesh);
      parts.mesh.traverse((part) => {
        part.geometry?.dispose();
        if (part.isPoints) part.material.dispose();
        part.userData.own?.map?.dispose();
        part.userData.own?.dispose();
        part.userData.bare?.dispose();
      });
    }
    let cloud = false;
    scene.traverse((part) => {
      if (part.geometry?.attributes.color) linearise(part.geometry);
      cloud ||= Boolean(part.isPoints);
    });
    const box = new THREE.Box3().setFromObject(scene);
    box.getCenter(parts.centre);
    parts.size = box.getSize(new THREE.Vector3()).length() / 2 || 1;
    parts.mesh = scene;
    parts.scene.add(scene);
    clothe();
    canvas.setAttribute("aria-label", `${cloud ? "Point cloud" : "Mesh"} of ${name}`);
    page.find("mesh-surface").hidden = cloud;
    canvas.dataset.shown = key;
    draw();
    return glb;
  }

  function forget() {
    turn += 1;
    delete canvas.dataset.shown;
  }

  function move(around, above, zoom = 1) {
    place.around += around;
    place.above = Math.max(-1.5, Math.min(1.5, place.above + above));
    place.far = Math.max(0.2, Math.min(4, place.far * zoom));
    draw();
  }

  const KEYS = {
    ArrowLeft: () => move(-STEP, 0),
    ArrowRight: () => move(STEP, 0),
    ArrowUp: () => move(0, STEP),
    ArrowDown: () => move(0, -STEP),
    "+": () => move(0, 0, 0.85),
    "=": () => move(0, 0, 0.85),
    "-": () => move(0, 0, 1 / 0.85),
    Home: () => {
      place = { ...START };
      draw();
    },
  };
  canvas.addEventListener("keydown", (event) => {
    if (!(event.key in KEYS) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    KEYS[event.key]();
  });

  // one finger turns, two zoom; sideways only on touch, so that the page still scrolls
  const fingers = new Map();
  const spread = () => {
    const [a, b] = [...fingers.values()];
    return Math.hypot(a.x - b.x, a.y - b.y);
  };
  canvas.addEventListener("pointerdown", (event) => {
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const wide = fingers.size === 2 ? spread() : 0;
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (fingers.size === 2) move(0, 0, wide / Math.max(1, spread()));
    else move((before.x - event.clientX) / 90, (event.clientY - before.y) / 90);
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => fingers.delete(event.pointerId));
  canvas.addEventListener(
    "wheel",
    (event) => {
      if (document.activeElement !== canvas) return; // the wheel scrolls the page until the viewer is chosen
      event.preventDefault();
      move(0, 0, Math.exp(event.deltaY / 800));
    },
    { passive: false },
  );

  page.find("mesh-surface").addEventListener("click", (event) => {
    bare = !bare;
    event.currentTarget.setAttribute("aria-pressed", String(bare));
    if (parts?.mesh) {
      clothe();
      draw();
    }
  });
  return { show, forget };
})();
