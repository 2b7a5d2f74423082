#!/usr/bin/env bash
# Makes the virtual environment and installs requirements.txt into it.
#
#   install/packages.sh PYTHON VENV      run in the root of the checkout, after install/system.sh
#
# FFCV is built from source in a call of its own: --no-deps, because it asks for opencv-python and
# we have opencv-python-headless; with a pkg-config file of our own, because its setup.py asks for
# "opencv4" as a whole while its code needs OpenCV's core and imgproc only.
set -euo pipefail

python=$1
venv=$2

# pip on a terminal shows its own progress; in a log, one line for each large download or build
pip_install() {
    if [ -t 1 ]; then
        "$venv/bin/python" -m pip install "$@"
    else
        "$venv/bin/python" -m pip install --progress-bar off "$@" |
            sed -n -E '/(Downloading|Processing|Using cached) .*(MB\)|\.whl$)|Building|Successfully/p'
    fi
}

# Fills folder $1 with what lets `pkg-config opencv4` and `#include <opencv2/opencv.hpp>` mean
# OpenCV's core and imgproc alone.
write_opencv_stand_in() {
    local version
    version=$(g++ -E -P -x c++ -I/usr/include/opencv4 - \
        <<<$'#include <opencv2/core/version.hpp>\nCV_VERSION' | tail -n 1 | tr -d '" ')
    mkdir -p "$1/include/opencv2"
    printf '#include <opencv2/core.hpp>\n#include <opencv2/imgproc.hpp>\n' \
        >"$1/include/opencv2/opencv.hpp"
    cat >"$1/opencv4.pc" <<PC
Name: OpenCV
Description: core and imgproc
Version: $version
Libs: -lopencv_imgproc -lopencv_core
Cflags: -I$1/include -I/usr/include/opencv4
PC
}

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    echo "Making $venv"
    "$python" -m venv --clear "$venv"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "Installing requirements.txt into $venv (one to three minutes, 2 GB; with CUDA 5 GB)"
grep -v '^ffcv==' requirements.txt >"$work/requirements.txt"
pip_install -r "$work/requirements.txt"

write_opencv_stand_in "$work/opencv"
# --no-cache-dir: a cached build links to the OpenCV of the machine that made it (shared homes)
PKG_CONFIG_PATH="$work/opencv" pip_install --no-deps --no-cache-dir "$(grep '^ffcv==' requirements.txt)"
"$venv/bin/python" -c 'import ffcv, ffcv.loader, ffcv.writer' || {
    echo "FFCV was built but cannot be imported: the lines above say why." >&2
    exit 1
}
