"""A whole Ceph cluster on one machine, one monitor, one disk in a sparse file and one gateway, without systemd."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Final

from tests.support.s3.services import (
    STOP_TIMEOUT,
    DidNotStart,
    S3Service,
    free_port,
    plain_environment,
    wait_until_answered,
)

PROGRAMS: Final = ("radosgw", "radosgw-admin", "ceph", "ceph-mon", "ceph-osd", "ceph-authtool", "monmaptool")
"""What Debian's packages radosgw, ceph-mon and ceph-osd bring."""

_LONGEST_FOLDER: Final = 70
"""The daemons' Unix sockets lie below; their paths have at most 107 bytes."""

_COMMAND_TIMEOUT: Final = 30.0

# One copy of everything, few placement groups, little memory, no authentication between the daemons: this is for
# loopback. Without tcp_nodelay every small answer on a kept connection takes 45 ms.
_CONFIGURATION: Final = """\
[global]
fsid = {fsid}
mon initial members = a
mon host = [v1:127.0.0.1:{mon_port}]
public network = 127.0.0.0/8
ms bind ipv4 = true
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
mon allow pool size one = true
mon warn on pool no redundancy = false
osd crush chooseleaf type = 0
osd pool default pg num = 8
mon max pg per osd = 2000
run dir = {folder}/run
admin socket = {folder}/run/$cluster-$name.asok
log file = {folder}/log/$name.log
keyring = {folder}/keyring
osd objectstore = bluestore
bluestore block create = true
bluestore block size = 10737418240
bluestore block wal size = 0
bluestore block db size = 0
osd memory target = 939524096
bluestore cache autotune = false
bluestore cache size = 134217728
debug mon = 0
debug osd = 0
debug rgw = 0
debug ms = 0

[mon.a]
mon data = {folder}/mon

[osd.0]
osd data = {folder}/osd

[client.rgw.a]
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw dns name = localhost
rgw enable usage log = false
"""


class Ceph(S3Service):
    """Ceph's S3 gateway with all it needs, in about 20 seconds; `folder` has a short path and is not there yet."""

    name = "ceph"

    def __init__(self, folder: Path) -> None:
        if len(os.fsencode(folder)) > _LONGEST_FOLDER:
            raise ValueError(f"the path of {folder} is too long for Unix sockets below it")
        super().__init__(folder)
        self._daemons: list[subprocess.Popen[bytes]] = []
        """In the order in which they were started."""

    def start(self) -> None:
        new = not self.folder.exists()
        try:
            self._start(new)
        except DidNotStart:
            self.stop()
            if not new:
                raise
            # Somebody else may have taken a port in between.
            shutil.rmtree(self.folder)
            self._start(new)

    def stop(self) -> None:
        while self._daemons:
            daemon = self._daemons.pop()
            daemon.terminate()
            try:
                daemon.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _start(self, new: bool) -> None:
        assert not self._daemons
        if new:
            self._make_cluster()
        self._launch("ceph-mon", "-i", "a")
        if new:
            disk = str(uuid.uuid4())
            self._run("ceph", "osd", "new", disk)
            self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk)
        self._launch("ceph-osd", "-i", "0")
        gateway = self._launch("radosgw", "-n", "client.rgw.a")
        try:
            wait_until_answered(self.port, gateway)
        except DidNotStart as error:
            raise DidNotStart(f"ceph: {error}\n{self._end_of_logs()}") from error
        if new:
            keys = (f"--access-key={self.access_key}", f"--secret-key={self.secret_key}")
            self._run("radosgw-admin", "user", "create", "--uid=tests", "--display-name=tests", *keys)

    def _make_cluster(self) -> None:
        for name in ("mon", "osd", "rgw", "log", "run"):
            (self.folder / name).mkdir(parents=True)
        fsid, mon_port = str(uuid.uuid4()), free_port()
        self.port = free_port()
        self._configuration.write_text(
            _CONFIGURATION.format(fsid=fsid, folder=self.folder, mon_port=mon_port, port=self.port)
        )
        keyring, monmap = self.folder / "keyring", self.folder / "monmap"
        self._run("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        everything = ("--cap", "mon", "allow *", "--cap", "osd", "allow *")
        self._run("ceph-authtool", keyring, "--gen-key", "-n", "client.admin", *everything)
        self._run("monmaptool", "--create", "--addv", "a", f"[v1:127.0.0.1:{mon_port}]", "--fsid", fsid, monmap)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)

    @property
    def _configuration(self) -> Path:
        return self.folder / "ceph.conf"

    def _launch(self, *command: str | Path) -> subprocess.Popen[bytes]:
        """Starts a daemon, in the foreground: a child of ours, which can be waited for."""
        with self._output.open("ab") as output:
            daemon = subprocess.Popen(
                [*command, "-f"], stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self._environment()
            )
        self._daemons.append(daemon)
        return daemon

    def _run(self, *command: str | Path) -> None:
        """Runs a command to its end."""
        with self._output.open("ab") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self._environment()
            )
            try:
                code = process.wait(_COMMAND_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
        if code:
            raise DidNotStart(f"{command[0]}: exit code {code}\n{self._end_of_logs()}")

    @property
    def _output(self) -> Path:
        return self.folder / "log" / "commands.log"

    def _environment(self) -> dict[str, str]:
        return plain_environment() | {"CEPH_CONF": str(self._configuration)}

    def _end_of_logs(self) -> str:
        logs = sorted((self.folder / "log").glob("*.log"))
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}" for log in logs)
