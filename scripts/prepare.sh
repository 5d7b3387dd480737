# Sourced by quickstart and test: installs what is missing on a fresh Debian with Node 20, and says so before it does.

say() { printf '\033[1m==>\033[0m %s\n' "$*"; }
die() { printf 'weft: %s\n' "$*" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo "$@"
  else return 1
  fi
}

# need_package PROGRAM_OR_FILE PACKAGE WHAT_FOR
need_package() {
  command -v "$1" >/dev/null || [ -e "$1" ] && return 0
  say "installing the system package $2 ($3)"
  if command -v apt-get >/dev/null; then
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq >/dev/null &&
      as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" >/dev/null && return 0
  fi
  die "could not install $2: install it as root ($3), then run this again"
}

need_node() {
  command -v node >/dev/null || die "Node is missing: install Node 20.19 or later, then run this again"
  node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 19) ? 0 : 1)' ||
    die "Node $(node --version) is too old: install Node 20.19 or later, then run this again"
}

need_fuse() {
  [ -e /dev/fuse ] || as_root modprobe fuse 2>/dev/null || true
  [ -e /dev/fuse ] || die "/dev/fuse is missing: load the module (modprobe fuse), or give this container the device${1:-}"
  need_package mount mount "mounts filesystems"
  need_package fusermount3 fuse3 "lets users other than root mount"
}

# Installs the npm packages and builds, when the sources are newer than the last build.
need_build() {
  if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
    say "installing the npm packages of package-lock.json"
    npm ci --no-audit --no-fund --loglevel=error || die "npm ci failed: see above; is the package registry reachable?"
  fi
  local built=dist/.built
  if [ ! -e "$built" ] || [ -n "$(find server client-fuse shared scripts test package.json package-lock.json tsconfig.json -newer "$built" -print -quit)" ]; then
    say "building"
    npm run --silent build || die "the build failed: see above"
    touch "$built"
  fi
}
