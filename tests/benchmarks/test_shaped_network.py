"""Steps over links that the kernel shapes, known only through the probe; workers in namespaces, connected with TLS.

``pytest tests/benchmarks/test_shaped_network.py -o addopts='--import-mode=importlib' -s``

Reported, whatever it is: predicted from profile and probe alone, against measured. With emulated devices a computation
lasts as long as predicted, so the difference is that of the network; without, the workers share the cores of this
machine, which the prediction does not know.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from executor.control.test_tls import certify, make_authority
from executor.test_namespaces import namespaces_work

WORKERS = 3
ADDRESS, PORT = "10.9.0.254", 4242

#: A bridge, on it a cable to each worker's namespace that is shaped at both ends, and the coordinator at the bridge.
SCRIPT = """
set -e
ip link set lo up
ip link add bridge type bridge
ip addr add {address}/24 dev bridge
ip link set bridge up
trap 'kill $(jobs -p) 2>/dev/null' EXIT
shape() {{ "$@" root tbf rate {rate:.0f}bit burst 16kb latency 400ms; }}
for i in $(seq 0 {last}); do
  unshare -n sleep 600 & other=$!
  until [ "$(readlink /proc/$other/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do sleep 0.01; done
  ip link add port$i type veth peer name cable netns $other
  ip link set port$i master bridge
  ip link set port$i up
  shape tc qdisc add dev port$i
  there="nsenter -t $other -n"
  $there ip link set lo up
  $there ip addr add 10.9.0.$((i + 1))/24 dev cable
  $there ip link set cable up
  shape $there tc qdisc add dev cable
  (
    until [ -s {directory}/token ]; do sleep 0.1; done
    exec $there {python} -c 'from dora_nb.cli import main; main()' worker --coordinator {address}:{port} \\
      --token-file {directory}/token --name d$i --tls-cert {directory}/d$i.crt --tls-key {directory}/d$i.key \\
      --tls-ca {directory}/ca.crt >&2
  ) &
done
{python} {coordinator} {address}:{port} {directory} {workers}
"""


@pytest.mark.skipif(not namespaces_work(), reason="no network namespaces for users, or no ip and tc here")
@pytest.mark.parametrize("rate_bits_per_s", [80e6, 20e6])
@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl to make certificates with")
def test_steps_over_a_network_known_through_the_probe(rate_bits_per_s: float, tmp_path: Path) -> None:
    directory = make_authority(tmp_path / "secrets")
    directory.chmod(0o700)
    certify(directory, "coordinator", ADDRESS)
    for index in range(WORKERS):
        certify(directory, f"d{index}")
    script = SCRIPT.format(
        address=ADDRESS,
        port=PORT,
        rate=rate_bits_per_s,
        last=WORKERS - 1,
        workers=WORKERS,
        python=sys.executable,
        coordinator=Path(__file__).parents[1] / "namespace_run.py",
        directory=directory,
    )
    done = subprocess.run(["unshare", "-Urn", "bash", "-c", script], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    rates = ", ".join(f"{rate * 8 / 1e6:.1f}" for rate in found["rates_bytes_per_s"].values())
    print(f"\nshaped to {rate_bits_per_s / 1e6:g} Mbit/s; probed: {found['kind']}, {rates} Mbit/s, ", end="")
    print(f"{found['latency_s'] * 1e3:.2f} ms; load average {os.getloadavg()[0]:.1f}")
    for emulate in ("devices", "nothing"):
        errors = []
        for _, label, predicted_s, measured_s, difference in (run for run in found["runs"] if run[0] == emulate):
            errors.append(measured_s / predicted_s - 1)
            print(f"{emulate:8} {predicted_s:7.3f} s {measured_s:7.3f} s {errors[-1]:+7.1%}  {label}")
            assert difference <= 1e-9
        print(f"imitated: {emulate}: median {statistics.median(errors):+.1%}, worst {max(errors, key=abs):+.1%}")
