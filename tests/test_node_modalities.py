"""The same nodes, with tables and with colour images: nothing in them knows what a sample is."""

import time

import numpy as np
import pytest
import village as villages
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.partition import partition_dirichlet
from meshlore.knowledge.samples import presented
from meshlore.knowledge.sources import load, save_npz
from meshlore.node.picture import Drawing, draw
from meshlore.node.settings import Learning
from meshlore.node.tasks import Classify, Evaluate, Generate
from meshlore.security.identity import Identity
from meshlore.security.membership import Credentials, Keyring, MeshRoot
from village import Village, settled, submit

from benchmarks.colours import colour_digits

NAMES = ("ann", "ben", "cid")


def found(folder, train: Dataset, parts) -> dict[str, Credentials]:
    root, charter = MeshRoot.create("village", train.space.to_map(), time.time())
    keyring, members = Keyring.generate(), {}
    for name, part in zip(NAMES, parts, strict=True):
        identity = Identity.generate()
        certificate = root.issue(identity.peer_id, name, ["node", "requester"], identity.hpke_public_key, time.time())
        members[name] = Credentials(identity, charter, certificate, keyring)
        (folder / name).mkdir(mode=0o700)
        save_npz(folder / name / "data.npz", train.subset(part))
    return members


async def teach(village: Village, test: Dataset):
    """Nodes that have settled, and what each measured before and after."""
    nodes = [await village.start(name, "" if name == "ann" else "ann") for name in NAMES]

    def all_taught() -> bool:
        return all(len(node.library.of_others()) == 4 and node.state.journal.taught_by for node in nodes)

    await settled(*nodes, when=all_taught, timeout_s=120)
    measured = []
    for node in nodes:
        task = Evaluate(test.images, test.labels, where="here")
        before = await submit(node, Evaluate(test.images, test.labels, where="here", version="before"))
        measured.append((before.balanced, (await submit(node, task)).balanced))
    return nodes, measured


async def test_three_nodes_with_tables_teach_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr(
        villages, "LEARNING", Learning(distil_steps=120, condense_steps=30, generator_steps=100, patience_s=12)
    )
    train, test = load("wine").dataset, load("wine:test").dataset
    village = Village(tmp_path, found(tmp_path, train, partition_dirichlet(train.labels, 3, 0.1, seed=0)))
    nodes, measured = await teach(village, test)
    assert max(before for before, _ in measured) < 0.8
    assert min(after for _, after in measured) > 0.85, measured
    said = await submit(nodes[0], Classify(test.images[:20]))
    assert np.mean([test.space.label_of(name) for name in said.labels] == test.labels[:20]) > 0.8
    drawn = await submit(nodes[0], Generate("class_0", 8))
    assert drawn.images.shape == (8, 1, 1, 13)
    assert presented(drawn.images, test.space)[:, 0].mean() == pytest.approx(13.7, abs=0.8), "per cent of alcohol"

    class Cluster:
        pass

    cluster = Cluster()
    cluster.train = train
    rows = {"class_0": presented(drawn.images, train.space)}
    drawing = Drawing("ann", {"class_1"}, train.images[:9], ["class_1"] * 9, {}, rows)
    (path,) = draw(tmp_path, cluster, [drawing], {"ann": [(0.0, 0.5), (1.0, 0.9)]}, 0.98)
    assert path.stat().st_size > 10_000
    await village.stop()


async def test_three_nodes_with_colour_images_teach_each_other(tmp_path, monkeypatch):
    steps = Learning(
        samples_per_class=15,
        classifier_steps=60,
        condense_steps=10,
        distil_steps=90,
        generator_steps=20,
        patience_s=12,
    )
    monkeypatch.setattr(villages, "LEARNING", steps)
    train, test = colour_digits(12, classes="0134"), colour_digits(12, "digits:test", "0134", seed=1)
    shares = [np.flatnonzero(np.isin(train.labels, labels))[:120] for labels in ((0, 1), (1, 2), (3, 0))]
    village = Village(tmp_path, found(tmp_path, train, shares))
    nodes, measured = await teach(village, test)
    assert max(before for before, _ in measured) < 0.6
    assert min(after for _, after in measured) > 0.8, measured
    drawn = await submit(nodes[0], Generate("3", 4, where="here"))
    assert presented(drawn.images, test.space).shape == (4, 12, 12, 3)
    await village.stop()
