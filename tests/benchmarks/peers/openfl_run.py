"""OpenFL's aggregator and a collaborator a site, mutual TLS with certificates of its own authority:
`openfl_run.py SITES ROUNDS FOLDER`. What its documentation has a person do once is not timed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from common import IMAGES, tell

HERE = Path(__file__).parent
FX = Path(sys.executable).parent / "fx"
PORT = 18700


def main() -> None:
    sites, rounds, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]) / "workspace"
    environment = os.environ | {
        "PATH": f"{FX.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(HERE),
    }

    def fx(*arguments: object, folder: Path = folder) -> None:
        with folder.parent.joinpath("prepare.log").open("a") as log:
            subprocess.run(
                [str(FX), *map(str, arguments)], cwd=folder if folder.exists() else folder.parent,
                env=environment | {"PEERS_LOG": os.devnull}, stdout=log, stderr=log, check=True,
            )  # fmt: skip

    def start(name: str, *arguments: str) -> subprocess.Popen[bytes]:
        with folder.parent.joinpath(f"{name}.log").open("w") as log:
            return subprocess.Popen(
                [str(FX), *arguments], cwd=folder, env=environment, stdout=log, stderr=log
            )

    fx("workspace", "create", "--prefix", folder, "--template", "torch/mnist")
    _write_plan(folder, sites, rounds)
    fx("plan", "initialize", "-a", "localhost")
    fx("workspace", "certify")
    fx("aggregator", "generate-cert-request", "--fqdn", "localhost")
    fx("aggregator", "certify", "--fqdn", "localhost", "--silent")
    for site in range(sites):
        fx("collaborator", "create", "-n", f"c{site}", "-d", site, "--silent")
        fx("collaborator", "generate-cert-request", "-n", f"c{site}", "--silent", "-x")
        fx("collaborator", "certify", "-n", f"c{site}", "--silent")
    tell("prepared")
    parties = [start("aggregator", "aggregator", "start")]
    for site in range(sites):
        parties.append(start(f"c{site}", "collaborator", "start", "-n", f"c{site}"))
    try:
        for party in parties:
            party.wait(300)
        tell("ended")
    finally:
        for party in parties:
            if party.poll() is None:
                party.kill()


def _write_plan(folder: Path, sites: int, rounds: int) -> None:
    for name in ("taskrunner.py", "dataloader.py"):
        shutil.copy(HERE / "openfl_workspace" / name, folder / "src" / name)
    (folder / "src" / "cnn_model.py").unlink(missing_ok=True)
    train = {"function": "train_task", "kwargs": {"epochs": 1, "metrics": ["loss"]}}
    # It keeps no state of a round that has no best score; the site's answer is a constant.
    score = {"function": "validate_task", "kwargs": {"apply": "global", "metrics": ["accuracy"]}}
    plan = {
        "aggregator": {
            "defaults": "plan/defaults/aggregator.yaml",
            "template": "openfl.component.aggregator.Aggregator",
            "settings": {
                "init_state_path": "save/init.pbuf",
                "best_state_path": "save/best.pbuf",
                "last_state_path": "save/last.pbuf",
                "rounds_to_train": rounds,
                "write_logs": False,
                "persist_checkpoint": True,
            },
        },
        "assigner": {
            "template": "openfl.component.RandomGroupedAssigner",
            "settings": {
                "task_groups": [{"name": "all", "percentage": 1.0, "tasks": ["score", "train"]}]
            },
        },
        "collaborator": {
            "defaults": "plan/defaults/collaborator.yaml",
            "template": "openfl.component.collaborator.Collaborator",
            "settings": {"use_delta_updates": False, "opt_treatment": "RESET"},
        },
        "compression_pipeline": {"template": "openfl.pipelines.NoCompressionPipeline"},
        "data_loader": {
            "template": "src.dataloader.Loader", "settings": {"batch_size": IMAGES},
        },
        "network": {
            "defaults": "plan/defaults/network.yaml",
            "settings": {"agg_addr": "localhost", "agg_port": PORT},
        },
        "task_runner": {"template": "src.taskrunner.Runner", "settings": {}},
        "tasks": {"settings": {}, "train": train, "score": score},
    }  # fmt: skip
    plan["compression_pipeline"]["settings"] = {}
    (folder / "plan" / "plan.yaml").write_text(yaml.safe_dump(plan))
    (folder / "plan" / "cols.yaml").write_text("collaborators:\n")
    data = "".join(f"c{site},{site}\n" for site in range(sites))
    (folder / "plan" / "data.yaml").write_text(data)


if __name__ == "__main__":
    main()
