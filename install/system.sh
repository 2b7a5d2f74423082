#!/usr/bin/env bash
# Makes sure that this machine can build FFCV and make a virtual environment.
#
#   install/system.sh PYTHON      PYTHON: the interpreter that .venv is made from
#
# Looks for what is needed by trying it, not by package name, and installs through apt only what is
# missing: as root, or through a sudo that asks for no password. Where neither works, or with APT=no
# in the environment, prints the one line to run and exits with status 1.
set -euo pipefail

python=$1

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

# Prints the names of the missing packages, one a line; they are the same on Debian 12, Ubuntu 22.04
# and Ubuntu 24.04 (the last two keep some of them in "universe", which is on by default).
missing_packages() {
    local version
    version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    "$python" -c 'import ensurepip, venv' 2>/dev/null || echo "$version-venv"
    "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
        echo "$version-dev"
    command -v g++ >/dev/null || echo g++
    command -v pkg-config >/dev/null || echo pkg-config
    compiles $'#include <stddef.h>\n#include <turbojpeg.h>' || echo libturbojpeg0-dev
    # core and imgproc only: 49 MB of disk, where libopencv-dev takes 689 MB
    compiles '#include <opencv2/core.hpp>' || echo libopencv-core-dev
    compiles '#include <opencv2/imgproc.hpp>' || echo libopencv-imgproc-dev
}

# Whether program $1 passes the preprocessor, with the folder that OpenCV 4 is in.
compiles() {
    command -v g++ >/dev/null && g++ -E -x c++ -I/usr/include/opencv4 - <<<"$1" >/dev/null 2>&1
}

# Prints how to run apt-get here, or fails when it may not be run.
apt_runner() {
    [ "${APT:-yes}" != no ] && command -v apt-get >/dev/null || return 1
    if [ "$(id -u)" = 0 ]; then
        echo env
    elif sudo -n true 2>/dev/null; then
        echo sudo
    else
        return 1
    fi
}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || fail \
    "Python 3.11 or newer is needed; '$python' is $("$python" --version 2>/dev/null || echo "not there")." \
    "Name another one: make PYTHON=python3.11 (Ubuntu 22.04: sudo apt-get install python3.11-venv)"

mapfile -t missing < <(missing_packages)
[ ${#missing[@]} -gt 0 ] || exit 0

if ! runner=$(apt_runner); then
    fail "Debian packages are missing and apt may not be used here. Run this line, then make again:" \
        "sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}"
fi

echo "Installing Debian packages: ${missing[*]}"
"$runner" apt-get update -qq
"$runner" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null

mapfile -t missing < <(missing_packages)
[ ${#missing[@]} -eq 0 ] || fail \
    "Installed, but still not usable: ${missing[*]}." \
    "Is '$python' a Python of your own? It must bring ensurepip and its C headers itself."
