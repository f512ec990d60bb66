"""Building an image inside a sandbox: names, places and the script (protocol/02 section 12.7)."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from posixpath import join
from typing import Self

import attrs

from .ids import Entropy

_BUILD_ROOT = "/var/lib/langsmith-build"

# `wait_for` waits for a command to succeed: 30 s, or until the daemon has ended.
_SCRIPT = """\
set -euo pipefail
for program in buildkitd buildctl docker; do
    if ! command -v "$program" >/dev/null; then
        echo "the default snapshot has no $program, which a build needs" >&2
        exit 127
    fi
done
work={work}
mkdir -p "$work/state" "$work/run"
wait_for() {{
    for _ in $(seq 150); do
        if "${{@:2}}" >/dev/null 2>&1; then return; fi
        kill -0 $daemon 2>/dev/null || break
        sleep 0.2
    done
    echo "$1 did not become ready" >&2
    cat "$work/buildkitd.log" >&2 2>/dev/null || true
    exit 1
}}
buildkitd --root "$work/state" --addr "unix://$work/run/buildkitd.sock" \\
    --oci-worker=true --containerd-worker=false --oci-worker-snapshotter=native \\
    --oci-worker-binary=buildkit-runc >"$work/buildkitd.log" 2>&1 &
daemon=$!
trap 'kill $daemon 2>/dev/null || true; wait $daemon 2>/dev/null || true' EXIT
export BUILDKIT_HOST="unix://$work/run/buildkitd.sock"
wait_for buildkitd buildctl debug workers
wait_for "the Docker daemon" docker info
{build} | docker load
"""


@attrs.frozen
class ImageBuild:
    """One build: where its files go, and what its image is called until it is a snapshot.

    :ivar sandbox_name: of the sandbox that builds.
    :ivar archive: where the context goes, as an uncompressed tar.
    :ivar image: the image's reference in the sandbox's Docker daemon.
    """

    sandbox_name: str
    directory: str
    archive: str
    image: str

    @classmethod
    def new(cls, entropy: Entropy) -> Self:
        """A build with fresh names."""
        directory = join(_BUILD_ROOT, entropy(6).hex())
        return cls(
            f"snapshot-builder-{entropy(6).hex()}",
            directory,
            join(directory, "context.tar"),
            f"langsmith-snapshot-build:{entropy(16).hex()}",
        )

    @property
    def unpack_command(self) -> str:
        """Unpacks the context."""
        context = shlex.quote(join(self.directory, "context"))
        return f"mkdir -p {context} && tar -xf {shlex.quote(self.archive)} -C {context}"

    def build_command(
        self, dockerfile: str, build_args: Mapping[str, str], target: str | None
    ) -> str:
        """Builds the image and loads it into the Docker daemon.

        :param dockerfile: its path relative to the context, with slashes.
        """
        context = join(self.directory, "context")
        build = ["buildctl", "build", "--frontend", "dockerfile.v0", "--progress", "plain"]
        build += ["--local", f"context={context}", "--local", f"dockerfile={context}"]
        build += ["--opt", f"filename={dockerfile}"]
        for name, value in build_args.items():
            build += ["--opt", f"build-arg:{name}={value}"]
        if target is not None:
            build += ["--opt", f"target={target}"]
        build += ["--output", f"type=docker,name={self.image}"]
        return _SCRIPT.format(work=shlex.quote(self.directory), build=shlex.join(build))
