// A face in WebGL: one mesh whose shader knows three looks, a camera that orbits or stands where the photograph's did.

import {
  BufferAttribute, BufferGeometry, DoubleSide, LineBasicMaterial, LineSegments, Matrix4, Mesh, NoColorSpace,
  PerspectiveCamera, Points, Scene, ShaderMaterial, Texture, Vector3, WebGLRenderer, WireframeGeometry,
} from "three";
import { OrbitControls } from "three/examples/jsm/controls/OrbitControls.js";
import { onFrame } from "./dom.js";

/**
 * What the surface shows: a texture or colors of the vertices, lit or as they are, or the photograph cast on it; where
 * that does not see it, colors of the vertices or the lit texture.
 */
export const LOOK = { texture: 0, lit: 1, flat: 2, litTexture: 3, photograph: 4, photographOnTexture: 5 };

const FACE = {
  vertexShader: `
    attribute vec3 tint, t0, t1, t2, onPhoto;
    uniform vec3 sh[9];
    varying vec3 vTint, vShade, vNormal, vCast;
    varying vec2 vUv;
    void main() {
      vTint = tint;
      vCast = onPhoto;
      vUv = uv;
      vShade = t0.x * sh[0] + t0.y * sh[1] + t0.z * sh[2] + t1.x * sh[3] + t1.y * sh[4] + t1.z * sh[5]
             + t2.x * sh[6] + t2.y * sh[7] + t2.z * sh[8];
      vNormal = normalMatrix * normal;
      gl_Position = projectionMatrix * modelViewMatrix * vec4(position, 1.0);
    }`,
  fragmentShader: `
    uniform int look;
    uniform sampler2D map, photo;
    varying vec3 vTint, vShade, vNormal, vCast;
    varying vec2 vUv;
    vec3 encoded(vec3 c) {
      c = clamp(c, 0.0, 1.0);
      return mix(c * 12.92, 1.055 * pow(c, vec3(1.0 / 2.4)) - 0.055, step(0.0031308, c));
    }
    vec3 linear(vec3 c) {
      return mix(c / 12.92, pow((c + 0.055) / 1.055, vec3(2.4)), step(0.04045, c));
    }
    void main() {
      vec3 color;
      if (look == 0) color = texture2D(map, vUv).rgb;
      else if (look == 1) color = encoded(vTint * max(vShade, 0.0));
      else if (look == 2) color = vTint * (0.62 + 0.38 * abs(normalize(vNormal).z));
      else if (look == 4) color = vTint;
      else color = encoded(linear(texture2D(map, vUv).rgb) * max(vShade, 0.0));
      if (look >= 4) color = mix(color, texture2D(photo, vCast.xy).rgb, clamp(vCast.z, 0.0, 1.0));
      if (!gl_FrontFacing) color = color * 0.25 + 0.12;
      gl_FragColor = vec4(color, 1.0);
    }`,
};

const DOTS = {
  vertexShader: `
    uniform float size;
    void main() {
      gl_Position = projectionMatrix * modelViewMatrix * vec4(position, 1.0);
      gl_PointSize = size;
    }`,
  fragmentShader: `
    void main() {
      float r = length(gl_PointCoord - 0.5);
      if (r > 0.5) discard;
      gl_FragColor = vec4(r > 0.32 ? vec3(0.86, 0.12, 0.24) : vec3(1.0), 1.0);
    }`,
};

const FOV_DEG = 22;

export class FaceScene {
  constructor(canvas) {
    this.renderer = new WebGLRenderer({ canvas, antialias: true, alpha: true });
    this.renderer.setPixelRatio(Math.min(devicePixelRatio, 2));
    this.scene = new Scene();
    this.camera = new PerspectiveCamera(FOV_DEG, 1, 10, 5000);
    this.photoCamera = new PerspectiveCamera();
    this.photoCamera.matrixAutoUpdate = false;
    this.controls = new OrbitControls(this.camera, canvas);
    Object.assign(this.controls, { enablePan: true, zoomSpeed: 0.8, rotateSpeed: 0.9 });
    this.draw = onFrame(() => this.render());
    this.controls.addEventListener("change", this.draw);
    this.material = new ShaderMaterial({
      ...FACE,
      side: DoubleSide,
      polygonOffset: true, // so that wires and dots lie on the surface
      polygonOffsetFactor: 1,
      polygonOffsetUnits: 1,
      uniforms: {
        look: { value: LOOK.flat },
        map: { value: null },
        photo: { value: null },
        sh: { value: Array.from({ length: 9 }, () => new Vector3()) },
      },
    });
    this.dotMaterial = new ShaderMaterial({ ...DOTS, uniforms: { size: { value: 7 } } });
    this.wireMaterial = new LineBasicMaterial({ color: 0x2f6fdb, transparent: true, opacity: 0.55 });
    this.overlay = false;
  }

