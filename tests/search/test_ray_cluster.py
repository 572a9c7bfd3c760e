"""How many slots a cluster has, and what is refused before anything is connected; no cluster is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest
from command_line import Run, refusal

from unetx_search.executors.ray import cluster as ray_cluster
from unetx_search.executors.ray.cluster import Node, cluster_slots
from unetx_space.errors import RequestError

GPU_NODES = (Node("a", 4, 32), Node("b", 2, 8))
CPU_NODES = (Node("head", 0, 2), Node("b", 0, 4))


def test_all_means_every_gpu_of_the_cluster_and_each_slot_pins_nothing() -> None:
    slots = cluster_slots(GPU_NODES, "all")
    assert [slot.index for slot in slots] == [0, 1, 2, 3, 4, 5]
    assert {slot.device for slot in slots} == {"cuda"}
    assert all(slot.environment == {} for slot in slots)


def test_threads_are_those_of_the_node_that_has_fewest_for_each_worker() -> None:
    assert {slot.n_threads for slot in cluster_slots(GPU_NODES, "all")} == {4}
    assert {slot.n_threads for slot in cluster_slots(GPU_NODES, 3, workers_per_gpu=2)} == {2}
    assert len(cluster_slots(GPU_NODES, 3, workers_per_gpu=2)) == 6
    assert {slot.n_threads for slot in cluster_slots((Node("a", 4, 1),), "all")} == {1}


def test_without_gpus_or_on_request_there_is_a_worker_for_every_cpu() -> None:
    assert len(cluster_slots(CPU_NODES, "all")) == 6
    assert len(cluster_slots(GPU_NODES, 0)) == 40
    few = cluster_slots(GPU_NODES, 0, cpu_workers=3)
    assert [(slot.device, slot.n_threads) for slot in few] == [("cpu", 1)] * 3


def test_more_gpus_than_the_cluster_has_are_refused_with_the_way_out() -> None:
    with pytest.raises(RequestError, match=r"--gpus 7 asks for more.*6 GPUs and 40 CPUs on 2 nodes.*--gpus all"):
        cluster_slots(GPU_NODES, 7)
    with pytest.raises(RequestError, match=r"--gpus 1 asks for more.*0 GPUs.*--gpus 0 for CPU"):
        cluster_slots(CPU_NODES, 1)


def test_more_cpu_workers_than_the_cluster_has_cpus_are_refused_with_the_way_out() -> None:
    with pytest.raises(RequestError, match=r"takes one CPU.*7 were asked for.*6 CPUs on 2 nodes.*--cpu-workers 6"):
        cluster_slots(CPU_NODES, 0, cpu_workers=7)
    with pytest.raises(RequestError, match=r"takes one CPU of the cluster.*0 CPUs on 1 nodes"):
        cluster_slots((Node("head", 0, 0),), 0)


def test_without_the_extra_the_way_to_install_it_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "find_spec", lambda name: None)
    assert 'pip install "unetx-search[ray]"' in refusal(run, "--engine", "ray")


def test_an_address_without_the_engine_is_refused(run: Run) -> None:
    assert "--ray-address must be given with --engine ray only" in refusal(run, "--ray-address", "head:6379")
    words = refusal(run, "--engine", "ray", "--workers-per-gpu", "auto")
    assert "--workers-per-gpu must be a count with --engine ray" in words


def test_an_address_of_rays_client_is_refused(run: Run) -> None:
    words = refusal(run, "--engine", "ray", "--ray-address", "ray://head:10001")
    assert "--ray-address must be HOST:PORT without a protocol" in words


def test_an_unknown_engine_is_refused(run: Run) -> None:
    assert "ray" in refusal(run, "--engine", "pbs")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no-port", "127.0.0.1:port"])
def test_an_address_where_nobody_listens_is_refused_at_once_with_the_way_out(run: Run, address: str) -> None:
    pytest.importorskip("ray", reason='needs Ray: pip install "unetx-search[ray]"')
    words = refusal(run, "--engine", "ray", "--ray-address", address)
    assert f"the one at {address} cannot be joined" in words
    assert "ray start --address=HEAD:6379" in words
    assert "RAY_AUTH_MODE=token" in words


def test_an_error_of_ray_while_connecting_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason='needs Ray: pip install "unetx-search[ray]"')

    def no_answer(*_: object, **__: object) -> None:
        raise ConnectionError("Failed to connect to Ray cluster")

    monkeypatch.setattr(ray, "init", no_answer)
    assert "cannot be joined: Failed to connect" in refusal(run, "--engine", "ray", "--ray-address", "local")


def test_ray_is_imported_for_its_own_engine_only() -> None:
    code = "import sys, unetx_search.run; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
