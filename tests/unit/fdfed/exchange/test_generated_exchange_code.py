import subprocess
import sys
from pathlib import Path

import fdfed.exchange

FOLDER = Path(fdfed.exchange.__file__).parent
ROOT = FOLDER.parent.parent


def test_regenerating_gives_the_committed_files_byte_for_byte(tmp_path: Path) -> None:
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            "-I.",
            *(f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")),
            "fdfed/exchange/exchange.proto",
        ],
        cwd=ROOT,
        check=True,
        timeout=60,
    )
    made = sorted((tmp_path / "fdfed" / "exchange").iterdir())
    assert [path.name for path in made] == [
        "exchange_pb2.py",
        "exchange_pb2.pyi",
        "exchange_pb2_grpc.py",
    ]
    for path in made:
        assert path.read_bytes() == (FOLDER / path.name).read_bytes(), path.name