  /** Shows a face; colors and light follow by the setters. `anchors` are the landmarks' vertices. */
  show(mesh, anchors, keepCamera = false) {
    this.clear();
    const geometry = new BufferGeometry();
    geometry.setIndex(new BufferAttribute(mesh.faces, 1));
    geometry.setAttribute("position", new BufferAttribute(mesh.verts, 3));
    geometry.setAttribute("normal", new BufferAttribute(mesh.normals, 3));
    geometry.setAttribute("uv", new BufferAttribute(mesh.uv, 2));
    geometry.setAttribute("tint", new BufferAttribute(new Float32Array(mesh.verts.length).fill(0.8), 3));
    for (const name of ["t0", "t1", "t2", "onPhoto"]) {
      geometry.setAttribute(name, new BufferAttribute(new Float32Array(mesh.verts.length), 3));
    }
    this.face = new Mesh(geometry, this.material);
    this.wires = new LineSegments(new WireframeGeometry(geometry), this.wireMaterial);
    const dots = new BufferGeometry();
    dots.setAttribute("position", new BufferAttribute(Float32Array.from(anchors.flatMap((v) => {
      const at = 3 * v; // a hair above the surface
      return [0, 1, 2].map((i) => mesh.verts[at + i] + 0.6 * mesh.normals[at + i]);
    })), 3));
    this.dots = new Points(dots, this.dotMaterial);
    this.scene.add(this.face, this.wires, this.dots);
    if (keepCamera) return;
    this.#bounds(mesh.verts);
    this.reset();
  }

  clear() {
    for (const object of [this.face, this.wires, this.dots]) {
      if (!object) continue;
      this.scene.remove(object);
      object.geometry.dispose();
    }
    for (const name of ["map", "photo"]) {
      this.material.uniforms[name].value?.dispose();
      this.material.uniforms[name].value = null;
    }
  }

  setTexture(image) {
    this.#image("map", image);
  }

  /** Sets the photograph to cast on the face: where in it each vertex is (0..1, from below), and how well it is seen. */
  setPhotograph(image, cast) {
    this.#image("photo", image);
    this.#fill("onPhoto", cast);
  }

