#!/bin/sh
# Debian's Prometheus and promtool, unpacked into a folder (no service is started), for the tests of metrics and alerts:
#     sh benchmarks/prometheus.sh FOLDER && PATH=FOLDER/usr/bin:$PATH pytest tests/serving/server/test_prometheus.py
set -eu
folder=${1:?say a folder to unpack into}
mkdir -p "$folder"
cd "$folder"
apt-get update -qq
apt-get download prometheus
dpkg -x prometheus_*.deb .
usr/bin/promtool --version