  #image(name, image) {
    const texture = new Texture(image);
    Object.assign(texture, { colorSpace: NoColorSpace, needsUpdate: true, anisotropy: 4 });
    this.material.uniforms[name].value = texture;
    this.draw();
  }

  /** Sets what the surface looks like: a LOOK, and colors a vertex (linear for lit, sRGB for flat). */
  setLook(look, tint) {
    this.material.uniforms.look.value = look;
    if (tint) this.#fill("tint", tint);
    this.draw();
  }

  /** Sets nine transfer coefficients a vertex. */
  setTransfer(transfer) {
    for (let part = 0; part < 3; part++) {
      const attribute = this.face.geometry.getAttribute(`t${part}`);
      for (let v = 0; v < attribute.count; v++) {
        attribute.setXYZ(v, ...transfer.subarray(9 * v + 3 * part, 9 * v + 3 * part + 3));
      }
      attribute.needsUpdate = true;
    }
    this.draw();
  }

  /** Sets nine RGB coefficients of the light. */
  setLight(light) {
    light.forEach((rgb, i) => this.material.uniforms.sh.value[i].set(...rgb));
    this.draw();
  }

  setVisible({ wires, dots }) {
    if (!this.face) return;
    this.wires.visible = wires;
    this.dots.visible = dots;
    this.draw();
  }

  /** Puts the camera where the photograph's was (see `photoView`), or lets it orbit. */
  setOverlay(on, view) {
    this.overlay = on;
    this.controls.enabled = !on;
    this.view = view;
    this.resize();
  }

  /** Turns the camera around the face, degrees. */
  turn(right, up) {
    const offset = this.camera.position.clone().sub(this.controls.target);
    const radius = offset.length();
    const azimuth = Math.atan2(offset.x, offset.z) + (right * Math.PI) / 180;
    const height = Math.min(1.5, Math.max(-1.5, Math.asin(offset.y / radius) + (up * Math.PI) / 180));
    offset.set(Math.sin(azimuth) * Math.cos(height), Math.sin(height), Math.cos(azimuth) * Math.cos(height));
    this.camera.position.copy(this.controls.target).addScaledVector(offset, radius);
    this.controls.update();
    this.draw();
  }

  zoom(factor) {
    const offset = this.camera.position.clone().sub(this.controls.target).multiplyScalar(factor);
    offset.clampLength(this.radius, this.radius * 40);
    this.camera.position.copy(this.controls.target).add(offset);
    this.controls.update();
    this.draw();
  }

  /** Looks at the face from the front. */
  reset() {
    const fit = this.radius / Math.tan((FOV_DEG * Math.PI) / 360) / Math.min(1, this.camera.aspect || 1);
    this.controls.target.copy(this.centre);
    this.camera.position.copy(this.centre).add(new Vector3(0, 0, fit * 1.02));
    this.controls.update();
    this.draw();
  }

  /** Returns a direction of the viewer's space (x right, y up, z to the viewer) in face space, or the way back. */
  toFace(direction, inverse = false) {
    const camera = this.overlay ? this.photoCamera : this.camera;
    camera.updateMatrixWorld();
    const matrix = new Matrix4().extractRotation(camera.matrixWorld);
    if (inverse) matrix.transpose();
    return new Vector3(...direction).applyMatrix4(matrix).toArray();
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.renderer.domElement;
    if (!width || !height) return;
    this.renderer.setSize(width, height, false);
    this.camera.aspect = width / height;
    this.camera.updateProjectionMatrix();
    if (this.overlay) this.#standAtPhoto(width, height);
    this.draw();
  }

  render() {
    if (!this.face) return;
    this.renderer.render(this.scene, this.overlay ? this.photoCamera : this.camera);
    this.onrender?.();
  }

  #fill(name, values) {
    const attribute = this.face.geometry.getAttribute(name);
    attribute.copyArray(values);
    attribute.needsUpdate = true;
  }

  #bounds(verts) {
    const low = new Vector3(Infinity, Infinity, Infinity), high = low.clone().negate();
    for (let i = 0; i < verts.length; i += 3) {
      const point = new Vector3(verts[i], verts[i + 1], verts[i + 2]);
      low.min(point);
      high.max(point);
    }
    this.centre = low.clone().add(high).multiplyScalar(0.5);
    this.radius = 0.55 * Math.max(high.x - low.x, high.y - low.y);
  }

  /** The photograph's camera has x right, y down, z away and its part shows `square`; WebGL's has y up, z behind. */
  #standAtPhoto(width, height) {
    const { R, T, focal, principal, square: [x0, y0, side] } = this.view;
    const view = new Matrix4().set(
      R[0], R[1], R[2], T[0],
      -R[3], -R[4], -R[5], -T[1],
      -R[6], -R[7], -R[8], -T[2],
      0, 0, 0, 1,
    );
    this.photoCamera.matrix.copy(view).invert();
    this.photoCamera.matrixWorldNeedsUpdate = true;
    const shown = Math.min(width, height);
    const sx = shown / width, sy = shown / height;
    const near = Math.max(1, T[2] - 400), far = T[2] + 400;
    this.photoCamera.projectionMatrix.set(
      sx * ((2 * focal) / side), 0, -sx * ((2 * (principal[0] - x0)) / side - 1), 0,
      0, sy * ((2 * focal) / side), sy * ((2 * (principal[1] - y0)) / side - 1), 0,
      0, 0, -(far + near) / (far - near), (-2 * far * near) / (far - near),
      0, 0, -1, 0,
    );
    this.photoCamera.projectionMatrixInverse.copy(this.photoCamera.projectionMatrix).invert();
  }
}
